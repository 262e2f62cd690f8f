"""The one training loop, for every objective.

An objective computes the loss of a step and runs backward (SFT must do so while its adapters are in
place); the loop owns the schedule, clipping, logging, checkpoints and resuming.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from t2l.base_model import BaseModel, checkpointing, label_logits
from t2l.batches import TaskDraw, cheapest_passes, collate, draw_noise, draw_tasks, gather_embeddings
from t2l.checkpoint import CheckpointRecord, TrainingData, latest_checkpoint, resume, save_checkpoint
from t2l.distributed import World, unwrap
from t2l.hypernetwork import Hypernetwork
from t2l.injection import inject
from t2l.lora import LoraWeights
from t2l.objectives import frobenius_distance, l1_distance, label_loss, product_norm, weight_penalty
from t2l.run import Run
from t2l.slots import linear_schedule
from t2l.soundness import judge_run
from t2l.tasks import TokenizedExample

log = logging.getLogger(__name__)
OPTIMIZERS = ("adamw", "adamw_8bit")
ADAPTER_DTYPES = ("float32", "bfloat16", "float16")


@dataclass
class TrainerConfig:
    """The training loop of a hypernetwork."""

    steps: int = 1000
    """optimiser steps"""
    lr: float = 0.001
    """peak learning rate of AdamW"""
    weight_decay: float = 0.01
    """decoupled weight decay"""
    beta2: float = 0.999
    """decay of AdamW's second moment"""
    warmup_fraction: float = 0.1
    """part of the steps over which the learning rate rises; it then falls linearly to zero"""
    clip: float = 1.0
    """largest gradient norm"""
    tasks_per_step: int = 48
    """tasks per step, one description each"""
    rows_per_task: int = 3
    """examples per task and step (SFT)"""
    description_whitening: float | None = None
    """shrinkage in (0, 1] of the within-task covariance that descriptions are whitened by; None leaves them"""
    description_noise: float = 0.0
    """norm of the Gaussian noise added to a (whitened) description in training, relative to its own"""
    optimizer: str = "adamw"
    """adamw, or adamw_8bit: moments in 8 bits by bitsandbytes (Dettmers et al. 2022, arXiv:2110.02861)"""
    max_length: int = 512
    """longest sequence in tokens; user turns lose their beginning (SFT)"""
    gradient_checkpointing: bool = False
    """recompute each decoder layer of the base in the backward pass instead of keeping its activations (SFT)"""
    rows_per_pass: int | None = None
    """most rows that go through the base at once; a step's gradients are summed over its passes, so that this changes
    memory alone; None: no limit (SFT)"""
    adapter_dtype: str = "float32"
    """precision in which generated adapters are multiplied; the hypernetwork itself stays in float32 (SFT)"""
    pass_cost: int = 512
    """what a pass through the base costs beside its tokens, in tokens; tasks share passes so that tokens with
    padding + passes is least (SFT)"""
    checkpoint_every: int = 100
    """steps between checkpoints"""
    log_every: int = 10
    """steps between lines of metrics.jsonl"""

    def __post_init__(self) -> None:
        counts = (
            "steps",
            "tasks_per_step",
            "rows_per_task",
            "checkpoint_every",
            "log_every",
            "pass_cost",
            "max_length",
        )
        for key in counts:
            if getattr(self, key) < 1:
                raise ValueError(f"trainer.{key} must be at least 1, not {getattr(self, key)}")
        for key, allowed in (("optimizer", OPTIMIZERS), ("adapter_dtype", ADAPTER_DTYPES)):
            if getattr(self, key) not in allowed:
                raise ValueError(f"trainer.{key} must be one of {', '.join(allowed)}, not {getattr(self, key)!r}")
        if self.rows_per_pass is not None and self.rows_per_pass < self.rows_per_task:
            raise ValueError(
                f"trainer.rows_per_pass={self.rows_per_pass} is less than rows_per_task={self.rows_per_task}, and the "
                "rows of a task share a pass"
            )
        if self.lr <= 0 or self.clip <= 0:
            raise ValueError("trainer: lr and clip must be positive")
        if self.description_whitening is not None and not 0 < self.description_whitening <= 1:
            raise ValueError(f"trainer.description_whitening must be in (0, 1], not {self.description_whitening}")
        if not 0 < self.beta2 < 1:
            raise ValueError(f"trainer.beta2 must be in (0, 1), not {self.beta2}")
        if self.description_noise < 0:
            raise ValueError(f"trainer.description_noise must be 0 or more, not {self.description_noise}")
        if not 0 <= self.warmup_fraction < 1:
            raise ValueError(f"trainer.warmup_fraction must be in [0, 1), not {self.warmup_fraction}")


@dataclass
class SftConfig:
    """Cross-entropy on responses through the frozen base model."""

    name: str = "sft"
    """fixed"""
    label_smoothing: float = 0.0
    """mass spread evenly over the vocabulary"""
    weight_penalty: float = 0.001
    """factor of the mean square of generated A and B"""

    def __post_init__(self) -> None:
        if self.name != "sft":
            raise ValueError(f"objective.name must be 'sft' here, not {self.name!r}")
        if not 0 <= self.label_smoothing < 1 or self.weight_penalty < 0:
            raise ValueError("objective: label_smoothing must be in [0, 1) and weight_penalty >= 0")


@dataclass
class ReconstructionConfig:
    """Distance between generated and library adapters."""

    name: str = "reconstruction"
    """fixed"""
    distance: str = "l1"
    """l1: mean absolute difference of A and of B; frobenius: squared distance of the products BA"""
    standardise: bool = True
    """z-score every element over the library (l1), or divide by the target's squared norm (frobenius)"""

    def __post_init__(self) -> None:
        if self.name != "reconstruction":
            raise ValueError(f"objective.name must be 'reconstruction' here, not {self.name!r}")
        if self.distance not in ("l1", "frobenius"):
            raise ValueError(f"objective.distance must be l1 or frobenius, not {self.distance!r}")


class Objective(Protocol):
    """What the loop needs of an objective."""

    def backward(self, hypernetwork: nn.Module, step: int) -> dict[str, float]:
        """Computes a step's loss, accumulates gradients, and returns metrics to log.

        `hypernetwork` is a Hypernetwork or its data-parallel wrapper.
        """
        ...


class _Descriptions:
    """The training descriptions as the hypernetwork reads them, computed once: nothing in that step is trained."""

    def __init__(
        self, embeddings: Sequence[Float[Tensor, "descriptions d_embedding"]], noise: float, seed: int
    ) -> None:
        self.counts, self._embeddings = [len(e) for e in embeddings], embeddings
        self._noise, self._seed = noise, seed
        self._described: list[Tensor] | None = None

    def generate(
        self, hypernetwork: nn.Module, draw: TaskDraw, share: slice, step: int, device: torch.device
    ) -> LoraWeights:
        """Adapters for this process's share of a draw; noise is drawn for the whole of it, so shares agree."""
        if self._described is None:
            describe = unwrap(hypernetwork).describe
            with torch.no_grad():
                self._described = [describe(e.to(device)) for e in self._embeddings]
        descriptions = gather_embeddings(self._described, draw.part(share), device)
        if not self._noise:
            return hypernetwork(descriptions, is_described=True)
        drawn = draw_noise(self._seed, step, len(draw.tasks), descriptions.shape[1])[share]
        return hypernetwork(descriptions, self._noise * drawn.to(device), is_described=True)


class SftObjective:
    """Cross-entropy of responses under generated adapters (the SFT loss of Charakorn et al. 2025)."""

    def __init__(
        self,
        config: SftConfig,
        trainer: TrainerConfig,
        seed: int,
        base: BaseModel,
        rows: Sequence[Sequence[TokenizedExample]],
        embeddings: Sequence[Float[Tensor, "descriptions d_embedding"]],
        world: World | None = None,
    ) -> None:
        self.config, self.trainer, self.seed, self.base = config, trainer, seed, base
        self.rows, self.world = rows, world or World()
        self._adapter_dtype: torch.dtype = getattr(torch, trainer.adapter_dtype)
        self.descriptions = _Descriptions(embeddings, trainer.description_noise, seed)
        fewest = min(len(r) for r in rows)
        if fewest < trainer.rows_per_task:
            raise ValueError(
                f"trainer.rows_per_task={trainer.rows_per_task} is more than a task has training examples ({fewest})"
            )

    def backward(self, hypernetwork: nn.Module, step: int) -> dict[str, float]:
        """One step on `tasks_per_step` tasks with `rows_per_task` examples each."""
        draw = draw_tasks(
            self.seed, step, len(self.rows), self.trainer.tasks_per_step,
            self.descriptions.counts, [len(r) for r in self.rows], self.trainer.rows_per_task,
        )  # fmt: skip
        device, share = self.base.device, self.world.share(len(draw.tasks), "trainer.tasks_per_step")
        mine = draw.part(share)
        examples = [[self.rows[t][i] for i in indices] for t, indices in zip(mine.tasks, mine.rows, strict=True)]
        weights = self.descriptions.generate(hypernetwork, draw, share, step, device)
        # The base's passes end at the generated weights, whose gradients then go through the hypernetwork once.
        leaves = weights.map(lambda t: t.detach().requires_grad_())
        spec, loss = unwrap(hypernetwork).spec, torch.zeros((), device=device)
        widths = [max(r.length for r in group) for group in examples]
        most = None if self.trainer.rows_per_pass is None else self.trainer.rows_per_pass // len(examples[0])
        with checkpointing(self.base.model) if self.trainer.gradient_checkpointing else nullcontext():
            for tasks in cheapest_passes(widths, self.trainer.pass_cost / len(examples[0]), most):
                rows = [r for i in tasks for r in examples[i]]
                adapters = leaves if len(tasks) == len(examples) else leaves[torch.tensor(tasks, device=device)]
                with inject(self.base.model, spec, adapters.to(self._adapter_dtype)):
                    part = self._row_losses(rows).sum() / (len(examples) * len(examples[0]))
                    part.backward()
                loss += part.detach()
        penalty = weight_penalty(leaves)
        (self.config.weight_penalty * penalty).backward()
        torch.autograd.backward(weights.tensors(), [t.grad for t in leaves.tensors()])
        return {"train/loss": loss.item(), "train/weight_mean_square": penalty.item()}

    def _row_losses(self, rows: Sequence[TokenizedExample]) -> Float[Tensor, " rows"]:
        batch = collate(rows, self.base.tokenizer.pad_token_id, self.base.device)
        found = label_logits(self.base.model, batch.input_ids, batch.attention_mask, batch.labels)
        return label_loss(found.logits, found.targets, found.rows, len(rows), self.config.label_smoothing)


class ReconstructionObjective:
    """Distance to the library's adapters (the reconstruction loss of Charakorn et al. 2025)."""

    def __init__(
        self,
        config: ReconstructionConfig,
        trainer: TrainerConfig,
        seed: int,
        library: LoraWeights,
        embeddings: Sequence[Float[Tensor, "descriptions d_embedding"]],
        world: World | None = None,
    ) -> None:
        self.config, self.trainer, self.seed = config, trainer, seed
        self.library, self.world = library, world or World()
        self.descriptions = _Descriptions(embeddings, trainer.description_noise, seed)

    def prepare(self, hypernetwork: Hypernetwork) -> None:
        """Sets the output statistics for the z-scored L1; the other distances need none."""
        if self.config.distance == "l1" and self.config.standardise:
            hypernetwork.set_statistics(self.library)

    def backward(self, hypernetwork: nn.Module, step: int) -> dict[str, float]:
        """One step on `tasks_per_step` adapters."""
        draw = draw_tasks(
            self.seed, step, self.library.batch_size, self.trainer.tasks_per_step,
            self.descriptions.counts, [1] * self.library.batch_size, 1,
        )  # fmt: skip
        share = self.world.share(len(draw.tasks), "trainer.tasks_per_step")
        target = self.library[draw.tasks[share]]
        device = target.tensors()[0].device
        predicted = self.descriptions.generate(hypernetwork, draw, share, step, device)
        if self.config.distance == "l1":
            units = unwrap(hypernetwork)
            loss = l1_distance(units.normalise(predicted), units.normalise(target))
        else:
            distance = frobenius_distance(predicted, target)
            loss = (distance / product_norm(target) if self.config.standardise else distance).mean()
        loss.backward()
        return {"train/loss": loss.item()}


def make_optimizer(config: TrainerConfig, hypernetwork: Hypernetwork) -> torch.optim.Optimizer:
    """The optimiser that a config names, over all of a hypernetwork's parameters."""
    options: dict[str, Any] = {
        "lr": config.lr,
        "betas": (0.9, config.beta2),
        "weight_decay": config.weight_decay,
    }
    if config.optimizer == "adamw":
        return torch.optim.AdamW(hypernetwork.parameters(), **options)
    from bitsandbytes.optim import AdamW8bit

    return AdamW8bit(hypernetwork.parameters(), **options)


def train(
    config: TrainerConfig,
    objective: Objective,
    hypernetwork: Hypernetwork,
    run: Run,
    record: CheckpointRecord,
    seed: int,
    world: World | None = None,
    training_data: TrainingData | None = None,
) -> CheckpointRecord:
    """Trains to the end, resuming from the run's newest checkpoint. Returns the final record.

    Among several processes each takes its share of a step's tasks, gradients are averaged by
    DistributedDataParallel, and the main process writes: the global batch and its loss stay the same.

    Resuming is exact: sampling is a function of (seed, step), and optimiser moments and the torch
    generator come back from the checkpoint.
    """
    from rich.progress import track

    world = world or World()
    optimizer = make_optimizer(config, hypernetwork)
    torch.manual_seed(seed)
    newest = latest_checkpoint(run.folder)
    done = resume(newest, hypernetwork, optimizer) if newest is not None else 0
    if world.is_main:
        run.forget_after(done)
    if done:
        log.info("resuming %s at step %d", run.folder, done)
    model = world.data_parallel(hypernetwork.train())
    label = f"training ({record.objective})"
    for step in track(
        range(done, config.steps), description=label, total=config.steps, completed=done, disable=not world.is_main
    ):
        for group in optimizer.param_groups:
            group["lr"] = config.lr * linear_schedule(step, config.steps, config.warmup_fraction)
        metrics = objective.backward(model, step)
        norm = torch.nn.utils.clip_grad_norm_(hypernetwork.parameters(), config.clip)
        if not bool(norm.isfinite()):
            raise ValueError(f"training diverged at step {step + 1} (gradient norm {float(norm)}): lower trainer.lr")
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        finished = step + 1
        if finished % config.log_every == 0 or finished == config.steps:
            learning_rate = optimizer.param_groups[0]["lr"]
            metrics = {**world.mean(metrics), "train/grad_norm": float(norm), "train/lr": learning_rate}
            if world.is_main:
                run.log_metrics(finished, metrics)
        if world.is_main and (finished % config.checkpoint_every == 0 or finished == config.steps):
            save_checkpoint(run.folder, replace(record, step=finished), hypernetwork, optimizer, training_data)
    if world.is_main:
        judge_run(run.folder / "metrics.jsonl", "trainer.lr")
    world.wait()
    hypernetwork.eval()
    return replace(record, step=config.steps)
