"""The table that an evaluation ends with: a line per contender, its mean on every split, and how far controls are behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import ascii_lowercase
from typing import Any

from t2l.evaluation.board import Cell
from t2l.evaluation.report.findings import closest_controls, without_controls
from t2l.run.console import WIDTH, broken_name

NAME, COLUMN = 24, 6
"""characters of a contender's name on one line, and of a split's column"""
MINUS = "minus control"


def told_split(splits: Sequence[str], controls: Sequence[Mapping[str, Any]]) -> str | None:
    """The split on which controls are told: the first whose tasks or descriptions are unseen in more than words."""
    there = [s for s in splits if any(d["split"] == s for d in controls)]
    return next((s for s in there if s not in ("train", "unseen_phrasing")), there[0] if there else None)


def summary_lines(cells: Sequence[Cell], controls: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines of at most 80 characters; what they leave out is in the report.

    Args:
        controls: rows of `control_differences`; controls themselves get no line.
    """
    splits = list(dict.fromkeys(c.split for c in cells))
    names = list(dict.fromkeys(c.contender for c in cells))
    shown = without_controls(names)
    means = {(c.contender, c.split): f"{c.estimate.mean:.2f}" for c in cells}
    minus: dict[tuple[str, str | None], str] = {}
    for key, closest in closest_controls(controls).items():
        low, high = closest["ci95"]
        minus[key] = f"{closest['difference']:.2f} [{low:.2f},{high:.2f}]"
    told = told_split(splits, controls)
    letters = [ascii_lowercase[i] if len(splits) <= 26 else str(i + 1) for i in range(len(splits))]
    width = min(NAME, max(map(len, [*shown, "contender"])))
    per_block = (WIDTH - width - 20) // COLUMN
    lines: list[str] = []
    for start in range(0, len(splits), per_block):
        block = range(start, min(start + per_block, len(splits)))
        last = told is not None and start == 0
        head = "".join(f"{letters[i]:>{COLUMN}}" for i in block)
        lines += ["", f"{'contender':<{width}}{head}{f'  {MINUS}' if last else ''}"]
        for name in shown:
            first, *rest = broken_name(name, width)
            numbers = "".join(f"{means.get((name, splits[i]), ''):>{COLUMN}}" for i in block)
            behind = minus.get((name, told), "") if last else ""
            lines += [f"{first:<{width}}{numbers} {behind}".rstrip(), *rest]
    lines += ["", "mean score on"]
    for letter, split in zip(letters, splits, strict=True):
        first, *rest = broken_name(split, WIDTH - 6)
        lines += [f"{letter:>3}  {first}", *(f"     {line}" for line in rest)]
    if told is not None:
        at = letters[splits.index(told)]
        lines += [
            f"{MINUS}: the adapter of the right description minus the closest control,",
            f"paired by example, with its 95 % interval, on {at}",
        ]
    return lines[1:]
