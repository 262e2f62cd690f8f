"""Figures of where adapters lie and how large they are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

from t2l.evaluation.report.style import COLOURS, grid, label, looks

PANEL = 3.3
"""inches of a panel's side"""
NUMBER = (0.07, 0.1)
"""inches of a digit, across and up"""


def kinds_shown(maps: Mapping[str, Any]) -> list[str]:
    """The kinds of label that tell anything: those with more than one label; the first if none has."""
    kinds = list(next(iter(maps.values()))["labels"])
    telling = [k for k in kinds if len({p[k] for m in maps.values() for p in m["points"]}) > 1]
    return telling or kinds[:1]


def map_figure(maps: Mapping[str, Any]) -> Any:
    """Generated and oracle adapters on the first two principal components of their products, by each kind of label.

    As many labels as there are colours are told by colour. More are numbered, at the points, for nobody tells twenty colours
    apart.

    Args:
        maps: by contender, what `adapter_map.adapter_map` returned.
    """
    from matplotlib.figure import Figure

    kinds, across = kinds_shown(maps), min(3, len(maps))
    labels = {k: list(dict.fromkeys(p[k] for m in maps.values() for p in m["points"])) for k in kinds}
    width = max(PANEL * across, 6.0)
    columns = {k: _columns(labels[k], width) for k in kinds}
    rows = math.ceil(len(maps) / across)
    heights = [PANEL * rows + 0.16 * (math.ceil(len(labels[k]) / columns[k]) + 2) for k in kinds]
    figure = Figure(figsize=(width, sum(heights)), layout="constrained")
    parts = figure.subfigures(len(kinds), 1, squeeze=False, height_ratios=heights)[:, 0]
    for part, kind in zip(parts, kinds, strict=True):
        panels = list(part.subplots(rows, across, squeeze=False).flat)
        for axes, (contender, found) in zip(panels, maps.items(), strict=False):
            _draw_map(axes, found, kind, labels[kind])
            axes.set_title(f"{label(contender, 40)}\nby {kind}")
        for axes in panels[len(maps) :]:
            axes.set_visible(False)
        _legend_of(part, kind, labels[kind], columns[kind])
    return figure


def _columns(labels: Sequence[str], width: float) -> int:
    """How many labels stand side by side under a figure of so many inches."""
    return max(1, min(len(labels), int(width / (max(map(len, labels)) * 0.07 + 0.5))))


def _draw_map(axes: Any, found: Mapping[str, Any], kind: str, labels: Sequence[str]) -> None:
    """The points of one contender."""
    is_numbered = len(labels) > len(COLOURS)
    colours = dict(zip(labels, cycle(COLOURS), strict=False))
    for p in found["points"]:
        (gx, gy), (ox, oy) = p["generated"], p["oracle"]
        look = {"color": colours[p[kind]], "zorder": 2}
        axes.plot([gx, ox], [gy, oy], lw=0.4, alpha=0.6, **look)
        axes.plot(gx, gy, "o", ms=3, **look)
        axes.plot(ox, oy, "x", ms=3.5, **look)
    axes.margins(0.09)
    if is_numbered:
        _number(axes, found["points"], kind, labels, colours)
    first, second = found["explained"]
    axes.set(xlabel=f"first component ({first:.0%} of the variance)", ylabel=f"second component ({second:.0%})")


def _number(
    axes: Any, points: Sequence[Mapping[str, Any]], kind: str, labels: Sequence[str], colours: Mapping[str, str]
) -> None:
    """Writes each label's number beside its generated adapters, or beside one of them if all do not fit, without overlap."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    inch_x, inch_y = (PANEL - 0.7) / (right - left), (PANEL - 0.8) / (high - low)
    taken = [((x - left) * inch_x, (y - low) * inch_y) for p in points for x, y in (p["generated"], p["oracle"])]
    boxes = [(x - 0.03, y - 0.03, x + 0.03, y + 0.03) for x, y in taken]
    seen: dict[str, list[Mapping[str, Any]]] = {}
    for p in points:
        seen.setdefault(p[kind], []).append(p)
    told: set[str] = set()
    for p in [*(mine[0] for mine in seen.values()), *(p for mine in seen.values() for p in mine[1:])]:
        text = str(labels.index(p[kind]) + 1)
        x, y = (p["generated"][0] - left) * inch_x, (p["generated"][1] - low) * inch_y
        place = _free_place(x, y, len(text), boxes)
        if place is None and p[kind] in told:
            continue
        told.add(p[kind])
        across, up = place or (x, y)
        boxes.append(_box(across, up, len(text)))
        axes.annotate(
            text, p["generated"], ((across - x) * 72, (up - y) * 72), textcoords="offset points", ha="center",
            va="center", fontsize=6, color=colours[p[kind]], annotation_clip=False,
        )  # fmt: skip


def _box(x: float, y: float, digits: int) -> tuple[float, float, float, float]:
    across, up = NUMBER[0] * digits / 2, NUMBER[1] / 2
    return x - across, y - up, x + across, y + up


def _free_place(
    x: float, y: float, digits: int, boxes: Sequence[tuple[float, float, float, float]]
) -> tuple[float, float] | None:
    """The nearest place around a point, in inches, at which a number covers nothing; None if there is none near."""
    for distance in (0.1, 0.16, 0.23, 0.32):
        for step in range(12):
            angle = math.pi / 4 + step * math.pi / 6
            place = x + distance * math.cos(angle), y + distance * math.sin(angle)
            left, low, right, high = _box(*place, digits)
            if all(right < box[0] or left > box[2] or high < box[1] or low > box[3] for box in boxes):
                return place
    return None


def _legend_of(part: Any, kind: str, labels: Sequence[str], columns: int) -> None:
    from matplotlib.lines import Line2D

    is_numbered = len(labels) > len(COLOURS)
    colours = dict(zip(labels, cycle(COLOURS), strict=False))
    handles = [
        Line2D(
            [], [], color=colours[name], marker=f"${i + 1}$" if is_numbered else "o", ls="", ms=6 if is_numbered else 4
        )
        for i, name in enumerate(labels)
    ]
    part.legend(handles, labels, loc="outside lower left", ncols=columns, title=kind, alignment="left")


def norms_figure(maps: Mapping[str, Any]) -> Any:
    """Mean norm of scaling * BA by layer and module, of generated adapters and oracles: a panel per module."""
    curves = {"oracle": next(iter(maps.values()))["norms"]["oracle"]}
    curves |= {name: m["norms"]["generated"] for name, m in maps.items()}
    modules = list(curves["oracle"])
    figure, panels = grid(len(modules), 3, 7.5 if len(modules) == 1 else 3.3, 2.8, sharey=True)
    for axes, module in zip(panels, modules, strict=True):
        for name, look in looks(list(curves)).items():
            axes.plot(range(len(curves[name][module])), curves[name][module], ms=3.5, lw=1, label=label(name), **look)
        axes.set(title=module, xlabel="adapted layer, from the first", ylim=(0, None))
    panels[0].set_ylabel("norm of scaling * BA")
    handles, names = panels[0].get_legend_handles_labels()
    columns = max(1, int(figure.get_figwidth() / 3.4))
    lines = sum(1 + n.count("\n") for n in names) / columns + 1
    figure.set_figheight(figure.get_figheight() + 0.14 * lines)
    figure.legend(handles, names, loc="outside lower left", ncols=columns)
    return figure
