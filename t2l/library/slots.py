"""The engine of library training: many LoRAs in the slots of one frozen base model.

Every slot trains one adapter: its own rows, initial values, optimiser state, schedule, clipping and
stopping, all from (seed, name). The slots share forward and backward passes. The sum of their losses
has no cross terms and AdamW works element by element, so an adapter is the one it would have become
alone, up to rounding. A slot whose adapter is finished takes the next job of the queue at once.

Training goes in cycles, each a linear rise and fall of the learning rate. An adapter that has not
learnt its task by its own validation rows when a cycle ends gets another one from where it stands
(warm restarts, Loshchilov & Hutter 2017, arXiv:1608.03983), so that hard tasks take the time that easy
ones leave.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from t2l.base_model import BaseModel, checkpointing, label_logits
from t2l.checks import at_least, in_range, positive
from t2l.lora import LoraSpec, LoraWeights, inject
from t2l.lora.weights import concatenate, fresh_lora
from t2l.objectives.losses import label_loss
from t2l.objectives.soundness import Judgement, Losses
from t2l.seeding import generator_for
from t2l.tasks import TokenizedExample
from t2l.tasks.batches import RowCycle, cheapest_passes, collate
from t2l.training.schedule import linear_schedule


@dataclass
class SlotConfig:
    """How one adapter is trained in a slot."""

    steps: int = 100
    """optimiser steps of an adapter's first cycle"""
    cycles: int = 1
    """most cycles; another one follows if the validation loss is still above stop_loss"""
    cycle_growth: float = 1.0
    """length of a cycle relative to the one before"""
    cycle_lr: float = 1.0
    """peak learning rate of a cycle relative to the one before"""
    stop_loss: float = 0.05
    """validation loss (nats per token) that ends training at the end of a cycle"""
    patience: int | None = None
    """checks without a better validation loss that end training at once, with the best weights; None: never"""
    rows_per_task: int = 8
    """examples per adapter and step"""
    lr: float = 0.01
    """peak learning rate of AdamW"""
    warmup_fraction: float = 0.1
    """part of a cycle over which the learning rate rises; it then falls linearly to zero"""
    check_every: int = 25
    """steps between an adapter's looks at its validation rows, and at whether it diverged"""
    beta1: float = 0.9
    """decay of AdamW's first moment"""
    weight_decay: float = 0.0
    """decoupled weight decay"""
    clip: float = 1.0
    """largest gradient norm per adapter"""
    shared_a: bool = False
    """every adapter starts from the same A, so that adapters of a library are comparable"""
    train_a: bool = True
    """whether A is trained; false with shared_a leaves one A for the whole library (LoRA-FA)"""
    max_length: int = 512
    """longest sequence in tokens; user turns lose their beginning"""
    bucket_by_length: bool = False
    """whether an adapter's rows of one step are of like length"""
    pass_cost: int = 512
    """what a pass costs beside its tokens, in tokens; slots share passes so that tokens with padding + passes is least"""
    gradient_checkpointing: bool = False
    """recompute each decoder layer in the backward pass instead of keeping its activations"""
    autocast: bool = False
    """run the passes in bfloat16 where PyTorch's autocast allows; adapters stay in float32"""

    def __post_init__(self) -> None:
        counts = ("steps", "cycles", "rows_per_task", "check_every", "max_length", "pass_cost", "patience")
        at_least(self, 1, *counts, under="training")
        positive(self, "lr", "clip", "stop_loss", "cycle_growth", "cycle_lr", under="training")
        in_range(self, "[0, 1)", "warmup_fraction", "beta1", under="training")


@dataclass(frozen=True)
class TrainingJob:
    """One adapter to train: its name, its tokenized examples, and those that decide when to stop."""

    name: str
    rows: Sequence[TokenizedExample]
    validation_rows: Sequence[TokenizedExample] = ()


@dataclass(frozen=True)
class TrainedAdapter:
    """A trained adapter (batch of one).

    `final_loss` is averaged over the last tenth of its steps, `validation_loss` is that of the weights
    kept (None without validation rows); both in nats per token.
    """

    name: str
    weights: LoraWeights
    final_loss: float
    steps: int
    validation_loss: float | None = None
    training_time_s: float = 0.0
    """its share of the time of the passes it took part in"""
    losses: Losses = field(default_factory=Losses)
    """before and after training on the same rows, once it has been judged"""
    judgement: Judgement = field(default_factory=Judgement)
    """whether it is sound, once it has been judged"""


def initial_adapter(spec: LoraSpec, seed: int, name: str, shared_a: bool) -> LoraWeights:
    """A fresh LoRA from (seed, name), or from the seed alone if A is shared."""
    key = int(generator_for("init", seed, "" if shared_a else name).integers(2**62))
    return fresh_lora(spec, torch.Generator().manual_seed(key))


class SlotAdamW:
    """AdamW (Loshchilov & Hutter 2019) with a step count and a learning rate of its own for every slot.

    Parameters are stacked, [slots, ...]; update equations are those of `torch.optim.AdamW`.
    """

    beta2, eps = 0.999, 1e-5
    """eps: far below a typical gradient, far above rounding noise, which a smaller one would scale up to full steps"""

    def __init__(self, parameters: Sequence[Tensor], weight_decay: float = 0.0, beta1: float = 0.9) -> None:
        self.parameters, self.weight_decay, self.beta1 = list(parameters), weight_decay, beta1
        self.mean = [torch.zeros_like(p) for p in parameters]
        self.square = [torch.zeros_like(p) for p in parameters]

    @torch.no_grad()
    def clip(self, limit: float) -> Float[Tensor, " slots"]:
        """Scales each slot's gradients to a norm of at most `limit`; returns the norms before."""
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        norms = torch.stack([torch.linalg.vector_norm(g.flatten(1), dim=1) for g in gradients]).norm(dim=0)
        factor = (limit / (norms + 1e-6)).clamp(max=1.0)
        for g in gradients:
            g.mul_(_per_slot(factor, g))
        return norms

    @torch.no_grad()
    def step(self, lr: Float[Tensor, " slots"], count: Float[Tensor, " slots"]) -> None:
        """One update. `count` is each slot's number of updates including this one."""
        size = lr / (1 - self.beta1**count)
        root = (1 - self.beta2**count).sqrt()
        for p, mean, square in zip(self.parameters, self.mean, self.square, strict=True):
            if p.grad is None:
                continue
            if self.weight_decay:
                p.mul_(1 - _per_slot(lr, p) * self.weight_decay)
            mean.lerp_(p.grad, 1 - self.beta1)
            square.mul_(self.beta2).addcmul_(p.grad, p.grad, value=1 - self.beta2)
            p.sub_(mean / (square.sqrt().div_(_per_slot(root, p)).add_(self.eps)) * _per_slot(size, p))
            p.grad = None

    def reset(self, slot: int) -> None:
        """Forgets a slot's moments."""
        for moments in (*self.mean, *self.square):
            moments[slot] = 0


def _per_slot(values: Float[Tensor, " slots"], like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.ndim - 1))


@dataclass
class Slot:
    """What one slot is doing: its job, how far it is, when it ends, and what it has seen."""

    job: TrainingJob
    order: RowCycle
    tail: deque[Tensor]
    end: int
    """step at which the present cycle ends"""
    start: int = 0
    """step at which it began"""
    step: int = 0
    cycles: int = 1
    time_s: float = 0.0
    checks_since_best: int = 0
    best_loss: float = math.inf
    best: LoraWeights | None = field(default=None, repr=False)


@dataclass
class WaitingSlot:
    """A job that has begun and waits for a place: from a snapshot of more slots than there are now."""

    slot: Slot
    state: list[Tensor]
    """its row of each tensor of `SlotTrainer.state`"""


class SlotTrainer:
    """Trains a queue of jobs in a fixed number of slots; `step` until `done`.

    `snapshots.py` saves and restores its state: `slots` and their weights and moments, those `waiting` for a slot,
    and the `queue` of jobs not yet begun.
    """

    def __init__(
        self, base: BaseModel, spec: LoraSpec, jobs: Sequence[TrainingJob], slots: int, config: SlotConfig, seed: int
    ) -> None:
        if not jobs or slots < 1:
            raise ValueError(f"library training needs at least one job and one slot, not {len(jobs)} and {slots}")
        self.base, self.spec, self.config, self.seed = base, spec, config, seed
        self.capacity, self.queue = slots, deque(jobs)
        self.waiting: deque[WaitingSlot] = deque()
        first = [self.queue.popleft() for _ in range(min(slots, len(jobs)))]
        self.slots = [self.occupy(job) for job in first]
        start = concatenate(initial_adapter(spec, seed, j.name, config.shared_a) for j in first)
        self.adopt(start.to(base.device))

    @property
    def done(self) -> bool:
        """Whether every job is finished."""
        return not self.slots

    @property
    def rows_at_once(self) -> int:
        """Most rows that a step can put into one pass; no pass outside steps is larger."""
        return self.capacity * self.config.rows_per_task

    @property
    def running(self) -> list[str]:
        """Names of the jobs in the slots."""
        return [s.job.name for s in self.slots]

    @property
    def loss(self) -> float:
        """Mean over slots of the newest training loss (nats per token); nan before the first step."""
        newest = [s.tail[-1] for s in self.slots if s.tail]
        return float(torch.stack(newest).mean()) if newest else math.nan

    def occupy(self, job: TrainingJob) -> Slot:
        """A slot at the beginning of a job."""
        lengths = [r.length for r in job.rows] if self.config.bucket_by_length else None
        order = RowCycle(len(job.rows), self.seed, job.name, self.config.rows_per_task, lengths)
        return Slot(job, order, deque(maxlen=max(1, self.config.steps // 10)), self.config.steps)

    def adopt(self, weights: LoraWeights) -> None:
        """Trains these weights, one adapter per slot, in their dtype; optimiser state starts anew."""
        A = {k: v.requires_grad_(self.config.train_a) for k, v in weights.A.items()}
        B = {k: v.requires_grad_(True) for k, v in weights.B.items()}
        self.weights = LoraWeights(A, B)
        trained = [t for t in self.weights.tensors() if t.requires_grad]
        self.optimizer = SlotAdamW(trained, self.config.weight_decay, self.config.beta1)

    def state(self) -> dict[str, Tensor]:
        """The adapters' tensors and the moments of the trained ones, by name; row i of each is slot i's."""
        kinds = {"weights": self.weights.tensors(), "mean": self.optimizer.mean, "square": self.optimizer.square}
        return {f"{kind}.{k}": tensor for kind, tensors in kinds.items() for k, tensor in enumerate(tensors)}

    def _losses(self, slots: Sequence[int], rows: Sequence[TokenizedExample]) -> Float[Tensor, " slots"]:
        """Mean loss of each given slot, whose rows follow one another in equal numbers. Runs backward if it can."""
        batch = collate(rows, self.base.tokenizer.pad_token_id, self.base.device)
        everything = len(slots) == len(self.slots)
        weights = self.weights if everything else self.weights[torch.tensor(slots, device=self.base.device)]
        with inject(self.base.model, self.spec, weights):
            with torch.autocast(self.base.device.type, torch.bfloat16, enabled=self.config.autocast):
                found = label_logits(self.base.model, batch.input_ids, batch.attention_mask, batch.labels)
            row_losses = label_loss(found.logits, found.targets, found.rows, len(rows))
            losses = row_losses.view(len(slots), -1).mean(dim=1)
            if torch.is_grad_enabled():
                losses.sum().backward()
        return losses.detach()

    def step(self) -> list[TrainedAdapter]:
        """One optimiser step of every slot. Returns the adapters that it finished, and refills their slots."""
        began, count = time.perf_counter(), self.config.rows_per_task
        rows = [[s.job.rows[i] for i in s.order.take(s.step, count)] for s in self.slots]
        losses = torch.zeros(len(self.slots), device=self.base.device)
        with checkpointing(self.base.model) if self.config.gradient_checkpointing else nullcontext():
            widths = [max(r.length for r in group) for group in rows]
            for slots in cheapest_passes(widths, self.config.pass_cost / count):
                losses[slots] = self._losses(slots, [r for i in slots for r in rows[i]])
        self.optimizer.clip(self.config.clip)
        warmup = self.config.warmup_fraction
        factors = [
            self.config.cycle_lr ** (s.cycles - 1) * linear_schedule(s.step - s.start, s.end - s.start, warmup)
            for s in self.slots
        ]
        counts = torch.tensor([s.step + 1.0 for s in self.slots], device=self.base.device)
        self.optimizer.step(self.config.lr * torch.tensor(factors, device=counts.device), counts)
        for i, slot in enumerate(self.slots):
            slot.step += 1
            slot.tail.append(losses[i])
            slot.time_s += (time.perf_counter() - began) / len(self.slots)
        self._check()
        return self._harvest()

    def _check(self) -> None:
        """Where it is time: looks for divergence and at validation rows, ends training or begins a new cycle."""
        for i, slot in enumerate(self.slots):
            is_end = slot.step == slot.end
            if not is_end and slot.step % self.config.check_every:
                continue
            if not math.isfinite(float(slot.tail[-1])):
                slot.end = slot.step
            elif slot.job.validation_rows and (is_end or self.config.patience is not None):
                self._look(i, is_end)

    def _look(self, i: int, is_end: bool) -> None:
        """Measures a slot's validation loss, keeps the best weights, and stops or begins a cycle accordingly."""
        slot, config = self.slots[i], self.config
        loss = self._validation_loss(i)
        slot.checks_since_best += 1
        if loss < slot.best_loss:
            slot.best_loss, slot.checks_since_best, slot.best = loss, 0, self._copy(i)
        if config.patience is not None and slot.checks_since_best >= config.patience:
            slot.end = slot.step
        elif is_end and slot.cycles < config.cycles and slot.best_loss > config.stop_loss:
            length = round((slot.end - slot.start) * config.cycle_growth)
            slot.start, slot.end, slot.cycles = slot.step, slot.step + max(1, length), slot.cycles + 1

    @torch.no_grad()
    def _validation_loss(self, i: int) -> float:
        rows, most = self.slots[i].job.validation_rows, self.rows_at_once
        parts = [rows[begin : begin + most] for begin in range(0, len(rows), most)]
        return sum(float(self._losses([i], part)[0]) * len(part) for part in parts) / len(rows)

    def _copy(self, i: int) -> LoraWeights:
        return self.weights[i].detach().to("cpu", copy=True)

    def _harvest(self) -> list[TrainedAdapter]:
        finished = [i for i, s in enumerate(self.slots) if s.step >= s.end]
        if not finished:
            return []
        trained = [self._result(i) for i in finished]
        keep = set(range(len(self.slots)))
        for i in finished:
            if self.waiting:
                self._take_up(i, self.waiting.popleft())
            elif self.queue:
                self._refill(i, self.queue.popleft())
            else:
                keep.remove(i)
        if len(keep) < len(self.slots):
            self._shrink(sorted(keep))
        return trained

    def _result(self, i: int) -> TrainedAdapter:
        slot = self.slots[i]
        last = list(slot.tail)[-max(1, slot.step // 10) :]
        final = float(torch.stack(last).mean())
        weights, validation_loss = (self._copy(i), None) if slot.best is None else (slot.best, slot.best_loss)
        return TrainedAdapter(slot.job.name, weights, final, slot.step, validation_loss, slot.time_s)

    @torch.no_grad()
    def _refill(self, i: int, job: TrainingJob) -> None:
        fresh = initial_adapter(self.spec, self.seed, job.name, self.config.shared_a)
        for ours, new in zip(self.weights.tensors(), fresh.tensors(), strict=True):
            ours[i] = new[0].to(ours.device)
        self.optimizer.reset(i)
        self.slots[i] = self.occupy(job)

    @torch.no_grad()
    def _take_up(self, i: int, waiting: WaitingSlot) -> None:
        for tensor, saved in zip(self.state().values(), waiting.state, strict=True):
            tensor[i] = saved.to(tensor.device)
        self.slots[i] = waiting.slot

    def _shrink(self, keep: list[int]) -> None:
        """Gives up empty slots, so that the queue's end wastes no computation."""
        self.slots = [self.slots[i] for i in keep]
        old = self.optimizer
        self.adopt(self.weights.detach()[keep])
        self.optimizer.mean = [m[keep] for m in old.mean]
        self.optimizer.square = [s[keep] for s in old.square]
