"""Figures as files and as values, and the quick look in the terminal."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from kinfold.app.report import write_figures
from kinfold.app.report.terminal import heatmap, outcome_table, plan_table, relations_table
from kinfold.errors import InputError, RelationsError
from kinfold.metrics import Relations
from kinfold.metrics._plots import dendrogram_order
from kinfold.partition import Plan
from kinfold.stages import Run
from rich.cells import cell_len
from rich.console import Console


def texts(figure) -> list[str]:
    from matplotlib.text import Text

    return [text.get_text() for text in figure.findobj(Text)]


def test_every_figure_is_written_and_is_what_it_says(synthetic_run, tmp_path) -> None:
    run = Run.load(synthetic_run(3))
    chosen = {name: run.relations.matrix(name) for name in ("js", "synergy")}
    made = write_figures(run, tmp_path, relations=Relations(domains=run.relations.domains, matrices=chosen))
    names = {path.name for path in made}
    expected = {"relations", "plan", "run", "relations-js", "relations-synergy"}
    assert names == {f"{stem}.{suffix}" for stem in expected for suffix in ("png", "svg")}
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    for path in made:
        if path.suffix == ".png":
            assert path.read_bytes().startswith(b"\x89PNG")
        else:
            assert ET.parse(path).getroot().tag.endswith("svg")


def test_the_same_numbers_give_the_same_bytes(synthetic_relations, tmp_path) -> None:
    relations = Relations(domains=("a", "b", "c"), matrices={"js": 0.3 * (1 - np.eye(3))})
    for folder in ("one", "two"):
        write_figures(None, tmp_path / folder, relations=relations)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_nothing_to_draw_and_unknown_formats_are_refused(tmp_path, synthetic_relations) -> None:
    with pytest.raises(InputError, match="nothing to draw"):
        write_figures(None, tmp_path / "x")
    with pytest.raises(InputError, match="'bmp'"):
        write_figures(None, tmp_path / "x", relations=synthetic_relations(3), formats=("bmp",))
    assert not (tmp_path / "x").exists()


def test_plots_follow_the_order_asked_for(synthetic_relations) -> None:
    relations = synthetic_relations(6)

    def rows(order) -> list[str]:
        figure = relations.plot("js", order)
        return [label.get_text() for label in figure.axes[0].get_yticklabels()]

    from kinfold.metrics._plots import short

    names = list(relations.domains)
    assert rows("given") == [short(name, 18) for name in names]
    assert rows("alphabetical") == [short(name, 18) for name in sorted(names, key=str.casefold)]
    assert rows(names[::-1]) == [short(name, 18) for name in names[::-1]]
    assert rows(names[3:5])[:2] == [short(name, 18) for name in names[3:5]]
    assert sorted(rows(None)) == sorted(rows("given"))
    for wrong in ("by size", ["nobody"]):
        with pytest.raises(InputError):
            relations.plot("js", wrong)
    with pytest.raises(RelationsError, match="not in these relations"):
        relations.plot("nothing")


def test_the_drawn_values_are_the_measured_ones(synthetic_relations) -> None:
    relations = synthetic_relations(6)
    image = relations.plot("js", "given").axes[0].get_images()[0]
    drawn, true = image.get_array(), relations.matrix("js")
    off = ~np.eye(6, dtype=bool)
    np.testing.assert_array_equal(np.asarray(drawn)[off], true[off])
    assert np.ma.getmaskarray(drawn).diagonal().all()


def test_pairs_under_the_floor_are_struck_through_and_no_others(synthetic_relations) -> None:
    from matplotlib.collections import LineCollection

    relations = synthetic_relations(16)
    noise = np.array(relations.under_floor("js"))
    np.fill_diagonal(noise, False)
    assert noise.any()
    figure = relations.plot("js", "given")
    lines = next(c for c in figure.axes[0].collections if isinstance(c, LineCollection))
    cells = {(round(float(p[:, 1].mean())), round(float(p[:, 0].mean()))) for p in lines.get_segments()}
    assert cells == {(int(i), int(j)) for i, j in np.argwhere(noise)}
    assert any("cannot be told" in text for text in texts(figure))


def test_dendrogram_order_puts_groups_side_by_side() -> None:
    group = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2])
    rng = np.random.default_rng(0)
    distances = (group[:, None] != group[None]) + 0.1 * rng.random((9, 9))
    distances = (distances + distances.T) / 2
    np.fill_diagonal(distances, 0)
    found = group[dendrogram_order(distances)]
    assert (np.diff(found) != 0).sum() == 2
    distances[0, 1] = distances[1, 0] = np.nan
    assert sorted(dendrogram_order(distances)) == list(range(9))
    assert dendrogram_order(np.zeros((1, 1))) == [0]


def test_a_name_is_never_a_formula(tmp_path) -> None:
    names = ("$\\frac{", "price_$5_$6", "<b>c</b>")
    relations = Relations(domains=names, matrices={"js": 0.3 * (1 - np.eye(3))})
    figure = relations.plot()
    figure.savefig(tmp_path / "x.png")
    assert set(names) <= set(texts(figure))
    plan = Plan.from_dict({"version": 1, "stages": [[names[0], names[1]], [names[2]]]})
    plan.plot().savefig(tmp_path / "y.png")


def test_plots_never_touch_pyplot_or_the_caller_s_settings(synthetic_run) -> None:
    import subprocess
    import sys

    code = (
        "import sys, matplotlib; before = dict(matplotlib.rcParams); from kinfold.stages import Run;"
        f"run = Run.load({str(synthetic_run(3))!r}); figures = [run.plot(), run.plan.plot(), run.relations.plot()];"
        "[f._repr_png_() for f in figures]; assert dict(matplotlib.rcParams) == before;"
        "print('matplotlib.pyplot' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"


@pytest.mark.parametrize("measure", ["gain", "discrepancy", "synergy", "co_assignment"])
def test_a_plan_draws_each_of_its_matrices(synthetic_run, measure) -> None:
    from kinfold.partition._plots import plot_plan

    plan = Run.load(synthetic_run(3)).plan
    assert len(plot_plan(plan, measure).axes) == 2
    with pytest.raises(InputError, match="name one of them"):
        plot_plan(plan, "nothing")
    with pytest.raises(InputError, match="does not hold it"):
        plot_plan(Plan.from_dict({"version": 1, "stages": [["a"], ["b"]]}), measure)


def test_a_run_without_training_still_has_a_figure(synthetic_run) -> None:
    figure = Run.load(synthetic_run(4, evaluated=False, steps=0)).plot()
    assert "no training steps recorded" in texts(figure)
    assert "not evaluated yet" in texts(figure)


def show(renderable, *, colour: bool = False) -> str:
    console = Console(
        width=80, color_system="truecolor" if colour else None, force_terminal=colour, legacy_windows=False
    )
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


@pytest.mark.parametrize("k", [3, 16, 60])
def test_the_terminal_s_views_fit_eighty_columns(synthetic_run, k) -> None:
    run = Run.load(synthetic_run(k))
    evaluation = json.loads((run.path / "evaluation.json").read_text())
    for view in (
        heatmap(run.relations, "js"),
        relations_table(run.relations),
        plan_table(run.plan),
        outcome_table(evaluation),
    ):
        text = show(view)
        assert max(cell_len(line) for line in text.splitlines()) <= 80
        assert "[" not in text.replace("[/", "") or k
    assert text.count("\n") >= k


def test_the_terminal_heatmap_shades_by_value_and_marks_noise(synthetic_relations) -> None:
    relations = Relations(
        domains=("a", "b", "c"),
        matrices={"js": np.array([[0, 0.01, 0.9], [0.01, 0, 0.5], [0.9, 0.5, 0]])},
        floors={"js": np.full((3, 3), 0.05)},
    )
    lines = [line for line in show(heatmap(relations, "js")).splitlines() if line.strip()[:1] in ("a", "b", "c")]
    cells = {line.split()[0]: line[16:] for line in lines}
    assert sum(text.count("╱") for text in cells.values()) == 2 * 2
    assert sum(text.count("█") for text in cells.values()) == 2 * 2
    coloured = show(heatmap(relations, "js"), colour=True)
    assert "\x1b[" in coloured
    assert "█" not in coloured
    with pytest.raises(RelationsError):
        heatmap(relations, "nothing")


def test_the_terminal_shows_names_as_text() -> None:
    names = ("[bold red]x[/]", "a\x1b[31mb", ":smile:")
    relations = Relations(domains=names, matrices={"js": 0.2 * (1 - np.eye(3))})
    plan = Plan.from_dict({"version": 1, "stages": [list(names)]})
    for view in (heatmap(relations, "js"), relations_table(relations), plan_table(plan)):
        text = show(view)
        assert "[bold red]x[/]" in text
        assert "\x1b" not in text
        assert ":smile:" in text


def test_the_outcome_table_judges_by_the_interval() -> None:
    def cells(mean, low, high):
        return {"final": {"mean": mean, "low": low, "high": high}}

    evaluation = {
        "stages": [["a", "b"], ["c"]],
        "before": {n: {"loss": 3.0} for n in "abc"},
        "final": {n: {"loss": 2.9} for n in "abc"},
        "change": {"a": cells(-0.1, -0.2, -0.05), "b": cells(-0.1, -0.3, 0.1), "c": cells(0.2, 0.1, 0.3)},
    }
    lines = {line.split()[0]: line for line in show(outcome_table(evaluation)).splitlines() if line.strip()}
    assert "better" in lines["a"]
    assert "within interval" in lines["b"]
    assert "worse" in lines["c"]
    evaluation["change"]["a"] = cells(-0.0004, -0.0007, -0.0001)
    small = next(line for line in show(outcome_table(evaluation)).splitlines() if line.startswith("a "))
    assert "−0.0007 to −0.0001" in small
    evaluation["change"]["a"] = cells(-0.039, -0.0433, -0.0382)
    narrow = next(line for line in show(outcome_table(evaluation)).splitlines() if line.startswith("a "))
    assert "−0.043 to −0.038" in narrow
    assert max(cell_len(line) for line in show(outcome_table(evaluation)).splitlines()) <= 80
