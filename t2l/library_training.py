"""Trains a library: an oracle LoRA for every task, many at once, and the multi-task LoRA by the same loop.

What one adapter goes through is in `slots.py`; here are the queue of tasks, the memory budget, what is
already on disk, and what becomes of adapters that diverge.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from t2l.base_model import BaseModel, label_logits
from t2l.batches import collate
from t2l.distributed import World
from t2l.files import atomic_folder, read_json, read_tensors, remove_folder, write_json, write_tensors
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
    snapshot_every: int = 200
    """steps of the trainer between snapshots, from which a killed run goes on to the very same adapters"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tasks_at_once is not None and self.tasks_at_once < 1:
            raise ValueError(f"training.tasks_at_once must be at least 1, not {self.tasks_at_once}; null: automatic")
        if self.snapshot_every < 1:
            raise ValueError(f"training.snapshot_every must be at least 1, not {self.snapshot_every}")
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


SNAPSHOT_FILES = ("trainer.safetensors", "trainer.json")


class Snapshots:
    """The state of a trainer on disk, whole or absent.

    Adapters do not depend on their neighbours, but the last bits of float32 do; from a snapshot, a
    killed run goes on with the neighbours it had.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self.folder, self.identity = folder, dict(identity)

    def save(self, trainer: SlotTrainer) -> None:
        """Writes the trainer's state in place of an earlier one."""
        record, tensors = trainer.snapshot()
        with atomic_folder(self.folder, SNAPSHOT_FILES) as temporary:
            write_tensors(temporary / "trainer.safetensors", tensors)
            write_json(temporary / "trainer.json", {"identity": self.identity, **record})

    def names(self) -> list[str]:
        """Jobs of the snapshot, in slots or queued; none where there is no snapshot of this identity."""
        if not (self.folder / "trainer.json").is_file():
            return []
        record = read_json(self.folder / "trainer.json")
        if record["identity"] != json.loads(json.dumps(self.identity)):
            return []
        return [*(s["name"] for s in record["slots"]), *record["queue"]]

    def resume(self, trainer: SlotTrainer, jobs: Sequence[TrainingJob]) -> None:
        """Brings a trainer of exactly these jobs to the snapshot's state, where there is one."""
        if set(self.names()) == {j.name for j in jobs}:
            record = read_json(self.folder / "trainer.json")
            trainer.restore(record, read_tensors(self.folder / "trainer.safetensors"), jobs)

    def remove(self) -> None:
        """Deletes the snapshot: there is nothing left to go on with."""
        remove_folder(self.folder, SNAPSHOT_FILES)


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
) -> list[TrainedAdapter]:
    """Trains one adapter per job and returns them in the jobs' order.

    Args:
        snapshots: where the trainer's state is kept, and taken up from where there is one.
        on_finished: called with each adapter as soon as it is finished.
        world: several processes deal the jobs out among themselves; each of them hears of every
            adapter, a little later.
    """
    if not jobs:
        return []
    world = world or World()
    mine = jobs[world.rank :: world.size]
    trainer = SlotTrainer(base, spec, mine, tasks_at_once(base, spec, mine, config), config, seed) if mine else None
    if snapshots is not None and trainer is not None:
        snapshots.resume(trainer, jobs)
    finished: dict[str, TrainedAdapter] = {}
    is_everyone_done, steps = False, 0
    while not is_everyone_done:
        fresh: list[TrainedAdapter] = []
        # A process that is done waits at the gathering for the others.
        for _ in range(1 if world.size == 1 else STEPS_BETWEEN_GATHERINGS):
            if trainer is not None and not trainer.done:
                fresh.extend(trainer.step())
                steps += 1
        gathered = world.gather((trainer is None or trainer.done, fresh))
        is_everyone_done = all(done for done, _ in gathered)
        for adapter in (a for _, adapters in gathered for a in adapters):
            finished[adapter.name] = adapter
            if on_finished is not None:
                on_finished(adapter)
        if snapshots is not None and trainer is not None and steps % config.snapshot_every == 0 and not trainer.done:
            snapshots.save(trainer)
    if snapshots is not None:
        snapshots.remove()
    return [finished[j.name] for j in jobs if j.name in finished]


def _job(base: BaseModel, task: Task, config: LibraryTrainingConfig) -> TrainingJob:
    def tokenized(split: str) -> list[Any]:
        return tokenize_examples(base.tokenizer, task.examples.get(split, ()), max_length=config.max_length)

    return TrainingJob(task.name, tokenized("train"), tokenized("validation"))


def _longest(job: TrainingJob) -> int:
    return max(r.length for r in job.rows)


# How tasks share the machine does not change an adapter, so it is no part of its recipe.
_NOT_RECIPE = ("tasks_at_once", "memory_gb", "gradient_checkpointing", "pass_cost", "snapshot_every")


def _recipe(task_hash: str, config: LibraryTrainingConfig, seed: int) -> dict[str, Any]:
    settings = {k: v for k, v in asdict(config).items() if k not in _NOT_RECIPE}
    return {"data_sha256": task_hash, "seed": seed, "training": settings}


def _outcome(adapter: TrainedAdapter) -> dict[str, Any]:
    return {
        "steps": adapter.steps,
        "final_loss": adapter.final_loss,
        "validation_loss": adapter.validation_loss,
        "training_time_s": round(adapter.training_time_s, 3),
    }


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
    snapshots = None
    if world.size == 1:
        identity = {"recipes": recipes, "tasks_at_once": config.tasks_at_once, "pass_cost": config.pass_cost}
        snapshots = Snapshots(library.folder / ".in_progress", identity)
        again = set(snapshots.names())
        if again and again >= {t.name for t in missing}:  # a few finished since the snapshot; they come out the same
            missing = [t for t in tasks if t.name in again]
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

        train_adapters(base, library.spec, jobs, config, seed, keep, world, snapshots)
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
