"""The report's figures, drawn from what report.json holds."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from t2l.evaluation.contenders.generated import CONTROLS
from t2l.evaluation.report.findings import without_controls
from t2l.evaluation.report.map_figures import map_figure, norms_figure
from t2l.evaluation.report.rows import in_order, pairs_of_recipes, recipes_in
from t2l.evaluation.report.style import (
    COLOURS,
    GREY,
    axes_of,
    bars,
    grid,
    label,
    legend_below,
    looks,
    row_height,
    saved,
    styled,
)
from t2l.evaluation.report.task_figure import tasks_figure

log = logging.getLogger(__name__)
MOST_ACROSS = 4
"""panels side by side: a page shows as many without making their text small"""


def _by_key(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], Mapping[str, Any]]:
    return {(r["contender"], r["split"]): r for r in rows}


def _across(count: int) -> int:
    """Panels side by side: as many as keep their text readable on a page, in rows that are filled evenly."""
    return count if count <= MOST_ACROSS else -(-count // -(-count // MOST_ACROSS))


def _split_panels(
    splits: Sequence[str], labels: Sequence[str], least: Sequence[float], beside: float
) -> tuple[Any, list[Any], list[float]]:
    """A panel per split with the same labelled rows. Returns the rows' places, in inches from the top, too.

    Args:
        least: inches that each row takes, or more if its label needs more.
        beside: inches of the figure's height that its legend takes.
    """
    heights = [row_height(text, inches) for text, inches in zip(labels, least, strict=True)]
    places = [sum(heights[:i]) + height / 2 for i, height in enumerate(heights)]
    across = _across(len(splits))
    figure, panels = grid(len(splits), across, 7.8 / max(across, 2), sum(heights) + 0.5, sharey=True, sharex=True)
    figure.set_size_inches(figure.get_figwidth() + 2.6, figure.get_figheight() + beside)
    for axes, split in zip(panels, splits, strict=True):
        axes.set_title(split.replace("_", " "))
        axes.grid(axis="x", lw=0.3)
        axes.tick_params(labelbottom=True)
    panels[0].set_yticks(places, labels)
    panels[0].set_ylim(sum(heights), 0)
    return figure, panels, places


def scores_figure(data: Mapping[str, Any]) -> Any:
    """Every contender on every split: means as points with their intervals, one panel per split.

    Controls stand hollow in the row of their recipe.
    """
    rows = data["results"]
    splits, table = in_order(rows, "split"), _by_key(rows)
    contenders, recipes = without_controls(in_order(rows, "contender")), recipes_in(data)
    owner = {c: max((r for r in recipes if c == r or c.startswith(f"{r}_")), key=len, default=None) for c in contenders}
    colours, markers = looks(recipes), looks(CONTROLS)
    least = [0.5 if c in recipes else 0.24 for c in contenders]
    figure, panels, places = _split_panels(splits, [label(c) for c in contenders], least, 0.6)

    def point(axes: Any, row: Mapping[str, Any] | None, y: float, colour: str, **look: Any) -> None:
        if row is not None:
            errors = bars([row["mean"]], [row["ci95"]])
            axes.errorbar(row["mean"], y, xerr=errors, ls="", color=colour, lw=1.2, clip_on=False, **look)

    for axes, split in zip(panels, splits, strict=True):
        for contender, y in zip(contenders, places, strict=True):
            of = owner[contender]
            colour = GREY if of is None else colours[of]["color"]
            up = 0.18 if contender in recipes else 0.0
            point(axes, table.get((contender, split)), y - up, colour, marker="o", ms=4.5)
            for i, control in enumerate(CONTROLS):
                look = {"marker": markers[control]["marker"], "ms": 3.5, "mfc": "white", "mew": 0.8, "alpha": 0.9}
                point(axes, table.get((f"{contender}_{control}", split)), y - up + 0.09 * (i + 1), colour, **look)
        axes.set_xlim(0, 1)
    for control in CONTROLS if recipes else ():
        marker = markers[control]["marker"]
        text = f"its control {control.replace('_', ' ')}"
        panels[0].plot([], [], ls="", marker=marker, mfc="white", color=GREY, ms=4, label=text)
    if recipes:
        figure.legend(loc="outside upper left", ncols=len(CONTROLS))
    figure.supxlabel(f"{rows[0]['metric']}, mean and 95 % interval", fontsize=8)
    return figure


def controls_figure(data: Mapping[str, Any]) -> Any:
    """Matched minus each control, per generated contender and split."""
    rows = data["controls"]
    splits, contenders = in_order(rows, "split"), in_order(rows, "contender")
    figure, panels, places = _split_panels(splits, [label(c) for c in contenders], [0.5] * len(contenders), 0.6)
    look = looks(CONTROLS)
    for axes, split in zip(panels, splits, strict=True):
        axes.axvline(0, color="black", lw=0.8)
        for d in (d for d in rows if d["split"] == split):
            y = places[contenders.index(d["contender"])] + 0.1 * (CONTROLS.index(d["control"]) - 1.5)
            errors = bars([d["difference"]], [d["ci95"]])
            axes.errorbar(d["difference"], y, xerr=errors, ls="", ms=3.5, lw=1.2, **look[d["control"]])
    for control in CONTROLS:
        panels[0].plot([], [], ls="", ms=4, label=f"minus {control.replace('_', ' ')}", **look[control])
    figure.legend(loc="outside upper left", ncols=len(CONTROLS))
    figure.supxlabel("matched minus control, 95 % interval", fontsize=8)
    return figure


def recipes_figure(data: Mapping[str, Any]) -> Any:
    """Each recipe minus each other on every split, as a matrix; a star where the interval leaves zero out."""
    recipes = recipes_in(data)
    rows = [r for r in data["against"] if r["other"] in recipes]
    splits = in_order(rows, "split")
    labels = [f"{label(name)}  {i + 1}" for i, name in enumerate(recipes)]
    figure, panels, places = _split_panels(splits, labels, [0.3] * len(recipes), 0.7)
    most = max((abs(r["difference"]) for r in rows), default=0) or 1.0
    edges_y = [0.0, *((one + other) / 2 for one, other in pairwise(places)), panels[0].get_ylim()[0]]
    edges_x = [i - 0.5 for i in range(len(recipes) + 1)]
    for axes, split in zip(panels, splits, strict=True):
        image = [[float("nan")] * len(recipes) for _ in recipes]
        for r in (r for r in rows if r["split"] == split):
            y, x = recipes.index(r["contender"]), recipes.index(r["other"])
            image[y][x], is_dark = r["difference"], abs(r["difference"]) > 0.6 * most
            text = f"{r['difference']:+.2f}".replace("0.", ".") + ("*" if r["distinguishable"] else "")
            colour = "white" if is_dark else "black"
            axes.text(x, places[y], text, ha="center", va="center", fontsize=5.5, color=colour)
        drawn = axes.pcolormesh(edges_x, edges_y, image, cmap="PuOr", vmin=-most, vmax=most)
        axes.set_xticks(range(len(recipes)), [str(i + 1) for i in range(len(recipes))])
        axes.grid(visible=False)
        axes.tick_params(length=0)
    bar = {"fraction": 0.5 / figure.get_figheight(), "pad": 0.1 / figure.get_figheight()}
    figure.colorbar(drawn, ax=panels, location="bottom", shrink=0.5, label="row minus column", **bar)
    return figure


def costs_figure(data: Mapping[str, Any], split: str) -> Any:
    """Score on one split against floating-point operations per answer; controls cost what is theirs to control."""
    table, contenders = _by_key(data["results"]), without_controls(in_order(data["costs"], "contender"))
    look, drawn = looks(contenders), 0
    figure, axes = axes_of(7.5, 4.2)
    for c in data["costs"]:
        row = table.get((c["contender"], split))
        if row is None or c["contender"] not in contenders or not c["flops_per_answer"]:
            continue
        drawn += 1
        axes.errorbar(
            c["flops_per_answer"] / 1e6, row["mean"], yerr=bars([row["mean"]], [row["ci95"]]), ls="", ms=6, lw=1,
            label=label(c["contender"]), **look[c["contender"]],
        )  # fmt: skip
    axes.set(xscale="log", xlabel="MFLOPs per answered question", ylim=(-0.03, 1.03))
    axes.set_ylabel(f"{data['results'][0]['metric']} on {split.replace('_', ' ')}")
    _grow_for_legend(figure, [label(c) for c in contenders])
    legend_below(figure, drawn)
    return figure


def _grow_for_legend(figure: Any, labels: Sequence[str]) -> None:
    lines = sum(1 + text.count("\n") for text in labels) / 2 + 1
    figure.set_figheight(figure.get_figheight() + 0.14 * lines)


def style_figure(data: Mapping[str, Any]) -> Any:
    """Scores under other people's ways to describe a task."""
    rows = data["robustness"]["style"]
    styles, contenders = in_order(rows, "style"), in_order(rows, "contender")
    figure, axes = axes_of(7.5, 3.6)
    for i, contender in enumerate(contenders):
        mine = [r for r in rows if r["contender"] == contender]
        xs = [styles.index(r["style"]) + 0.8 * (i - (len(contenders) - 1) / 2) / len(contenders) for r in mine]
        means, width, colour = [r["mean"] for r in mine], 0.8 / len(contenders), COLOURS[i % len(COLOURS)]
        errors, hatch = bars(means, [r["ci95"] for r in mine]), ("", "///", "...")[i // len(COLOURS) % 3]
        axes.bar(
            xs, means, width, yerr=errors, label=label(contender), color=colour, hatch=hatch, edgecolor="white",
            error_kw={"lw": 0.8},
        )  # fmt: skip
    axes.set_xticks(range(len(styles)), [s.replace("_", " ") for s in styles])
    axes.set(ylim=(0, 1.03), ylabel="score")
    _grow_for_legend(figure, [label(c) for c in contenders])
    legend_below(figure, len(contenders))
    return figure


def scale_figure(data: Mapping[str, Any]) -> Any:
    """Scores as the adapter is scaled."""
    rows = data["robustness"]["scale"]
    figure, axes = axes_of(7.5, 3.6)
    contenders = in_order(rows, "contender")
    for contender, look in looks(contenders).items():
        mine = [r for r in rows if r["contender"] == contender]
        xs = [r["scale"] for r in mine]
        axes.plot(xs, [r["mean"] for r in mine], ms=4, label=label(contender), **look)
        axes.fill_between(
            xs, [r["ci95"][0] for r in mine], [r["ci95"][1] for r in mine], alpha=0.12, color=look["color"]
        )
    axes.set(xlabel="factor on the adapter's scaling", ylabel="score", ylim=(-0.03, 1.03))
    _grow_for_legend(figure, [label(c) for c in contenders])
    legend_below(figure, len(contenders))
    return figure


def confidence_figure(data: Mapping[str, Any]) -> Any:
    """Reliability: the score that confidence predicts against the score on tasks it was not fitted on."""
    figure, axes = axes_of(5.6, 4.4)
    axes.plot([0, 1], [0, 1], color="grey", lw=0.8)
    names = list(data["confidence"])
    for name, look in looks(names).items():
        bins = data["confidence"][name]["reliability"]
        axes.plot([b["predicted"] for b in bins], [b["observed"] for b in bins], ms=4, label=label(name), **look)
    axes.set(xlabel="confidence", ylabel="score on tasks not fitted on", xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    _grow_for_legend(figure, [label(n) for n in names] * 2)
    legend_below(figure, len(names), 1)
    return figure


def makers(data: Mapping[str, Any]) -> dict[str, Callable[[], Any]]:
    """What draws each figure that a report has data for, by name, in the order of the report."""
    splits = in_order(data["results"], "split")
    unseen = [s for s in splits if s not in ("train", "unseen_phrasing")]
    varied = data.get("robustness") or {}
    wanted: dict[str, tuple[Any, Callable[[], Any]]] = {
        "scores": (data["results"], lambda: scores_figure(data)),
        "controls": (data.get("controls"), lambda: controls_figure(data)),
        "recipes": (pairs_of_recipes(data), lambda: recipes_figure(data)),
        "costs": (data.get("costs"), lambda: costs_figure(data, (unseen or splits)[0])),
        "tasks": (data.get("by_task"), lambda: tasks_figure(data)),
        "style": (varied.get("style"), lambda: style_figure(data)),
        "scale": (varied.get("scale"), lambda: scale_figure(data)),
        "confidence": (data.get("confidence"), lambda: confidence_figure(data)),
        "map": (data.get("map"), lambda: map_figure(data["map"])),
        "norms": (data.get("map"), lambda: norms_figure(data["map"])),
    }
    return {name: draw for name, (has_data, draw) in wanted.items() if has_data}


def drawn(draw: Callable[[], Any], forms: Sequence[str]) -> dict[str, bytes]:
    """One figure, by form."""
    with styled():
        figure = draw()
    return {form: saved(figure, form) for form in forms}


def draw_figures(data: Mapping[str, Any], forms: Sequence[str]) -> tuple[dict[str, dict[str, bytes]], dict[str, str]]:
    """Every figure that a report has data for, by name and form; and of those that could not be drawn, why not.

    Args:
        data: what report.json holds.
        forms: some of `forms.FIGURE_FORMS`.
    """
    figures: dict[str, dict[str, bytes]] = {}
    failed: dict[str, str] = {}
    for name, draw in makers(data).items():
        try:
            figures[name] = drawn(draw, forms)
        except Exception as error:  # hours of answers must not be lost to a plotting library
            log.warning("figure %s could not be drawn", name, exc_info=True)
            failed[name] = " ".join(f"{type(error).__name__}: {error}".split())
    return figures, failed
