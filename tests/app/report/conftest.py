"""Made-up runs and a browser to look at their pages with."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from report_browser import Browser, find_chromium
from report_made import HOSTILE, make_plan, make_relations, make_run


@pytest.fixture(scope="session")
def synthetic_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`synthetic_run(k, **options)` -> a run folder of k domains, made once."""
    made: dict[tuple, Path] = {}

    def build(k: int, **options: object) -> Path:
        key = (k, *sorted(options.items()))
        if key not in made:
            made[key] = make_run(tmp_path_factory.mktemp(f"run{k}") / "run", k, **options)
        return made[key]

    return build


@pytest.fixture(scope="session")
def synthetic_relations():
    return make_relations


@pytest.fixture(scope="session")
def synthetic_plan():
    return make_plan


@pytest.fixture(scope="session")
def unpack() -> Callable[[dict], np.ndarray]:
    """The inverse of `_frame.pack`, written from the description of the format as the page's script reads it."""

    def read(packed: dict) -> np.ndarray:
        if "bits" in packed:
            bits = np.frombuffer(base64.b64decode(packed["bits"]), dtype=np.uint8)
            count = packed["rows"] * (packed["rows"] + 1) // 2 if packed["sym"] else packed["rows"] * packed["cols"]
            values = np.unpackbits(bits, bitorder="little")[:count].astype(float)
        else:
            steps = np.frombuffer(base64.b64decode(packed["d"]), dtype="<u2")
            values = np.where(
                steps == 65535, np.nan, packed["lo"] + steps * (((packed["hi"] - packed["lo"]) or 1) / 65534)
            )
        if not packed["sym"]:
            return values.reshape(packed["rows"], packed["cols"])
        full = np.full((packed["rows"],) * 2, np.nan)
        rows, columns = np.triu_indices(packed["rows"])
        full[rows, columns] = full[columns, rows] = values
        return full

    return read


@pytest.fixture(scope="session")
def hostile_name() -> str:
    return HOSTILE


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    binary = find_chromium()
    if binary is None:
        pytest.skip("no chromium on this machine; install it (apt-get install chromium) or name it in KINFOLD_CHROMIUM")
    session = Browser(binary, tmp_path_factory.mktemp("profile"))
    yield session
    session.close()
