"""Numbers, intervals and tables in Markdown."""

from __future__ import annotations

from collections.abc import Sequence


def interval_text(mean: float, interval: Sequence[float], form: str = ".2f") -> str:
    """A mean and its interval, as tables print them."""
    return f"{mean:{form}} [{interval[0]:{form}}, {interval[1]:{form}}]"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    return "\n".join([line(header), "|" + "---|" * len(header), *map(line, rows)])


def number_text(value: float | None, form: str, factor: float = 1) -> str:
    """A number times a factor; empty if there is none."""
    return "" if value is None else format(value * factor, form)
