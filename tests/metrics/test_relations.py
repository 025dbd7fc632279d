from __future__ import annotations

import json

import numpy as np
import pytest
from kinfold.errors import ConfigError, FingerprintError, RelationsError
from kinfold.metrics import MEASURES, MeasureSettings, Relations

NAMES = ("a", "b/../c", "ü")


def _relations(**changes):
    rng = np.random.default_rng(0)
    js = rng.random((3, 3))
    js = (js + js.T) / 2
    parts = {
        "domains": NAMES,
        "matrices": {"js": js, "synergy": 1 - js, "gradient_affinity": rng.normal(size=(3, 3))},
        "low": {"js": js - 0.1},
        "high": {"js": js + 0.1},
        "floors": {"js": np.full((3, 3), 0.5), "synergy": np.full((3, 3), 0.5)},
        "replicates": {"js": rng.random((4, 3, 3))},
        "tokens": [1, 2, 3],
        "documents": [4, 5, 6],
        "characters": [7, 8, 9],
        "fingerprints": {"corpora": dict.fromkeys(NAMES, "x"), "tokenizer": "t", "embedder": "lsa", "settings": "s"},
        "settings": {"measures": ("js",), "confidence": 0.95},
        "seed": 7,
        "warnings": ("careful.",),
        "agreement": {"gradient_affinity": {"split_half": 0.1, "usable": False, "why": "noise"}},
        "validation": {"best": "js"},
        "details": {"n": np.int64(3)},
    }
    return Relations(**{**parts, **changes})


def test_saving_and_loading_gives_the_same_value(tmp_path):
    relations = _relations()
    for target in (tmp_path / "folder", tmp_path / "other.json"):
        file = relations.save(target)
        again = Relations.load(target)
        assert Relations.load(file).digest == again.digest == relations.digest
        assert again.domains == NAMES
        for name in relations.names:
            np.testing.assert_array_equal(again.matrix(name), relations.matrix(name))
        np.testing.assert_array_equal(again.replicate("js"), relations.replicate("js"))
        np.testing.assert_array_equal(again.interval("js"), relations.interval("js"))
        assert again.warnings == relations.warnings
        assert again.validation == relations.validation
        assert again.tokens.tolist() == [1, 2, 3]
    assert _relations(seed=8).digest != relations.digest
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "other.json", "other.npz"]


def test_arrays_are_frozen_copies():
    js = np.zeros((3, 3))
    relations = _relations(matrices={"js": js}, low={}, high={}, floors={}, replicates={})
    js[0, 1] = 9
    assert relations.matrix("js")[0, 1] == 0
    with pytest.raises(ValueError, match="read-only"):
        relations.matrix("js")[0, 1] = 1


def test_no_matrix_holds_nan_and_the_pair_is_named():
    bad = np.zeros((3, 3))
    bad[0, 2] = np.nan
    with pytest.raises(RelationsError, match="between a and ü"):
        _relations(matrices={"js": bad}, low={}, high={}, floors={}, replicates={})
    with pytest.raises(RelationsError, match="expected 3×3"):
        _relations(matrices={"js": np.zeros((2, 2))}, low={}, high={}, floors={}, replicates={})
    with pytest.raises(RelationsError, match="not its matrix"):
        _relations(low={"mmd2": np.zeros((3, 3))})
    with pytest.raises(RelationsError, match="twice"):
        _relations(domains=("a", "a", "b"))
    with pytest.raises(RelationsError, match="no domain"):
        Relations(domains=(), matrices={})
    with pytest.raises(RelationsError, match="3 counts"):
        _relations(tokens=[1, 2])


def test_reading():
    relations = _relations()
    with pytest.raises(RelationsError, match="was not measured"):
        relations.matrix("mmd2")
    low, high = relations.interval("synergy")
    np.testing.assert_array_equal(low, high)
    assert relations.replicate("synergy").shape == (0, 3, 3)
    symmetric = relations.symmetric("gradient_affinity")
    assert (symmetric == symmetric.T).all()
    np.testing.assert_array_equal(relations.under_floor("js"), relations.matrix("js") <= 0.5)
    np.testing.assert_array_equal(relations.under_floor("synergy"), relations.matrix("synergy") >= 0.5)
    assert relations.under_floor("gradient_affinity") is None
    assert relations.info("js").unit == "bits"


def test_subsets_keep_cells_together():
    relations = _relations()
    part = relations.subset(["ü", "a"])
    assert part.domains == ("ü", "a")
    assert part.matrix("js")[0, 1] == relations.matrix("js")[2, 0]
    assert part.replicate("js")[1, 1, 0] == relations.replicate("js")[1, 0, 2]
    assert part.tokens.tolist() == [3, 1]
    with pytest.raises(RelationsError, match="nobody"):
        relations.subset(["nobody"])


def test_frames_list_each_pair_once_and_both_ways_where_they_differ():
    frame = _relations().to_frame()
    assert list(frame.columns) == ["measure", "a", "b", "value", "low", "high", "floor"]
    assert (frame.measure == "js").sum() == 6
    assert (frame.measure == "gradient_affinity").sum() == 9
    cell = frame[(frame.measure == "js") & (frame.a == "a") & (frame.b == "ü")].iloc[0]
    assert cell.value == _relations().matrix("js")[0, 2]
    assert cell.floor == 0.5


def test_another_vocabulary_is_refused():
    relations = _relations()
    relations.check_compatible(_relations(seed=3))
    other = _relations(fingerprints={"tokenizer": "u", "embedder": "lsa"})
    with pytest.raises(FingerprintError, match="vocabulary"):
        relations.check_compatible(other)
    with pytest.raises(FingerprintError, match="embedding"):
        relations.check_compatible(_relations(fingerprints={"tokenizer": "t", "embedder": "mini"}))


def test_damaged_files_are_named(tmp_path):
    with pytest.raises(RelationsError, match="no such file"):
        Relations.load(tmp_path)
    file = _relations().save(tmp_path)
    facts = json.loads(file.read_text())
    file.write_text(json.dumps({**facts, "version": 99}))
    with pytest.raises(RelationsError, match="version 99"):
        Relations.load(tmp_path)
    file.write_text(json.dumps(facts))
    store = tmp_path / "relations.npz"
    whole = store.read_bytes()
    store.write_bytes(whole[:-40])
    with pytest.raises(RelationsError, match="does not belong"):
        Relations.load(tmp_path)
    file.write_text(json.dumps({**facts, "npz": None}))
    with pytest.raises(RelationsError, match=r"relations\.npz"):
        Relations.load(tmp_path)
    store.unlink()
    with pytest.raises(RelationsError, match=r"relations\.npz"):
        Relations.load(tmp_path)
    file.write_text("[1]")
    with pytest.raises(RelationsError, match="not a relations file"):
        Relations.load(tmp_path)


def test_plots_of_three_and_of_many_domains():
    assert len(_relations().plot().axes) >= 1
    k = 60
    rng = np.random.default_rng(1)
    js = rng.random((k, k))
    many = Relations(domains=tuple(f"domain {i}" for i in range(k)), matrices={"js": (js + js.T) / 2})
    assert len(many.plot("js").axes) >= 1


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"measures": ("js", "kl")}, "measure.measures"),
        ({"measures": ()}, "measure.measures"),
        ({"confidence": 1.0}, "measure.confidence"),
        ({"tokens": 5}, "measure.tokens"),
        ({"bootstrap": -1}, "measure.bootstrap"),
        ({"embedder": " "}, "measure.embedder"),
        ({"embedder": "model"}, "measure.model"),
        ({"measures": ("gradient_affinity",)}, "measure.model"),
        ({"discrepancy": {"nonsense": 1}}, "measure.discrepancy"),
        ({"discrepancy": {"js": -1}}, "measure.discrepancy.js"),
        ({"discrepancy": {"js": 0}}, "measure.discrepancy"),
        ({"num_proc": 0}, "measure.num_proc"),
        ({"agreement": 2}, "measure.agreement"),
    ],
)
def test_settings_that_cannot_work_name_their_path(changes, path):
    with pytest.raises(ConfigError, match=path):
        MeasureSettings(**changes)


def test_every_setting_and_measure_is_described():
    import dataclasses

    for field in dataclasses.fields(MeasureSettings):
        assert field.metadata["help"], field.name
    for name, info in MEASURES.items():
        assert info.name == name
        assert info.title
        assert info.unit
        assert info.reference
