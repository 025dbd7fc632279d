"""The speed tables of docs/training.md and docs/adapters.md, written from the newest records of each case.

python benchmarks/training_tables.py            # rewrites what stands between the markers of both pages
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from _common import RECORDS, table

DOCS = Path(__file__).resolve().parents[1] / "docs"
TRAINER, PACKED = "HF Trainer + PEFT", "TRL SFTTrainer, packed"


def read(name: str) -> list[dict[str, Any]]:
    file = RECORDS / f"{name}.json"
    found: list[dict[str, Any]] = json.loads(file.read_text()) if file.is_file() else []
    return found


def newest(records: list[dict[str, Any]], *keys: str) -> list[dict[str, Any]]:
    """The last record of each combination of these settings, in order of first appearance."""
    held: dict[tuple[str, ...], dict[str, Any]] = {}
    for entry in records:
        held[tuple(str(entry["config"].get(key)) for key in keys)] = entry
    return list(held.values())


def throughput() -> str:
    entries = [e for e in read("training") if "padding" in e and "tokens_per_cpu_second" in e]
    rows = []
    for entry in newest(entries, "corpora", "only", "hidden", "layers", "precision"):
        config, speed, lengths = entry["config"], entry["tokens_per_cpu_second"], entry["lengths"]
        texts = Path(config["corpora"]).name + ("" if config["only"] in (None, "None") else f" ({config['only']})")
        spread = " / ".join(str(value) for value in lengths.values())
        ours = [way for way in speed if way.startswith("kinfold")]
        cells = [texts, f"{config['hidden']} x {config['layers']}", config["precision"], spread]
        cells.append(f"{entry['padding']['random batches']:.0%}")
        cells.append(f"{statistics.median(speed[TRAINER]):.0f}")
        for peer in (TRAINER, PACKED):
            for way in ours:
                pairs = [a / b for a, b in zip(speed[way], speed.get(peer, []), strict=False)]
                cells.append(f"{statistics.median(pairs):.2f}" if pairs else "-")
        cells.append(len(speed[TRAINER]))
        rows.append(cells)
    head = [
        "texts",
        "model",
        "precision",
        "lengths: least / quarters / most",
        "Trainer's padding",
        "Trainer, tokens/CPU-s",
    ]
    head += [
        "one LoRA / Trainer",
        "with domain LoRAs / Trainer",
        "one LoRA / packed",
        "with domain LoRAs / packed",
        "rounds",
    ]
    return table(rows, head)


def steps() -> str:
    entries = [e for e in read("step") if "step" in e["results"]]
    rows = []
    for entry in newest(entries, "precision", "hidden", "layers", "rows", "length"):
        config, spent = entry["config"], entry["results"]["step"]["milliseconds"]
        plain = spent["PEFT, one adapter"]
        for way, values in spent.items():
            share = statistics.median(a / b for a, b in zip(values, plain, strict=True))
            rows.append([config["precision"], way, f"{statistics.median(values):.0f}", f"{share:.2f}"])
        for bar, value in entry["results"]["step"]["bars"].items():
            rows.append([config["precision"], f"**{bar}**", "", f"{value:.2f}"])
    return table(rows, ["precision", "way", "ms a step", "of plain PEFT"])


def parts() -> str:
    out = []
    # Before the thin products were compiled, steps were others.
    entries = [e for e in read("step") if "floor" in e["results"] and e["date"] >= "2026-11-22T18:30"]
    for entry in newest(entries, "precision"):
        rows = []
        for way, kinds in entry["results"]["floor"].items():
            for kind, found in kinds.items():
                if kind != "step":
                    rows.append([way, kind, f"{found['share of the step']:.0%}", f"{found['GFLOP/s']:.0f}"])
        out.append(table(rows, [f"{entry['config']['precision']}: products alone", "", "of the step", "GFLOP/s"]))
    return "\n\n".join(out)


def terms() -> str:
    out = []
    for entry in newest([e for e in read("step") if "terms" in e["results"]], "precision"):
        rows = [
            [name, *(f"{value:.2f}" for value in found.values())] for name, found in entry["results"]["terms"].items()
        ]
        head = [f"{entry['config']['precision']}: terms", "time, task = 1", "tokens forward and back", "forward alone"]
        out.append(table(rows, head))
    return "\n\n".join(out)


def activations() -> str:
    rows = []
    for entry in newest([e for e in read("step") if "activations" in e["results"]], "hidden"):
        for precision, found in entry["results"]["activations"].items():
            peer = found["MiB"]["PEFT"]
            rows += [[precision, way, f"{value:.0f}", f"{value / peer:.2f}"] for way, value in found["MiB"].items()]
    return table(rows, ["precision", "way", "MiB kept", "of PEFT"])


def losses() -> str:
    held: dict[tuple[str, str], list[str]] = {}
    for entry in read("engine"):
        config = entry["config"]
        for name, found in entry.get("losses", {}).items() if config["loss_rows"] == 1024 else ():
            # Two bars would be two cells of a Markdown table.
            cells = [name.replace("||", "‖"), config["dtype"], f"{found['naive_mb']:.0f}", f"{found['fused_mb']:.0f}"]
            memory, time = found["naive_mb"] / found["fused_mb"], found["time, fused / naive (bar 1.05)"]
            held[name, config["dtype"]] = [*cells, f"{memory:.1f}", f"{time:.2f}"]  # the newest of each
    head = ["loss", "precision", "naive, MB", "fused, MB", "memory, naive / fused", "time, fused / naive"]
    return table(list(held.values()), head)


def kl() -> str:
    rows = []
    for entry in newest([e for e in read("engine") if "kl" in e and e["date"] >= "2026-11-22 15:40"], "dtype"):
        for name, value in entry["kl"]["bars"].items():
            rows.append([entry["config"]["dtype"], name, f"{value:.2f}"])
    return table(rows, ["precision", "KL of 2,048 rows, vocabulary 4,096, hidden 512, 4 layers", ""])


def attention() -> str:
    results, parts = read("attention")[-1]["results"], []
    for name, digits in (("attention, ms", ".1f"), ("from float64", ".1e")):
        rows = results[name]
        cells = [[format(v, digits) if isinstance(v, float) else v for v in row.values()] for row in rows]
        parts.append(table(cells, list(rows[0])))
    return "\n\n".join(parts)


PAGES = {
    "training.md": {"throughput": throughput, "attention": attention, "floor": parts, "terms": terms},
    "adapters.md": {"steps": steps, "activations": activations, "losses": losses, "kl": kl},
}


def main() -> None:
    for page, sections in PAGES.items():
        file = DOCS / page
        text = file.read_text()
        for name, make in sections.items():
            begin, end = f"<!-- {name}: from benchmarks/training_tables.py -->\n", f"<!-- end of {name} -->"
            before, _, rest = text.partition(begin)
            _, found, after = rest.partition(end)
            if not found:
                raise SystemExit(f"{file}: no markers for {name}.")
            text = f"{before}{begin}{make()}\n{end}{after}"
        file.write_text(text)


if __name__ == "__main__":
    main()
