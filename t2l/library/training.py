"""Trains a library: an oracle LoRA for every task, many at once, and the multi-task LoRA by the same loop.

What one adapter goes through is in `slots.py`, how it is judged in `soundness.py`; here are the queue of tasks, the
memory budget, what is already on disk, and what becomes of adapters that are not sound.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from t2l.base_model import BaseModel, label_logits
from t2l.checks import at_least, positive
from t2l.distributed import World
from t2l.library.folder import AdapterLibrary
from t2l.library.slots import SlotConfig, SlotTrainer, TrainedAdapter, TrainingJob, initial_adapter
from t2l.library.snapshots import Snapshots
from t2l.library.trained_on import adapter_manifest, joint_hash
from t2l.lora import LoraSpec, inject
from t2l.objectives.losses import label_loss
from t2l.objectives.soundness import Trained, judge_adapter, measure_losses, target_norm
from t2l.run.progress import Progress
from t2l.tasks import CutCount, PromptConfig, Task, TokenizedExample, tokenize_examples
from t2l.tasks.batches import collate

log = logging.getLogger(__name__)
STEPS_BETWEEN_GATHERINGS = 20
"""optimiser steps after which several processes tell one another which adapters are finished"""


@dataclass
class LibraryTrainingConfig(SlotConfig):
    """How the adapters of a library are trained."""

    tasks_at_once: int | None = 16
    """adapters that share a forward pass; None: as many as memory_gb holds"""
    memory_gb: float = 4.0
    """memory (GiB, beside the base model's) that tasks_at_once=null may fill"""
    snapshot_every: int = 200
    """steps of the trainer between snapshots, from which a killed run goes on to the very same adapters"""
    snapshot_minutes: float = 10.0
    """most minutes between snapshots, however slow the steps are"""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "tasks_at_once", "snapshot_every", under="training")
        positive(self, "memory_gb", "snapshot_minutes", under="training")


def bytes_per_task(base: BaseModel, spec: LoraSpec, jobs: Sequence[TrainingJob], config: LibraryTrainingConfig) -> int:
    """Memory one more task takes in a step, measured on the longest row there is.

    Adapter, gradient and two moments, plus everything autograd keeps for the backward pass, which
    grows linearly with rows.
    """
    longest = max((r for j in jobs for r in j.rows), key=lambda r: r.length)
    batch = collate([longest], base.tokenizer.pad_token_id, base.device)
    weights = initial_adapter(spec, 0, "", False).to(base.device).map(lambda t: t.requires_grad_())
    kept: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    parameters = {t.untyped_storage().data_ptr() for t in (*base.model.parameters(), *weights.tensors())}
    with inject(base.model, spec, weights), torch.autograd.graph.saved_tensors_hooks(count, lambda t: t):
        found = label_logits(base.model, batch.input_ids, batch.attention_mask, batch.labels)
        loss = label_loss(found.logits, found.targets, found.rows, 1)
    del loss
    activations = sum(size for pointer, size in kept.items() if pointer not in parameters)
    if config.gradient_checkpointing:
        # One layer at a time is recomputed; what stays is each layer's input.
        layers = max(1, int(getattr(base.model.config, "num_hidden_layers", 1)))
        activations = activations // layers + layers * longest.length * spec.groups[0].d_in * 4
    return 4 * 4 * spec.parameters_per_adapter + config.rows_per_task * activations


def tasks_at_once(base: BaseModel, spec: LoraSpec, jobs: Sequence[TrainingJob], config: LibraryTrainingConfig) -> int:
    """How many tasks share a pass: as configured, or as many as the memory budget holds."""
    if config.tasks_at_once is not None:
        return config.tasks_at_once
    each = bytes_per_task(base, spec, jobs, config)
    count = max(1, min(len(jobs), int(config.memory_gb * 2**30 / each)))
    log.info("%d tasks at once: %.1f MiB each, budget %.1f GiB", count, each / 2**20, config.memory_gb)
    return count


def train_adapters(
    base: BaseModel,
    spec: LoraSpec,
    jobs: Sequence[TrainingJob],
    config: LibraryTrainingConfig,
    seed: int,
    on_finished: Callable[[TrainedAdapter], None] | None = None,
    world: World | None = None,
    snapshots: Snapshots | None = None,
    on_step: Callable[[SlotTrainer], None] | None = None,
) -> list[TrainedAdapter]:
    """Trains one adapter per job, judges it, and returns them in the jobs' order, or hands each on and keeps none.

    Args:
        on_finished: called with each adapter as soon as it is finished; nothing is returned then, since a library of a
            real model does not fit into memory.
        world: several processes deal the jobs out among themselves; each of them hears of every
            adapter, a little later.
        snapshots: where the trainer's state is kept, and taken up from if there is one.
        on_step: called with this process's trainer after each of its steps, and once before the first.
    """
    if not jobs:
        return []
    world = world or World()
    mine = jobs[world.rank :: world.size]
    trainer = SlotTrainer(base, spec, mine, tasks_at_once(base, spec, mine, config), config, seed) if mine else None
    if snapshots is not None and trainer is not None:
        snapshots.resume(trainer, jobs)
    if on_step is not None and trainer is not None:
        on_step(trainer)
    base_norm, by_name = target_norm(base.model, spec), {j.name: j for j in mine}
    finished: dict[str, TrainedAdapter] = {}
    is_everyone_done = False
    while not is_everyone_done:
        fresh: list[TrainedAdapter] = []
        # A process that is done waits at the gathering for the others.
        for _ in range(1 if world.size == 1 else STEPS_BETWEEN_GATHERINGS):
            if trainer is None or trainer.done:
                break
            fresh.extend(_judged(base, spec, trainer.step(), by_name, config, trainer.rows_at_once, base_norm))
            if on_step is not None:
                on_step(trainer)
        gathered = world.gather((trainer is None or trainer.done, fresh))
        is_everyone_done = all(done for done, _ in gathered)
        for adapter in (a for _, adapters in gathered for a in adapters):
            if on_finished is None:
                finished[adapter.name] = adapter
            else:
                on_finished(adapter)
        if snapshots is not None and trainer is not None:
            snapshots.after_step(trainer)
    if snapshots is not None:
        snapshots.remove()
    return [finished[j.name] for j in jobs if j.name in finished]


def _judged(
    base: BaseModel,
    spec: LoraSpec,
    adapters: Sequence[TrainedAdapter],
    jobs: Mapping[str, TrainingJob],
    config: LibraryTrainingConfig,
    at_once: int,
    base_norm: float,
) -> list[TrainedAdapter]:
    trained = [Trained(a.weights, jobs[a.name].rows, jobs[a.name].validation_rows, a.validation_loss) for a in adapters]
    return [
        replace(a, losses=losses, judgement=judge_adapter(spec, a.weights, losses, a.final_loss, base_norm))
        for a, losses in zip(adapters, measure_losses(base, spec, trained, at_once, config.autocast), strict=True)
    ]


def training_job(base: BaseModel, task: Task, max_length: int, cuts: CutCount | None = None) -> TrainingJob:
    """A task's training and validation rows, of at most `max_length` tokens; `cuts` counts those that were cut."""

    def tokenized(split: str) -> list[TokenizedExample]:
        return tokenize_examples(base.tokenizer, task.examples.get(split, ()), "", max_length, task.name, cuts)

    return TrainingJob(task.name, tokenized("train"), tokenized("validation"))


# How tasks share the machine does not change an adapter, so it is no part of its recipe.
_NOT_RECIPE = "tasks_at_once memory_gb gradient_checkpointing pass_cost snapshot_every snapshot_minutes".split()


def _recipe(task_hash: str, config: LibraryTrainingConfig, seed: int) -> dict[str, Any]:
    settings = {k: v for k, v in asdict(config).items() if k not in _NOT_RECIPE}
    return {"data_sha256": task_hash, "seed": seed, "training": settings}


def _snapshots(folder: Path, identity: Mapping[str, Any], config: LibraryTrainingConfig) -> Snapshots:
    return Snapshots(folder / ".in_progress", identity, config.snapshot_every, config.snapshot_minutes)


def _outcome(adapter: TrainedAdapter) -> dict[str, Any]:
    return {
        "steps": adapter.steps,
        "final_loss": adapter.final_loss,
        **adapter.losses.to_json(),
        **adapter.judgement.to_json(),
        "training_time_s": round(adapter.training_time_s, 3),
    }


class _Newest:
    """The newest numbers of a trainer for a line of progress, computed once a second: they wait for the device."""

    def __init__(self) -> None:
        self._at, self._loss = -math.inf, math.nan

    def __call__(self, trainer: SlotTrainer) -> dict[str, float | None]:
        if not trainer.done and (math.isnan(self._loss) or time.monotonic() - self._at >= 1):
            self._at, self._loss = time.monotonic(), trainer.loss
        return {"running": len(trainer.running), "loss": None if math.isnan(self._loss) else self._loss}


def train_library(
    library: AdapterLibrary,
    base: BaseModel,
    tasks: Sequence[Task],
    config: LibraryTrainingConfig,
    seed: int,
    world: World | None = None,
    prompt: PromptConfig | None = None,
) -> dict[str, str]:
    """Trains an adapter for every task that the library does not hold yet. Returns what failed, and why.

    An adapter is on disk as soon as it is finished; a run that was killed goes on from there. Several
    processes deal the tasks out among themselves, and the main one writes. An adapter that diverged is left out; one
    that learnt nothing is kept, and its provenance says so.

    Args:
        prompt: whether the tasks' definitions stand in their prompts; None: they do not.

    Raises:
        ValueError: the library holds an adapter of a task that was made by another recipe.
    """
    world, prompt = world or World(), prompt or PromptConfig()
    bare = {t.name: t for t in tasks}
    tasks = [prompt.apply(t) for t in tasks]
    recipes = {t.name: _recipe(t.examples_hash(), config, seed) for t in tasks}
    missing = [t for t in tasks if not library.holds(t.name, recipes[t.name])]
    snapshots = None
    if world.size == 1:
        snapshots = _snapshots(library.folder, {"recipes": recipes}, config)
        again = set(snapshots.names())
        if again and again >= {t.name for t in missing}:  # a few finished since the snapshot; they come out the same
            missing = [t for t in tasks if t.name in again]
    log.info("library %s: %d of %d adapters to train", library.folder, len(missing), len(tasks))
    # Tasks of like length share a pass, so that little of it is padding.
    cuts = CutCount()
    jobs = [training_job(base, t, config.max_length, cuts) for t in missing]
    jobs.sort(key=lambda j: (max(r.length for r in j.rows), j.name))
    cuts.warn(config.max_length)
    failed: dict[str, str] = {}
    world.wait()  # every process has seen the same folder before the main one adds to it
    there, newest = len(tasks) - len(missing), _Newest()
    with Progress("training adapters", len(tasks), "adapter", completed=there, shown=world.is_main) as progress:

        def keep(adapter: TrainedAdapter) -> None:
            progress.advance()
            if not adapter.judgement.is_kept:
                failed[adapter.name] = f"{adapter.judgement} (after {adapter.steps} steps)"
                log.warning("task %s %s: left out of the library", adapter.name, failed[adapter.name])
                return
            if not adapter.judgement.is_sound:
                log.warning("task %s %s: kept, and marked as such", adapter.name, adapter.judgement)
            if world.is_main:
                manifest = adapter_manifest([bare[adapter.name]], prompt, is_validated=True)
                library.save(adapter.name, adapter.weights, {**recipes[adapter.name], **_outcome(adapter)}, manifest)

        def show(trainer: SlotTrainer) -> None:
            progress.advance(0, **newest(trainer))

        train_adapters(base, library.spec, jobs, config, seed, keep, world, snapshots, show)
    return failed


def train_multi_task(
    library: AdapterLibrary,
    base: BaseModel,
    tasks: Sequence[Task],
    config: LibraryTrainingConfig,
    seed: int,
    name: str,
    prompt: PromptConfig | None = None,
) -> None:
    """Trains one static adapter on all tasks together, by the same loop, unless it is there already.

    Raises ValueError if it diverges.
    """
    prompt = prompt or PromptConfig()
    manifest = adapter_manifest(tasks, prompt, is_validated=False)
    tasks = [prompt.apply(t) for t in tasks]
    recipe = _recipe(joint_hash(tasks), config, seed)
    if library.holds(name, recipe):
        return
    cuts, longest = CutCount(), config.max_length
    rows = [r for t in tasks for r in tokenize_examples(base.tokenizer, t.examples["train"], "", longest, t.name, cuts)]
    cuts.warn(longest)
    job, newest, steps = TrainingJob(name, rows), _Newest(), [0]
    snapshots = _snapshots(library.folder, {"recipes": {name: recipe}}, config)
    with Progress("training the multi-task LoRA", config.steps) as progress:

        def show(trainer: SlotTrainer) -> None:
            done = trainer.slots[0].step if trainer.slots else config.steps
            progress.advance(done - steps[0], loss=newest(trainer)["loss"])
            steps[0] = done

        (adapter,) = train_adapters(base, library.spec, [job], config, seed, snapshots=snapshots, on_step=show)
    if not adapter.judgement.is_kept:
        raise ValueError(f"the multi-task LoRA {adapter.judgement}: lower multi_task.lr")
    if not adapter.judgement.is_sound:
        log.warning("the multi-task LoRA %s: kept, and marked as such", adapter.judgement)
    provenance = {**recipe, **_outcome(adapter), "tasks": [t.name for t in tasks]}
    library.save(name, adapter.weights, provenance, manifest)
