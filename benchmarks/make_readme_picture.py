"""Make the pictures of the README and the docs from a run: `python benchmarks/make_readme_picture.py kinfold-demo/run`.

Writes docs/images/: report-light.png and report-dark.png (the report in headless Chromium) and heatmaps.png, plan.png
and run.png (the API's own figures). Without Chromium only the figures are made, and the command says so.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from kinfold.app.report import write_report
from kinfold.stages import Run

IMAGES = Path(__file__).parents[1] / "docs" / "images"
LIMIT = 300_000
CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
)


def shrink(path: Path) -> None:
    """A PNG with a palette of 256 colours: a third of the size, and no difference to see in charts."""
    from PIL import Image

    with Image.open(path) as picture:
        small = picture.convert("RGB").quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    small.save(path, optimize=True)
    if path.stat().st_size > LIMIT:
        sys.exit(f"{path}: {path.stat().st_size:,} bytes is more than {LIMIT:,}; make the picture smaller.")
    print(f"{path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}  {path.stat().st_size:,} bytes")


def screenshot(chromium: str, page: Path, target: Path, *, dark: bool, width: int, height: int) -> None:
    """One picture of the top of the page, in one colour scheme."""
    with tempfile.TemporaryDirectory() as profile:
        scheme = ["--force-dark-mode", "--blink-settings=preferredColorScheme=0"] if dark else []
        subprocess.run(
            [
                chromium,
                *FLAGS,
                *scheme,
                f"--user-data-dir={profile}",
                f"--window-size={width},{height}",
                "--force-device-scale-factor=1",
                "--virtual-time-budget=3000",
                f"--screenshot={target}",
                page.resolve().as_uri(),
            ],
            check=True,
            capture_output=True,
            timeout=120,
        )


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
    named = os.environ.get("KINFOLD_CHROMIUM")
    chromium = named or next((found for name in CHROMIUM if (found := shutil.which(name))), None)
    if chromium is None:
        print("no Chromium on this machine: the pictures of the report were not made.")
        return
    with tempfile.TemporaryDirectory() as folder:
        page = write_report(run, Path(folder) / "report.html")
        for name, dark in (("report-light", False), ("report-dark", True)):
            screenshot(chromium, page, given.out / f"{name}.png", dark=dark, width=1200, height=1720)
            shrink(given.out / f"{name}.png")


if __name__ == "__main__":
    main()
