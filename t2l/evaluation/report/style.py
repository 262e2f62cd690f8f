"""How figures look: one font, one palette that colour-blind readers tell apart, PNG and vector forms."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from typing import Any

from t2l.run.console import broken_name

DPI = 130
LABEL = 40
"""characters of a line of a contender's name"""
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""of Okabe and Ito (2008), without the yellow, which is hard to see on white"""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
"""as many as share no divisor with the colours: so many times as many pairs are different"""
GREY = "#595959"
SIZES = {
    "font.family": "DejaVu Sans", "font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8, "xtick.labelsize": 7,
    "ytick.labelsize": 7, "legend.fontsize": 7, "legend.frameon": False, "svg.hashsalt": "t2l", "pdf.fonttype": 42,
}  # fmt: skip
DATES = {"png": {}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}
"""what would make two drawings of the same numbers differ"""


@contextmanager
def styled() -> Iterator[None]:
    """A block in which figures are drawn in the report's style."""
    from matplotlib import rc_context

    with rc_context(SIZES):
        yield


def subplots(width: float, height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Any, Any]:
    """A figure of `width` by `height` inches, and its panels [rows, columns], without a frame above and to the right."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, **options)
    for axes in panels.flat:
        axes.spines[["top", "right"]].set_visible(False)
    return figure, panels


def axes_of(width: float, height: float) -> tuple[Any, Any]:
    """A figure with one panel."""
    figure, panels = subplots(width, height)
    return figure, panels[0][0]


def grid(count: int, columns: int, width: float, height: float, **options: Any) -> tuple[Any, list[Any]]:
    """A figure of `count` panels in rows of `columns`; `width` and `height` are a panel's, in inches."""
    across = min(count, columns)
    rows = -(-count // across)
    figure, panels = subplots(width * across, height * rows, rows, across, **options)
    for axes in panels.flat[count:]:
        axes.set_visible(False)
    return figure, list(panels.flat[:count])


def saved(figure: Any, form: str) -> bytes:
    """A figure as PNG, PDF or SVG; the same numbers give the same bytes."""
    buffer = io.BytesIO()
    with styled():
        figure.savefig(buffer, format=form, dpi=DPI, metadata=DATES[form])
    return buffer.getvalue()


def looks(names: Sequence[str]) -> dict[str, dict[str, str]]:
    """Colour and marker of each name, no two alike of the first 56."""
    pairs = zip(names, cycle(COLOURS), cycle(MARKERS), strict=False)
    return {name: {"color": colour, "marker": marker} for name, colour, marker in pairs}


def label(name: str, width: int = LABEL) -> str:
    """A name in lines of at most so many characters."""
    return "\n".join(line.strip() for line in broken_name(name, width))


def row_height(text: str, least: float) -> float:
    """Inches of a row: at least so many, and as many as its label needs."""
    return max(least, 0.12 * (2 + text.count("\n")))


def bars(means: Sequence[float], intervals: Sequence[Sequence[float]]) -> list[list[float]]:
    """How far error bars reach down and up from means."""
    ends = list(zip(means, intervals, strict=True))
    return [[max(0.0, mean - low) for mean, (low, _) in ends], [max(0.0, high - mean) for mean, (_, high) in ends]]


def legend_below(figure: Any, count: int, columns: int = 2) -> None:
    """A legend under everything, which takes no width from the panels."""
    figure.legend(loc="outside lower left", ncols=min(count, columns))
