"""Which base model relations and plans were made for, and whether it is the one that is about to be trained.

A plan is about texts first: another model may be trained on it, so a difference is a warning, not an error. But its
token budget and measures are counted in one tokenizer's tokens, and what was measured on one model's states says less
of another's.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, TypeVar

from .._hub import snapshot
from .._progress import SILENT, Progress
from ..errors import ModelError

if TYPE_CHECKING:
    from ..metrics import Relations
    from ..partition import Plan

__all__ = ["marked", "model_print", "other_model"]

T = TypeVar("T", "Relations", "Plan")


def model_print(model: str | os.PathLike[str] | None, progress: Progress = SILENT) -> str | None:
    """The fingerprint of a base model whose weights are on this machine; None where they would have to be fetched.

    Weights are hashed once and remembered. Asked for before the work it is to be kept with, as it checks the path.

    Raises
    ------
    ModelError
        If `model` is written as a path and there is no such folder.
    """
    if model is None:
        return None
    from ..stages.fingerprint import local_folder, model_fingerprint

    folder = local_folder(os.fspath(model)) or snapshot(os.fspath(model))
    if folder is None or not any(folder.glob("*.safetensors")):
        return None
    with progress.task("fingerprint of the base model"):
        return model_fingerprint(os.fspath(model))


def marked(made: T, fingerprint: str | None) -> T:
    """Relations or a plan with the base model's fingerprint among theirs, where it is known."""
    if fingerprint is None:
        return made
    return dataclasses.replace(made, fingerprints={**made.fingerprints, "model": fingerprint})


def other_model(
    plan: Plan, relations: Relations | None, model: str | os.PathLike[str], progress: Progress = SILENT
) -> Iterator[str]:
    """One sentence for each way in which `model` is not what the plan was made for; none where nothing is known.

    Parameters
    ----------
    plan
        What is about to be trained.
    relations
        What it was made from, where they are at hand: they tell which tokenizer counted.
    model
        The base model, a folder or a hub id.
    progress
        Where to report.
    """
    name, wanted = os.fspath(model), plan.fingerprints.get("model")
    with contextlib.suppress(ModelError):  # what cannot be opened is refused by the training, with its own words
        found = model_print(name, progress) if wanted else None
        if found is not None and found != wanted:
            yield (
                f"the plan was made for another base model than {name}, or its weights changed since; measure and "
                "plan again with this one if that is not meant."
            )
    yield from _other_tokenizer(plan, relations, name)


def _other_tokenizer(plan: Plan, relations: Relations | None, model: str) -> Iterator[str]:
    wanted = plan.fingerprints.get("tokenizer")
    if not wanted:
        return
    from ..metrics.tokenizing import fingerprint, load_tokenizer

    try:
        tokenizer = load_tokenizer(model)
    except ModelError:
        return
    if fingerprint(tokenizer) == wanted:
        return
    budgets = "tokens" in {**plan.budget, **(plan.settings.get("minimum") or {})}
    own = relations is not None and relations.settings.get("tokenizer") == "auto"
    if own and not budgets:
        return  # no model was named, as is usual; measures of shares hardly depend on whose tokens are counted
    sizes = ""
    if relations is not None and relations.details.get("vocabulary"):
        sizes = f" ({relations.details['vocabulary']:,} entries against {tokenizer.get_vocab_size():,})"
    which = "a tokenizer trained on the corpora" if own else "another tokenizer"
    what = "its token budget is in other tokens" if budgets else "its measures count other tokens"
    yield (
        f"the plan was measured with {which}, not with that of {model}{sizes}: {what}; measure again with "
        f"--model {model} for a plan in its tokens."
    )
