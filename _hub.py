"""Whether the Hugging Face hub can be asked: found out in two seconds, where its client would try for half a minute.

Every room that hands a hub id to another library asks here first: for a folder nothing is asked; an id that the hub's
cache holds is served from there when the hub does not answer; any other id is refused with one clear sentence.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

from .errors import ModelError

__all__ = ["forget", "hub_options", "snapshot", "unreachable"]

_PATIENCE = 2.0  # seconds the hub has to answer
_HOLDS = 60.0  # seconds a failed try is believed, so that a notebook need not be restarted once the network is back
_KNOWN = ("config.json", "tokenizer_config.json", "tokenizer.json", "modules.json")

_LOCK = threading.Lock()
_found: tuple[float, str | None] | None = None


def unreachable() -> str | None:
    """Why the hub cannot be asked, or None where it answers."""
    global _found
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    with _LOCK:
        now = time.monotonic()
        if _found is None or (_found[1] is not None and now - _found[0] > _HOLDS):
            _found = (time.monotonic(), _ask(constants.ENDPOINT))
        return _found[1]


def forget() -> None:
    """Ask again at the next call."""
    global _found
    with _LOCK:
        _found = None


def _ask(endpoint: str) -> str | None:
    """Ask in a thread: looking up a name has no time limit of its own and may take far longer than the request's."""
    faults: list[str | None] = []
    patience = _patience()

    def head() -> None:
        from huggingface_hub import utils

        ask: Any = utils
        try:
            ask.get_session().head(endpoint, timeout=patience)
        except Exception as fault:  # many kinds, by transport; any answer at all would do
            faults.append(" ".join(str(fault).split())[:100].rstrip(". ") or type(fault).__name__)
        else:
            faults.append(None)

    thread = threading.Thread(target=head, name="kinfold-hub", daemon=True)
    thread.start()
    thread.join(patience)
    if not faults:
        return f"{endpoint} does not answer within {patience:g} s, which HF_HUB_ETAG_TIMEOUT can raise"
    return None if faults[0] is None else f"{endpoint} does not answer: {faults[0]}"


def _patience() -> float:
    """Seconds the hub has to answer; the client's own variable raises them where the line is slow."""
    try:
        return max(_PATIENCE, float(os.environ.get("HF_HUB_ETAG_TIMEOUT", "")))
    except ValueError:
        return _PATIENCE


def snapshot(name: str) -> Path | None:
    """Where the hub's cache keeps the model or tokenizer `name`, or None.

    Raises
    ------
    ModelError
        If the hub could have nothing of that name.
    """
    from huggingface_hub import try_to_load_from_cache

    for file in _KNOWN:
        try:
            found = try_to_load_from_cache(name, file)
        except ValueError:  # not a name the hub could have
            raise ModelError(
                f"{name}: no such file or folder here, and a hub id is not written so either; check the name."
            ) from None
        if isinstance(found, str):
            return Path(found).parent
    return None


def hub_options(name: str | Path) -> dict[str, Any]:
    """What to hand to `from_pretrained` besides: nothing for a folder, "cache only" where the hub does not answer.

    Raises
    ------
    ModelError
        If a hub id is not in the hub's cache and the hub cannot be reached.
    """
    if Path(name).exists():
        return {}
    cached, why = snapshot(str(name)), unreachable()
    if why is None:
        return {}
    if cached is None:
        raise ModelError(
            f"{name}: no such folder here, not in the hub's cache, and the hub cannot be asked ({why}); "
            "check the path, give a folder, or connect to the network."
        )
    return {"local_files_only": True}
