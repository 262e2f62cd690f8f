"""Generated adapters beside every other contender, example by example: what a description gains over other means.

Above all over the base that reads the description in its prompt, and pays its tokens with every question.
"""

from __future__ import annotations

from typing import Any

from t2l.evaluation.board import Cell, paired_difference
from t2l.evaluation.report.findings import Findings, without_controls


def differences(found: Findings) -> list[dict[str, Any]]:
    """Rows of report.json: generated minus each other contender that is no control, paired by example.

    Contenders whose numbers of training seeds differ, and are not one, cannot be paired and are left out.
    """
    table, rows = found.by_key, []
    others = without_controls(found.contenders)
    for ours in found.generated:
        for other in others:
            if other == ours:
                continue
            for split in found.splits:
                one, two = table.get((ours, split)), table.get((other, split))
                if one is None or two is None or not _can_be_paired(len(one.runs), len(two.runs)):
                    continue
                about = {"contender": ours, "other": other, "split": split}
                rows.append({**about, **paired_row(one, two, found.samples, found.seed)})
    return rows


def paired_row(one: Cell, other: Cell, samples: int, seed: int) -> dict[str, Any]:
    """What a row of a report says of one contender minus another on the same examples."""
    e = paired_difference(one, other, samples, seed)
    return {**e.row("difference"), "distinguishable": e.is_distinguishable}


def _can_be_paired(one: int, other: int) -> bool:
    return one == other or 1 in (one, other)
