"""The one exception family of Kinfold.

Every message is one sentence (or one sentence a fault) that names what is wrong, where, and the remedy. The
command line turns :class:`InputError` into exit code 2 (the user can mend it) and any other
:class:`KinfoldError` into exit code 1.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "ConfigError",
    "CorpusError",
    "FingerprintError",
    "InfeasibleError",
    "InputError",
    "InputTypeError",
    "KinfoldError",
    "ModelError",
    "PlanError",
    "RelationsError",
    "RunError",
    "TrainingError",
]


class KinfoldError(Exception):
    """Base of every error Kinfold raises on purpose."""

    exit_code: ClassVar[int] = 1


class InputError(KinfoldError, ValueError):
    """A value, file or combination of settings that the user can mend."""

    exit_code: ClassVar[int] = 2


class InputTypeError(KinfoldError, TypeError):
    """A value of the wrong kind handed to a public function."""

    exit_code: ClassVar[int] = 2


class ConfigError(InputError):
    """A configuration key or value that cannot be used."""


class CorpusError(InputError):
    """A corpus, record or manifest that cannot be read."""


class RelationsError(InputError):
    """Relations that are missing, damaged or do not fit what is asked of them."""


class PlanError(InputError):
    """A plan, or a planning problem, that is not well formed."""


class InfeasibleError(PlanError):
    """A planning problem that no partition satisfies; names the constraints in conflict."""


class ModelError(InputError):
    """A base model, tokenizer or adapter that cannot be used."""


class RunError(InputError):
    """A run folder that is missing, damaged or does not fit what is asked of it."""


class FingerprintError(InputError):
    """Data, model or settings differ from those an artefact was made with."""


class TrainingError(KinfoldError, RuntimeError):
    """Training had to stop; the message names the last good checkpoint."""
