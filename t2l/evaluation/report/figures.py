"""The report's figures, as PNG bytes."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from t2l.evaluation.contenders.generated import CONTROLS
from t2l.evaluation.report.findings import Findings

log = logging.getLogger(__name__)
DPI = 130


def _subplots(width: float, height: float) -> tuple[Any, Any, Any]:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(width, height), layout="constrained")
    axes.spines[["top", "right"]].set_visible(False)
    return plt, figure, axes


def _png(plt: Any, figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    plt.close(figure)
    return buffer.getvalue()


def _colours(plt: Any, names: Sequence[str]) -> dict[str, Any]:
    palette = [*plt.get_cmap("tab20").colors, *plt.get_cmap("tab20b").colors]
    return {name: palette[i % len(palette)] for i, name in enumerate(names)}


def scores_figure(found: Findings) -> bytes:
    """Every contender on every split: means as points with their intervals, one panel per split."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    splits, contenders, table = found.splits, found.contenders, found.by_key
    colours = _colours(plt, contenders)
    figure, panels = plt.subplots(
        1, len(splits), figsize=(2.3 * len(splits) + 2.6, 0.27 * len(contenders) + 1.2), sharey=True, sharex=True,
        layout="constrained", squeeze=False,
    )  # fmt: skip
    for axes, split in zip(panels[0], splits, strict=True):
        for y, contender in enumerate(contenders):
            cell = table.get((contender, split))
            if cell is None:
                continue
            e = cell.estimate
            errors = [[max(0.0, e.mean - e.low)], [max(0.0, e.high - e.mean)]]
            axes.errorbar(e.mean, y, xerr=errors, fmt="o", color=colours[contender], ms=4, lw=1.5)
        axes.set_title(split.replace("_", " "), fontsize=8)
        axes.set_xlim(-0.03, 1.03)
        axes.grid(axis="x", lw=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0][0].set_yticks(range(len(contenders)), contenders, fontsize=7)
    panels[0][0].invert_yaxis()
    figure.supxlabel(f"{found.metric}, mean and 95 % interval", fontsize=8)
    return _png(plt, figure)


def controls_figure(found: Findings, data: Mapping[str, Any]) -> bytes:
    """Matched minus each control, per generated contender and split."""
    rows = data["controls"]
    keys = list(dict.fromkeys((d["contender"], d["split"]) for d in rows))
    plt, figure, axes = _subplots(7.5, 0.34 * len(keys) + 1.4)
    colours = _colours(plt, CONTROLS)
    for d in rows:
        y = keys.index((d["contender"], d["split"])) + 0.16 * (CONTROLS.index(d["control"]) - 1.5)
        low, high = d["ci95"]
        errors = [[max(0.0, d["difference"] - low)], [max(0.0, high - d["difference"])]]
        axes.errorbar(d["difference"], y, xerr=errors, fmt="o", ms=3.5, lw=1.3, color=colours[d["control"]])
    for control in CONTROLS:
        axes.plot([], [], "o", color=colours[control], label=f"minus {control.replace('_', ' ')}")
    axes.axvline(0, color="black", lw=0.8)
    axes.set_yticks(range(len(keys)), [f"{c}\n{s}" for c, s in keys], fontsize=6)
    axes.invert_yaxis()
    axes.set_xlabel("matched minus control, 95 % interval")
    axes.legend(frameon=False, fontsize=7, loc="best")
    return _png(plt, figure)


def costs_figure(found: Findings, data: Mapping[str, Any], split: str) -> bytes:
    """Score on one split against floating-point operations per answer."""
    plt, figure, axes = _subplots(7.5, 4.8)
    colours, table = _colours(plt, found.contenders), found.by_key
    for c in data["costs"]:
        cell = table.get((c["contender"], split))
        if cell is None or not c["flops_per_answer"]:
            continue
        e, x = cell.estimate, c["flops_per_answer"] / 1e6
        errors = [[max(0.0, e.mean - e.low)], [max(0.0, e.high - e.mean)]]
        axes.errorbar(x, e.mean, yerr=errors, fmt="o", ms=5, lw=1, color=colours[c["contender"]], label=c["contender"])
    axes.set_xscale("log")
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlabel("MFLOPs per answered question")
    axes.set_ylabel(f"{found.metric} on {split.replace('_', ' ')}")
    figure.legend(loc="outside right upper", frameon=False, fontsize=6.5)
    return _png(plt, figure)


def style_figure(data: Mapping[str, Any]) -> bytes:
    """Scores under other people's ways to describe a task."""
    rows = data["robustness"]["style"]
    styles, contenders = (list(dict.fromkeys(r[key] for r in rows)) for key in ("style", "contender"))
    plt, figure, axes = _subplots(7.5, 3.6)
    for i, contender in enumerate(contenders):
        mine = [r for r in rows if r["contender"] == contender]
        xs = [styles.index(r["style"]) + 0.8 * (i - (len(contenders) - 1) / 2) / len(contenders) for r in mine]
        errors = [
            [max(0.0, r["mean"] - r["ci95"][0]) for r in mine],
            [max(0.0, r["ci95"][1] - r["mean"]) for r in mine],
        ]
        axes.bar(
            xs, [r["mean"] for r in mine], 0.8 / len(contenders), yerr=errors, label=contender, error_kw={"lw": 0.8}
        )
    axes.set_xticks(range(len(styles)), [s.replace("_", " ") for s in styles], fontsize=8)
    axes.set_ylim(0, 1.03)
    axes.set_ylabel("score")
    axes.legend(frameon=False, fontsize=7)
    return _png(plt, figure)


def scale_figure(data: Mapping[str, Any]) -> bytes:
    """Scores as the adapter is scaled."""
    rows = data["robustness"]["scale"]
    plt, figure, axes = _subplots(6, 3.6)
    for contender in dict.fromkeys(r["contender"] for r in rows):
        mine = [r for r in rows if r["contender"] == contender]
        xs = [r["scale"] for r in mine]
        axes.plot(xs, [r["mean"] for r in mine], "o-", ms=3.5, label=contender)
        axes.fill_between(xs, [r["ci95"][0] for r in mine], [r["ci95"][1] for r in mine], alpha=0.15)
    axes.set_xlabel("factor on the adapter's scaling")
    axes.set_ylabel("score")
    axes.set_ylim(-0.03, 1.03)
    axes.legend(frameon=False, fontsize=7)
    return _png(plt, figure)


def confidence_figure(data: Mapping[str, Any]) -> bytes:
    """Reliability: the score that confidence predicts against the score on tasks it was not fitted on."""
    plt, figure, axes = _subplots(4.6, 4.4)
    axes.plot([0, 1], [0, 1], color="grey", lw=0.8)
    for name, c in data["confidence"].items():
        bins = c["reliability"]
        axes.plot([b["predicted"] for b in bins], [b["observed"] for b in bins], "o-", ms=4, label=name)
    axes.set_xlabel("confidence")
    axes.set_ylabel("score on tasks not fitted on")
    axes.set_xlim(-0.03, 1.03)
    axes.set_ylim(-0.03, 1.03)
    axes.legend(frameon=False, fontsize=7)
    return _png(plt, figure)


def map_figure(found: Findings) -> bytes:
    """Generated and oracle adapters on the first two principal components of their products, by each kind of label."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    contenders, kinds = list(found.map), next(iter(found.map.values()))["labels"]
    figure, panels = plt.subplots(
        len(kinds), len(contenders), figsize=(5.2 * len(contenders) + 1.6, 4.4 * len(kinds)), layout="constrained",
        squeeze=False,
    )  # fmt: skip
    for row, kind in zip(panels, kinds, strict=True):
        labels = list(dict.fromkeys(p[kind] for c in contenders for p in found.map[c]["points"]))
        colours = _colours(plt, labels)
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
    return _png(plt, figure)


def norms_figure(found: Findings) -> bytes:
    """Mean norm of scaling * BA by layer and module, of generated adapters and oracles."""
    plt, figure, axes = _subplots(7.5, 3.8)
    modules = list(next(iter(found.map.values()))["norms"]["oracle"])
    styles = dict(zip(modules, ("-", "--", ":", "-.") * len(modules), strict=False))
    curves = {name: m["norms"]["generated"] for name, m in found.map.items()}
    curves = {"oracle": next(iter(found.map.values()))["norms"]["oracle"], **curves}
    colours = _colours(plt, list(curves))
    for name, norms in curves.items():
        for module in modules:
            xs = range(len(norms[module]))
            axes.plot(
                xs, norms[module], styles[module], marker="o", ms=3.5, color=colours[name], label=f"{name}, {module}"
            )
    axes.set_xlabel("adapted layer, from the first")
    axes.set_ylabel("norm of scaling * BA")
    axes.set_ylim(bottom=0)
    figure.legend(loc="outside right upper", frameon=False, fontsize=6.5)
    return _png(plt, figure)


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
