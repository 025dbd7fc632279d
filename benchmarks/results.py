"""Write docs/results.md from stored records; with `--run`, make every run that has no record first.

python benchmarks/results.py            (the page alone: seconds)
python benchmarks/results.py --run      (every study; goes on where it stopped, and trains nothing where all is there)

With `--run` as many studies as there are cores run at a time, one thread each; `--jobs` says otherwise. Records lie in
`benchmarks/records/results`, or where KINFOLD_RESULTS_STORE says; `--out` takes the page elsewhere. No sentence of the
page holds a number that is not computed here, and which sentence stands there follows from them.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from _results import demo_corpora
from _results_foretelling import transfer_page
from _results_more import defaults, when_page
from _results_opening import opening
from _results_pages import schedule_page, set_page
from _results_partitions import partitions_page
from _results_presets import presets_page
from _results_repeat import costs
from _results_words import SETS
from kinfold._files import atomic_path, write_text

ROOT = Path(__file__).resolve().parents[1]
Command = tuple[str, ...]
# What the others start from, the longest first; then the others.
FIRST: tuple[Command, ...] = (
    ("results_sets.py", "reviews"),
    ("results_sets.py", "prose"),
    ("results_sets.py", "demo"),
    ("results_when.py",),
    ("results_sets.py", "reviews-short"),
    ("results_sets.py", "reviews-text"),
    ("results_transfer.py", "prose"),
)
THEN: tuple[Command, ...] = (
    ("results_transfer.py", "reviews"),
    ("results_transfer.py", "demo"),
    ("results_partitions.py", "prose"),
    ("results_presets.py", "--parts", "ablate,grid,robust"),
    ("results_schedule.py", "prose"),
    ("results_partitions.py", "demo"),
    ("results_lattice.py",),
    ("results_presets.py", "--parts", "labels"),
    ("results_partitions.py", "reviews-text"),
)


def run(jobs: int) -> None:
    """Every study; those that are recorded already say so and end.

    Raises
    ------
    SystemExit
        When one of them fails; what was trained is kept.
    """
    demo_corpora()  # once, before several ask for it
    threads = str(max(1, (os.cpu_count() or 1) // jobs))
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": "false"}

    def one(command: Command) -> tuple[Command, int]:
        script, *words = command
        asked = [sys.executable, str(ROOT / "benchmarks" / script), *words]
        return command, subprocess.run(asked, env=environment, check=False).returncode

    with ThreadPoolExecutor(jobs) as pool:
        for wave in (FIRST, THEN):
            failed = [" ".join(command) for command, code in pool.map(one, wave) if code]
            if failed:
                raise SystemExit(f"failed: {', '.join(failed)}; run the same again to go on.")


def pictures(folder: Path) -> None:
    """One forest plot per set, and the heatmap of the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    import matplotlib
    from _results_data import stored
    from kinfold.app.compare._views import forest, heatmap

    for name in SETS:
        value = stored(name, "compare")
        if value is None:
            continue
        with (
            matplotlib.rc_context({"svg.hashsalt": "kinfold", "svg.fonttype": "none"}),
            atomic_path(folder / f"results-{name}.svg") as path,
        ):
            forest(value).savefig(path, format="svg", metadata={"Date": None})
    grid = stored("presets", "grid")
    if grid is not None:
        with (
            matplotlib.rc_context({"svg.hashsalt": "kinfold", "svg.fonttype": "none"}),
            atomic_path(folder / "results-sensitivity.svg") as path,
        ):
            heatmap(grid).savefig(path, format="svg", metadata={"Date": None})


def page() -> str:
    """The whole page."""
    parts = [opening(), *(set_page(name) for name in SETS)]
    parts += [schedule_page(), partitions_page(), when_page(), transfer_page(), presets_page(), defaults(), costs()]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", action="store_true", help="make the runs that have no record yet")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="studies at a time")
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="folder of the page")
    options = parser.parse_args()
    if options.run:
        run(max(1, options.jobs))
    pictures(options.out / "images")
    write_text(options.out / "results.md", page())
    print(options.out / "results.md")


if __name__ == "__main__":
    main()
