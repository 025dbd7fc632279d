"""The numbers and the manifest of docs/corpora.md are those of the record and of the code."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest
import yaml
from kinfold.corpora import load_corpora
from kinfold.corpora._manifest import KEYS

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs" / "corpora.md"


def test_the_tables_are_those_of_the_last_record() -> None:
    spec = importlib.util.spec_from_file_location("bench_corpora", ROOT / "benchmarks" / "bench_corpora.py")
    assert spec is not None
    assert spec.loader is not None
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    record = json.loads((ROOT / "benchmarks" / "records" / "corpora.json").read_text())[-1]
    assert bench.documented(record) in DOCS.read_text()


def test_the_manifest_of_the_page_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = re.search(r"```yaml\n(.*?)```", DOCS.read_text(), re.S)
    assert found is not None
    entries = yaml.safe_load(found[1])
    used = {key for entry in entries.values() for key in entry}
    assert used <= set(KEYS)
    (tmp_path / "raw").mkdir()
    (tmp_path / "notes").mkdir()
    row = {"title": "t", "body": "b", "clause": "c", "kind": "k", "fold": "train", "text": "x"}
    row |= {"ingredients": "i", "steps": "s"}
    chat = {"turns": [{"role": "user", "content": "hi"}]}
    (tmp_path / "raw" / "news-1.jsonl").write_text(json.dumps(row))
    (tmp_path / "chats.json").write_text(json.dumps([chat]))
    (tmp_path / "recipes.csv").write_text(",".join(row) + "\n" + ",".join(row.values()) + "\n")
    (tmp_path / "crawl.jsonl.zst").write_text(json.dumps(row))
    (tmp_path / "notes" / "one.txt").write_text("one\n\ntwo")
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "legal.parquet")
    del entries["reviews"]  # the hub
    (tmp_path / "corpora.yaml").write_text(yaml.safe_dump(entries))
    corpora = load_corpora(tmp_path / "corpora.yaml")
    assert {domain.name: next(domain.records()).kind for domain in corpora} == {
        "legal": "labelled",
        "news": "text",
        "notes": "text",
        "recipes": "completion",
        "support": "chat",
        "web": "text",
    }
    assert list(corpora["notes"].texts()) == ["one\n\ntwo"]


def test_every_key_is_explained() -> None:
    for key in KEYS:
        assert f"`{key}`" in DOCS.read_text()
