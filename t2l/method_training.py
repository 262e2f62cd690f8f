"""Trains any adaptation method on one task after another: the loop that all rows of the comparison share.

Data order, schedule, clipping, loss and optimiser are the library's own; only what is trained differs.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from t2l.base_model import BaseModel, verify_frozen
from t2l.batches import RowCycle, collate
from t2l.methods import Attached, Method
from t2l.methods.library import RECORD_FILE, MethodLibrary
from t2l.objectives import response_loss
from t2l.seeding import generator_for
from t2l.slots import linear_schedule
from t2l.tasks import CutCount, Task, TokenizedExample, tokenize_examples

log = logging.getLogger(__name__)


def initial_seed(seed: int, name: str) -> int:
    """The seed of a task's initial values, a function of (seed, name)."""
    return int(generator_for("init", seed, name).integers(2**62))


def train_attached(
    method: Method[Any], attached: Attached, base: BaseModel, rows: Sequence[TokenizedExample], seed: int, name: str
) -> float:
    """Trains an attached method on one task's rows, in place.

    Returns the cross-entropy (nats per token, averaged per example) over the last tenth of the steps; nan
    or inf where it diverged.
    """
    how = method.config.optimization
    optimizer = method.optimizer(attached)
    parameters = list(attached.trainable.values())
    peaks = [group["lr"] for group in optimizer.param_groups]
    cycle = RowCycle(len(rows), seed, name)
    tail: list[torch.Tensor] = []
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
        if step >= how.steps - max(1, how.steps // 10):
            tail.append(loss.detach())
    return torch.stack(tail).mean().item()


def train_task(library: MethodLibrary, base: BaseModel, task: Task, seed: int, cuts: CutCount | None = None) -> bool:
    """Trains the library's method on one task and saves it. Returns whether it did not diverge.

    The recorded time covers attaching and all optimiser steps, not tokenizing or saving; the processor time
    beside it (of all threads) does not depend on what else the machine does. `cuts` counts rows that were cut.
    """
    method = library.method
    longest = method.config.optimization.max_length
    rows = tokenize_examples(base.tokenizer, task.examples["train"], "", longest, task.name, cuts)
    start, cpu_start = time.perf_counter(), time.process_time()
    with method.attach(base, initial_seed(seed, task.name)) as attached:
        loss = train_attached(method, attached, base, rows, seed, task.name)
        elapsed, cpu_elapsed = time.perf_counter() - start, time.process_time() - cpu_start
        if not (math.isfinite(loss) and all(bool(p.isfinite().all()) for p in attached.trainable.values())):
            log.warning("%s on task %s diverged (loss %s): left out", method.name, task.name, loss)
            return False
        provenance = {
            **library.recipe(task.examples_hash(), seed),
            "steps": method.config.optimization.steps,
            "final_loss": loss,
            "trainable_parameters": attached.parameter_count,
            "training_time_s": round(elapsed, 3),
            "training_cpu_time_s": round(cpu_elapsed, 3),
        }
        library.save(task.name, attached, provenance)
    return True


def train_method_library(library: MethodLibrary, base: BaseModel, tasks: Sequence[Task], seed: int) -> list[str]:
    """Trains the method on every task that the library does not hold yet. Returns names that diverged.

    What is finished is on disk at once; a run that was killed goes on from there.

    Raises ValueError where the library holds a task that was made by another recipe.
    """
    from rich.progress import Progress

    missing = [t for t in tasks if not library.holds(t.name, library.recipe(t.examples_hash(), seed))]
    log.info("%s: %d of %d tasks to train", library.method.name, len(missing), len(tasks))
    failed: list[str] = []
    cuts = CutCount()
    with Progress() as progress:
        bar = progress.add_task(
            f"training {library.method.name}", total=len(tasks), completed=len(tasks) - len(missing)
        )
        for task in missing:
            if not train_task(library, base, task, seed, cuts):
                failed.append(task.name)
            progress.advance(bar)
    cuts.warn(library.method.config.optimization.max_length)
    return failed


def make_method_library(
    folder: Path, method: Method[Any], base: BaseModel, tasks: Sequence[Task], seed: int, record: Mapping[str, Any]
) -> None:
    """Trains the method's missing tasks into a library folder, and records that the base did not change.

    Raises ValueError where the folder holds another method, other settings or another base.
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
        failed = train_method_library(library, base, tasks, seed)
    library.write_record({**record, "base_parameters_sha256": parameters, "failed": failed})
    log.info("%s for %d tasks in %s", method.name, len(library.tasks()), folder)
