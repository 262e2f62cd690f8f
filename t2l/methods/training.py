"""Trains any adaptation method on one task after another: the loop that all rows of the comparison share.

Data order, schedule, clipping, loss and optimiser are the library's own; only what is trained differs.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from t2l.base_model import BaseModel, verify_frozen
from t2l.library.trained_on import adapter_manifest
from t2l.library.training import training_job
from t2l.methods import Attached, Method, OptimizationConfig
from t2l.methods.folder import RECORD_FILE, MethodLibrary
from t2l.objectives.losses import response_loss
from t2l.objectives.soundness import JUDGED_ROWS, Judgement, Losses, judge_losses, judge_values, row_losses, worst
from t2l.run.progress import Progress
from t2l.seeding import generator_for
from t2l.tasks import CutCount, PromptConfig, Task, TokenizedExample
from t2l.tasks.batches import RowCycle, collate
from t2l.training.schedule import linear_schedule

log = logging.getLogger(__name__)


def initial_seed(seed: int, name: str) -> int:
    """The seed of a task's initial values, a function of (seed, name)."""
    return int(generator_for("init", seed, name).integers(2**62))


@dataclass(frozen=True)
class TrainedMethod:
    """How training on one task went; losses in nats per token, averaged per example."""

    final_loss: float
    """over the last tenth of the steps; nan or inf if it diverged"""
    steps: int
    """optimiser steps taken"""
    validation_loss: float | None = None
    """of the weights that were kept; None if validation rows were not looked at"""
    best_step: int | None = None
    """optimiser steps after which they were as they were kept"""


@torch.no_grad()
def _row_losses(attached: Attached, base: BaseModel, rows: Sequence[TokenizedExample], at_once: int) -> list[float]:
    found: list[float] = []
    for begin in range(0, len(rows), at_once):
        batch = collate(rows[begin : begin + at_once], base.tokenizer.pad_token_id, base.device)
        found.extend(response_loss(attached.logits(batch.input_ids, batch.attention_mask), batch.labels).tolist())
    return found


class _Best:
    """The weights with the lowest validation loss so far, and the looks since then."""

    def __init__(
        self, attached: Attached, base: BaseModel, rows: Sequence[TokenizedExample], how: OptimizationConfig
    ) -> None:
        self._attached, self._base, self._rows, self._how = attached, base, rows, how
        self._weights: dict[str, torch.Tensor] = {}
        self._looks_since = 0
        self.loss, self.step = math.inf, 0

    def look(self, step: int) -> bool:
        """Measures what there is after a step (counted from 1). Returns whether patience is at its end."""
        found = _row_losses(self._attached, self._base, self._rows, self._how.rows_per_task)
        loss = sum(found) / len(found)
        self._looks_since += 1
        if loss < self.loss:
            self.loss, self.step, self._looks_since = loss, step, 0
            self._weights = {k: p.detach().to("cpu", copy=True) for k, p in self._attached.trainable.items()}
        return self._how.patience is not None and self._looks_since >= self._how.patience

    @torch.no_grad()
    def put_back(self) -> None:
        """Gives the method the best weights again."""
        for name, saved in self._weights.items():
            self._attached.trainable[name].copy_(saved)


def train_attached(
    method: Method[Any],
    attached: Attached,
    base: BaseModel,
    rows: Sequence[TokenizedExample],
    seed: int,
    name: str,
    validation_rows: Sequence[TokenizedExample] = (),
    on_step: Callable[[torch.Tensor], None] | None = None,
) -> TrainedMethod:
    """Trains an attached method on one task's rows, in place.

    With `optimization.check_every` and validation rows, it ends with the weights of the lowest validation loss.

    Args:
        on_step: called after each optimiser step with its loss, which is still on the device.
    """
    how = method.config.optimization
    optimizer = method.optimizer(attached)
    parameters = list(attached.trainable.values())
    peaks = [group["lr"] for group in optimizer.param_groups]
    cycle = RowCycle(len(rows), seed, name)
    best = _Best(attached, base, validation_rows, how) if how.check_every and validation_rows else None
    tail: deque[torch.Tensor] = deque(maxlen=max(1, how.steps // 10))
    done = 0
    for step in range(how.steps):
        factor = linear_schedule(step, how.steps, how.warmup_fraction)
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * factor
        drawn = [rows[i] for i in cycle.take(step, how.rows_per_task)]
        batch = collate(drawn, base.tokenizer.pad_token_id, base.device)
        loss = response_loss(attached.logits(batch.input_ids, batch.attention_mask), batch.labels).mean()
        (loss + method.penalty(attached)).backward()
        torch.nn.utils.clip_grad_norm_(parameters, how.clip)
        optimizer.step()
        method.after_step(attached, step)
        optimizer.zero_grad(set_to_none=True)
        tail.append(loss.detach())
        done = step + 1
        if on_step is not None:
            on_step(tail[-1])
        if best is not None and how.check_every and method.may_stop_after(step):
            is_due = done % how.check_every == 0 or done == how.steps
            if is_due and best.look(done):
                break
    final = torch.stack(list(tail)).mean().item()
    if best is None or not best.step:
        return TrainedMethod(final, done)
    best.put_back()
    return TrainedMethod(final, done, best.loss, best.step)


def train_task(
    library: MethodLibrary,
    base: BaseModel,
    task: Task,
    seed: int,
    on_step: Callable[[torch.Tensor], None] | None = None,
    cuts: CutCount | None = None,
    prompt: PromptConfig | None = None,
) -> Judgement:
    """Trains the library's method on one task, judges what came out, and saves it unless it diverged.

    The recorded time covers attaching and all optimiser steps, not tokenizing, judging or saving; the processor time
    beside it (of all threads) does not depend on what else the machine does. `cuts` counts rows that were cut.
    """
    method, how, prompt = library.method, library.method.config.optimization, prompt or PromptConfig()
    manifest = adapter_manifest([task], prompt, is_validated=how.check_every is not None)
    task = prompt.apply(task)
    job = training_job(base, task, how.max_length, cuts)
    judged = job.rows[:JUDGED_ROWS]
    measured = [*judged, *job.validation_rows]
    before = row_losses(base, measured, how.rows_per_task)
    start, cpu_start = time.perf_counter(), time.process_time()
    with method.attach(base, initial_seed(seed, task.name)) as attached:
        trained = train_attached(method, attached, base, job.rows, seed, task.name, job.validation_rows, on_step)
        elapsed, cpu_elapsed = time.perf_counter() - start, time.process_time() - cpu_start
        after = _row_losses(attached, base, measured, how.rows_per_task)
        (loss_before, validation_before), (loss_after, validation_after) = (
            (_mean(found[: len(judged)]), _mean(found[len(judged) :])) for found in (before, after)
        )
        losses = Losses(loss_before, loss_after, validation_before, validation_after)
        judgement = worst(
            judge_values(attached.trainable.values()), judge_losses(None, trained.final_loss), losses.judge()
        )
        if not judgement.is_kept:
            return judgement
        provenance = {
            **library.recipe(task.examples_hash(), seed),
            "steps": trained.steps,
            "best_step": trained.best_step,
            "final_loss": trained.final_loss,
            **losses.to_json(),
            **judgement.to_json(),
            "trainable_parameters": attached.parameter_count,
            "training_time_s": round(elapsed, 3),
            "training_cpu_time_s": round(cpu_elapsed, 3),
        }
        library.save(task.name, attached, provenance, manifest)
    return judgement


class _Shown:
    """Counts the steps of one task in the progress; their losses once a second, since they wait for the device."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._at, self.count = progress, -math.inf, 0

    def __call__(self, loss: torch.Tensor) -> None:
        self.count += 1
        if time.monotonic() - self._at < 1:
            self._progress.advance()
            return
        self._at = time.monotonic()
        self._progress.advance(loss=float(loss))


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def train_method_library(
    library: MethodLibrary, base: BaseModel, tasks: Sequence[Task], seed: int, prompt: PromptConfig | None = None
) -> dict[str, str]:
    """Trains the method on every task that the library does not hold yet. Returns what failed, and why.

    What is finished is on disk at once; a run that was killed goes on from there.

    Raises ValueError if the library holds a task that was made by another recipe.
    """
    prompt = prompt or PromptConfig()
    recipes = [library.recipe(prompt.apply(t).examples_hash(), seed) for t in tasks]
    missing = [t for t, recipe in zip(tasks, recipes, strict=True) if not library.holds(t.name, recipe)]
    name, steps = library.method.name, library.method.config.optimization.steps
    log.info("%s: %d of %d tasks to train", name, len(missing), len(tasks))
    failed: dict[str, str] = {}
    there, cuts = len(tasks) - len(missing), CutCount()
    with Progress(f"training {name}", len(tasks) * steps, completed=there * steps) as progress:
        for task in missing:
            steps_shown = _Shown(progress)
            judgement = train_task(library, base, task, seed, steps_shown, cuts, prompt)
            there += 1
            progress.advance(steps - steps_shown.count, tasks=there)  # patience may have spared some
            if not judgement.is_kept:
                failed[task.name] = str(judgement)
                log.warning("%s on task %s %s: left out", name, task.name, judgement)
            elif not judgement.is_sound:
                log.warning("%s on task %s %s: kept, and marked as such", name, task.name, judgement)
    cuts.warn(library.method.config.optimization.max_length)
    return failed


def make_method_library(
    folder: Path,
    method: Method[Any],
    base: BaseModel,
    tasks: Sequence[Task],
    seed: int,
    record: Mapping[str, Any],
    prompt: PromptConfig | None = None,
) -> None:
    """Trains the method's missing tasks into a library folder, and records that the base did not change.

    Raises ValueError if the folder holds another method, other settings or another base.
    """
    library = MethodLibrary(folder, method, base.fingerprint)
    if (folder / RECORD_FILE).is_file():
        there = MethodLibrary.open(folder)
        if (there.method.name, there.method.settings()) != (method.name, method.settings()):
            raise ValueError(
                f"{folder} holds method {there.method.name} with other settings: choose another run_dir, "
                "or remove that folder"
            )
        there.check_base(base)
    library.write_record(record)
    with verify_frozen(base.model) as parameters:
        failed = train_method_library(library, base, tasks, seed, prompt)
    library.write_record({**record, "base_parameters_sha256": parameters, "failed": failed})
    log.info("%s for %d tasks in %s", method.name, len(library.tasks()), folder)
