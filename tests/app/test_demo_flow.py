"""The demo end to end on a small setting: real text, a plan, adapters that PEFT loads, the same losses twice."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from kinfold._files import slug
from kinfold._progress import SilentProgress
from kinfold.app.demo import DemoResult, DemoSettings, run_demo
from kinfold.errors import InputError
from kinfold.partition import Plan
from kinfold.stages import Run

pytestmark = pytest.mark.slow

_BASE = DemoSettings.small()
TINY = replace(
    _BASE,
    harvest=replace(_BASE.harvest, characters=30_000, general_characters=200_000, documents=20),
    base=replace(_BASE.base, steps=40),
    train=replace(_BASE.train, tokens_per_stage=3_000, eval_documents=6),
)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> DemoResult:
    place = tmp_path_factory.mktemp("demo")
    return run_demo(place / "out", seed=5, settings=TINY, cache=place / "cache")


def test_everything_is_there(done: DemoResult) -> None:
    plan = Plan.load(done.plan)
    names = [name for stage in plan.stages for name in stage]
    assert len(names) >= 6
    assert len(plan.stages) > 1, "with its budget the demo's plan is not one stage for all"
    assert max(map(len, plan.stages)) <= TINY.plan.budget["domains"]
    assert plan.certificate == "proved optimal"
    assert done.report.stat().st_size > 10_000
    assert done.report.parent == done.run
    assert Run.load(done.run).finished
    assert set(done.domains) == set(names)


def test_the_last_lines_say_where_and_what(done: DemoResult) -> None:
    text = "\n".join(done.lines)
    assert str(done.report) in done.lines[-1]
    evaluation = json.loads((done.run / "evaluation.json").read_text())
    for name in done.domains:
        before, after = evaluation["before"][name]["loss"], evaluation["final"][name]["loss"]
        (line,) = [line for line in done.lines if f" {name} " in line]
        assert f"{before:.3f} -> {after:.3f}" in line
        change = evaluation["change"][name]["final"]
        verdict = "gained" if change["high"] < 0 else "lost" if change["low"] > 0 else "unclear"
        assert line.endswith(verdict)
    assert str(done.base) in text
    json.dumps(done.as_json(), allow_nan=False)


def test_every_adapter_loads_in_peft_and_changes_the_logits(done: DemoResult) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(done.base)
    tokens = tokenizer("Returns the sum of the array elements over a given axis.", return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        plain = AutoModelForCausalLM.from_pretrained(done.base)(tokens).logits
    seen = []
    folders = [done.run / "adapters" / slug(name) for name in done.domains]
    assert sorted(path.name for path in folders) == sorted(path.name for path in (done.run / "adapters").iterdir())
    for folder in folders:
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(done.base), folder)
        with torch.inference_mode():
            logits = model(tokens).logits
        assert torch.isfinite(logits).all()
        assert float((logits - plain).abs().max()) > 1e-3, f"{folder.name} changes nothing"
        assert all(float((logits - other).abs().max()) > 1e-4 for other in seen), f"{folder.name} equals another"
        seen.append(logits)


def test_a_second_call_reuses_everything(done: DemoResult) -> None:
    kept = [
        done.plan,
        done.run / "evaluation.json",
        done.base / "model.safetensors",
        done.out / "corpora" / "code.jsonl",
    ]
    stamps = [path.stat().st_mtime_ns for path in kept]
    again = run_demo(done.out, seed=5, settings=TINY, cache=done.base.parent)
    assert [path.stat().st_mtime_ns for path in kept] == stamps
    assert again.domains == done.domains
    assert again.lines == done.lines


class _Stopped(Exception):
    pass


class _StopsIn(SilentProgress):
    """Raises once the log of the run holds `lines` lines, as an impatient user would."""

    def __init__(self, log: Path, lines: int) -> None:
        self._log, self._lines = log, lines

    @contextmanager
    def task(self, description: str, total: float | None = None, unit: str = "") -> Iterator[_StopsIn]:
        yield self

    def advance(self, amount: float = 1) -> None:
        if self._log.exists() and self._log.read_bytes().count(b"\n") >= self._lines:
            raise _Stopped

    def update(self, **_: object) -> None:
        self.advance()


def test_interrupted_and_continued_gives_the_same_plan_and_losses(done: DemoResult, tmp_path: Path) -> None:
    out, cache = tmp_path / "out", tmp_path / "cache"
    steps = (done.run / "metrics.jsonl").read_bytes().count(b"\n")
    assert steps >= 6
    with pytest.raises(_Stopped):
        run_demo(out, seed=5, settings=TINY, cache=cache, progress=_StopsIn(out / "run" / "metrics.jsonl", steps // 2))
    assert not (out / "run" / "evaluation.json").exists()
    again = run_demo(out, seed=5, settings=TINY, cache=cache)
    assert Plan.load(again.plan).stages == Plan.load(done.plan).stages
    assert again.base.name == done.base.name
    assert again.base != done.base
    for name, row in done.domains.items():
        for key in ("before", "after"):
            assert again.domains[name][key] == pytest.approx(row[key], abs=1e-6), f"{name}: {key}"
    logs = [[json.loads(line)["loss"] for line in (r.run / "metrics.jsonl").open()] for r in (done, again)]
    assert logs[0] == pytest.approx(logs[1], abs=1e-6)


def test_another_seed_in_the_same_folder_is_refused(done: DemoResult) -> None:
    before = done.plan.read_bytes()
    with pytest.raises(InputError, match="another seed"):
        run_demo(done.out, seed=6, settings=TINY, cache=done.base.parent)
    assert done.plan.read_bytes() == before


def test_a_folder_of_the_users_is_never_touched(tmp_path: Path) -> None:
    (tmp_path / "corpora").mkdir()
    (tmp_path / "corpora" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        run_demo(tmp_path, settings=TINY, cache=tmp_path / "cache")
    assert [path.name for path in tmp_path.iterdir()] == ["corpora"]
    assert [path.name for path in (tmp_path / "corpora").iterdir()] == ["mine.txt"]
