"""The report's figures, as PNG bytes."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from typing import Any

from t2l.evaluation.contenders.generated import CONTROLS
from t2l.evaluation.report.findings import Findings
from t2l.run.console import broken_name

log = logging.getLogger(__name__)
DPI = 130
LABEL = 60
"""characters of a line of a contender's name"""


def _subplots(width: float, height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Any, Any]:
    """A figure of `width` by `height` inches, and its panels [rows, columns]."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def _axes(width: float, height: float) -> tuple[Any, Any]:
    """A figure with one panel, without a frame above and to the right."""
    figure, panels = _subplots(width, height)
    panels[0][0].spines[["top", "right"]].set_visible(False)
    return figure, panels[0][0]


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()


def _colours(names: Sequence[str]) -> dict[str, Any]:
    from matplotlib import color_sequences

    return dict(zip(names, cycle([*color_sequences["tab20"], *color_sequences["tab20b"]]), strict=False))


def _label(contender: str) -> str:
    return "\n".join(line.strip() for line in broken_name(contender, LABEL))


def _row(labels: Sequence[str], least: float) -> float:
    """Inches that a row takes: at least so many, and as many as the label with the most lines."""
    return max([least, *(0.13 * (1 + label.count("\n")) for label in labels)])


def _bars(means: Sequence[float], intervals: Sequence[Sequence[float]]) -> list[list[float]]:
    """How far error bars reach down and up from means."""
    ends = list(zip(means, intervals, strict=True))
    return [[max(0.0, mean - low) for mean, (low, _) in ends], [max(0.0, high - mean) for mean, (_, high) in ends]]


def scores_figure(found: Findings) -> bytes:
    """Every contender on every split: means as points with their intervals, one panel per split."""
    splits, contenders, table = found.splits, found.contenders, found.by_key
    colours = _colours(contenders)
    labels = [_label(c) for c in contenders]
    width, height = 2.3 * len(splits) + 2.6, _row(labels, 0.27) * len(contenders) + 1.2
    figure, panels = _subplots(width, height, columns=len(splits), sharey=True, sharex=True)
    for axes, split in zip(panels[0], splits, strict=True):
        for y, contender in enumerate(contenders):
            cell = table.get((contender, split))
            if cell is None:
                continue
            e = cell.estimate
            axes.errorbar(
                e.mean, y, xerr=_bars([e.mean], [(e.low, e.high)]), fmt="o", color=colours[contender], ms=4, lw=1.5
            )
        axes.set_title(split.replace("_", " "), fontsize=8)
        axes.set_xlim(-0.03, 1.03)
        axes.grid(axis="x", lw=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0][0].set_yticks(range(len(contenders)), labels, fontsize=7)
    panels[0][0].invert_yaxis()
    figure.supxlabel(f"{found.metric}, mean and 95 % interval", fontsize=8)
    return _png(figure)


def controls_figure(found: Findings, data: Mapping[str, Any]) -> bytes:
    """Matched minus each control, per generated contender and split."""
    rows = data["controls"]
    keys = list(dict.fromkeys((d["contender"], d["split"]) for d in rows))
    labels = [f"{_label(c)}\n{s}" for c, s in keys]
    figure, axes = _axes(7.5, _row(labels, 0.34) * len(keys) + 1.4)
    colours = _colours(CONTROLS)
    for d in rows:
        y = keys.index((d["contender"], d["split"])) + 0.16 * (CONTROLS.index(d["control"]) - 1.5)
        errors = _bars([d["difference"]], [d["ci95"]])
        axes.errorbar(d["difference"], y, xerr=errors, fmt="o", ms=3.5, lw=1.3, color=colours[d["control"]])
    for control in CONTROLS:
        axes.plot([], [], "o", color=colours[control], label=f"minus {control.replace('_', ' ')}")
    axes.axvline(0, color="black", lw=0.8)
    axes.set_yticks(range(len(keys)), labels, fontsize=6)
    axes.invert_yaxis()
    axes.set_xlabel("matched minus control, 95 % interval")
    figure.legend(loc="outside lower center", ncols=len(CONTROLS), frameon=False, fontsize=7)
    return _png(figure)


def costs_figure(found: Findings, data: Mapping[str, Any], split: str) -> bytes:
    """Score on one split against floating-point operations per answer."""
    lines = "\n".join(map(_label, found.contenders)).count("\n") + 1
    figure, axes = _axes(7.5, max(4.8, 0.15 * lines + 0.5))
    colours, table = _colours(found.contenders), found.by_key
    for c in data["costs"]:
        cell = table.get((c["contender"], split))
        if cell is None or not c["flops_per_answer"]:
            continue
        e, x = cell.estimate, c["flops_per_answer"] / 1e6
        errors = _bars([e.mean], [(e.low, e.high)])
        axes.errorbar(
            x, e.mean, yerr=errors, fmt="o", ms=5, lw=1, color=colours[c["contender"]], label=_label(c["contender"])
        )
    axes.set(xscale="log", xlabel="MFLOPs per answered question", ylim=(-0.03, 1.03))
    axes.set_ylabel(f"{found.metric} on {split.replace('_', ' ')}")
    figure.legend(loc="outside right upper", frameon=False, fontsize=6.5)
    return _png(figure)


def style_figure(data: Mapping[str, Any]) -> bytes:
    """Scores under other people's ways to describe a task."""
    rows = data["robustness"]["style"]
    styles, contenders = (list(dict.fromkeys(r[key] for r in rows)) for key in ("style", "contender"))
    figure, axes = _axes(7.5, 3.6)
    for i, contender in enumerate(contenders):
        mine = [r for r in rows if r["contender"] == contender]
        xs = [styles.index(r["style"]) + 0.8 * (i - (len(contenders) - 1) / 2) / len(contenders) for r in mine]
        means, width = [r["mean"] for r in mine], 0.8 / len(contenders)
        errors = _bars(means, [r["ci95"] for r in mine])
        axes.bar(xs, means, width, yerr=errors, label=_label(contender), error_kw={"lw": 0.8})
    axes.set_xticks(range(len(styles)), [s.replace("_", " ") for s in styles], fontsize=8)
    axes.set(ylim=(0, 1.03), ylabel="score")
    axes.legend(frameon=False, fontsize=7)
    return _png(figure)


def scale_figure(data: Mapping[str, Any]) -> bytes:
    """Scores as the adapter is scaled."""
    rows = data["robustness"]["scale"]
    figure, axes = _axes(6, 3.6)
    for contender in dict.fromkeys(r["contender"] for r in rows):
        mine = [r for r in rows if r["contender"] == contender]
        xs = [r["scale"] for r in mine]
        axes.plot(xs, [r["mean"] for r in mine], "o-", ms=3.5, label=contender)
        axes.fill_between(xs, [r["ci95"][0] for r in mine], [r["ci95"][1] for r in mine], alpha=0.15)
    axes.set(xlabel="factor on the adapter's scaling", ylabel="score", ylim=(-0.03, 1.03))
    axes.legend(frameon=False, fontsize=7)
    return _png(figure)


def confidence_figure(data: Mapping[str, Any]) -> bytes:
    """Reliability: the score that confidence predicts against the score on tasks it was not fitted on."""
    figure, axes = _axes(4.6, 4.4)
    axes.plot([0, 1], [0, 1], color="grey", lw=0.8)
    for name, c in data["confidence"].items():
        bins = c["reliability"]
        axes.plot([b["predicted"] for b in bins], [b["observed"] for b in bins], "o-", ms=4, label=name)
    axes.set(xlabel="confidence", ylabel="score on tasks not fitted on", xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    axes.legend(frameon=False, fontsize=7)
    return _png(figure)


def map_figure(found: Findings) -> bytes:
    """Generated and oracle adapters on the first two principal components of their products, by each kind of label."""
    contenders, kinds = list(found.map), next(iter(found.map.values()))["labels"]
    width, height = 5.2 * len(contenders) + 1.6, 4.4 * len(kinds)
    figure, panels = _subplots(width, height, len(kinds), len(contenders))
    for row, kind in zip(panels, kinds, strict=True):
        labels = list(dict.fromkeys(p[kind] for c in contenders for p in found.map[c]["points"]))
        colours = _colours(labels)
        for axes, contender in zip(row, contenders, strict=True):
            for p in found.map[contender]["points"]:
                (gx, gy), (ox, oy) = p["generated"], p["oracle"]
                axes.plot([gx, ox], [gy, oy], color=colours[p[kind]], lw=0.4, alpha=0.6)
                axes.plot(gx, gy, "o", color=colours[p[kind]], ms=3.5)
                axes.plot(ox, oy, "x", color=colours[p[kind]], ms=4)
            explained = found.map[contender]["explained"]
            axes.set_title(f"{contender}, by {kind}", fontsize=9)
            axes.set_xlabel(f"first component ({explained[0]:.0%} of the variance)", fontsize=8)
            axes.set_ylabel(f"second component ({explained[1]:.0%})", fontsize=8)
        for label in labels:
            row[-1].plot([], [], "o", color=colours[label], ms=4, label=label)
        row[-1].legend(loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False, fontsize=6, ncols=1)
    return _png(figure)


def norms_figure(found: Findings) -> bytes:
    """Mean norm of scaling * BA by layer and module, of generated adapters and oracles."""
    figure, axes = _axes(7.5, 3.8)
    curves = {"oracle": next(iter(found.map.values()))["norms"]["oracle"]}
    curves |= {name: m["norms"]["generated"] for name, m in found.map.items()}
    colours, modules = _colours(list(curves)), list(curves["oracle"])
    styles = dict(zip(modules, cycle(("-", "--", ":", "-.")), strict=False))
    for name, norms in curves.items():
        for module in modules:
            xs = range(len(norms[module]))
            axes.plot(
                xs, norms[module], styles[module], marker="o", ms=3.5, color=colours[name], label=f"{name}, {module}"
            )
    axes.set(xlabel="adapted layer, from the first", ylabel="norm of scaling * BA", ylim=(0, None))
    figure.legend(loc="outside right upper", frameon=False, fontsize=6.5)
    return _png(figure)


def draw_figures(found: Findings, data: Mapping[str, Any]) -> tuple[dict[str, bytes], dict[str, str]]:
    """Every figure that the findings have data for, by name; and of those that could not be drawn, why not."""
    unseen = [s for s in found.splits if s not in ("train", "unseen_phrasing")]
    wanted: dict[str, tuple[Any, Callable[[], bytes]]] = {
        "scores": (True, lambda: scores_figure(found)),
        "controls": (data["controls"], lambda: controls_figure(found, data)),
        "costs": (data["costs"], lambda: costs_figure(found, data, (unseen or found.splits)[0])),
        "style": (data["robustness"].get("style"), lambda: style_figure(data)),
        "scale": (data["robustness"].get("scale"), lambda: scale_figure(data)),
        "confidence": (data["confidence"], lambda: confidence_figure(data)),
        "map": (found.map, lambda: map_figure(found)),
        "norms": (found.map, lambda: norms_figure(found)),
    }
    figures: dict[str, bytes] = {}
    failed: dict[str, str] = {}
    for name, (has_data, draw) in wanted.items():
        if not has_data:
            continue
        try:
            figures[name] = draw()
        except Exception as error:  # hours of answers must not be lost to a plotting library
            log.warning("figure %s could not be drawn", name, exc_info=True)
            failed[name] = " ".join(f"{type(error).__name__}: {error}".split())
    return figures, failed
