"""The one training loop, for every objective.

An objective gives the losses of a step, `objectives.Steps` their gradients; the loop owns the schedule, clipping, logging,
validation, checkpoints and resuming.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import nn

from t2l.distributed import World
from t2l.hypernetwork import Hypernetwork
from t2l.hypernetwork.checkpoint import CheckpointRecord, TrainingData, latest_checkpoint
from t2l.hypernetwork.selection import Selection
from t2l.objectives.soundness import judge_run
from t2l.run.progress import Progress
from t2l.run.record import Run
from t2l.seeding import generator_for
from t2l.training import random_state
from t2l.training.checkpoint import resume, save_checkpoint
from t2l.training.config import TrainerConfig
from t2l.training.optimizer import make_optimizer
from t2l.training.out_of_memory import explained

log = logging.getLogger(__name__)


class TrainingSteps(Protocol):
    """What the loop needs of an objective's steps (`objectives.Steps`)."""

    @property
    def needs_base(self) -> bool:
        """Whether a step goes through the base model."""

    def backward(self, hypernetwork: nn.Module, step: int) -> dict[str, float]:
        """Accumulates the gradients of a step; returns metrics, `train/loss` among them."""


@dataclass(frozen=True)
class Validation:
    """What the loop needs of validation: metrics of a hypernetwork, and what they are measured on."""

    measure: Callable[[Hypernetwork], dict[str, float]]
    """gives `trainer.select_by` and other metrics, the same in every process; leaves the hypernetwork as it was"""
    on: Mapping[str, Any]
    """tasks, rows and where descriptions come from, by part"""


def is_trained(config: TrainerConfig, record: CheckpointRecord) -> bool:
    """Whether a checkpoint is the end of its training: after the last step, or where training stopped early."""
    return record.step >= config.steps or (record.selection is not None and record.selection.is_over(config.patience))


def _train_step(
    config: TrainerConfig,
    steps: TrainingSteps,
    model: nn.Module,
    hypernetwork: Hypernetwork,
    optimizer: torch.optim.Optimizer,
    step: int,
) -> dict[str, float]:
    """One update of the hypernetwork, which `model` may wrap. Returns the step's metrics."""
    for group in optimizer.param_groups:
        group["lr"] = config.learning_rate(step)
    metrics = steps.backward(model, step)
    norm = torch.nn.utils.clip_grad_norm_(hypernetwork.parameters(), config.clip)
    if not bool(norm.isfinite()):
        raise ValueError(f"training diverged at step {step + 1} (gradient norm {float(norm)}): lower trainer.lr")
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return {**metrics, "train/grad_norm": float(norm), "train/lr": config.learning_rate(step)}


def _validate(
    config: TrainerConfig, validation: Validation | None, hypernetwork: Hypernetwork, record: CheckpointRecord
) -> tuple[CheckpointRecord, dict[str, float]]:
    """The record with a newer choice, and the metrics, of a step that is to be validated; else the record and nothing."""
    if validation is None or record.selection is None or config.validate_every is None:
        return record, {}
    if record.step % config.validate_every and record.step != config.steps:
        return record, {}
    with random_state.undisturbed():
        metrics = validation.measure(hypernetwork)
    return replace(record, selection=record.selection.after(record.step, metrics)), metrics


def train(
    config: TrainerConfig,
    steps: TrainingSteps,
    hypernetwork: Hypernetwork,
    run: Run,
    record: CheckpointRecord,
    seed: int,
    world: World | None = None,
    training_data: TrainingData | None = None,
    validation: Validation | None = None,
) -> CheckpointRecord:
    """Trains to the end, resuming from the run's newest checkpoint. Returns the final record.

    Among several processes each takes its share of a step's tasks, gradients are averaged by
    DistributedDataParallel, and the main process writes: the global batch and its loss stay the same.

    Resuming is exact: sampling is a function of (seed, step), and optimiser moments, every random generator and the
    choice of the best checkpoint come back from the checkpoint.
    """
    world = world or World()
    optimizer = make_optimizer(config, hypernetwork)
    torch.manual_seed(seed if world.rank == 0 else int(generator_for("process", seed, world.rank).integers(2**62)))
    newest = latest_checkpoint(run.folder)
    if newest is not None:
        found = resume(newest, hypernetwork, optimizer, world.rank, world.size, seed)
        record = replace(record, step=found.step, selection=found.selection)
        log.info("resuming %s at step %d", run.folder, record.step)
    if validation is not None and record.selection is None:
        record = replace(record, selection=Selection(config.select_by, validation.on))
    if world.is_main:
        run.forget_after(record.step)
    model = world.data_parallel(hypernetwork.train())
    label = f"training ({record.objective})"
    with (
        explained(lambda: config.out_of_memory(steps.needs_base)),
        Progress(label, config.steps, completed=record.step, shown=world.is_main) as progress,
    ):
        while not is_trained(config, record):
            step, finished = record.step, record.step + 1
            metrics = _train_step(config, steps, model, hypernetwork, optimizer, step)
            record, validated = _validate(config, validation, hypernetwork, replace(record, step=finished))
            is_end = is_trained(config, record)
            if finished % config.log_every == 0 or is_end or validated:
                metrics = {**world.mean(metrics), **validated}
                if world.is_main:
                    run.log_metrics(finished, metrics)
            is_best = record.selection is not None and record.selection.best_step == finished
            if finished % config.checkpoint_every == 0 or is_end or is_best:
                states = world.gather(random_state.capture())
                if world.is_main:
                    save_checkpoint(run.folder, record, hypernetwork, optimizer, training_data, states)
            shown = {"loss": metrics["train/loss"]} | ({"validation": validated[config.select_by]} if validated else {})
            progress.advance(1, **shown)
    if record.selection is not None:
        log.info("%s: the end is %s", run.folder, record.selection.text(record.step, record.step))
    if world.is_main:
        run.record(**judge_run(run.folder / "metrics.jsonl", "trainer.lr").to_json())
    world.wait()
    hypernetwork.eval()
    return record
