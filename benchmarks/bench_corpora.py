"""Reading corpora: megabytes per CPU second against a bare `json.loads` loop, and peak memory at two sizes.

Run: python benchmarks/bench_corpora.py [--small] [--record] [--docs]

Text is drawn with Zipf-like weights from made-up words; what is measured is reading, decoding, finding the fields, the
content hash and the split. Peak memory is that of a fresh process that reads one file, less that of a process that
only imports.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import gzip
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kinfold
import numpy as np
from kinfold.corpora import Domain, Source

RECORD = Path(__file__).parent / "records" / "corpora.json"
DOCS = Path(__file__).parents[1] / "docs" / "corpora.md"
FORMATS = ("jsonl", "jsonl.gz", "jsonl.zst", "json", "csv", "txt", "parquet")


def texts(megabytes: float, words_per_text: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = np.array(["".join(rng.choice(letters, size=rng.integers(2, 10))) for _ in range(20_000)])
    weights = 1.0 / np.arange(2, len(words) + 2)
    weights /= weights.sum()
    # One draw serves many texts: each takes a window of it at another place.
    stream = words[rng.choice(len(words), size=400_000, p=weights)]
    found, size = [], 0
    while size < megabytes * 1e6:
        at = int(rng.integers(0, len(stream) - words_per_text))
        found.append(" ".join(stream[at : at + words_per_text]))
        size += len(found[-1])
    return found


def write(path: Path, documents: list[str]) -> None:
    kind = path.name.partition(".")[2]
    if kind.startswith("jsonl"):
        data = "".join(json.dumps({"text": text}) + "\n" for text in documents).encode()
        if kind.endswith(".gz"):
            data = gzip.compress(data, 1)
        elif kind.endswith(".zst"):
            import zstandard

            data = zstandard.compress(data, 3)
        path.write_bytes(data)
    elif kind == "json":
        path.write_text(json.dumps([{"text": text} for text in documents]))
    elif kind == "csv":
        out = io.StringIO()
        writer = csv.writer(out)
        writer.writerow(["text"])
        writer.writerows([text] for text in documents)
        path.write_text(out.getvalue())
    elif kind == "txt":
        path.write_text("\n\n".join(documents))
    else:
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.table({"text": documents}), path, row_group_size=5000)


def plain(path: Path) -> int:
    with open(path, encoding="utf-8") as stream:
        return sum(len(json.loads(line)["text"]) for line in stream)


def ours(path: Path, split: str | None = None) -> int:
    return sum(len(text) for text in Domain("d", sources=(Source(path),)).texts(split))


def seconds(call: Callable[[Path], object], path: Path) -> float:
    start = time.process_time()
    call(path)
    return time.process_time() - start


def speed(folder: Path, megabytes: float, repeats: int) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for words in (20, 80, 400):
        documents = texts(megabytes, words)
        size = sum(map(len, documents)) / 1e6
        reference = folder / "reference.jsonl"
        write(reference, documents)
        for kind in FORMATS if words == 80 else ("jsonl",):
            path = folder / f"d.{kind}"
            write(path, documents)
            if ours(path) != plain(reference):
                raise SystemExit(f"{kind}: the texts read differ")
            base, mine = [], []
            for _ in range(repeats):  # interleaved, so that other work on the machine hits both
                base.append(seconds(plain, reference))
                mine.append(seconds(ours, path))
            rows.append(
                {
                    "format": kind,
                    "characters a document": round(size * 1e6 / len(documents)),
                    "plain MB/s": round(size / statistics.median(base), 1),
                    "ours MB/s": round(size / statistics.median(mine), 1),
                    "ratio": round(statistics.median(base) / statistics.median(mine), 3),
                }
            )
            path.unlink()
    return rows


# The kernel's high-water mark of this process image alone: getrusage would begin at the parent's.
PEAK = (
    "import sys, re; from pathlib import Path; from kinfold.corpora import Domain, Source\n"
    "p = sys.argv[1]\n"
    "import pyarrow.parquet, zstandard\n"
    "n = sum(1 for _ in Domain('d', sources=(Source(Path(p)),)).records()) if p else 0\n"
    "print(int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]) / 1024)"
)


def peak(path: str) -> float:
    done = subprocess.run([sys.executable, "-c", PEAK, path], capture_output=True, text=True, check=True)
    return float(done.stdout)


def memory(folder: Path, sizes: tuple[float, float]) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    floor = peak("")
    for kind in FORMATS:
        row: dict[str, object] = {"format": kind}
        for size in sizes:
            path = folder / f"m.{kind}"
            write(path, texts(size, 80))
            row[f"{size:g} MB"] = round(peak(str(path)) - floor, 1)
            path.unlink()
        rows.append(row)
    return rows


def show(title: str, rows: list[dict[str, object]]) -> None:
    print(f"\n{title}\n")
    widths = {name: max(len(name), *(len(str(row[name])) for row in rows)) for name in rows[0]}
    print("  ".join(name.rjust(width) for name, width in widths.items()))
    for row in rows:
        print("  ".join(str(row[name]).rjust(width) for name, width in widths.items()))


def documented(record: dict[str, Any]) -> str:
    """The record's tables as Markdown."""
    parts = [f"Recorded {record['date'][:10]} with Python {record['python']} on {record['machine']}.", ""]
    for rows in (record["speed"], record["peak memory MB"]):
        parts += ["| " + " | ".join(rows[0]) + " |", "|---" * len(rows[0]) + "|"]
        parts += ["| " + " | ".join(str(cell) for cell in row.values()) + " |" for row in rows]
        parts.append("")
    return "\n".join(parts)


def write_docs() -> None:
    """Put the last record between the marks of docs/corpora.md."""
    before, mark, rest = DOCS.read_text().partition("<!-- bench_corpora -->\n")
    _, end, after = rest.partition("<!-- /bench_corpora -->")
    DOCS.write_text(before + mark + documented(json.loads(RECORD.read_text())[-1]) + end + after)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="a tenth of the size")
    parser.add_argument("--record", action="store_true", help=f"append the result to {RECORD.name}")
    parser.add_argument(
        "--docs", action="store_true", help="measure nothing: write the last record into docs/corpora.md"
    )
    options = parser.parse_args()
    if options.docs:
        write_docs()
        return
    scale = 0.1 if options.small else 1.0
    start = time.time()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        speeds = speed(folder, 20 * scale, 3 if options.small else 7)
        show("Reading, megabytes of text per CPU second (plain: json.loads line by line of the same texts)", speeds)
        sizes = (10 * scale, 200 * scale)
        memories = memory(folder, sizes)
        show("Peak memory above a process that only imports, MB", memories)
    if options.record:
        RECORD.parent.mkdir(exist_ok=True)
        records = json.loads(RECORD.read_text()) if RECORD.exists() else []
        records.append(
            {
                "benchmark": "corpora",
                "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
                "kinfold": kinfold.__version__,
                "python": platform.python_version(),
                "machine": f"{platform.machine()}, {os.cpu_count()} cores",
                "seed": 0,
                "config": {"small": options.small},
                "seconds": round(time.time() - start, 1),
                "speed": speeds,
                "peak memory MB": memories,
            }
        )
        RECORD.write_text(json.dumps(records, indent=2) + "\n")


if __name__ == "__main__":
    main()
