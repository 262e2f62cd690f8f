"""Fits the confidence of a generated contender to what it scored, and says how far it can be trusted."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from jaxtyping import Float
from torch import Tensor

from t2l.evaluation.board import Cell
from t2l.evaluation.checkpoints import ScoredCheckpoint
from t2l.evaluation.context import Context
from t2l.evaluation.unrelated_sentences import FOREIGN_SENTENCES
from t2l.hypernetwork.confidence import Calibration, auroc, calibration_error, distances, reliability
from t2l.hypernetwork.kept_calibration import keep_calibration
from t2l.seeding import generator_for

log = logging.getLogger(__name__)
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
    checkpoint: ScoredCheckpoint,
    centres: Float[Tensor, "tasks d_embedding"],
    cells: Sequence[Cell],
    number: int,
    seed: int,
) -> Calibration:
    """Fits expected scores on a seeded half of the scored tasks, on every split but `train` and on random text.

    Its `about` holds what the other half says: the reliability of predictions for the suite's own descriptions, and how
    well distance alone tells these from random text and from sentences about other things (AUROC).

    Args:
        centres: of the training tasks (`confidence.task_centres`).
        cells: the scored board.
        number: which of the contender's training seeds this is.
    """
    hypernetwork, encoder = checkpoint.matched.hypernetwork, checkpoint.encoder
    centres = centres.to(next(hypernetwork.parameters()).device)
    points = _points(cells, checkpoint.matched.name, number)
    tasks = sorted({p.task for p in points})
    order = generator_for("confidence", seed).permutation(len(tasks))
    fitted_tasks = {tasks[i] for i in order[: len(tasks) // 2]}
    apart = distances(hypernetwork, centres, encoder.encode([p.text for p in points]))[0].tolist()
    pairs = list(zip(points, apart, strict=True))
    fitted = [(p, d) for p, d in pairs if p.task in fitted_tasks]
    tested = [(p, d) for p, d in pairs if p.task not in fitted_tasks]
    own = [(p, d) for p, d in tested if not p.is_foreign]
    calibration = Calibration.fit([d for _, d in fitted], [p.score for p, _ in fitted], checkpoint.record.step)
    bins = reliability(calibration([d for _, d in own]), [p.score for p, _ in own])
    sentences = distances(hypernetwork, centres, encoder.encode(list(FOREIGN_SENTENCES)))[0].tolist()
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


def calibrate_checkpoints(context: Context, cells: Sequence[Cell]) -> dict[str, Any]:
    """Calibrates the confidence of every checkpoint that says where its training tasks lie; what came out, by contender.

    With `keep_calibration` it is left with the checkpoint.
    """
    found: dict[str, Any] = {}
    held_out = {t.name for view in context.scope.views if view.name != NOT_HELD_OUT for t in view.tasks}
    if len(held_out) == 1:
        log.warning(
            "no confidence is calibrated: one half of the held-out tasks is fitted, the other tested, and there is one"
        )
        return found
    for checkpoint in context.checkpoints:
        data, reads_any_text = checkpoint.training_data, checkpoint.encoder.reads_any_text
        if data is None or not reads_any_text or all(v.name == NOT_HELD_OUT for v in context.scope.views):
            log.info("checkpoint %s: no confidence to calibrate (no held-out split, or no record)", checkpoint.path)
            continue
        number = [c for c in context.checkpoints if c.name == checkpoint.name].index(checkpoint)
        calibration = calibrate(checkpoint, data.centres, cells, number, context.config.seed)
        if context.config.keep_calibration:
            _keep(context, checkpoint, calibration)
        found.setdefault(checkpoint.matched.name, dict(calibration.about))
    return found


def _keep(context: Context, checkpoint: ScoredCheckpoint, calibration: Calibration) -> None:
    """Leaves a calibration with its checkpoint, unless the scores do not hold for how the adapters will be used."""
    is_shown, suite = context.config.prompt.is_shown, context.scope.suite
    if is_shown or not context.scope.conditions.is_as_trained:
        why = "the base read the descriptions, too" if is_shown else "scored otherwise than trained"
        log.warning("calibration of %s not kept: %s", checkpoint.path, why)
        return
    of = {"suite": suite.name, "suite_sha256": suite.content_hash()}
    about = {**calibration.about, **of, "date": datetime.now(UTC).isoformat(timespec="seconds")}
    log.info("%s", keep_calibration(checkpoint.folder, replace(calibration, about=about)))
