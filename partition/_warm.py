"""Get ready before the clock of a solve starts: compile or load the kernels and import the solvers it will need.

Compiling takes about fifteen seconds once a machine, loading a tenth of one once a process. Neither is part of a
problem's time limit: a first call must prove what a second call proves. Kernels are called on a toy problem, with
arguments made by the same code as in earnest, so that they are compiled for the same types.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from ._core import Core
from ._jit import have_compiler

if TYPE_CHECKING:
    from .._progress import Progress

__all__ = ["get_ready", "ready_annealing"]

_MESSAGE = "compiling the planner's kernels: about 15 seconds, once on this machine and not counted in the time limit"


def get_ready(core: Core, method: str, progress: Progress, *, patience: float = 1.0) -> None:
    """Compile, load and import what `method` will need on `core`; tells `progress` when that takes long."""
    from .portfolio import needs

    told = threading.Timer(patience, lambda: progress.say(_MESSAGE) if have_compiler() else None)
    told.daemon = True
    told.start()
    try:
        for need in needs(core, method):
            _READY[need]()
    finally:
        told.cancel()


@cache
def ready_annealing() -> None:
    """The kernel of the heuristic."""
    if not have_compiler():
        return
    from ._pack import pack
    from ._rounds import Leg, run_kernel

    run_kernel(pack(_toy()), np.arange(3), Leg(1.0, 1.0, 1.0), 0, np.zeros(1, dtype=np.int64))


@cache
def _ready_columns() -> None:
    from ortools.linear_solver import pywraplp  # noqa: F401

    from ._pricer import Pricer

    pricer = Pricer(_toy())
    dual = np.zeros(3)
    pricer.balance(dual, 0.0, 1)
    pricer.exact(dual, 0.0)
    pricer.local(dual, 0.0, np.eye(3, dtype=np.bool_))


@cache
def _ready_triangles() -> None:
    from ortools.linear_solver import pywraplp  # noqa: F401

    from ._triangles import _violated

    _violated(np.zeros((3, 3)), 1)


@cache
def _ready_integers() -> None:
    from ortools.sat.python import cp_model  # noqa: F401


@cache
def _ready_matrices() -> None:
    """The minimiser, the sparse matrices and the kernel of the semidefinite bound."""
    import scipy.optimize
    import scipy.sparse  # noqa: F401

    from ._semidefinite_signed import signed_rows

    signed_rows(np.eye(3), 1.0, 1.0)


_READY: dict[str, Callable[[], None]] = {
    "annealing": ready_annealing,
    "columns": _ready_columns,
    "triangles": _ready_triangles,
    "integers": _ready_integers,
    "matrices": _ready_matrices,
}


def _toy() -> Core:
    """Three items without constraints."""
    none = np.zeros((0, 1), dtype=np.int64)
    return Core(
        gain=np.ones((3, 3), dtype=np.int64) - np.eye(3, dtype=np.int64),
        base=0,
        kappa=0,
        scale=1.0,
        error=0.0,
        sizes=np.zeros((0, 3), dtype=np.int64),
        upper=none,
        lower=none,
        conflict=np.zeros((3, 3), dtype=np.bool_),
        least=1,
        most=3,
        labelled=False,
        group=np.arange(3),
    )
