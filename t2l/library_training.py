"""Trains a library: an oracle LoRA for every task, many at once, and the multi-task LoRA by the same loop.

What one adapter goes through is in `slots.py`; here are the queue of tasks, the memory budget, what is
already on disk, and what becomes of adapters that diverge.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from t2l.base_model import BaseModel, label_logits
from t2l.batches import collate
from t2l.distributed import World
from t2l.injection import inject
from t2l.library import AdapterLibrary
from t2l.lora import LoraSpec
from t2l.objectives import label_loss
from t2l.seeding import generator_for
from t2l.slots import SlotConfig, SlotTrainer, TrainedAdapter, TrainingJob, initial_adapter
from t2l.tasks import Task, tokenize_examples

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

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tasks_at_once is not None and self.tasks_at_once < 1:
            raise ValueError(f"training.tasks_at_once must be at least 1, not {self.tasks_at_once}; null: automatic")
        if self.memory_gb <= 0:
            raise ValueError(f"training.memory_gb must be positive, not {self.memory_gb}")


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
) -> list[TrainedAdapter]:
    """Trains one adapter per job and returns them in the jobs' order.

    Args:
        on_finished: called with each adapter as soon as it is finished.
        world: several processes deal the jobs out among themselves; each of them hears of every
            adapter, a little later.
    """
    if not jobs:
        return []
    world = world or World()
    mine = jobs[world.rank :: world.size]
    trainer = SlotTrainer(base, spec, mine, tasks_at_once(base, spec, mine, config), config, seed) if mine else None
    finished: dict[str, TrainedAdapter] = {}
    is_everyone_done = False
    while not is_everyone_done:
        fresh: list[TrainedAdapter] = []
        # A process that is done waits at the gathering for the others.
        for _ in range(1 if world.size == 1 else STEPS_BETWEEN_GATHERINGS):
            if trainer is not None and not trainer.done:
                fresh.extend(trainer.step())
        gathered = world.gather((trainer is None or trainer.done, fresh))
        is_everyone_done = all(done for done, _ in gathered)
        for adapter in (a for _, adapters in gathered for a in adapters):
            finished[adapter.name] = adapter
            if on_finished is not None:
                on_finished(adapter)
    return [finished[j.name] for j in jobs]


def _job(base: BaseModel, task: Task, config: LibraryTrainingConfig) -> TrainingJob:
    def tokenized(split: str) -> list[Any]:
        return tokenize_examples(base.tokenizer, task.examples.get(split, ()), max_length=config.max_length)

    return TrainingJob(task.name, tokenized("train"), tokenized("validation"))


def _longest(job: TrainingJob) -> int:
    return max(r.length for r in job.rows)


# How tasks share the machine does not change an adapter, so it is no part of its recipe.
_NOT_RECIPE = ("tasks_at_once", "memory_gb", "gradient_checkpointing")


def _recipe(task_hash: str, config: LibraryTrainingConfig, seed: int) -> dict[str, Any]:
    settings = {k: v for k, v in asdict(config).items() if k not in _NOT_RECIPE}
    return {"data_sha256": task_hash, "seed": seed, "training": settings}


def _outcome(adapter: TrainedAdapter) -> dict[str, Any]:
    return {"steps": adapter.steps, "final_loss": adapter.final_loss, "validation_loss": adapter.validation_loss}


def train_library(
    library: AdapterLibrary,
    base: BaseModel,
    tasks: Sequence[Task],
    config: LibraryTrainingConfig,
    seed: int,
    world: World | None = None,
) -> dict[str, str]:
    """Trains an adapter for every task that the library does not hold yet. Returns what failed, and why.

    An adapter is on disk as soon as it is finished; a run that was killed goes on from there. Several
    processes deal the tasks out among themselves, and the main one writes.

    Raises:
        ValueError: the library holds an adapter of a task that was made by another recipe.
    """
    from rich.progress import Progress

    world = world or World()
    recipes = {t.name: _recipe(t.examples_hash(), config, seed) for t in tasks}
    missing = [t for t in tasks if not library.holds(t.name, recipes[t.name])]
    log.info("library %s: %d of %d adapters to train", library.folder, len(missing), len(tasks))
    # Tasks of like length share a pass, so that little of it is padding.
    jobs = sorted((_job(base, t, config) for t in missing), key=lambda j: (_longest(j), j.name))
    failed: dict[str, str] = {}
    world.wait()  # every process has seen the same folder before the main one adds to it
    with Progress(disable=not world.is_main) as progress:
        bar = progress.add_task("training adapters", total=len(tasks), completed=len(tasks) - len(missing))

        def keep(adapter: TrainedAdapter) -> None:
            progress.advance(bar)
            if adapter.diverged:
                failed[adapter.name] = f"diverged after {adapter.steps} steps (loss {adapter.final_loss})"
                log.warning("task %s %s: left out of the library", adapter.name, failed[adapter.name])
            elif world.is_main:
                library.save(adapter.name, adapter.weights, {**recipes[adapter.name], **_outcome(adapter)})

        train_adapters(base, library.spec, jobs, config, seed, keep, world)
    return failed


def train_multi_task(
    library: AdapterLibrary, base: BaseModel, tasks: Sequence[Task], config: LibraryTrainingConfig, seed: int, name: str
) -> None:
    """Trains one static adapter on all tasks together, by the same loop, unless it is there already."""
    joint = "+".join(t.examples_hash() for t in tasks)
    recipe = _recipe(generator_for(joint).bytes(16).hex(), config, seed)
    if library.holds(name, recipe):
        return
    rows = [
        r for t in tasks for r in tokenize_examples(base.tokenizer, t.examples["train"], max_length=config.max_length)
    ]
    (adapter,) = train_adapters(base, library.spec, [TrainingJob(name, rows)], config, seed)
    if adapter.diverged:
        raise ValueError(f"the multi-task LoRA diverged (loss {adapter.final_loss}): lower multi_task.lr")
    provenance = {**recipe, **_outcome(adapter), "tasks": [t.name for t in tasks]}
    library.save(name, adapter.weights, provenance)
