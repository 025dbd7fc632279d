"""The measured part of docs/partition.md is what the records say, and records of one study can be made in pieces."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> tuple[ModuleType, ModuleType]:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import _partition_page
    import _partition_records

    return _partition_page, _partition_records


def test_the_page_is_what_the_records_say(bench: tuple[ModuleType, ModuleType]) -> None:
    page, records = bench
    if not records.FILE.is_file() or not page.PAGE.is_file():
        pytest.skip("records and docs are not part of an installed package")
    text = page.PAGE.read_text()
    names = {found[1] for found in page._BLOCK.findall(text)}
    assert names == set(page.BLOCKS)
    assert page.rendered(text) == text, "run: python benchmarks/bench_partition.py page"


def test_a_changed_record_changes_the_page(bench: tuple[ModuleType, ModuleType]) -> None:
    page, _ = bench
    held = [
        {
            "study": "planning",
            "config": {"k": 60, "instance": i, "seconds": 20.0, "workers": 2},
            "result": {"seconds": 1.0 + i, "gap": 0.01 * i, "status": "feasible" if i else "optimal"},
            "cpu": 2.0,
            "load": 1.0,
            "time": "2026-01-01T00:00:00+00:00",
            "commit": "abc",
            "machine": "m",
        }
        for i in range(3)
    ]
    text = "before\n<!-- measured: planning -->\nold\n<!-- end -->\nafter\n"
    out = page.rendered(text, held)
    assert out.startswith("before\n<!-- measured: planning -->\n| k |")
    assert out.endswith("<!-- end -->\nafter\n")
    assert "| 60 | 0 to 2 | 20 | 1/3 | 2.0 | 3.0 | 2.0 | 2.00 |" in out
    held[1]["result"]["status"] = "optimal"
    assert "| 60 | 0 to 2 | 20 | 2/3 |" in page.rendered(text, held)


def test_known_runs_are_not_made_again(bench: tuple[ModuleType, ModuleType], tmp_path: Path) -> None:
    _, records = bench
    file, made = tmp_path / "records" / "x.jsonl", []

    def work(value: int) -> dict[str, int]:
        made.append(value)
        return {"value": value}

    first = records.Book(file=file)
    assert first.run("s", {"a": 1}, lambda: work(1)) == {"value": 1}
    assert first.run("s", {"a": 1}, lambda: work(2)) == {"value": 1}
    second = records.Book(file=file, stop_after=-1.0)
    assert second.run("s", {"a": 1}, lambda: work(3)) == {"value": 1}
    assert second.run("s", {"a": 2}, lambda: work(4)) is None
    assert (second.left_out, made) == (1, [1])
    again = records.Book(file=file, again=True)
    assert again.run("s", {"a": 1}, lambda: work(5)) == {"value": 5}
    assert [r["result"]["value"] for r in records.load(file)] == [5]
