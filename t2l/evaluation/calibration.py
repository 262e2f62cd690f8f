"""Fits the confidence of a generated contender to what it scored, and says how far it can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from t2l.encoder import TaskEncoder
from t2l.evaluation.board import Cell
from t2l.evaluation.contenders.generated import Generated
from t2l.evaluation.unrelated_sentences import FOREIGN_SENTENCES
from t2l.hypernetwork.confidence import Calibration, auroc, calibration_error, distances, reliability
from t2l.seeding import generator_for

NOT_HELD_OUT = "train"


@dataclass(frozen=True)
class _Point:
    """One answered question: the text behind its adapter, and how it went."""

    task: str
    text: str
    score: float
    is_foreign: bool


def _points(cells: Sequence[Cell], name: str, number: int) -> list[_Point]:
    points = []
    for cell in cells:
        if cell.split == NOT_HELD_OUT or cell.contender not in (name, f"{name}_random_text"):
            continue
        run, is_foreign = cell.runs[number], cell.contender != name
        points += [
            _Point(a.question.task, run.conditions[a.question.adapter], a.score, is_foreign) for a in run.answers
        ]
    return points


def calibrate(
    generated: Generated,
    centres: Float[Tensor, "tasks d_embedding"],
    step: int,
    cells: Sequence[Cell],
    number: int,
    encoder: TaskEncoder,
    seed: int,
) -> Calibration:
    """Fits expected scores on a seeded half of the scored tasks, on every split but `train` and on random text.

    Its `about` holds what the other half says: the reliability of predictions for the suite's own descriptions, and how
    well distance alone tells these from random text and from sentences about other things (AUROC).

    Args:
        centres: of the training tasks (`confidence.task_centres`).
        step: of the checkpoint.
        cells: the scored board.
        number: which of the contender's training seeds this is.
    """
    centres = centres.to(next(generated.hypernetwork.parameters()).device)
    points = _points(cells, generated.name, number)
    tasks = sorted({p.task for p in points})
    order = generator_for("confidence", seed).permutation(len(tasks))
    fitted_tasks = {tasks[i] for i in order[: len(tasks) // 2]}
    apart = distances(generated.hypernetwork, centres, encoder.encode([p.text for p in points]))[0].tolist()
    pairs = list(zip(points, apart, strict=True))
    fitted = [(p, d) for p, d in pairs if p.task in fitted_tasks]
    tested = [(p, d) for p, d in pairs if p.task not in fitted_tasks]
    own = [(p, d) for p, d in tested if not p.is_foreign]
    calibration = Calibration.fit([d for _, d in fitted], [p.score for p, _ in fitted], step)
    bins = reliability(calibration([d for _, d in own]), [p.score for p, _ in own])
    sentences = distances(generated.hypernetwork, centres, encoder.encode(list(FOREIGN_SENTENCES)))[0].tolist()
    near, random_text = [d for _, d in own], [d for p, d in tested if p.is_foreign]
    return replace(
        calibration,
        about={
            "auroc": auroc(near, [*sentences, *random_text]),
            "auroc_out_of_domain": auroc(near, sentences),
            "auroc_random_text": auroc(near, random_text),
            "expected_calibration_error": calibration_error(bins),
            "reliability": bins,
            "n_fitted": len(fitted),
            "n_tested": len(own),
            "n_tasks": len(tasks),
            "n_descriptions": len({p.text for p in points if not p.is_foreign}),
            "splits": sorted({c.split for c in cells} - {NOT_HELD_OUT}),
            "fitted_on": "a seeded half of the scored tasks: every split but train, and random text",
        },
    )
