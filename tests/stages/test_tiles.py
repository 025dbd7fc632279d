"""That tile registers are used where there are any: tests of what runs in them are skipped elsewhere."""

from __future__ import annotations

import pytest
import torch
from kinfold.stages import _attention_tiles
from kinfold.stages._tiles import have_tiles, offered, trial


def test_a_machine_that_offers_tiles_passes_the_trials() -> None:
    """Or a loop that is wrong would be left out without a word, and its tests with it."""
    if not offered():
        pytest.skip("needs a CPU with AMX and numba")
    assert trial()
    assert have_tiles()
    for dtype in (torch.bfloat16, torch.float32):
        assert max(error for width in (64, 24) for error in _attention_tiles._errors(dtype, width, (3, 37))) < (
            2e-2 if dtype == torch.bfloat16 else 1e-5
        )
        assert _attention_tiles.takes(torch.zeros(1, 1, 64, dtype=dtype))
