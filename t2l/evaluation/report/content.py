"""Content apart from form: whether an answer holds the right thing, however it is written.

A base that was told the task in its prompt often answers in a sentence ("The capital of France is Paris."), which the
metric counts as wrong, since it is not what was asked for. Counting whether the core of the reference occurs in
the answer tells what it does not know from what it does not write as asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from t2l.evaluation.board import Cell, scores_of
from t2l.evaluation.metrics.interface import metric
from t2l.evaluation.scoring import Answer
from t2l.evaluation.statistics import estimate

METRIC = "contains_any"


def has_core(cells: Sequence[Cell]) -> bool:
    """Whether any question says what of its reference is the answer itself."""
    return any(a.question.core for cell in cells for run in cell.runs[:1] for a in run.answers)


def by_content(cell: Cell, samples: int, seed: int) -> Cell:
    """A cell whose answers score 1 if the core of their reference occurs in them as whole words, whatever the case.

    Answers to questions without a core, or chosen by likelihood, keep their score.
    """
    runs = [replace(run, answers=[_scored(a) for a in run.answers]) for run in cell.runs]
    found = estimate(scores_of(runs), samples, seed, f"{cell.contender}:{cell.split}", bounds=(0.0, 1.0))
    return replace(cell, runs=runs, estimate=found)


def _scored(answer: Answer) -> Answer:
    asked = answer.question
    if not asked.core or metric(asked.metric).chooses:
        return answer
    return replace(answer, score=metric(METRIC).score(answer.answer, asked.core))


def content_rows(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Rows of report.json."""
    return [cell.row(METRIC) for cell in cells]
