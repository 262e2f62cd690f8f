"""Trains many LoRAs at once on one frozen base model.

K tasks share every forward and backward pass: each has its own rows, its own adapter, its own loss, its
own gradient clipping, its own initial values and data order, all from (seed, task). The sum of the
tasks' losses has no cross terms and AdamW works element by element, so a task's adapter is the one it
would have got alone, up to rounding.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from t2l.base_model import BaseModel
from t2l.batches import RowCycle, collate
from t2l.injection import inject
from t2l.library import AdapterLibrary
from t2l.lora import LoraSpec, LoraWeights, concatenate, fresh_lora
from t2l.objectives import response_loss
from t2l.seeding import generator_for
from t2l.tasks import Task, TokenizedExample, tokenize_examples

log = logging.getLogger(__name__)


@dataclass
class LibraryTrainingConfig:
    """How each adapter of a library is trained."""

    steps: int = 100
    """optimiser steps per adapter"""
    rows_per_task: int = 8
    """examples per task and step"""
    tasks_at_once: int = 16
    """adapters trained in one forward pass"""
    lr: float = 0.01
    """peak learning rate of AdamW"""
    warmup_fraction: float = 0.1
    """part of the steps over which the learning rate rises; it then falls linearly to zero"""
    weight_decay: float = 0.0
    """decoupled weight decay"""
    clip: float = 1.0
    """largest gradient norm per adapter"""
    shared_a: bool = False
    """every adapter starts from the same A, so that adapters of a library are comparable"""
    train_a: bool = True
    """whether A is trained; false with shared_a leaves one A for the whole library (LoRA-FA)"""
    max_length: int = 512
    """longest sequence in tokens; prompts are cut on the left"""

    def __post_init__(self) -> None:
        for key in ("steps", "rows_per_task", "tasks_at_once"):
            if getattr(self, key) < 1:
                raise ValueError(f"library_training.{key} must be at least 1, not {getattr(self, key)}")
        if self.lr <= 0 or self.clip <= 0:
            raise ValueError("library_training: lr and clip must be positive")
        if not 0 <= self.warmup_fraction < 1:
            raise ValueError(f"library_training.warmup_fraction must be in [0, 1), not {self.warmup_fraction}")


@dataclass(frozen=True)
class TrainingJob:
    """One adapter to train: its name and its tokenized examples."""

    name: str
    rows: Sequence[TokenizedExample]


@dataclass(frozen=True)
class TrainedAdapter:
    """A trained adapter (batch of one) and its loss, averaged over the last tenth of the steps (nats per token)."""

    name: str
    weights: LoraWeights
    final_loss: float

    @property
    def diverged(self) -> bool:
        """Whether the loss or any weight is not a finite number."""
        return not (math.isfinite(self.final_loss) and all(bool(t.isfinite().all()) for t in self.weights.tensors()))


def linear_schedule(step: int, steps: int, warmup_fraction: float) -> float:
    """Factor on the peak learning rate: linear rise, then linear fall to zero at `steps`."""
    warmup = max(1, round(steps * warmup_fraction))
    return min(1.0, (step + 1) / warmup, (steps - step) / max(1, steps - warmup))


def initial_adapter(spec: LoraSpec, seed: int, name: str, shared_a: bool) -> LoraWeights:
    """A fresh LoRA from (seed, name), or from the seed alone where A is shared."""
    key = int(generator_for("init", seed, "" if shared_a else name).integers(2**62))
    return fresh_lora(spec, torch.Generator().manual_seed(key))


def _clip_each(parameters: Sequence[Tensor], limit: float) -> Float[Tensor, " adapters"]:
    """Scales each adapter's gradients to a norm of at most `limit`; returns the norms before."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    squares = torch.stack([g.flatten(1).square().sum(dim=1) for g in gradients]).sum(dim=0)
    norms = squares.sqrt()
    factor = (limit / (norms + 1e-6)).clamp(max=1.0)
    for g in gradients:
        g.mul_(factor.view(-1, *[1] * (g.ndim - 1)))
    return norms


def train_adapters(
    base: BaseModel, spec: LoraSpec, jobs: Sequence[TrainingJob], config: LibraryTrainingConfig, seed: int
) -> list[TrainedAdapter]:
    """Trains one adapter per job, all at once, and returns them in order."""
    device = base.device
    start = concatenate(initial_adapter(spec, seed, j.name, config.shared_a) for j in jobs).to(device)
    A = {k: v.requires_grad_(config.train_a) for k, v in start.A.items()}
    B = {k: v.requires_grad_(True) for k, v in start.B.items()}
    weights = LoraWeights(A, B)
    parameters = [t for t in weights.tensors() if t.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=config.lr, weight_decay=config.weight_decay, foreach=True)
    cycles = [RowCycle(len(j.rows), seed, j.name) for j in jobs]
    tail: list[Tensor] = []
    for step in range(config.steps):
        factor = linear_schedule(step, config.steps, config.warmup_fraction)
        for group in optimizer.param_groups:
            group["lr"] = config.lr * factor
        rows = [j.rows[i] for j, c in zip(jobs, cycles, strict=True) for i in c.take(step, config.rows_per_task)]
        batch = collate(rows, base.tokenizer.pad_token_id, device)
        with inject(base.model, spec, weights):
            logits = base.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False).logits
            losses = response_loss(logits, batch.labels).view(len(jobs), -1).mean(dim=1)
            losses.sum().backward()
        _clip_each(parameters, config.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step >= config.steps - max(1, config.steps // 10):
            tail.append(losses.detach())
    final = torch.stack(tail).mean(dim=0).tolist()
    trained = weights.detach().to("cpu")
    return [TrainedAdapter(j.name, trained[i], final[i]) for i, j in enumerate(jobs)]


def _job(base: BaseModel, task: Task, config: LibraryTrainingConfig) -> TrainingJob:
    rows = tokenize_examples(base.tokenizer, task.examples["train"], max_length=config.max_length)
    return TrainingJob(task.name, rows)


def _longest(job: TrainingJob) -> int:
    return max(len(r.prompt_ids) + len(r.response_ids) for r in job.rows)


def _recipe(task_hash: str, config: LibraryTrainingConfig, seed: int) -> dict[str, Any]:
    # How many tasks share a pass does not change an adapter, so it is no part of its recipe.
    settings = {k: v for k, v in asdict(config).items() if k != "tasks_at_once"}
    return {"data_sha256": task_hash, "seed": seed, "training": settings}


def train_library(
    library: AdapterLibrary, base: BaseModel, tasks: Sequence[Task], config: LibraryTrainingConfig, seed: int
) -> list[str]:
    """Trains an adapter for every task that the library does not hold yet. Returns names that diverged.

    Finished adapters are on disk as soon as their group is; a run that was killed goes on from there.

    Raises:
        ValueError: the library holds an adapter of a task that was made by another recipe.
    """
    from rich.progress import Progress

    missing = [t for t in tasks if not library.holds(t.name, _recipe(t.examples_hash(), config, seed))]
    log.info("library %s: %d of %d adapters to train", library.folder, len(missing), len(tasks))
    diverged: list[str] = []
    with Progress() as progress:
        bar = progress.add_task("training adapters", total=len(tasks), completed=len(tasks) - len(missing))
        jobs_of = {t.name: _job(base, t, config) for t in missing}
        # Tasks of like length share a pass, so that little of it is padding.
        missing.sort(key=lambda t: (_longest(jobs_of[t.name]), t.name))
        for i in range(0, len(missing), config.tasks_at_once):
            group = missing[i : i + config.tasks_at_once]
            jobs = [jobs_of.pop(t.name) for t in group]
            for task, adapter in zip(group, train_adapters(base, library.spec, jobs, config, seed), strict=True):
                if adapter.diverged:
                    log.warning("task %s diverged (loss %s): left out of the library", task.name, adapter.final_loss)
                    diverged.append(task.name)
                    continue
                recipe = _recipe(task.examples_hash(), config, seed)
                library.save(
                    task.name, adapter.weights, {**recipe, "steps": config.steps, "final_loss": adapter.final_loss}
                )
            progress.advance(bar, len(group))
    return diverged


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
    provenance = {**recipe, "steps": config.steps, "final_loss": adapter.final_loss, "tasks": [t.name for t in tasks]}
    library.save(name, adapter.weights, provenance)
