"""The measured part of docs/partition.md, written from the records between markers; nothing of it is typed.

<!-- measured: NAME -->
... replaced ...
<!-- end -->
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
from _partition_records import Record, load, of
from kinfold._files import write_text
from kinfold.partition.plan import certificate_of
from kinfold.partition.settings import PEERS

PAGE = Path(__file__).resolve().parents[1] / "docs" / "partition.md"
_BLOCK = re.compile(r"(<!-- measured: (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
_NONE = "–"
_SHORT = {
    "single_linkage": "single",
    "average_linkage": "average",
    "all_in_one": "one for all",
    "one_per_domain": "one each",
}


def rendered(text: str, records: list[Record] | None = None) -> str:
    """The page with every block as the records have it."""
    records = load() if records is None else records
    return _BLOCK.sub(lambda found: found[1] + BLOCKS[found[2]](records).strip() + "\n" + found[4], text)


def write() -> Path:
    """Renew the page."""
    write_text(PAGE, rendered(PAGE.read_text()))
    return PAGE


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def circumstances(records: list[Record]) -> str:
    """When and under what load the records were made, and with which code."""
    if not records:
        return "No record."
    loads = [r["load"] for r in records]
    days = sorted({r["time"][:10] for r in records})
    commits = sorted({r["commit"] for r in records})
    when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    return (
        f"{len(records)} records, {when}, {records[0]['machine']}, load average {min(loads):.0f} to {max(loads):.0f}, "
        f"commit{'s' if len(commits) > 1 else ''} {', '.join(commits)}."
    )


def proofs(study: str) -> Callable[[list[Record]], str]:
    """Proof rates by number of domains and time limit."""

    def block(records: list[Record]) -> str:
        rows, used = [], []
        kinds = sorted({(r["config"]["k"], _draw(r), r["config"]["seconds"]) for r in of(records, study)})
        for k, draw, seconds in kinds:
            runs = [r for r in of(records, study, k=k, seconds=seconds) if _draw(r) == draw]
            used += runs
            times = [r["result"]["seconds"] for r in runs]
            gaps = [r["result"]["gap"] for r in runs]
            worst = _NONE if any(g is None for g in gaps) else f"{100 * max(gaps):.2f}"
            proved = sum(r["result"]["status"] == "optimal" for r in runs)
            rows.append(
                [
                    str(k),
                    _numbers(runs),
                    f"{seconds:g}",
                    f"{proved}/{len(runs)}",
                    f"{np.median(times):.1f}",
                    f"{max(times):.1f}",
                    f"{np.mean([r['cpu'] for r in runs]):.1f}",
                    worst,
                ]
            )
        head = ["k", "instances", "limit s", "proved", "median s", "longest s", "mean CPU s", "worst gap %"]
        return f"{table(head, rows)}\n\n{circumstances(used)}"

    return block


def answers(records: list[Record]) -> str:
    """The heuristic after 1, 10 and 60 s beside every peer, in per cent below the best value known."""
    cases = _cases(records)
    head = ["instance", "best known", "1 s", "10 s", "60 s", *(_SHORT.get(p, p) for p in PEERS)]
    rows, used = [], []
    for case, (best, proven) in cases.items():
        runs = of(records, "heuristic", case=case)
        used += runs
        long = next((r for r in runs if r["config"]["seconds"] >= 60), None)
        short = next((r for r in runs if r["config"]["seconds"] < 60), None)
        cells = [_NONE] * 3
        if long is not None:
            cells = [_below(long["result"][key], best) for key in ("at_1s", "at_10s", "objective")]
        elif short is not None:
            end = _below(short["result"]["objective"], best)
            # A proven optimum stays one.
            cells = [_below(short["result"]["at_1s"], best), *([end] * 2 if end in ("0", "-0") else [_NONE] * 2)]
        peers = []
        for name in PEERS:
            run = of(records, "peers", case=case, method=name)
            peers.append(_below(run[0]["result"]["objective"], best, 1) if run else _NONE)
        rows.append([case, f"{best:g}" + ("*" if proven else ""), *cells, *peers])
    return f"{table(head, rows)}\n\n{circumstances(used)}"


def certificates(records: list[Record]) -> str:
    """What the default method proves on the public instances."""
    cases = _cases(records)
    head = ["instance", "limit s", "seconds", "below best known %", "proved gap %", "answer"]
    rows, used = [], []
    for case, (best, _) in cases.items():
        for run in sorted(of(records, "auto", case=case), key=lambda r: r["config"]["seconds"]):
            result = run["result"]
            used.append(run)
            rows.append(
                [
                    case,
                    f"{run['config']['seconds']:g}",
                    f"{result['seconds']:.1f}",
                    _below(result["objective"], best),
                    _gap(result["gap"]),
                    certificate_of(result["status"], result["gap"]),
                ]
            )
    return f"{table(head, rows)}\n\n{circumstances(used)}"


def primal(records: list[Record]) -> str:
    """How often one second was enough."""
    rows, used = [], []
    totals = [0, 0]
    for k, draw in sorted({(r["config"]["k"], _draw(r)) for r in of(records, "primal proof")}):
        proofs_of = {r["config"]["instance"]: r for r in of(records, "primal proof", k=k) if _draw(r) == draw}
        proved = {i: r["result"]["objective"] for i, r in proofs_of.items() if r["result"]["status"] == "optimal"}
        runs = [r for r in of(records, "primal", k=k) if r["config"]["instance"] in proved]
        used += runs
        best = [proved[r["config"]["instance"]] for r in runs]
        hits = sum(r["result"]["objective"] >= value - 1e-9 * abs(value) for r, value in zip(runs, best, strict=True))
        totals = [totals[0] + hits, totals[1] + len(runs)]
        share = f"{100 * hits / len(runs):.1f}" if runs else _NONE
        rows.append(
            [
                str(k),
                _numbers(list(proofs_of.values())),
                f"{len(proved)}/{len(proofs_of)}",
                str(len(runs)),
                str(hits),
                share,
            ]
        )
    share = f"{100 * totals[0] / totals[1]:.1f}" if totals[1] else _NONE
    rows.append(["all", "", "", str(totals[1]), str(totals[0]), share])
    head = ["k", "instances", "proved", "runs of 1 s", "optimum found", "%"]
    return f"{table(head, rows)}\n\n{circumstances(used)}"


def families(records: list[Record]) -> str:
    """What the default method answers and proves on generated instances of public families."""
    head = ["family", "n", "instance", "commit", "limit s", "seconds", "objective", "proved gap %", "answer"]
    used = sorted(
        of(records, "certify"), key=lambda r: (r["config"]["family"], r["config"]["n"], r["config"]["instance"])
    )
    rows = [
        [
            run["config"]["family"],
            str(run["config"]["n"]),
            str(run["config"]["instance"]),
            run["commit"],
            f"{run['config']['seconds']:g}",
            f"{run['result']['seconds']:.1f}",
            f"{run['result']['objective']:.6g}",
            _gap(run["result"]["gap"]),
            certificate_of(run["result"]["status"], run["result"]["gap"]),
        ]
        for run in used
    ]
    return f"{table(head, rows)}\n\n{circumstances(used)}"


def unseen(records: list[Record]) -> str:
    """The heuristic on generated instances of public families, below the better of two runs of which one is longer."""
    head = ["family", "n", "instance", "best seen", "after 1 s", "short run s", "its end", "long run s", "its end"]
    runs: dict[tuple[str, int, int], list[Record]] = {}
    for record in of(records, "family"):
        config = record["config"]
        runs.setdefault((config["family"], config["n"], config["instance"]), []).append(record)
    rows = []
    for (family, n, number), pair in sorted(runs.items()):
        if len(pair) < 2:
            continue
        short, *_, long = sorted(pair, key=lambda r: r["config"]["seconds"])
        best = max(r["result"]["objective"] for r in pair)
        rows.append(
            [
                family,
                str(n),
                str(number),
                f"{best:.7g}",
                _below(short["result"]["at_1s"], best),
                f"{short['config']['seconds']:g}",
                _below(short["result"]["objective"], best),
                f"{long['config']['seconds']:g}",
                _below(long["result"]["objective"], best),
            ]
        )
    return f"{table(head, rows)}\n\n{circumstances([r for pair in runs.values() for r in pair])}"


def large(records: list[Record]) -> str:
    """Thousands of domains."""
    head = ["k", "instance", "limit s", "objective", "better linkage", "seconds", "peak MB", "answer"]
    rows = []
    used = sorted(of(records, "large"), key=lambda r: (r["config"]["k"], r["config"]["seconds"]))
    for run in used:
        result = run["result"]
        rows.append(
            [
                str(run["config"]["k"]),
                str(run["config"].get("instance", 0)),
                f"{run['config']['seconds']:g}",
                f"{result['objective']:.1f}",
                f"{max(result['peers'].values()):.1f}",
                f"{result['seconds']:.1f}",
                f"{result['peak_mb']:.0f}",
                certificate_of(result["status"], result["gap"]),
            ]
        )
    return f"{table(head, rows)}\n\n{circumstances(used)}"


def _cases(records: list[Record]) -> dict[str, tuple[float, bool]]:
    """Best values known of the public instances, as the `best` study keeps them."""
    return {r["config"]["case"]: (r["result"]["best_known"], r["result"]["proven"]) for r in of(records, "best known")}


def _draw(record: Record) -> int:
    """Which hundred of instances: settings were chosen before a later hundred was drawn."""
    return int(record["config"]["instance"]) // 100


def _numbers(runs: list[Record]) -> str:
    """The numbers of the instances, as a range."""
    numbers = [r["config"]["instance"] for r in runs]
    return f"{min(numbers)} to {max(numbers)}"


def _gap(gap: float | None) -> str:
    """A proved gap in per cent; none above 100."""
    return _NONE if gap is None or gap > 1 else f"{100 * gap:.2f}"


def _below(value: float | None, best: float, digits: int = 3) -> str:
    """How far below the best value known, in per cent; 0 where nothing is missing."""
    if value is None:
        return _NONE
    percent = 100 * (best - value) / abs(best)
    return "0" if abs(percent) < 1e-7 else f"{percent:.{digits}f}"


BLOCKS: dict[str, Callable[[list[Record]], str]] = {
    "planning": proofs("planning"),
    "random": proofs("random"),
    "answers": answers,
    "certificates": certificates,
    "families": families,
    "unseen": unseen,
    "primal": primal,
    "large": large,
}
