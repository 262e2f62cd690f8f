"""The tables of a saved report: long, a row per number, and wide, a column per split; as Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from t2l.evaluation.report.markdown import markdown_table
from t2l.evaluation.report.rows import pairs_of_recipes
from t2l.tracking import Table

COUNTS = {"n_tasks": "tasks", "n_examples": "examples", "n_seeds": "seeds"}
VALUES = {
    "results": "mean",
    "content": "mean",
    "controls": "difference",
    "against": "difference",
    "recipes": "difference",
    "recovered": "fraction",
}
"""tables that have a wide form, with what stands in their cells"""
TABLES = (*VALUES, "by_task", "costs")
"""what a report can be asked for"""
OTHERS = {"controls": "control", "against": "other", "recipes": "other"}
"""of tables of differences, the column of what is taken away"""
NAMES = ("contender", "control", "other", "split", "task", "metric")
"""columns of names, which stand before those of numbers"""
_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"} | {
    c: f"\\{c}" for c in "&%$#_{}"
}


def entries_of(report: Mapping[str, Any], name: str) -> Sequence[Mapping[str, Any]]:
    """The rows of a table; `recipes` are those of `against` that pair recipes, each pair once."""
    return pairs_of_recipes(report) if name == "recipes" else report.get(name) or []


def long_table(report: Mapping[str, Any], name: str) -> Table:
    """A table with a row per number; intervals as `low` and `high`, the ends of their 95 %."""
    entries = entries_of(report, name)
    if name == "by_task":
        rows = [(e["contender"], e["split"], *pair) for e in entries for pair in e["scores"].items()]
        return Table(("contender", "split", "task", "score"), rows)
    flat = [_flat(entry) for entry in entries]
    header = list(dict.fromkeys(key for entry in flat for key in entry))
    return Table(header, [[entry.get(key) for key in header] for entry in flat])


def _flat(entry: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in entry.items():
        if key == "ci95":
            found |= dict(zip(("low", "high"), value or (None, None), strict=True))
        else:
            found[COUNTS.get(key, key)] = value
    return found


def wide_table(report: Mapping[str, Any], name: str) -> Table:
    """A table with a row per contender (and what it is compared with) and a column per split: value and 95 % interval.

    Tables without splits, and that by task, are as `long_table` has them.
    """
    if name not in VALUES:
        return long_table(report, name)
    entries, value = entries_of(report, name), VALUES[name]
    other = OTHERS.get(name)
    splits = list(dict.fromkeys(entry["split"] for entry in entries))
    cells: dict[tuple[str, ...], dict[str, str]] = {}
    for entry in entries:
        row = (entry["contender"], entry[other]) if other else (entry["contender"],)
        cells.setdefault(row, {})[entry["split"]] = _cell(entry[value], entry.get("ci95"), signed=value == "difference")
    header = ["contender", *([other] if other else []), *splits]
    return Table(header, [[*row, *(found.get(split) for split in splits)] for row, found in cells.items()])


def _cell(value: float | None, ends: Sequence[float] | None, signed: bool) -> str:
    if value is None:
        return ""
    sign = "+" if signed else ""
    interval = "" if not ends else f" [{ends[0]:{sign}.2f}, {ends[1]:{sign}.2f}]"
    return f"{value:{sign}.2f}{interval}"


def selected(report: Mapping[str, Any], contenders: Sequence[str], splits: Sequence[str]) -> dict[str, Any]:
    """The report with these contenders and splits alone; of an empty list all.

    Raises ValueError for one that the report does not have.
    """
    for key, wanted in (("contender", contenders), ("split", splits)):
        there = list(dict.fromkeys(entry[key] for entry in report["results"]))
        unknown = [name for name in wanted if name not in there]
        if unknown:
            raise ValueError(f"{key}s: this report has no {unknown[0]!r}; it has {', '.join(there)}")

    def fits(entry: Mapping[str, Any]) -> bool:
        is_wanted = not contenders or entry.get("contender") in contenders
        return is_wanted and (not splits or "split" not in entry or entry["split"] in splits)

    return {**report, **{name: [e for e in report.get(name) or [] if fits(e)] for name in TABLES if name != "recipes"}}


def _text(value: Any) -> str:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def to_csv(table: Table) -> str:
    """Comma-separated, with a header."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(table.header)
    writer.writerows([["" if cell is None else cell for cell in row] for row in table.rows])
    return stream.getvalue()


def to_markdown(table: Table) -> str:
    """A Markdown table."""
    return markdown_table(table.header, [[_text(cell) for cell in row] for row in table.rows]) + "\n"


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(c, c) for c in text)


def to_latex(table: Table) -> str:
    """A LaTeX tabular with rules of the package booktabs; intervals in a smaller size."""
    names = sum(key in NAMES for key in table.header)
    lines = [rf"\begin{{tabular}}{{{'l' * names}{'r' * (len(table.header) - names)}}}", r"\toprule"]
    lines.append(" & ".join(_escaped(key.replace("_", " ")) for key in table.header) + r" \\")
    lines.append(r"\midrule")
    for row in table.rows:
        lines.append(" & ".join(_latex_cell(cell) for cell in row) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _latex_cell(cell: Any) -> str:
    text = _escaped(_text(cell))
    value, bracket, interval = text.partition(" [")
    is_number = bracket and value.lstrip("+-").replace(".", "").isdigit()
    return rf"${value}$ {{\scriptsize $[{interval[:-1]}]$}}" if is_number else text
