"""The report and the first look at a data set, in a real browser: drawn, stacked, dark, printed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from chromium import PROGRAM, Chromium
from told_study import SECTIONS, at_stage, compare, figures_of, look, race, retrain

from data.explore import explore
from data.images import LabelledImages
from search.report.report import write_report

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(180),
    pytest.mark.skipif(PROGRAM is None, reason="no Chromium here to open the page with"),
]

# Of each place of a figure: its name, and the largest of what is drawn in it, in pixels.
MEASURE = """
Object.fromEntries([...document.querySelectorAll('.plot')].map((place) => {
  const parts = [...place.querySelectorAll('.scatterlayer path, .barlayer path')];
  const sizes = parts.map((part) => part.getBoundingClientRect());
  return [place.dataset.figure, Math.max(0, ...sizes.map((r) => Math.max(r.width, r.height)))];
}))
"""
TOO_WIDE = """
[...document.querySelectorAll('body *')].filter((part) => {
  if (part.closest('.box') && !part.matches('.box')) return false;
  return part.closest('.plot') === null && part.getBoundingClientRect().right > innerWidth + 1;
}).map((part) => part.tagName + '.' + part.className)
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with Chromium(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the report of a study with everything in it."""
    study = at_stage(tmp_path_factory.mktemp("report"), race, retrain, look, compare)
    return write_report(study)


def show(browser: Chromium, page: Path, *, width: int, dark: bool = False) -> None:
    browser.open(page.as_uri(), width=width, dark=dark)
    browser.until("document.documentElement.dataset.figures")
    assert browser.run("document.documentElement.dataset.figures") == "drawn"


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_every_figure_is_drawn_and_nothing_is_wider_than_the_page(
    browser: Chromium, page: Path, width: int, dark: bool
) -> None:
    show(browser, page, width=width, dark=dark)
    figures = figures_of(page.read_text(encoding="utf-8"))
    drawn = browser.run(MEASURE)
    assert set(drawn) == set(figures)
    assert {name: size for name, size in drawn.items() if size < 2} == {}
    assert browser.run("document.documentElement.scrollWidth <= innerWidth")
    assert browser.run(TOO_WIDE) == []
    assert browser.complaints == []
    assert "alert('x')" in browser.run("document.body.innerText")  # shown, and not obeyed
    light = browser.run("getComputedStyle(document.body).backgroundColor")
    assert (light == "rgb(246, 247, 248)") is not dark
    # Figures take the page's colours: their words can be read on its ground.
    ink = "getComputedStyle(document.documentElement).getPropertyValue('--ink').trim()"
    words = "getComputedStyle(document.querySelector('.plot text')).fill"
    as_rgb = f"""(() => {{ const it = document.createElement('i'); it.style.color = {ink};
        document.body.append(it); const found = getComputedStyle(it).color; it.remove();
        return found; }})()"""
    assert browser.run(words) == browser.run(as_rgb)
    assert page.stat().st_size < 6_000_000


def test_on_a_phone_a_row_becomes_a_card_that_names_its_values(
    browser: Chromium, page: Path
) -> None:
    row = "document.querySelector('#race tbody tr')"
    cell = f"getComputedStyle({row}.cells[1], '::before').content"
    show(browser, page, width=1280)
    assert browser.run(f"getComputedStyle({row}).display") == "table-row"
    assert browser.run(cell) == "none"
    show(browser, page, width=390)
    assert browser.run(f"getComputedStyle({row}).display") == "flex"
    assert browser.run(cell) != "none"
    assert browser.run(f"{row}.cells[1].dataset.label") == "Mean"
    boxes = "[...document.querySelectorAll('.box:has(table.stack)')]"
    wide = f"{boxes}.filter((box) => box.scrollWidth > box.clientWidth).map((box) => box.innerText)"
    assert browser.run(wide) == []


def test_an_entry_of_the_legend_hides_all_parts_of_its_name(browser: Chromium, page: Path) -> None:
    show(browser, page, width=1280)
    count = "document.querySelectorAll('#figure-race .scatterlayer .trace').length"
    before = browser.run(count)
    button = (
        "[...document.querySelectorAll('#figure-race .legend button')]"
        ".find((one) => one.innerText.includes('one round'))"
    )
    parts = browser.run(f"{button}.dataset.parts.split(',').length")
    assert parts > 1
    browser.run(f"{button}.click()")
    browser.until(f"{count} === {before - parts}")
    browser.run(f"{button}.click()")
    browser.until(f"{count} === {before}")
    assert browser.complaints == []


def test_all_sections_are_printed_light_and_unfolded(browser: Chromium, page: Path) -> None:
    show(browser, page, width=1280, dark=True)
    browser.run(
        "addEventListener('beforeprint', () => { window.printed = {"
        " ground: getComputedStyle(document.documentElement).getPropertyValue('--panel').trim(),"
        " folded: document.querySelectorAll('details:not([open])').length }; })"
    )
    pdf = browser.pdf()
    assert browser.run("window.printed") == {"ground": "#ffffff", "folded": 0}
    titles = [title.decode() for title in re.findall(rb"/Title \((.*?)\)\n", pdf)]
    assert [title for title in titles if title in SECTIONS] == sorted(
        (title for title in titles if title in SECTIONS), key=SECTIONS.index
    )
    assert set(SECTIONS) <= set(titles)
    assert browser.complaints == []


@pytest.mark.parametrize("width", [1280, 390])
def test_the_first_look_at_a_data_set_fits_and_shows_its_figures(
    browser: Chromium, tmp_path: Path, width: int
) -> None:
    draw = np.random.default_rng(0)
    parts = [
        LabelledImages(
            images=draw.integers(0, 256, (size, 3, 8, 8), dtype=np.uint8),
            labels=np.arange(size) % 3,
            classes=("a class with a long name", "b", "c"),
            name="small",
            origin="/some/where",
        )
        for size in (60, 12)
    ]
    browser.open(explore(parts[0], parts[1], tmp_path).as_uri(), width=width)
    assert browser.run("document.documentElement.scrollWidth <= innerWidth")
    images = "[...document.images].map((one) => one.complete && one.naturalWidth > 0)"
    assert browser.run(images) == [True] * 5
    # Words in a figure can be read: it is not shrunk to the width of a phone.
    assert min(browser.run("[...document.images].map((one) => one.width)")) >= 600
    assert browser.complaints == []
