"""The pictures of the README and the docs are there, small, and what the command would make."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
IMAGES = sorted((ROOT / "docs" / "images").glob("*"))


def test_the_command_s_pictures_are_all_here() -> None:
    assert {path.name for path in IMAGES} >= {
        "report-light.png",
        "report-dark.png",
        "heatmaps.png",
        "plan.png",
        "run.png",
    }


@pytest.mark.parametrize("path", IMAGES, ids=lambda path: path.name)
def test_a_picture_is_small_and_what_its_name_says(path: Path) -> None:
    if path.suffix == ".svg":
        assert "<svg" in path.read_text(encoding="utf-8")[:1000]
    else:
        assert path.read_bytes().startswith(b"\x89PNG")
    assert 10_000 < path.stat().st_size < 300_000


@pytest.mark.parametrize("page", ["README.md", "docs/report.md"])
def test_every_picture_a_page_shows_exists(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for link in re.findall(r"(?:src|srcset)=\"([^\"]+)\"|!\[[^\]]*\]\(([^)]+)\)", text):
        target = next(part for part in link if part)
        if not target.startswith("http"):
            assert ((ROOT / page).parent / target).is_file(), f"{page} shows {target}, which is missing"


def test_the_command_makes_the_figures_without_a_browser(synthetic_run, tmp_path, monkeypatch, capsys) -> None:
    import importlib.util
    import sys

    spec = importlib.util.spec_from_file_location("make_readme_picture", ROOT / "benchmarks" / "make_readme_picture.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "find_chromium", lambda: None)
    monkeypatch.setattr(sys, "argv", ["make_readme_picture.py", str(synthetic_run(3)), "--out", str(tmp_path)])
    module.main()
    assert {path.name for path in tmp_path.iterdir()} == {"heatmaps.png", "plan.png", "run.png"}
    assert "no Chromium" in capsys.readouterr().out
