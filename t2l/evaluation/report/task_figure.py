"""Scores task by task: which tasks a mean is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from t2l.evaluation.report.findings import without_controls
from t2l.evaluation.report.rows import in_order
from t2l.evaluation.report.style import label, subplots

MOST = 40.0
"""inches of all tasks together, beyond which their rows get thinner than their names"""
ROW, READABLE = 0.13, 0.09
"""inches of a row, and of the thinnest that has room for a name"""


def scores_by_task(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], dict[str, dict[str, list[float | None]]]]:
    """Names of the contenders that are no controls; by split and task, the score of each (None: it has none).

    Args:
        rows: `by_task` of report.json.
    """
    names = without_controls(in_order(rows, "contender"))
    table = {(r["contender"], r["split"]): r["scores"] for r in rows}
    found: dict[str, dict[str, list[float | None]]] = {}
    for split in in_order(rows, "split"):
        mine = [table.get((name, split), {}) for name in names]
        tasks = dict.fromkeys(task for scores in mine for task in scores)
        found[split] = {task: [scores.get(task) for scores in mine] for task in tasks}
    return names, found


def tasks_figure(data: Mapping[str, Any]) -> Any:
    """A row per task and a column per contender, split by split; tasks in the order of their mean."""
    names, by_split = scores_by_task(data["by_task"])
    by_split = {split: of for split, of in by_split.items() if of}
    count = sum(map(len, by_split.values()))
    row = min(ROW, MOST / count)
    heads = [label(name, 36) for name in names]
    widths = [0.13 * (2 + head.count("\n")) for head in heads]
    edges = [sum(widths[:i]) for i in range(len(widths) + 1)]
    above = 0.065 * max(len(line) for head in heads for line in head.split("\n")) + 0.2
    height = row * count + 0.35 * len(by_split) + above + 0.6
    figure, panels = subplots(
        max(edges[-1], 3.0) + 2.6,
        height,
        len(by_split),
        height_ratios=[len(of) for of in by_split.values()],
        sharex=True,
    )
    for axes, (split, of) in zip(panels[:, 0], by_split.items(), strict=True):
        tasks = sorted(of, key=lambda task: -fmean([s for s in of[task] if s is not None] or [0.0]))
        image = [[float("nan") if s is None else s for s in of[task]] for task in tasks]
        drawn = axes.pcolormesh(edges, range(len(tasks) + 1), image, cmap="cividis", vmin=0, vmax=1)
        axes.invert_yaxis()
        axes.set_ylabel(split.replace("_", " "))
        places = [i + 0.5 for i in range(len(tasks))] if row >= READABLE else []
        axes.set_yticks(places, tasks if places else [], fontsize=6)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    top = panels[0, 0]
    top.set_xticks([edge + width / 2 for edge, width in zip(edges, widths, strict=False)], heads, rotation=90)
    top.tick_params(labeltop=True, labelbottom=False)
    for axes in panels[1:, 0]:
        axes.tick_params(labelbottom=False)
    metric = data["results"][0]["metric"]
    figure.colorbar(
        drawn,
        ax=panels,
        location="bottom",
        label=f"{metric} of a task",
        shrink=0.6,
        fraction=0.5 / height,
        pad=0.1 / height,
    )
    return figure
