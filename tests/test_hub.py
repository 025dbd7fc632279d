"""A hub that cannot be asked costs seconds, not half a minute, and is said in one sentence in every room."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from kinfold import _hub
from kinfold._hub import hub_options
from kinfold.corpora import load_corpora
from kinfold.errors import CorpusError, ModelError
from kinfold.metrics import MeasureSettings, measure

NOWHERE = r"no/where: no such folder here, not in the hub's cache, and the hub cannot be asked \(.*no route to host"


def cached(folder: Path, cache: Path, name: str) -> None:
    """Put `folder` where the hub's cache keeps the newest `name`."""
    root = cache / f"models--{name.replace('/', '--')}"
    shutil.copytree(folder, root / "snapshots" / ("0" * 40))
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("0" * 40)


def test_it_is_asked_once_and_again_when_the_answer_is_old(
    silent_hub: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        with pytest.raises(ModelError, match=NOWHERE):
            hub_options("no/where")
    assert len(silent_hub) == 1
    monkeypatch.setattr(_hub, "_HOLDS", -1.0)
    with pytest.raises(ModelError, match=NOWHERE):
        hub_options("no/where")
    assert len(silent_hub) == 2


def test_a_name_that_is_looked_up_for_ever_is_given_up(silent_hub: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.utils

    release = threading.Event()

    class Session:
        def head(self, url: str, timeout: float) -> Any:
            release.wait(60)  # as a resolver that never answers; `timeout` does not reach it

    monkeypatch.setattr(huggingface_hub.utils, "get_session", Session)
    monkeypatch.setattr(_hub, "_PATIENCE", 0.05)
    begun = time.monotonic()
    try:
        with pytest.raises(ModelError, match=r"does not answer within 0\.05 s"):
            hub_options("no/where")
    finally:
        release.set()
    assert time.monotonic() - begun < 30  # it did not wait for the answer
    for raised, seconds in (("0.2", 0.2), ("0.01", 0.05), ("soon", 0.05)):
        monkeypatch.setenv("HF_HUB_ETAG_TIMEOUT", raised)
        assert _hub._patience() == seconds


def test_offline_by_choice_asks_nobody(silent_hub: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE is set"):
        hub_options("no/where")
    assert not silent_hub


def test_folders_and_cached_names_need_no_hub(silent_hub: list[str], tiny_llama_dir: Path, tmp_path: Path) -> None:
    assert hub_options(tiny_llama_dir) == {}
    assert not silent_hub
    cached(tiny_llama_dir, tmp_path / "hub", "some/model")
    assert hub_options("some/model") == {"local_files_only": True}


@pytest.mark.parametrize(
    "asked",
    [
        {"embedder": "no/where"},
        {"embedder": "model", "model": "no/where"},
        {"measures": ("js", "gradient_affinity"), "model": "no/where"},
    ],
)
def test_measuring_says_so_before_it_reads_a_text(
    asked: dict[str, Any], silent_hub: list[str], toy_corpora: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import kinfold.metrics.measuring as measuring

    monkeypatch.setattr(measuring, "collect", lambda *_, **__: pytest.fail("work was done"))
    with pytest.raises(ModelError, match=NOWHERE):
        measure(load_corpora(toy_corpora), settings=MeasureSettings(**asked))


def test_so_does_a_tokenizer(silent_hub: list[str], toy_corpora: Path) -> None:
    with pytest.raises(ModelError, match=NOWHERE):
        measure(load_corpora(toy_corpora), tokenizer="no/where")


def test_one_of_the_embedders_own_models_may_be_named_without_its_owner(silent_hub: list[str]) -> None:
    from kinfold.metrics.embedders import require_sources

    with pytest.raises(ModelError, match="sentence-transformers/all-small: no such folder here"):
        require_sources(MeasureSettings(embedder="all-small"))


def test_so_does_a_hub_data_set(silent_hub: list[str]) -> None:
    with pytest.raises(CorpusError, match=r"hub data set 'no/where': not in the cache.*no route to host.*save it with"):
        load_corpora({"a": {"hub": "no/where"}})
    assert len(silent_hub) == 1


def test_validate_says_so_too(silent_hub: list[str]) -> None:
    from kinfold.app.checks import check_model

    with pytest.raises(ModelError, match=NOWHERE):
        check_model("no/where")
