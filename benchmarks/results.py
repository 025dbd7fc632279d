"""Write docs/results.md from stored records; with `--run`, make every run that has no record first.

python benchmarks/results.py            (the page alone: seconds)
python benchmarks/results.py --run      (every study, one after the other; goes on where it stopped)

No sentence of the page holds a number that is not computed here, and which sentence stands there follows from them.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from _results_foretelling import transfer_lines, transfer_page
from _results_more import costs, defaults, when_page
from _results_pages import opening, schedule_page, set_page
from _results_partitions import partition_lines, partitions_page
from _results_presets import presets_page
from _results_words import SETS
from kinfold._files import atomic_path, write_text

ROOT = Path(__file__).resolve().parents[1]
STUDIES: tuple[tuple[str, ...], ...] = (
    ("results_sets.py", "reviews"),
    ("results_sets.py", "reviews-short"),
    ("results_sets.py", "prose"),
    ("results_sets.py", "demo"),
    ("results_sets.py", "reviews-text"),
    ("results_schedule.py", "prose"),
    ("results_partitions.py", "prose"),
    ("results_partitions.py", "demo"),
    ("results_partitions.py", "reviews-text"),
    ("results_when.py",),
    ("results_lattice.py",),
    ("results_transfer.py", "reviews"),
    ("results_transfer.py", "prose"),
    ("results_presets.py",),
)


def pictures() -> None:
    """One forest plot per set, and the heatmap of the weights."""
    import matplotlib
    from _results_data import stored
    from kinfold.app.compare._views import forest, heatmap

    for name in SETS:
        value = stored(name, "compare")
        if value is None:
            continue
        with (
            matplotlib.rc_context({"svg.hashsalt": "kinfold", "svg.fonttype": "none"}),
            atomic_path(ROOT / "docs" / "images" / f"results-{name}.svg") as path,
        ):
            forest(value).savefig(path, format="svg", metadata={"Date": None})
    grid = stored("presets", "grid")
    if grid is not None:
        with (
            matplotlib.rc_context({"svg.hashsalt": "kinfold", "svg.fonttype": "none"}),
            atomic_path(ROOT / "docs" / "images" / "results-sensitivity.svg") as path,
        ):
            heatmap(grid).savefig(path, format="svg", metadata={"Date": None})


def page() -> str:
    """The whole page."""
    parts = [opening([*partition_lines(), *transfer_lines()])]
    parts += [set_page(name) for name in SETS]
    parts += [schedule_page(), partitions_page(), when_page(), transfer_page(), presets_page(), defaults(), costs()]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", action="store_true", help="make the runs that have no record yet")
    options = parser.parse_args()
    if options.run:
        for script, *words in STUDIES:
            subprocess.run([sys.executable, str(ROOT / "benchmarks" / script), *words], check=True)
    pictures()
    write_text(ROOT / "docs" / "results.md", page())
    print(ROOT / "docs" / "results.md")


if __name__ == "__main__":
    main()
