"""The notebooks run from a clean kernel, top to bottom, in time, and are kept without outputs."""

from __future__ import annotations

import time
from pathlib import Path

import nbformat
import pytest

FOLDER = Path(__file__).parents[2] / "notebooks"
BOOKS = sorted(FOLDER.glob("*.ipynb"))
NAMES = ["01_discrepancy_heatmaps", "02_partition_plan", "03_training_report"]


def test_all_three_are_here() -> None:
    assert [path.stem for path in BOOKS] == NAMES


@pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem)
def test_it_is_kept_clean_and_tells_what_it_does(path: Path) -> None:
    book = nbformat.read(path, as_version=4)
    nbformat.validate(book)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    for cell in code:
        assert cell.outputs == []
        assert cell.execution_count is None
    assert path.stat().st_size < 20_000
    # Prose between cells: never three cells of code in a row.
    kinds = [cell.cell_type for cell in book.cells]
    assert kinds[0] == "markdown"
    assert not any(kinds[i : i + 3] == ["code"] * 3 for i in range(len(kinds)))
    assert "your own" in " ".join(cell.source for cell in book.cells if cell.cell_type == "markdown")


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[nbformat.NotebookNode, float]]:
    """Every notebook run in its own kernel, in order, with a fresh cache that the three share as a user's would."""
    import os

    from nbclient import NotebookClient

    place = tmp_path_factory.mktemp("notebooks")
    old = {name: os.environ.get(name) for name in ("KINFOLD_CACHE", "HF_HUB_OFFLINE", "OMP_NUM_THREADS")}
    os.environ.update({"KINFOLD_CACHE": str(place / "cache"), "HF_HUB_OFFLINE": "1"})
    done = {}
    try:
        for path in BOOKS:
            book = nbformat.read(path, as_version=4)
            begin = time.process_time(), time.monotonic()
            NotebookClient(
                book, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(place)}}
            ).execute()
            done[path.stem] = (book, time.monotonic() - begin[1])
    finally:
        for name, value in old.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
    return done


def outputs(book: nbformat.NotebookNode, kind: str) -> list[str]:
    return [
        output["data"][kind]
        for cell in book.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if "data" in output and kind in output["data"]
    ]


def printed(book: nbformat.NotebookNode) -> str:
    return "".join(
        output.text
        for cell in book.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if output.output_type == "stream" and output.name == "stdout"
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_it_runs_from_a_clean_kernel(executed, name: str) -> None:
    book, _ = executed[name]
    counts = [cell.execution_count for cell in book.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))
    assert len(outputs(book, "image/png")) == 1
    noise = [o.text for c in book.cells if c.cell_type == "code" for o in c.outputs if o.get("name") == "stderr"]
    assert not any("Error" in text or "Traceback" in text for text in noise)


@pytest.mark.slow
def test_what_they_show_is_what_they_say(executed) -> None:
    first, second, third = (executed[name][0] for name in NAMES)
    assert "bits on average" in printed(first)
    assert "objective" in printed(second)
    assert "fragile:" in printed(second)
    assert "alone: objective" in printed(second)
    page = Path(printed(third).split(" ")[0])
    assert page.name == "report.html"
    assert page.is_file()
    verdicts = outputs(third, "text/plain")
    assert any("better" in text or "worse" in text or "within the interval" in text for text in verdicts)
