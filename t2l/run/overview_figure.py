"""Figure of an overview: the score of every run, by what they differ in, and how it came about."""

from __future__ import annotations

import io
from collections.abc import Sequence

from t2l.run.overview import Comparison, score_curve

DPI, LONGEST_LABEL, CURVES = 130, 40, 10
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#f0e442")
"""of Okabe and Ito, which colour-blind readers can tell apart"""


def label_of(settings: Sequence[tuple[str, str]]) -> str:
    """What tells runs apart, in a few characters: the last part of each key, and its value."""
    text = ", ".join(f"{key.rpartition('.')[2]}={value or '(default)'}" for key, value in settings) or "all"
    return text if len(text) <= LONGEST_LABEL else f"{text[: LONGEST_LABEL - 3]}..."


def draw(found: Comparison) -> bytes:
    """PNG: on the left the best score of each run, one line per setting, with the mean over seeds and its interval; on the
    right the score against the step."""
    from matplotlib.figure import Figure

    groups = [g for g in found.groups if any(r.score is not None for r in g.runs)]
    figure = Figure(figsize=(9, 0.32 * len(groups) + 2.2), layout="constrained")
    left, right = figure.subplots(1, 2, squeeze=False)[0]
    for y, group in enumerate(groups):
        colour = COLOURS[y % len(COLOURS)]
        for run in group.runs:
            if run.score is None:
                continue
            left.plot(run.score, y, "o" if run.state == "finished" else "x", color=colour, ms=4, alpha=0.6)
            if y < CURVES:
                right.plot(
                    *zip(*score_curve(run.folder, run.metric), strict=True), color=colour, lw=1, marker=".", ms=3
                )
        if group.mean is not None and (interval := group.interval) is not None:
            bars = [[group.mean - interval[0]], [interval[1] - group.mean]]
            left.errorbar(group.mean, y, xerr=bars, fmt="|", color=colour, ms=10, lw=1.5)
    left.set_yticks(range(len(groups)), [label_of(list(g.settings.items())) for g in groups], fontsize=7)
    left.set_ylim(len(groups) - 0.5, -0.5)
    metric = " or ".join(sorted({r.metric for g in groups for r in g.runs if r.metric})) or "score"
    left.set_xlabel(f"best {metric}; bars: 95 % over seeds; x: not finished", fontsize=7)
    right.xaxis.get_major_locator().set_params(integer=True)
    right.set_xlabel("step" if len(groups) <= CURVES else f"step (the first {CURVES} settings)", fontsize=7)
    right.set_ylabel(metric, fontsize=7)
    for axes in (left, right):
        axes.tick_params(labelsize=7)
        axes.grid(lw=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()
