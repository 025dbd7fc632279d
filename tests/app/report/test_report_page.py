"""The page as text: complete, self-contained, honest, and closed to hostile names."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from kinfold.app.report import write_plan_report, write_report
from kinfold.errors import InputError, RunError
from kinfold.metrics import Relations
from kinfold.partition import Plan
from kinfold.stages import Run


class Outline(HTMLParser):
    """Tags, ids, visible text and everything a browser would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.ids: set[str] = set()
        self.tags: list[str] = []
        self.fetched: list[str] = []
        self.inline: list[str] = []
        self.text: list[str] = []
        self.silent = ""
        self.feed(text)

    def handle_starttag(self, tag, attributes) -> None:
        self.tags.append(tag)
        values = dict(attributes)
        if values.get("id"):
            self.ids.add(values["id"])
        self.inline += [f"{tag} {name}" for name in values if name.startswith("on") or name == "style"]
        for name in ("src", "href", "action", "data", "srcset", "poster"):
            link = values.get(name)
            if link and not link.startswith(("#", "data:,")):
                self.fetched.append(f"{tag} {name}={link}")
        if tag in ("script", "style"):
            self.silent = tag

    def handle_endtag(self, tag) -> None:
        if tag == self.silent:
            self.silent = ""

    def handle_data(self, data) -> None:
        if not self.silent:
            self.text.append(data)

    @property
    def words(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.text))


SECTIONS = {"summary", "relations", "map", "plan", "training", "outcome", "provenance"}


def data_of(page: str) -> dict:
    found = re.search(r'<script type="application/json" id="kinfold-data">(.*?)</script>', page, re.S)
    assert found
    return json.loads(found[1])


@pytest.mark.parametrize("k", [3, 16, 60])
def test_every_section_is_there_and_nothing_is_fetched(synthetic_run, k) -> None:
    path = write_report(Run.load(synthetic_run(k)))
    assert path == synthetic_run(k) / "report.html"
    page = path.read_text(encoding="utf-8")
    outline = Outline(page)
    assert outline.ids >= SECTIONS
    assert outline.fetched == []
    assert outline.inline == []
    assert path.stat().st_size < 1_500_000
    # One image tag too many would be a name that got through.
    assert "img" not in outline.tags
    assert outline.tags.count("script") == 2


def test_the_policy_names_the_hashes_of_the_page_s_own_code(synthetic_run) -> None:
    page = write_report(synthetic_run(3)).read_text(encoding="utf-8")
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1].replace("&#39;", "'")
    assert "default-src 'none'" in policy
    for tag, rule in (("style", "style-src"), ("script", "script-src")):
        body = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.S)
        assert len(body) == 1
        digest = base64.b64encode(hashlib.sha256(body[0].encode()).digest()).decode()
        assert f"{rule} 'sha256-{digest}'" in policy


def test_hostile_names_are_text_everywhere(synthetic_run, hostile_name) -> None:
    page = write_report(synthetic_run(16)).read_text(encoding="utf-8")
    assert hostile_name not in page
    assert "</script><script>alert(2)" not in page
    assert hostile_name in Outline(page).words
    assert hostile_name in data_of(page)["names"]


@pytest.mark.parametrize(
    "name",
    [
        "{{ 7*7 }}",
        "{% raw %}",
        "a\u2028b",
        "\u202egnp.exe",
        "]]>",
        "<!--",
        "&lt;b&gt;",
        "__proto__",
        "constructor",
        "'\"`",
        "\ud800",
    ],
)
def test_any_name_survives_the_page(tmp_path, name) -> None:
    relations = Relations(domains=(name, "b", "c"), matrices={"js": 0.2 * (1 - np.eye(3))})
    page = write_plan_report(relations, None, tmp_path / "page.html").read_text(encoding="utf-8")
    assert data_of(page)["names"][sorted([name, "b", "c"], key=str.casefold).index(name)] == name
    shown = name.encode("utf-8", "replace").decode()
    assert re.sub(r"\s+", " ", shown) in Outline(page).words


def test_the_page_holds_the_measured_values_in_alphabetical_order(synthetic_run, unpack) -> None:
    run = Run.load(synthetic_run(16))
    page = data_of(write_report(run).read_text(encoding="utf-8"))
    relations = run.relations
    at = [relations.domains.index(name) for name in page["names"]]
    assert page["names"] == sorted(page["names"], key=str.casefold)
    assert {m["id"] for m in page["relations"]["measures"]} == set(relations.names)
    for measure in page["relations"]["measures"]:
        true = relations.matrix(measure["id"])[np.ix_(at, at)]
        span = true.max() - true.min()
        np.testing.assert_allclose(unpack(measure["value"]), true, atol=span / 60_000)
        np.testing.assert_allclose(
            unpack(measure["low"]), relations.low[measure["id"]][np.ix_(at, at)], atol=2 * span / 60_000
        )
        assert sorted(measure["order"]) == list(range(16))
    js = next(m for m in page["relations"]["measures"] if m["id"] == "js")
    noise = relations.under_floor("js")[np.ix_(at, at)]
    off = ~np.eye(16, dtype=bool)
    assert (unpack(js["noise"])[off] > 0).tolist() == noise[off].tolist()
    assert "bits" in js["noise"]
    assert [page["names"][i] for stage in page["stages"] for i in stage] == [n for s in run.plan.stages for n in s]


def test_parts_that_do_not_exist_are_left_out(synthetic_run, synthetic_relations, synthetic_plan, tmp_path) -> None:
    relations, plan = synthetic_relations(5), None
    only = Outline(write_plan_report(relations, None, tmp_path / "a.html").read_text(encoding="utf-8"))
    assert {"relations", "map", "provenance"} <= only.ids
    assert not {"plan", "training", "outcome"} & only.ids
    plan = synthetic_plan(relations)
    both = Outline(write_plan_report(relations, plan, tmp_path / "b.html").read_text(encoding="utf-8"))
    assert "plan" in both.ids
    assert not {"training", "outcome"} & both.ids
    alone = Outline(write_plan_report(None, plan, tmp_path / "c.html").read_text(encoding="utf-8"))
    assert "plan" in alone.ids
    assert "relations" not in alone.ids
    hand = Plan.from_dict({"version": 1, "stages": [["a", "b"], ["c"]]})
    by_hand = Outline(write_plan_report(None, hand, tmp_path / "d.html").read_text(encoding="utf-8"))
    assert "written by hand" in by_hand.words
    assert "explain" not in by_hand.ids
    running = write_report(synthetic_run(5, evaluated=False, relations=False), tmp_path / "e.html")
    words = Outline(running.read_text(encoding="utf-8"))
    assert "training" in words.ids
    assert not {"outcome", "relations", "map"} & words.ids
    assert "not been evaluated yet" in words.words
    empty = write_report(synthetic_run(4, evaluated=False, steps=0), tmp_path / "f.html")
    assert "training" not in Outline(empty.read_text(encoding="utf-8")).ids
    with pytest.raises(InputError, match="nothing to show"):
        write_plan_report(None, None, tmp_path / "g.html")
    assert not (tmp_path / "g.html").exists()


def test_a_plan_edited_to_other_domains_still_has_a_page(synthetic_relations, tmp_path, unpack) -> None:
    relations = synthetic_relations(4)
    plan = Plan.from_dict({"version": 1, "stages": [[relations.domains[0], "brand new"], list(relations.domains[1:])]})
    page = data_of(write_plan_report(relations, plan, tmp_path / "p.html").read_text(encoding="utf-8"))
    assert "brand new" in page["names"]
    value = unpack(next(m for m in page["relations"]["measures"] if m["id"] == "js")["value"])
    new = page["names"].index("brand new")
    assert np.isnan(value[new]).all()
    assert np.isfinite(np.delete(np.delete(value, new, 0), new, 1)).all()


def test_a_damaged_evaluation_is_an_error_not_a_page_without_it(synthetic_run, tmp_path) -> None:
    import shutil

    run = tmp_path / "run"
    shutil.copytree(synthetic_run(3), run)
    (run / "report.html").unlink(missing_ok=True)
    (run / "evaluation.json").write_text("{")
    with pytest.raises(RunError, match=r"evaluation\.json"):
        write_report(run)
    assert not (run / "report.html").exists()


def test_the_same_numbers_give_the_same_page_but_for_its_date(synthetic_run, tmp_path) -> None:
    pages = [write_report(synthetic_run(16), tmp_path / f"{i}.html").read_text(encoding="utf-8") for i in range(2)]
    dated = [re.sub(r"\d{1,2} \w+ 20\d\d(, | at )\d\d:\d\d UTC", "", page) for page in pages]
    assert dated[0] == dated[1]


@pytest.mark.parametrize("k", [400, 1000])
def test_many_domains_stay_small(tmp_path, k) -> None:
    rng = np.random.default_rng(0)
    matrices = {}
    names = ["js", "mmd2", "jaccard", "cosine", "synergy", "ruzicka", "cosine_centred", "js_plugin", "synergy_centred"]
    for name in names[: 3600 // k]:
        half = np.triu(rng.random((k, k)), 1)
        matrices[name] = half + half.T
    relations = Relations(
        domains=tuple(f"domain {i}" for i in range(k)), matrices=matrices, low=matrices, high=matrices, floors=matrices
    )
    path = write_plan_report(relations, None, tmp_path / "big.html")
    assert path.stat().st_size < 6_000_000
    assert "relations.npz holds them" in Outline(path.read_text(encoding="utf-8")).words


def test_accuracy_is_shown_where_it_was_measured(synthetic_run, tmp_path) -> None:
    import shutil

    run = tmp_path / "run"
    shutil.copytree(synthetic_run(3), run)
    evaluation = json.loads((run / "evaluation.json").read_text())
    evaluation["task"] = "classification"
    for part, value in (("before", 0.5123), ("final", 0.8749)):
        for cell in evaluation[part].values():
            cell["accuracy"] = value
    (run / "evaluation.json").write_text(json.dumps(evaluation))
    words = Outline(write_report(run).read_text(encoding="utf-8")).words.replace("\xa0", " ")
    assert "51.2 % → 87.5 %" in words
    assert "nats a token" not in words


def test_measures_judged_by_measured_transfer_are_ranked(synthetic_run, synthetic_relations, tmp_path) -> None:
    outline = Outline(write_plan_report(synthetic_relations(4), None, tmp_path / "p.html").read_text(encoding="utf-8"))
    assert "trust" in outline.ids
    assert re.search(
        r"Token divergence \(JS, corrected\) 0\.71 \+0\.40 to \+0\.90 .*Embedding MMD² 0\.10 −0\.20 to \+0\.40",
        outline.words,
    )
    bare = Relations(domains=("a", "b"), matrices={"js": 0.2 * (1 - np.eye(2))})
    assert "trust" not in Outline(write_plan_report(bare, None, tmp_path / "q.html").read_text(encoding="utf-8")).ids


def test_an_affinity_that_disagrees_with_itself_is_flagged(tmp_path) -> None:
    relations = Relations(
        domains=("a", "b"),
        matrices={"gradient_affinity": 0.2 * (1 - np.eye(2))},
        agreement={"gradient_affinity": {"split_half": 0.11, "usable": False, "why": "noise"}},
    )
    page = data_of(write_plan_report(relations, None, tmp_path / "p.html").read_text(encoding="utf-8"))
    assert "agree on it at 0.11" in page["relations"]["measures"][0]["trust"]
    assert "do not rely on it" in page["relations"]["measures"][0]["trust"]
