"""Make the pictures of the README and the docs from a run: `python benchmarks/make_readme_picture.py kinfold-demo/run`.

Writes docs/images/: report-light.png and report-dark.png (the report in headless Chromium) and heatmaps.png, plan.png
and run.png (the API's own figures). Without Chromium only the figures are made, and the command says so.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from kinfold.app.report import write_report
from kinfold.stages import Run

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
from report_browser import Browser, find_chromium

IMAGES = Path(__file__).parents[1] / "docs" / "images"
LIMIT = 300_000


def shrink(path: Path) -> None:
    """A PNG with a palette of 256 colours: a third of the size, and no difference to see in charts."""
    from PIL import Image

    with Image.open(path) as picture:
        small = picture.convert("RGB").quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    small.save(path, optimize=True)
    if path.stat().st_size > LIMIT:
        sys.exit(f"{path}: {path.stat().st_size:,} bytes is more than {LIMIT:,}; make the picture smaller.")
    print(f"{path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}  {path.stat().st_size:,} bytes")


def main() -> None:
    """Make every picture of one run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="a finished run folder, for example kinfold-demo/run")
    parser.add_argument("--out", type=Path, default=IMAGES, help="folder of the pictures")
    given = parser.parse_args()
    run = Run.load(given.run)
    given.out.mkdir(parents=True, exist_ok=True)
    relations, plan = run.relations, run.plan
    figures = {"plan": plan.plot(), "run": run.plot()}
    if relations is not None:
        order = [name for stage in plan.stages for name in stage]
        figures["heatmaps"] = relations.plot(["js", "jaccard", "cosine_centred"], order)
    for name, figure in figures.items():
        figure.savefig(given.out / f"{name}.png", dpi=110)
        shrink(given.out / f"{name}.png")
    chromium = find_chromium()
    if chromium is None:
        print("no Chromium on this machine: the pictures of the report were not made.")
        return
    with tempfile.TemporaryDirectory() as folder:
        page = write_report(run, Path(folder) / "report.html")
        browser = Browser(chromium, Path(folder) / "profile")
        try:
            for name, dark in (("report-light", False), ("report-dark", True)):
                browser.open(page, width=1200, height=1720, dark=dark)
                browser.shoot(given.out / f"{name}.png", full=False)
                shrink(given.out / f"{name}.png")
        finally:
            browser.close()


if __name__ == "__main__":
    main()
