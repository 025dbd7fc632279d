"""The tokenised training texts of a run, and the steps of a stage over them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .batches import Schedule
    from .data import TokenStore
    from .session import Session

__all__ = ["Stores", "schedule_of"]


@dataclass(frozen=True)
class Stores:
    """The tokenised training texts: one store per domain, and those of general and unlabelled text."""

    domains: dict[str, TokenStore]
    validation: dict[str, TokenStore]
    general: tuple[TokenStore, ...]
    unlabelled: tuple[TokenStore, ...]

    @classmethod
    def read(cls, session: Session) -> Stores:
        """Tokenise what the settings ask for."""
        settings, corpora, encoder = session.settings, session.corpora, session.encoder
        names = [name for stage in session.stages for name in stage]
        domains: dict[str, TokenStore] = {}
        with session.progress.task("tokenise", total=len(names), unit="domain") as task:
            for name in names:
                domains[name] = encoder.store(corpora[name], "train", limit=settings.documents)
                task.advance()
        for name, store in domains.items():
            if store.truncated:
                session.progress.warn(
                    f"{name}: {store.truncated} of {store.records} records are longer than {encoder.max_length} tokens "
                    "and were cut; raise train.max_length to keep them whole."
                )
        validation = {}
        if settings.patience is not None:
            limit = settings.eval_documents
            validation = {name: encoder.store(corpora[name], "validation", limit=limit) for name in names}
        general = corpora.general if settings.kl_weight > 0 else ()
        unlabelled = corpora.unlabelled if settings.ssl_weight > 0 else ()
        return cls(
            domains,
            validation,
            tuple(encoder.store(d, "train", limit=settings.documents, task_free=True) for d in general),
            tuple(encoder.store(d, "train", limit=settings.documents, task_free=True) for d in unlabelled),
        )


def schedule_of(session: Session, stores: Stores, stage: int, ranks: int = 1) -> Schedule:
    """The steps of stage number `stage` (from 0) for `ranks` processes."""
    from .batches import Schedule

    names = session.stages[stage]
    return Schedule.make(
        stage,
        {name: stores.domains[name] for name in names},
        session.settings,
        seed=session.seed,
        unlabelled=stores.unlabelled,
        general=stores.general,
        ranks=ranks,
        window=session.layout == "padded",
        weights={name: session.corpora[name].weight for name in names},
    )
