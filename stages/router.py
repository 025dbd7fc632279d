"""A domain router: which domain's adapter should serve a text. TF-IDF and logistic regression, without pickle."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._files import atomic_dir, read_json, write_json
from .._progress import SILENT, Progress
from .._seeding import derive_seed
from ..errors import CorpusError, RunError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..corpora import Corpora

__all__ = ["Router", "train_router"]

ROUTER_VERSION = 1
_PATTERN = r"(?u)\b\w+\b"


@dataclass(frozen=True)
class Router:
    """A linear classifier over TF-IDF features of words.

    Attributes
    ----------
    domains
        Classes, sorted.
    vocabulary
        Words, in column order.
    idf, weights, bias
        (words,), (domains, words) and (domains,), float32.
    accuracy
        Measured on the held-out split: value, 95 % interval, documents, split and confusion matrix.
    """

    domains: tuple[str, ...]
    vocabulary: tuple[str, ...]
    idf: NDArray[np.float32]
    weights: NDArray[np.float32]
    bias: NDArray[np.float32]
    accuracy: Mapping[str, Any]

    def _features(self, texts: Sequence[str]) -> Any:
        from sklearn.feature_extraction.text import CountVectorizer
        from sklearn.preprocessing import normalize

        counter = CountVectorizer(
            vocabulary={word: i for i, word in enumerate(self.vocabulary)}, token_pattern=_PATTERN
        )
        counts = counter.transform(list(texts)).astype("float64")
        counts.data[:] = 1.0 + _log(counts.data)
        return normalize(counts.multiply(self.idf.astype("float64")).tocsr())

    def scores(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Decision values, (texts, domains); larger is likelier."""
        import numpy as np

        return np.asarray(self._features(texts) @ self.weights.astype("float64").T + self.bias)

    def route(self, texts: Sequence[str]) -> list[str]:
        """The domain of each text."""
        return [self.domains[i] for i in self.scores(texts).argmax(1)]

    def save(self, path: str | Path) -> Path:
        """Write `router.json` and `router.npz` into the folder `path`."""
        import numpy as np

        with atomic_dir(path) as folder:
            write_json(
                folder / "router.json",
                {
                    "version": ROUTER_VERSION,
                    "domains": list(self.domains),
                    "vocabulary": list(self.vocabulary),
                    "accuracy": dict(self.accuracy),
                },
            )
            np.savez_compressed(folder / "router.npz", idf=self.idf, weights=self.weights, bias=self.bias)
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> Router:
        """Read what :meth:`save` wrote.

        Raises
        ------
        RunError
            If a file is missing, damaged or of another version.
        """
        import numpy as np

        folder = Path(path)
        facts = read_json(folder / "router.json", error=RunError)
        if not isinstance(facts, dict) or facts.get("version") != ROUTER_VERSION:
            raise RunError(f"{folder}: not a router of version {ROUTER_VERSION}; export the run again.")
        try:
            with np.load(folder / "router.npz", allow_pickle=False) as arrays:
                found = {name: arrays[name] for name in ("idf", "weights", "bias")}
        except (OSError, ValueError, KeyError) as fault:
            raise RunError(f"{folder / 'router.npz'}: cannot be read ({fault}); export the run again.") from None
        shape = (len(facts["domains"]), len(facts["vocabulary"]))
        if found["weights"].shape != shape or found["idf"].shape != shape[1:] or found["bias"].shape != shape[:1]:
            raise RunError(f"{folder}: router.npz does not fit router.json; export the run again.")
        return cls(tuple(facts["domains"]), tuple(facts["vocabulary"]), accuracy=facts["accuracy"], **found)


def _log(values: Any) -> Any:
    import numpy as np

    return np.log(values)


def train_router(
    corpora: Corpora,
    domains: Sequence[str],
    *,
    documents: int = 2000,
    words: int = 20000,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Router:
    """Fit a router on the training split and measure it on the test split (validation where there is none).

    Parameters
    ----------
    documents
        Most texts per domain, for training and for measuring.
    words
        Most words kept.

    Raises
    ------
    CorpusError
        If there are fewer than two domains, or a domain has nothing to measure on.
    """
    import numpy as np
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    names = tuple(sorted(domains))
    if len(names) < 2:
        raise CorpusError("a router needs at least two domains; this run has one.")
    texts: dict[str, list[str]] = {"train": [], "held": []}
    owners: dict[str, list[int]] = {"train": [], "held": []}
    held_split = "test"
    for label, name in enumerate(names):
        found = [record.plain for record in corpora[name].sample(documents, "train")]
        held = [record.plain for record in corpora[name].sample(documents, "test")]
        if not held:
            held_split = "validation"
            held = [record.plain for record in corpora[name].sample(documents, "validation")]
        if not found or not held:
            raise CorpusError(f"{name}: no text to train or measure the router on; give it train and test records.")
        for key, part in (("train", found), ("held", held)):
            texts[key] += part
            owners[key] += [label] * len(part)
    progress.say("Fitting the domain router.")
    counter = CountVectorizer(max_features=words, token_pattern=_PATTERN)
    counts = counter.fit_transform(texts["train"])
    seen = np.asarray((counts > 0).sum(0)).ravel()
    idf = np.log((1 + counts.shape[0]) / (1 + seen)) + 1
    blank = Router(
        names,
        tuple(str(word) for word in counter.get_feature_names_out()),
        idf.astype(np.float32),
        np.zeros((len(names), len(idf)), np.float32),
        np.zeros(len(names), np.float32),
        {},
    )
    model = LogisticRegression(
        C=10.0, max_iter=1000, class_weight="balanced", random_state=derive_seed(seed, "router") % 2**32
    )
    model.fit(blank._features(texts["train"]), owners["train"])
    weights, bias = model.coef_, model.intercept_
    if len(names) == 2:  # scikit-learn keeps one row for two classes
        weights, bias = np.vstack([-weights, weights]) / 2, np.concatenate([-bias, bias]) / 2
    fitted = Router(
        names, blank.vocabulary, blank.idf, weights.astype(np.float32), np.asarray(bias, dtype=np.float32), {}
    )
    wanted = np.array(owners["held"])
    got = fitted.scores(texts["held"]).argmax(1)
    right = (wanted == got).astype(float)
    low, high = _wilson(float(right.mean()), len(right))
    confusion = np.zeros((len(names), len(names)), dtype=int)
    np.add.at(confusion, (wanted, got), 1)
    accuracy = {
        "value": float(right.mean()),
        "low": low,
        "high": high,
        "documents": len(right),
        "split": held_split,
        "confusion": confusion.tolist(),
    }
    return Router(names, fitted.vocabulary, fitted.idf, fitted.weights, fitted.bias, accuracy)


def _wilson(share: float, count: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's 95 % interval of a share; unlike a bootstrap it does not close on a perfect score.

    References
    ----------
    Wilson, Probable inference, the law of succession, and statistical inference, JASA 1927.
    """
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    reach = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, centre - reach), min(1.0, centre + reach)
