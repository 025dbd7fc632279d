"""Rows of data sets that the `datasets` library keeps: folders it saved, and the hub."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .._hub import unreachable
from ..errors import CorpusError
from ._readers import Columns, Row
from .record import named_split

__all__ = ["HUB_ID", "hub_rows", "saved_rows", "saved_splits"]

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_BATCH = 256


def saved_splits(folder: Path) -> list[tuple[Path, str]]:
    """The tables of a saved data set: folder and name of each split; one without a name where there are no splits.

    Raises
    ------
    CorpusError
        When the list of splits cannot be read.
    """
    listed = folder / "dataset_dict.json"
    if not listed.is_file():
        return [(folder, "")]
    try:
        names = json.loads(listed.read_text(encoding="utf-8"))["splits"]
        return [(folder / str(name), str(name)) for name in names]
    except (OSError, ValueError, KeyError, TypeError):
        raise CorpusError(f"{listed}: does not list the splits of a saved data set; save it again.") from None


def saved_rows(folder: Path, columns: Columns) -> Iterator[Row]:
    """Every row of one saved table, read through a memory map.

    Raises
    ------
    CorpusError
        When the folder cannot be read.
    """
    import datasets

    try:
        table = datasets.load_from_disk(str(folder))
    except Exception as fault:
        raise CorpusError(f"{folder}: the saved data set cannot be opened ({_reason(fault)}); save it again.") from None
    return _rows(table, columns)


def hub_rows(
    hub: str, subset: str | None, revision: str | None, columns: Columns
) -> Iterator[tuple[str, str | None, Iterator[Row]]]:
    """Place, split and rows of every split of a hub data set; a lone training split counts as no split.

    Raises
    ------
    CorpusError
        When the data set cannot be loaded, for example without a network.
    """
    if Path(hub).exists():
        raise CorpusError(
            f"hub: {hub}: is also a local path, which would be read instead; write `path: {hub}` or rename it."
        )
    import datasets

    if why := _out_of_reach(hub):
        raise CorpusError(
            f"hub data set {hub!r}: not in the cache, and the hub cannot be asked ({why}); connect to the network, "
            "or save it with `datasets` and give the folder as `path`."
        )
    try:
        loaded: Any = datasets.load_dataset(hub, subset, revision=revision)
    except Exception as fault:
        raise CorpusError(
            f"hub data set {hub!r}: cannot be loaded ({_reason(fault)}); check its name and the network, "
            "or save it with `datasets` and give the folder as `path`."
        ) from None
    splits = {str(name): named_split(str(name)) for name in loaded}
    known = {name: split for name, split in splits.items() if split}
    if not known:
        raise CorpusError(f"hub data set {hub!r}: has no split called train, validation or test but {sorted(splits)}.")
    lone = set(known.values()) == {"train"}
    for name, split in known.items():
        yield f"{hub}/{name}", None if lone else split, _rows(loaded[name], columns)


def _out_of_reach(hub: str) -> str | None:
    """Why the hub cannot be asked for a data set that no cache holds; None where it is worth trying."""
    import datasets
    from huggingface_hub import constants

    prepared = Path(datasets.config.HF_DATASETS_CACHE) / hub.replace("/", "___")
    fetched = Path(constants.HF_HUB_CACHE) / f"datasets--{hub.replace('/', '--')}"
    return None if prepared.is_dir() or fetched.is_dir() else unreachable()


def _rows(table: Any, columns: Columns) -> Iterator[Row]:
    names = columns(list(table.column_names))
    number = 0
    # As Arrow tables: nothing is decoded that is not text.
    for batch in table.select_columns(names).with_format("arrow").iter(_BATCH):
        for row in batch.to_pylist():
            number += 1
            yield number, row


def _reason(fault: Exception) -> str:
    text = str(fault).strip().splitlines()
    return (text[0] if text else type(fault).__name__).rstrip(".")[:200]
