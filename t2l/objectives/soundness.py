"""Is a trained adapter sound? One judge for libraries, the multi-task LoRA, methods and hypernetworks.

That every number is finite is not enough: at an absurd learning rate the loss can stay at the logarithm of the
vocabulary while the weights reach 1e30. The judge looks at the loss against its start (with B = 0 an adapter is the
bare base, so that is the bare base's loss on the same rows), at validation rows if there are any, and at the size
of the weights. What diverged is left out; what learnt nothing is kept, marked as such.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from t2l.base_model import BaseModel, label_logits
from t2l.lora import AdapterKind, LoraSpec, LoraWeights, inject
from t2l.lora.weights import concatenate
from t2l.objectives.losses import label_loss, product_norm
from t2l.tasks import TokenizedExample
from t2l.tasks.batches import batches_within, collate

log = logging.getLogger(__name__)
LARGEST_SIZE = 1000.0
"""Frobenius norm of scaling * B A relative to that of the target modules' own weights; the adapters of the embedded
suite's library, trained at high rates on a small base, lie between 0.3 and 5"""
LARGEST_VALUE = 1e4
"""largest absolute value of a trained parameter that is not a factor of B A; honest ones stay below about 100"""
LEAST_GAIN = 1e-3
"""part of its first loss that training must gain to have learnt anything"""
ROSE = 10.0
"""a loss above this factor times (1 + its start) has diverged; short of that it may only have learnt nothing yet"""
ALREADY_KNOWN = 0.05
"""loss (nats per token) at which there is nothing left to learn"""
JUDGED_ROWS = 8
"""training rows on which the bare base and an adapter are compared"""


class Verdict(StrEnum):
    """What becomes of a trained adapter: kept; kept and marked; left out."""

    sound = "sound"
    learnt_nothing = "learnt nothing"
    diverged = "diverged"


@dataclass(frozen=True)
class Judgement:
    """A verdict, and its reason in one line (empty if it is sound)."""

    verdict: Verdict = Verdict.sound
    reason: str = ""

    @property
    def is_sound(self) -> bool:
        """Whether there is nothing to say against it."""
        return self.verdict is Verdict.sound

    @property
    def is_kept(self) -> bool:
        """Whether it may be written."""
        return self.verdict is not Verdict.diverged

    def to_json(self) -> dict[str, str]:
        """For a record of provenance."""
        return {"verdict": self.verdict.value, "reason": self.reason}

    def __str__(self) -> str:
        return f"{self.verdict}: {self.reason}" if self.reason else str(self.verdict)


@dataclass(frozen=True)
class Losses:
    """Losses (nats per token, averaged per example) before and after training, each pair on the same rows.

    Before training an adapter is the bare base. None: not measured, or no such rows.
    """

    loss_before: float | None = None
    loss_after: float | None = None
    validation_loss_before: float | None = None
    validation_loss: float | None = None

    def to_json(self) -> dict[str, float | None]:
        """For a record of provenance."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Losses:
        """From a record of provenance; None for what an older one lacks."""
        return cls(**{key: record.get(key) for key in cls.__dataclass_fields__})

    def judge(self) -> Judgement:
        """`judge_losses` of the two pairs."""
        return judge_losses(self.loss_before, self.loss_after, self.validation_loss_before, self.validation_loss)


def worst(*judgements: Judgement) -> Judgement:
    """The first of the gravest judgements."""
    return max(judgements, key=lambda j: list(Verdict).index(j.verdict), default=Judgement())


def judge_losses(
    start: float | None,
    final: float | None,
    validation_start: float | None = None,
    validation: float | None = None,
) -> Judgement:
    """Judges by losses alone; None for what is not known.

    Diverged: a loss is not finite, or the training loss is above ten times its start and ten. Learnt nothing: training
    or validation loss is not below its start.
    """
    for what, value in (("loss", final), ("loss at the start", start), ("validation loss", validation)):
        if value is not None and not math.isfinite(value):
            return Judgement(Verdict.diverged, f"the {what} is {value}")
    if start is not None and final is not None and final > ROSE * (1 + start):
        return Judgement(Verdict.diverged, f"the loss rose from {start:.4g} to {final:.4g}")
    for what, before, after in (("loss", start, final), ("validation loss", validation_start, validation)):
        if before is None or after is None or after <= ALREADY_KNOWN:
            continue
        if not after < before * (1 - LEAST_GAIN):
            reason = f"the {what} is {after:.4g} and was {before:.4g} without training"
            return Judgement(Verdict.learnt_nothing, reason)
    return Judgement()


def judge_size(size: float, base_norm: float | None) -> Judgement:
    """Judges by `adapter_size` against `target_norm`; without the latter only whether the size is a number."""
    if not math.isfinite(size):
        return Judgement(Verdict.diverged, f"the norm of scaling * BA is {size}")
    if base_norm is not None and not size <= LARGEST_SIZE * base_norm:
        reason = f"the norm of scaling * BA is {size:.3g}, that of the weights it is added to {base_norm:.3g}"
        return Judgement(Verdict.diverged, reason)
    return Judgement()


@torch.no_grad()
def judge_values(tensors: Iterable[Tensor]) -> Judgement:
    """Judges trained parameters of any kind by their largest absolute value."""
    values = (float(t.abs().max()) for t in tensors if t.numel())
    largest = max(values, default=0.0, key=lambda value: math.inf if math.isnan(value) else value)
    if not largest <= LARGEST_VALUE:
        return Judgement(Verdict.diverged, f"the largest trained value is {largest:.3g}")
    return Judgement()


def adapter_size(spec: LoraSpec, weights: LoraWeights) -> float:
    """Frobenius norm of scaling * B A over all modules, of a batch of one; in float64, which holds squares of 1e30."""
    squared = float(product_norm(weights.to("cpu", torch.float64))[0])
    return math.nan if math.isnan(squared) else math.sqrt(max(0.0, squared)) * spec.scaling


@torch.no_grad()
def target_norm(model: nn.Module, spec: LoraSpec) -> float:
    """Frobenius norm of the base's own weights in all target modules together, dequantised if they are quantised."""
    from peft.utils.integrations import dequantize_module_weight

    squares = 0.0
    for path in (path for g in spec.groups for path in g.paths):
        norm = torch.linalg.vector_norm(dequantize_module_weight(model.get_submodule(path)), dtype=torch.float32)
        squares += float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm) ** 2
    return math.sqrt(squares)


def judge_adapter(
    spec: LoraSpec, weights: LoraWeights, losses: Losses, final_loss: float | None, base_norm: float | None
) -> Judgement:
    """Judges one adapter (a batch of one) by everything there is; of (IA)3, the deltas by their largest."""
    if not all(bool(t.isfinite().all()) for t in weights.tensors()):
        return Judgement(Verdict.diverged, "it holds values that are not finite")
    if spec.kind is AdapterKind.lora:
        size = judge_size(adapter_size(spec, weights), base_norm)
    else:
        size = judge_values(weights.tensors())
    return worst(size, judge_losses(None, final_loss), losses.judge())


@dataclass(frozen=True)
class Trained:
    """What is measured of a trained adapter: a batch of one, its rows, and its loss on the validation rows, if any."""

    weights: LoraWeights
    rows: Sequence[TokenizedExample]
    validation_rows: Sequence[TokenizedExample] = ()
    validation_loss: float | None = None


@torch.no_grad()
def row_losses(
    base: BaseModel,
    rows: Sequence[TokenizedExample],
    at_once: int,
    spec: LoraSpec | None = None,
    weights: LoraWeights | None = None,
    autocast: bool = False,
) -> list[float]:
    """Loss of each row (nats per token) on the bare base, or under adapters that serve equal consecutive groups of rows.

    Without adapters, rows of like length share a pass, `at_once` at most; with them all share one.
    """
    if spec is not None and weights is not None:
        with inject(base.model, spec, weights.to(base.device)):
            return _pass(base, rows, autocast)
    found = [0.0] * len(rows)
    for part in batches_within([r.length for r in rows], at_once, None):
        for i, loss in zip(part, _pass(base, [rows[i] for i in part], autocast), strict=True):
            found[i] = loss
    return found


def _pass(base: BaseModel, rows: Sequence[TokenizedExample], autocast: bool) -> list[float]:
    batch = collate(rows, base.tokenizer.pad_token_id, base.device)
    with torch.autocast(base.device.type, torch.bfloat16, enabled=autocast):
        found = label_logits(base.model, batch.input_ids, batch.attention_mask, batch.labels)
    return label_loss(found.logits, found.targets, found.rows, len(rows)).tolist()


def measure_losses(
    base: BaseModel, spec: LoraSpec, trained: Sequence[Trained], at_once: int, autocast: bool = False
) -> list[Losses]:
    """The bare base and each adapter on the first of its training rows, and the bare base on its validation rows.

    Args:
        at_once: most rows that share a pass, if one adapter's are not more.
    """
    judged = [list(t.rows[:JUDGED_ROWS]) for t in trained]
    seen = [list(t.validation_rows) if t.validation_loss is not None else [] for t in trained]
    flat = [r for mine, theirs in zip(judged, seen, strict=True) for r in (*mine, *theirs)]
    before = iter(row_losses(base, flat, at_once, autocast=autocast))
    pairs = [([next(before) for _ in m], [next(before) for _ in s]) for m, s in zip(judged, seen, strict=True)]
    after: dict[int, list[float]] = {}
    for count in {len(m) for m in judged}:
        alike, many = [i for i, m in enumerate(judged) if len(m) == count], max(1, at_once // count)
        for begin in range(0, len(alike), many):
            part = alike[begin : begin + many]
            weights = concatenate(trained[i].weights for i in part)
            found = iter(row_losses(base, [r for i in part for r in judged[i]], at_once, spec, weights, autocast))
            after.update({i: [next(found) for _ in judged[i]] for i in part})
    return [
        Losses(_mean(own), _mean(after[i]), _mean(others) if others else None, trained[i].validation_loss)
        for i, (own, others) in enumerate(pairs)
    ]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def judge_history(losses: Sequence[float]) -> Judgement:
    """Judges training whose start is not known otherwise: the mean of the last tenth against that of the first.

    A history of fewer than five losses only tells whether they are finite.
    """
    if not losses:
        return Judgement()
    tenth = max(1, len(losses) // 10)
    start, final = _mean(losses[:tenth]), _mean(losses[-tenth:])
    return judge_losses(start if len(losses) >= 5 else None, final)


def refuse_wild(parameters: Iterable[Tensor], setting: str) -> None:
    """Raises ValueError if trained parameters have exploded, and names the setting to lower."""
    judgement = judge_values(parameters)
    if not judgement.is_kept:
        raise ValueError(f"training {judgement}: lower {setting}")


def judge_parts(lines: Sequence[Mapping[str, float]]) -> Judgement:
    """Judges a history of metrics by `train/loss`; of a sum of objectives by the loss of each, `train/PART/loss`.

    The sum has another scale when a part begins or ends. It diverged if a part did, and learnt nothing if no part learnt.
    """
    parts = {key.removesuffix("/weight") for line in lines for key in line if re.fullmatch(r"train/\w+/weight", key)}
    found = [judge_history([line[f"{p}/loss"] for line in lines if f"{p}/loss" in line]) for p in sorted(parts)]
    if not found:
        return judge_history([line["train/loss"] for line in lines if "train/loss" in line])
    gravest = worst(*found)
    return next((j for j in found if j.is_sound), gravest) if gravest.is_kept else gravest


def judge_run(metrics: Path, setting: str) -> Judgement:
    """Judges a run by the losses in its metrics.jsonl (`judge_parts`), and warns if it learnt nothing.

    Raises ValueError if it diverged, and names the setting to lower.
    """
    lines = metrics.read_text().splitlines() if metrics.is_file() else []
    judgement = judge_parts([json.loads(line) for line in lines])
    if not judgement.is_kept:
        raise ValueError(f"training {judgement}: lower {setting}, and train in another run_dir")
    if not judgement.is_sound:
        log.warning("training %s", judgement)
    return judgement
