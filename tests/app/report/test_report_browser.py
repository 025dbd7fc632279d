"""The page in a real browser: headless Chromium opens the file from disk, and somebody uses it."""

from __future__ import annotations

import re

import pytest
from kinfold.app.report import write_plan_report, write_report

SECTIONS = ("summary", "relations", "map", "plan", "training", "outcome", "provenance")
RELATIONS = '[data-figure="relations"]'


@pytest.fixture(scope="module")
def page(synthetic_run):
    return write_report(synthetic_run(16))


def settle(browser) -> None:
    browser.js("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def hover(browser, row: int, column: int, figure: str = RELATIONS) -> str:
    """Point at a cell of a heatmap and read the tooltip."""
    browser.js(f"document.querySelector('{figure} .hm-hit').scrollIntoView({{block: 'center', behavior: 'instant'}})")
    settle(browser)
    x, y, cell_x, cell_y = browser.js(
        f"""(() => {{ const h = document.querySelector('{figure} .hm-hit'), b = h.getBoundingClientRect(),
        rows = document.querySelectorAll('{figure} text[data-row]').length,
        cols = document.querySelectorAll('{figure} text[data-col]').length;
        return [b.x, b.y, b.width / cols, b.height / rows]; }})()"""
    )
    browser.move(x + (column + 0.5) * cell_x, y + (row + 0.5) * cell_y)
    settle(browser)
    assert browser.js("getComputedStyle(document.querySelector('.tip')).visibility") == "visible"
    return browser.js("document.querySelector('.tip').innerText")


def row_labels(browser, figure: str = RELATIONS) -> list[str]:
    return browser.js(f"[...document.querySelectorAll('{figure} text[data-row]')].map((t) => t.textContent)")


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("k", [3, 16, 60])
def test_it_opens_from_disk_without_an_error_a_request_or_a_sideways_scroll(
    browser, synthetic_run, k, width, dark
) -> None:
    browser.open(write_report(synthetic_run(k)), width=width, dark=dark)
    assert browser.problems() == []
    assert browser.requests() == []
    for name in SECTIONS:
        box = browser.js(
            f"(() => {{ const b = document.getElementById('{name}').getBoundingClientRect();"
            "return [b.width, b.height]; })()"
        )
        assert min(box) > 40, f"{name} is not visible"
    assert browser.js("document.documentElement.scrollWidth <= innerWidth")
    empty = browser.js(
        "[...document.querySelectorAll('[data-figure]')]"
        ".filter((f) => !f.querySelector('canvas, svg path, svg circle')).map((f) => f.dataset.figure)"
    )
    assert empty == []
    cells = browser.js(
        f"""(() => {{ const c = document.querySelector('{RELATIONS} .hm-scroll canvas');
        const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data, seen = new Set();
        for (let i = 0; i < d.length; i += 4 * 97) seen.add(d[i] << 16 | d[i + 1] << 8 | d[i + 2]);
        return seen.size; }})()"""
    )
    assert cells > 3, "the heatmap is blank"


def test_nothing_but_its_own_code_may_run(browser, page) -> None:
    browser.open(page)
    browser.js(
        "document.body.insertAdjacentHTML('beforeend',"
        '\'<img src="http://127.0.0.1:9/x.png" onerror="window.broken = 1">\')'
    )
    settle(browser)
    assert browser.js("window.broken") is None
    # The policy refuses both; that the refusal is seen here shows that the other tests would see one.
    assert any("Content Security Policy" in text for text in browser.problems())


def test_hover_shows_value_interval_and_floor(browser, page, synthetic_run) -> None:
    from kinfold.stages import Run

    run = Run.load(synthetic_run(16))
    relations, order = run.relations, [name for stage in run.plan.stages for name in stage]
    browser.open(page)
    text = hover(browser, 2, 9)
    i, j = relations.domains.index(order[2]), relations.domains.index(order[9])
    for number in (
        relations.matrix("js")[i, j],
        relations.low["js"][i, j],
        relations.high["js"][i, j],
        relations.floors["js"][i, j],
    ):
        assert f"{number:.3f}".replace("-", "−") in text
    assert order[2] in text
    assert order[9] in text
    assert "noise floor" in text
    browser.press("Escape")
    assert browser.js("getComputedStyle(document.querySelector('.tip')).visibility") == "hidden"


def test_the_order_switches(browser, page, synthetic_run) -> None:
    from kinfold.stages import Run

    run = Run.load(synthetic_run(16))
    by_plan = [name for stage in run.plan.stages for name in stage]

    def short(text: str) -> str:
        return text.split("…")[0]

    browser.open(page)
    assert all(full.startswith(short(label)) for full, label in zip(by_plan, row_labels(browser), strict=True))
    outlines = f"document.querySelectorAll('{RELATIONS} rect.block').length"
    assert browser.js(outlines) == len(run.plan.stages)
    browser.click(f"{RELATIONS} .segments [data-value=alphabetical]")
    settle(browser)
    alphabetical = sorted(by_plan, key=str.casefold)
    assert all(full.startswith(short(label)) for full, label in zip(alphabetical, row_labels(browser), strict=True))
    assert browser.js(outlines) == 0
    before = row_labels(browser)
    browser.press("ArrowLeft")
    settle(browser)
    after = row_labels(browser)
    assert browser.js(f"document.querySelector('{RELATIONS}').dataset.order") == "dendrogram"
    assert sorted(before) == sorted(after)
    assert before != after
    # The colours follow: the same pair reads the same in either order.
    text = hover(browser, 0, 5)
    pair = browser.js(f"[{RELATIONS!r}].map((f) => document.querySelector(f + ' .readout').textContent)[0]")
    relations = run.relations
    names = [name for name in relations.domains if name in pair]
    assert len(names) >= 2
    value = re.search(r"\n(−?\d\.\d{3})", text)[1].replace("−", "-")
    candidates = {
        f"{relations.matrix('js')[relations.domains.index(a), relations.domains.index(b)]:.3f}"
        for a in names
        for b in names
        if a != b
    }
    assert value in candidates


def test_every_measure_can_be_chosen(browser, page) -> None:
    browser.open(page)
    seen = set()
    for name in browser.js(f"[...document.querySelectorAll('{RELATIONS} .thumbs button')].map((b) => b.dataset.value)"):
        browser.click(f"{RELATIONS} .thumbs [data-value={name}]")
        settle(browser)
        assert browser.js(f"document.querySelector('{RELATIONS}').dataset.measure") == name
        seen.add(hover(browser, 0, 3))
    assert len(seen) == 7
    assert browser.problems() == []


def test_dark_mode_follows_the_system_and_the_button(browser, page) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    browser.open(page, dark=False)
    light = browser.js(background)
    browser.open(page, dark=True)
    dark = browser.js(background)

    def brightness(colour: str) -> float:
        return sum(int(v) for v in re.findall(r"\d+", colour)[:3]) / 3

    assert brightness(light) > 200
    assert brightness(dark) < 60
    browser.click("#theme")
    settle(browser)
    assert browser.js(background) == light
    browser.click("#theme")
    settle(browser)
    assert browser.js(background) == dark
    browser.js("localStorage.removeItem('kinfold-theme')")
    assert browser.problems() == []


def test_a_hostile_name_is_text(browser, page, hostile_name) -> None:
    browser.open(page)
    assert browser.js("document.querySelectorAll('img').length") == 0
    assert hostile_name in browser.js("document.querySelector('.stages').innerText")
    assert hostile_name in browser.js(
        "document.querySelector('.ranks').innerText + document.querySelector('#plan').innerText"
    )
    row = next(i for i, label in enumerate(row_labels(browser)) if label.startswith("<img"))
    assert hostile_name in hover(browser, row, (row + 1) % 16)
    assert browser.js("document.querySelector('.tip img')") is None
    assert browser.problems() == []


def test_the_keyboard_reaches_cells_curves_and_points(browser, page) -> None:
    browser.open(page)
    browser.js(f"document.querySelector('{RELATIONS} .hm-hit').focus()")
    for key in ("ArrowRight", "ArrowDown", "ArrowDown", "ArrowRight"):
        browser.press(key)
    settle(browser)
    first = browser.js(f"document.querySelector('{RELATIONS} .readout').textContent")
    assert re.search(r"\d\.\d{3}", first)
    browser.press("ArrowDown")
    assert browser.js(f"document.querySelector('{RELATIONS} .readout').textContent") != first
    browser.js("document.querySelector('[data-figure=\"chart-loss\"] svg.chart').focus()")
    browser.press("ArrowRight")
    assert "total" in browser.js("document.querySelector('[data-figure=\"chart-loss\"] .readout').textContent")
    assert browser.js('document.querySelectorAll(\'[data-figure="map"] .point[tabindex="0"]\').length') == 16
    # Whatever takes the focus shows it and says what it is.
    nameless = browser.js(
        "[...document.querySelectorAll('button, select, [tabindex=\"0\"]')]"
        ".filter((n) => !(n.getAttribute('aria-label') || n.textContent.trim() || n.labels?.length)).length"
    )
    assert nameless == 0


def test_a_finger_reads_and_scrolls_a_wide_heatmap_on_a_phone(browser, synthetic_run) -> None:
    browser.open(write_report(synthetic_run(60)), width=390, height=800, touch=True)
    figure = f"document.querySelector('{RELATIONS}')"
    scroller = f"{figure}.querySelector('.hm-scroll')"
    inner, outer = browser.js(f"[{scroller}.scrollWidth, {scroller}.clientWidth]")
    assert inner > outer + 100
    assert browser.js(f"getComputedStyle({figure}.querySelector('.hm-hit')).touchAction") == "pan-x pan-y"
    browser.js(f"{figure}.querySelector('.hm-hit').scrollIntoView({{block: 'center', behavior: 'instant'}})")
    settle(browser)
    x, y = browser.js(f"(() => {{ const b = {scroller}.getBoundingClientRect(); return [b.x + 100, b.y + 250]; }})()")
    browser.call("Emulation.setTouchEmulationEnabled", enabled=True)
    for kind, points in (("touchStart", [{"x": x, "y": y}]), ("touchEnd", [])):
        browser.call("Input.dispatchTouchEvent", type=kind, touchPoints=points)
    settle(browser)
    assert browser.js("getComputedStyle(document.querySelector('.tip')).visibility") == "visible"
    tip = browser.js(
        "(() => { const b = document.querySelector('.tip').getBoundingClientRect(); return [b.left, b.right]; })()"
    )
    assert tip[0] >= 0
    assert tip[1] <= 390
    browser.call("Emulation.setTouchEmulationEnabled", enabled=False)


def test_tables_sort_and_unfold(browser, synthetic_run) -> None:
    browser.open(write_report(synthetic_run(60)))
    visible = "[...document.querySelectorAll('#before-after tbody tr')].filter((r) => !r.hidden).length"
    assert browser.js(visible) == 14
    browser.click("#outcome .fold")
    assert browser.js(visible) == 60
    changes = "[...document.querySelectorAll('#before-after tbody tr')].map((r) => Number(r.cells[2].dataset.v))"
    assert browser.js(changes) == sorted(browser.js(changes))
    browser.click("#before-after th:nth-child(3) button")
    browser.click("#before-after th:nth-child(3) button")
    assert browser.js(changes) == sorted(browser.js(changes), reverse=True)


def test_it_prints_light_and_whole(browser, page) -> None:
    browser.open(page, dark=True)
    canvas = f"document.querySelector('{RELATIONS} .hm-scroll canvas').getContext('2d')"
    diagonal = f"[...{canvas}.getImageData(6, 6, 1, 1).data].slice(0, 3)"
    assert max(browser.js(diagonal)) < 80
    # The event comes while the screen's styles still apply: cells must be repainted in light colours all the same.
    browser.js("dispatchEvent(new Event('beforeprint'))")
    assert min(browser.js(diagonal)) > 200
    assert browser.js("[...document.querySelectorAll('details')].every((d) => d.open)")
    browser.js("dispatchEvent(new Event('afterprint'))")
    assert max(browser.js(diagonal)) < 80
    browser.call("Emulation.setEmulatedMedia", media="print")
    assert browser.js("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert browser.js("getComputedStyle(document.querySelector('.side')).display") == "none"
    browser.call("Emulation.setEmulatedMedia", media="")
    assert len(browser.call("Page.printToPDF", printBackground=True)["data"]) > 50_000


def test_the_page_before_training_works_too(browser, synthetic_relations, synthetic_plan, tmp_path) -> None:
    relations = synthetic_relations(5)
    for index, plan in enumerate((None, synthetic_plan(relations))):
        browser.open(write_plan_report(relations, plan, tmp_path / f"{index}.html"))
        assert browser.problems() == []
        assert browser.js(f"document.querySelector('{RELATIONS}').dataset.order") == ("plan" if plan else "dendrogram")


@pytest.mark.parametrize("k", [1, 2])
def test_one_or_two_domains_are_no_accident(browser, synthetic_relations, tmp_path, k) -> None:
    relations = synthetic_relations(3)
    browser.open(write_plan_report(relations.subset(relations.domains[:k]), None, tmp_path / "few.html"))
    assert browser.problems() == []
