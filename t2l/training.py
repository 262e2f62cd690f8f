"""The one training loop, for every objective.

An objective computes the loss of a step and runs backward (SFT must do so while its adapters are in
place); the loop owns the schedule, clipping, logging, checkpoints and resuming.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from t2l import random_state
from t2l.adapters import ADAPTER_MEMORY, AdapterSource, Cached, Held, as_source
from t2l.base_model import BaseModel, checkpointing, label_logits
from t2l.batches import TaskDraw, cheapest_passes, collate, draw_noise, draw_tasks, gather_embeddings
from t2l.checkpoint import CheckpointRecord, TrainingData, latest_checkpoint, resume, save_checkpoint
from t2l.distributed import World, unwrap
from t2l.hypernetwork import Hypernetwork
from t2l.injection import inject
from t2l.lora import LoraWeights
from t2l.objectives import frobenius_distance, l1_distance, label_loss, product_norm, weight_penalty
from t2l.out_of_memory import explained
from t2l.progress import Progress
from t2l.run import Run
from t2l.seeding import generator_for
from t2l.selection import Selection
from t2l.soundness import judge_run
from t2l.tasks import TokenizedExample
from t2l.trainer_config import TrainerConfig

log = logging.getLogger(__name__)


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

    through_base: bool
    """whether a step's loss goes through the base model"""

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

    through_base = True

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

    through_base = False

    def __init__(
        self,
        config: ReconstructionConfig,
        trainer: TrainerConfig,
        seed: int,
        library: LoraWeights | AdapterSource,
        embeddings: Sequence[Float[Tensor, "descriptions d_embedding"]],
        world: World | None = None,
    ) -> None:
        """`library` is read step by step; as much of it as fits `ADAPTER_MEMORY` stays in memory."""
        self.config, self.trainer, self.seed = config, trainer, seed
        self.library, self.world = as_source(library), world or World()
        is_small = len(self.library.groups(ADAPTER_MEMORY)) == 1
        self._targets = Held(self.library.all()) if is_small else Cached(self.library, ADAPTER_MEMORY)
        self.descriptions = _Descriptions(embeddings, trainer.description_noise, seed)

    def prepare(self, hypernetwork: Hypernetwork) -> None:
        """Sets the output statistics for the z-scored L1; the other distances need none."""
        if self.config.distance == "l1" and self.config.standardise:
            hypernetwork.set_statistics(self.library)
            self.library.release()

    def distance(self, units: Hypernetwork, predicted: LoraWeights, target: LoraWeights) -> Float[Tensor, ""]:
        """The loss of generated adapters beside those they should be; `units` is the hypernetwork without wrapper."""
        if self.config.distance == "l1":
            return l1_distance(units.normalise(predicted), units.normalise(target))
        distance = frobenius_distance(predicted, target)
        return (distance / product_norm(target) if self.config.standardise else distance).mean()

    def backward(self, hypernetwork: nn.Module, step: int) -> dict[str, float]:
        """One step on `tasks_per_step` adapters."""
        draw = draw_tasks(
            self.seed, step, self.library.count, self.trainer.tasks_per_step,
            self.descriptions.counts, [1] * self.library.count, 1,
        )  # fmt: skip
        share = self.world.share(len(draw.tasks), "trainer.tasks_per_step")
        device = next(hypernetwork.parameters()).device
        target = self._targets.make(draw.tasks[share]).to(device)
        predicted = self.descriptions.generate(hypernetwork, draw, share, step, device)
        loss = self.distance(unwrap(hypernetwork), predicted, target)
        loss.backward()
        return {"train/loss": loss.item()}


OBJECTIVES: dict[type, type[SftObjective] | type[ReconstructionObjective]] = {
    SftConfig: SftObjective,
    ReconstructionConfig: ReconstructionObjective,
}


def objective_of(config: Any) -> type[SftObjective] | type[ReconstructionObjective]:
    """The objective that a config is of. Raises ValueError where it is none, or of a kind that there is not."""
    if type(config) not in OBJECTIVES:
        raise ValueError(
            f"objective: there is none for the config {type(config).__name__}; choose one, like objective=sft"
        )
    return OBJECTIVES[type(config)]


def make_optimizer(config: TrainerConfig, hypernetwork: Hypernetwork) -> torch.optim.Optimizer:
    """The optimiser that a config names, over all of a hypernetwork's parameters."""
    options: dict[str, Any] = {
        "lr": config.lr,
        "betas": (0.9, config.beta2),
        "weight_decay": config.weight_decay,
    }
    if config.optimizer == "adamw":
        return torch.optim.AdamW(hypernetwork.parameters(), **options)
    if config.optimizer != "adamw_8bit":
        raise ValueError(f"trainer.optimizer: there is no {config.optimizer!r}")
    from bitsandbytes.optim import AdamW8bit

    return AdamW8bit(hypernetwork.parameters(), **options)


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
    objective: Objective,
    model: nn.Module,
    hypernetwork: Hypernetwork,
    optimizer: torch.optim.Optimizer,
    step: int,
) -> dict[str, float]:
    """One update of the hypernetwork, which `model` may wrap. Returns the step's metrics."""
    for group in optimizer.param_groups:
        group["lr"] = config.learning_rate(step)
    metrics = objective.backward(model, step)
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
    objective: Objective,
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
        explained(lambda: config.out_of_memory(objective.through_base)),
        Progress(label, config.steps, completed=record.step, shown=world.is_main) as progress,
    ):
        while not is_trained(config, record):
            step, finished = record.step, record.step + 1
            metrics = _train_step(config, objective, model, hypernetwork, optimizer, step)
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
