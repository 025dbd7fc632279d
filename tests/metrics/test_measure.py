from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from kinfold.corpora import load_corpora
from kinfold.errors import ConfigError, CorpusError, ModelError, RelationsError
from kinfold.metrics import MeasureSettings, Relations, measure
from kinfold.metrics.registry import AFFINITY, DEFAULT_MEASURES
from kinfold.metrics.validation import _unlearnt

FAST = {"bootstrap": 10, "permutations": 40, "samples": 60, "vocabulary": 500, "lsa_dimensions": 16}


@pytest.fixture(scope="module")
def toy(toy_corpora):
    return load_corpora(toy_corpora)


@pytest.fixture(scope="module")
def relations(toy):
    return measure(toy, settings=MeasureSettings(**FAST))


def _write(folder, **domains):
    folder.mkdir(exist_ok=True)
    for name, texts in domains.items():
        lines = [json.dumps({"text": text, "split": "train"}) for text in texts]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    return load_corpora(folder)


def test_every_default_measure_is_there_with_what_it_promises(relations):
    assert set(relations.names) == set(DEFAULT_MEASURES)
    assert relations.domains == ("engine", "garden", "harbour", "kitchen")
    for name in relations.names:
        value = relations.matrix(name)
        low, high = relations.interval(name)
        assert np.isfinite(value).all()
        assert (low <= value + 1e-12).all()
        assert (value <= high + 1e-12).all()
        if relations.info(name).symmetric:
            np.testing.assert_allclose(value, value.T, atol=1e-12)
        if name != "mmd2_p":
            assert relations.replicate(name).shape == (10, 4, 4)
            mean = relations.replicate(name).mean(axis=0)
            np.testing.assert_allclose(mean, value, atol=1e-5)
    assert relations.matrix("js")[0, 0] == 0
    assert relations.tokens.min() > 0
    assert relations.fingerprints["corpora"].keys() == set(relations.domains)
    # A composite of ranks has no floor of its own, and a p-value is the comparison with chance itself.
    assert set(relations.names) - relations.floors.keys() == {"discrepancy", "mmd2_p"}
    parts = relations.floors["jaccard"] + relations.floors["cosine_centred"]
    np.testing.assert_allclose(relations.floors["synergy_centred"], parts / 2)


def test_the_planted_pairs_are_found(relations):
    for name, sign in (
        ("js", 1),
        ("mmd2", 1),
        ("jaccard", -1),
        ("synergy", -1),
        ("cosine_centred", -1),
        ("discrepancy", 1),
    ):
        value = sign * relations.matrix(name)
        index = {domain: i for i, domain in enumerate(relations.domains)}
        close = max(value[index["garden"], index["kitchen"]], value[index["harbour"], index["engine"]])
        far = min(value[index[a], index[b]] for a in ("garden", "kitchen") for b in ("harbour", "engine"))
        assert close < far, name


def test_values_follow_from_the_public_functions(toy, relations):
    """Synergy and the composite are recomputed from their parts."""
    np.testing.assert_allclose(
        relations.matrix("synergy"), (relations.matrix("jaccard") + relations.matrix("cosine")) / 2, atol=1e-12
    )
    upper = np.triu_indices(4, 1)
    ranks = lambda cells: (np.argsort(np.argsort(cells)) + 0.5) / 6  # noqa: E731 (no ties here)
    composite = (ranks(relations.matrix("js")[upper]) + ranks(-relations.matrix("cosine_centred")[upper])) / 2
    np.testing.assert_allclose(relations.matrix("discrepancy")[upper], composite, atol=1e-12)


def test_the_same_seed_gives_the_same_digest_and_another_does_not(toy, relations):
    assert measure(toy, settings=MeasureSettings(**FAST)).digest == relations.digest
    assert measure(toy, settings=MeasureSettings(**FAST), seed=1).digest != relations.digest


def test_order_of_records_changes_nothing(tmp_path, toy, relations):
    folder = tmp_path / "shuffled"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for domain in toy.planned:
        records = [{"text": r.plain, "split": r.split} for r in domain.records()]
        order = rng.permutation(len(records))
        (folder / f"{domain.name}.jsonl").write_text("\n".join(json.dumps(records[i]) for i in order))
    again = measure(load_corpora(folder), settings=MeasureSettings(**FAST))
    for name in relations.names:
        np.testing.assert_array_equal(again.matrix(name), relations.matrix(name), err_msg=name)


def test_processes_and_cache_change_no_number(tmp_path, toy, relations):
    cold = measure(toy, settings=MeasureSettings(**FAST, num_proc=2), cache=tmp_path)
    assert len(list(tmp_path.rglob("*.npz"))) == 5
    warm = measure(toy, settings=MeasureSettings(**FAST), cache=tmp_path)
    for name in relations.names:
        np.testing.assert_array_equal(cold.matrix(name), relations.matrix(name))
        np.testing.assert_array_equal(warm.matrix(name), relations.matrix(name))
    assert cold.fingerprints == relations.fingerprints
    for file in tmp_path.rglob("*.npz"):
        file.write_bytes(b"damaged")
    mended = measure(toy, settings=MeasureSettings(**FAST), cache=tmp_path)
    assert mended.digest == relations.digest


def test_a_warm_cache_is_used(tmp_path, toy, relations, monkeypatch):
    measure(toy, settings=MeasureSettings(**FAST), cache=tmp_path)
    from kinfold.metrics import embedders
    from kinfold.metrics.counting import TokenCounter

    def never(*_):
        raise AssertionError("counted or embedded again")

    monkeypatch.setattr(TokenCounter, "documents", never)
    monkeypatch.setattr(embedders, "_lsa", never)
    assert measure(toy, settings=MeasureSettings(**FAST), cache=tmp_path).digest == relations.digest


def test_concurrent_runs_share_a_cache(tmp_path, toy, relations):
    with ThreadPoolExecutor(3) as pool:
        jobs = [pool.submit(measure, toy, settings=MeasureSettings(**FAST), cache=tmp_path) for _ in range(3)]
        assert {job.result().digest for job in jobs} == {relations.digest}
    assert not [file for file in tmp_path.rglob("*") if file.name.startswith(".")]


def test_a_models_tokenizer_is_used(toy, tiny_llama_dir):
    settings = MeasureSettings(measures=("js",), bootstrap=0)
    found = measure(toy, tokenizer=tiny_llama_dir, settings=settings)
    again = measure(toy, tokenizer=tiny_llama_dir / "tokenizer.json", settings=settings)
    assert found.fingerprints["tokenizer"] == again.fingerprints["tokenizer"]
    np.testing.assert_array_equal(found.matrix("js"), again.matrix("js"))
    assert found.names == ("js",)
    assert found.replicate("js").shape[0] == 0
    with pytest.raises(ModelError, match="no such file or folder"):
        measure(toy, tokenizer="/nowhere/at/all", settings=settings)


def test_one_domain_is_a_defined_value(tmp_path, toy):
    texts = list(toy["garden"].texts("train"))
    found = measure(_write(tmp_path / "one", garden=texts), settings=MeasureSettings(**FAST))
    for name in found.names:
        assert found.matrix(name).shape == (1, 1)
        assert np.isfinite(found.matrix(name)).all()
    found.save(tmp_path / "out")
    assert Relations.load(tmp_path / "out").digest == found.digest


def test_two_copies_of_one_domain_read_as_one(tmp_path, toy):
    texts = list(toy["garden"].texts())
    corpora = _write(tmp_path / "twins", a=texts[::2], b=texts[1::2], c=list(toy["engine"].texts()))
    found = measure(corpora, settings=MeasureSettings(**{**FAST, "permutations": 200}))
    assert found.under_floor("js")[0, 1]
    assert not found.under_floor("js")[0, 2]
    assert found.matrix("mmd2_p")[0, 1] > 0.05
    assert found.matrix("mmd2_p")[0, 2] < 0.05
    assert found.matrix("cosine")[0, 1] > 0.9


@pytest.mark.parametrize(
    ("bad", "message"),
    [(["only one document"], "one distinct document"), (["the same"] * 50, "one distinct document")],
)
def test_a_domain_that_cannot_be_compared_is_named(tmp_path, toy, bad, message):
    corpora = _write(tmp_path / "bad", good=list(toy["garden"].texts()), bad=bad)
    with pytest.raises(CorpusError, match=f"'bad'.*{message}"):
        measure(corpora, settings=MeasureSettings(**FAST))


def test_an_empty_domain_or_split_is_named(tmp_path, toy):
    with pytest.raises(CorpusError, match="'text' is empty"):
        measure(
            _write(tmp_path / "blank", good=list(toy["garden"].texts()), blank=["  ", "\n"]),
            settings=MeasureSettings(**FAST),
        )
    trained = _write(tmp_path / "trained", a=list(toy["garden"].texts()), b=list(toy["engine"].texts()))
    with pytest.raises(CorpusError, match="no text in the measured split"):
        measure(trained, settings=MeasureSettings(**FAST, split="test"))
    general = {"only": {"path": str(tmp_path / "trained" / "a.jsonl"), "general": True}}
    with pytest.raises(CorpusError, match="no domain to measure"):
        measure(load_corpora(general), settings=MeasureSettings(**FAST))


def test_all_documents_identical_in_the_embedding_give_defined_values(toy, monkeypatch):
    """Texts may differ and yet be one point to the embedder: no NaN, no difference, p = 1."""
    from kinfold.metrics import embedders

    monkeypatch.setattr(embedders, "_lsa", lambda texts, *_: [np.ones((len(group), 4), np.float32) for group in texts])
    found = measure(toy, settings=MeasureSettings(**FAST, measures=(*DEFAULT_MEASURES, "proxy_a_distance")))
    for name in found.names:
        assert np.isfinite(found.matrix(name)).all(), name
        assert all(np.isfinite(end).all() for end in found.interval(name)), name
    np.testing.assert_allclose(found.matrix("mmd2"), 0, atol=1e-7)
    np.testing.assert_array_equal(found.matrix("mmd2_p"), 1)
    np.testing.assert_allclose(found.matrix("cosine"), 1, atol=1e-6)
    assert any("lies at the centre" in line for line in found.warnings)


def test_constant_documents_give_finite_numbers(tmp_path):
    corpora = _write(tmp_path / "flat", a=["x y", "x y z"] * 20, b=["p q", "p q r"] * 20, c=["x y", "p q"] * 20)
    found = measure(corpora, settings=MeasureSettings(**FAST))
    for name in found.names:
        assert np.isfinite(found.matrix(name)).all()
        assert all(np.isfinite(end).all() for end in found.interval(name))


def test_nan_embeddings_are_an_error_that_names_the_domain(toy, monkeypatch):
    from kinfold.metrics import embedders

    def broken(texts, *_):
        return [np.full((len(group), 4), np.nan if i == 2 else 1.0, np.float32) for i, group in enumerate(texts)]

    monkeypatch.setattr(embedders, "_lsa", broken)
    with pytest.raises(RelationsError, match="harbour"):
        measure(toy, settings=MeasureSettings(**FAST))


def test_too_few_permutations_for_holm_are_said_so(toy):
    wanted = {**FAST, "measures": ("mmd2_p",), "correction": "holm", "bootstrap": 0}
    few = measure(toy, settings=MeasureSettings(**{**wanted, "permutations": 100}))  # 6 pairs need 120
    assert any("raise measure.permutations to 120" in line for line in few.warnings)
    assert few.matrix("mmd2_p").min() > 0.05
    enough = measure(toy, settings=MeasureSettings(**{**wanted, "permutations": 150}))
    assert not any("Holm" in line for line in enough.warnings)
    assert enough.matrix("mmd2_p").min() < 0.05


def test_many_documents_switch_to_random_features(toy, relations, monkeypatch):
    from kinfold.metrics import measuring

    wanted = {**FAST, "measures": ("mmd2", "mmd2_p")}
    assert relations.details["mmd"] == "exact"
    monkeypatch.setattr(measuring, "_EXACT_ROWS", 150)  # the toy corpora have 191 sampled documents
    found = measure(toy, settings=MeasureSettings(**wanted))
    assert found.details["mmd"] == "rff"
    assert sum(found.details["embedded_documents"]) > 150
    np.testing.assert_allclose(found.matrix("mmd2"), relations.matrix("mmd2"), rtol=0.05)
    assert np.abs(found.matrix("mmd2") - relations.matrix("mmd2")).max() > 0
    low, high = found.interval("mmd2")
    assert ((low <= found.matrix("mmd2")) & (found.matrix("mmd2") <= high)).all()
    assert measure(toy, settings=MeasureSettings(**wanted, mmd="exact")).details["mmd"] == "exact"
    monkeypatch.setattr(measuring, "_EXACT_ROWS", 200)
    assert measure(toy, settings=MeasureSettings(**wanted)).details["mmd"] == "exact"
    assert measure(toy, settings=MeasureSettings(**wanted, mmd="rff")).details["mmd"] == "rff"


def test_warnings_speak_of_small_budgets(relations):
    assert any("token budget" in line for line in relations.warnings)


def test_affinity_on_labelled_domains(toy_labelled):
    settings = MeasureSettings(**FAST, measures=("js", *AFFINITY[:3]), validate="probe", agreement=-1.0)
    found = measure(load_corpora(toy_labelled), settings=settings)
    assert found.matrix("probe_transfer").min() > 0.7  # the label follows from words that all domains share
    assert found.matrix("class_mean_cosine").min() > 0.5
    for name in AFFINITY[:3]:
        assert {"split_half", "usable", "why"} <= found.agreement[name].keys()
    assert found.validation["kind"] == "embedding head"
    assert len(found.validation["transfer"]) == 3
    assert found.validation["advice"]


def test_probes_that_learnt_nothing_are_no_ground_for_advice(toy_labelled, tmp_path):
    rng = np.random.default_rng(0)
    for file in toy_labelled.glob("*.jsonl"):
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        lines = [json.dumps({**row, "label": int(rng.integers(2))}) for row in rows]
        (tmp_path / file.name).write_text("\n".join(lines) + "\n")
    settings = MeasureSettings(**FAST, measures=("js",), validate="probe")
    drawn = measure(load_corpora(tmp_path), settings=settings).validation
    assert np.diagonal(drawn["transfer"]).mean() < 0.55
    assert drawn["best"] is None
    assert "hardly learnt their own domains" in drawn["advice"]
    learnt = measure(load_corpora(toy_labelled), settings=settings).validation
    assert np.diagonal(learnt["transfer"]).mean() > 0.7
    assert "learnt" not in learnt["advice"]


@pytest.mark.parametrize(
    ("kind", "unit", "own", "remedy"),
    [
        ("classifier", "AUC", 0.54, "name no model"),
        ("classifier", "accuracy", 0.29, "name no model"),
        ("language model", "share of own gain in loss", 0.25, "a better model"),
        ("classifier", "AUC", 0.56, None),
        ("language model", "share of own gain in loss", 1.0, None),
    ],
)
def test_when_probes_count_as_having_learnt(kind, unit, own, remedy):
    said = _unlearnt(np.full((4, 4), own), kind, unit, 4 if unit == "accuracy" else 2)
    assert said is None if remedy is None else remedy in said


def test_affinity_without_labels_says_why(toy):
    settings = MeasureSettings(**FAST, measures=("js", "class_mean_cosine", "proxy_a_distance"))
    found = measure(toy, settings=settings)
    assert "class_mean_cosine" not in found.names
    assert found.agreement["class_mean_cosine"]["usable"] is False
    assert any("class_mean_cosine should not be planned with" in line for line in found.warnings)
    assert found.matrix("proxy_a_distance").max() > 1
    with pytest.raises(ConfigError, match=r"measure\.model"):
        measure(toy, settings=MeasureSettings(**FAST, measures=("js",), validate="probe"))


@pytest.mark.slow
def test_gradients_and_validation_with_a_language_model(toy, tiny_llama_dir):
    settings = MeasureSettings(
        **{**FAST, "samples": 30},
        measures=("js", "jaccard", "gradient_affinity"),
        model=str(tiny_llama_dir),
        validate="probe",
        probe_steps=4,
        probe_documents=16,
        probe_seeds=2,
        affinity_documents=24,
        max_length=48,
        gradient_sketch=512,
        gradient_warmup=2,
        embedder="model",
    )
    found = measure(toy, settings=settings)
    again = measure(toy, settings=settings)
    assert found.digest == again.digest
    affinity = found.matrix("gradient_affinity")
    assert np.isfinite(affinity).all()
    assert not np.allclose(affinity, affinity.T)
    assert len(found.agreement["gradient_affinity"]["self_cosine"]) == 4
    validation = found.validation
    assert validation["kind"] == "language model"
    assert set(validation["measures"]) == {"js", "jaccard", "gradient_affinity"}
    assert -1 <= validation["reliability"] <= 1
    np.testing.assert_allclose(np.diagonal(validation["transfer"]), 1, atol=1e-9)


@pytest.mark.slow
def test_validation_with_a_classifier(toy_labelled, tiny_bert_dir):
    settings = MeasureSettings(
        **{**FAST, "samples": 60},
        measures=("js",),
        model=str(tiny_bert_dir),
        validate="probe",
        probe_steps=6,
        probe_documents=24,
        max_length=32,
    )
    found = measure(load_corpora(toy_labelled), settings=settings)
    assert found.validation["kind"] == "classifier"
    assert found.validation["unit"] == "AUC"
    transfer = np.array(found.validation["transfer"])
    assert ((transfer >= 0) & (transfer <= 1)).all()
