"""How corpora are read, as a user may set it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ..errors import ConfigError

__all__ = ["CorporaSettings", "check_limit", "check_share"]

VALIDATION_SHARE = 0.1
TEST_SHARE = 0.1


def check_share(value: object, where: str) -> float:
    """A share of the records, at least 0 and below 1.

    Raises
    ------
    ConfigError
        When `value` is no number in that range; `where` names the setting.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or not 0 <= value < 1:
        raise ConfigError(f"{where}={value!r} is not a share; give a number from 0 up to, but not including, 1.")
    return float(value)


def check_limit(value: object, where: str) -> int | None:
    """A number of records, at least 1, or None for all of them.

    Raises
    ------
    ConfigError
        When `value` is neither; `where` names the setting.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{where}={value!r} is not a number of records; give a whole number from 1, or leave it out.")
    return value


@dataclass(frozen=True)
class CorporaSettings:
    """How records are read and split."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    strict: bool = field(default=False, metadata={"help": "stop at the first bad record instead of counting it"})
    limit: int | None = field(
        default=None, metadata={"help": "read at most this many records of each split of a domain, in file order"}
    )
    validation: float = field(
        default=VALIDATION_SHARE, metadata={"help": "share of records for validation, where a record names no split"}
    )
    test: float = field(
        default=TEST_SHARE, metadata={"help": "share of records for the test split, where a record names no split"}
    )

    def __post_init__(self) -> None:
        if not isinstance(self.strict, bool):
            raise ConfigError(f"corpora.strict={self.strict!r} is not a truth value; give true or false.")
        check_limit(self.limit, "corpora.limit")
        check_share(self.validation, "corpora.validation")
        check_share(self.test, "corpora.test")
        if self.validation + self.test >= 1:
            raise ConfigError(
                f"corpora.validation + corpora.test = {self.validation + self.test:g} leaves nothing to train on; "
                "let them sum to less than 1."
            )
