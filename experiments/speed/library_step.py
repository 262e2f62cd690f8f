"""Library step: one optimiser step of K adapters at once, against PEFT taking the K tasks in turn.

The trainer behind `train_adapters` is timed. PEFT trains the same rows per task in two ways: one model whose
active adapter is switched, and one model per task on shared base parameters; the quicker one counts.
The bare base runs forward and backward on all rows at once. Tasks are of like length, as in library
training; every task's own PEFT batch is padded to its own longest row only.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from experiments.speed.case import Case, Target
from experiments.speed.contenders import (
    MISTRAL_7B,
    SMOLLM2_135M,
    TOY,
    RandomBase,
    adamw,
    bare_step,
    copy_of,
    mini_base,
    peft_config,
    peft_model,
    peft_step,
    random_base,
    random_rows,
    suite_rows,
    trainable,
)
from experiments.speed.settings import quickstart
from experiments.speed.timing import Call, interleave, peak_bytes
from t2l.base_model import BaseModel, lora_spec
from t2l.library.slots import SlotConfig, SlotTrainer, TrainingJob
from t2l.lora import LoraSpec
from t2l.tasks.batches import TokenBatch, collate


@dataclass(frozen=True)
class Setting:
    """K tasks with so many rows each; `base` and `length` as in the SFT step."""

    base: RandomBase | None
    tasks: int
    rows: int
    rounds: int
    length: int | None = None
    has_target: bool = False
    is_real: bool = False
    """as in the SFT step"""


REAL = Setting(SMOLLM2_135M, 16, 2, 3, 24, has_target=True, is_real=True)
SCALES = {
    "toy": [Setting(TOY, 3, 2, 2), Setting(TOY, 3, 2, 2, 8, has_target=True, is_real=True)],
    "cpu": [Setting(None, 64, 4, 11, has_target=True), *(Setting(None, k, 4, 9) for k in (1, 4, 16)), REAL],
    "cuda": [
        Setting(MISTRAL_7B, 16, 2, 10, 256, has_target=True),
        *(Setting(MISTRAL_7B, k, 2, 8, 256) for k in (1, 4)),
    ],
}


def _switching(base: BaseModel, spec: LoraSpec, batches: Sequence[TokenBatch], clip: float) -> Callable[[], None]:
    """One PEFT model with an adapter per task."""
    model = peft_model(base, spec)
    names = ["default", *(f"task{i}" for i in range(1, len(batches)))]
    for name in names[1:]:
        model.add_adapter(name, peft_config(spec))
    optimizers = []
    for name in names:
        model.set_adapter(name)
        optimizers.append(adamw(trainable(model)))

    def step() -> None:
        for name, optimizer, batch in zip(names, optimizers, batches, strict=True):
            model.set_adapter(name)
            peft_step(model, optimizer, batch, clip)

    return step


def _separate(base: BaseModel, spec: LoraSpec, batches: Sequence[TokenBatch], clip: float) -> Callable[[], None]:
    """A PEFT model per task; the base's parameters are shared."""
    models: list[Any] = [peft_model(base, spec) for _ in batches]
    optimizers = [adamw(trainable(m)) for m in models]

    def step() -> None:
        for model, optimizer, batch in zip(models, optimizers, batches, strict=True):
            peft_step(model, optimizer, batch, clip)

    return step


def _case(setting: Setting, device: torch.device) -> Case:
    base = mini_base(device) if setting.base is None else random_base(setting.base, device)
    spec = lora_spec(base.model, quickstart().lora)
    if setting.length is None:
        rows = suite_rows(base, setting.tasks, setting.rows, like_length=True)
    else:
        rows = random_rows(base, setting.tasks, setting.rows, setting.length)
    pad = base.tokenizer.pad_token_id
    everything = collate([r for task in rows for r in task], pad, device)
    batches = [collate(task, pad, device) for task in rows]
    config = SlotConfig(steps=10_000, rows_per_task=setting.rows, shared_a=True)
    jobs = [TrainingJob(str(i), task) for i, task in enumerate(rows)]
    trainer = SlotTrainer(base, spec, jobs, len(jobs), config, seed=0)
    calls: dict[str, Call] = {
        "t2l": trainer.step,
        "bare": bare_step(copy_of(base), everything, setting.is_real),
        "peft_switching": _switching(base, spec, batches, config.clip),
        "peft_separate": _separate(base, spec, batches, config.clip),
    }
    seconds = interleave(calls, device, setting.rounds, budget_s=40)
    quicker = min(("peft_switching", "peft_separate"), key=lambda name: statistics.median(seconds[name]))
    peak, targets = {}, []
    if setting.has_target:
        calls["t2l"] = lambda: SlotTrainer(base, spec, jobs, len(jobs), config, seed=0).step()
        peak = {name: peak_bytes(call, device) for name, call in calls.items()}
        targets = [Target("t2l", "bare", at_most=1.25 if setting.is_real else 1.15)]
        targets += [] if setting.is_real else [Target(quicker, "t2l", at_least=2.5)]
    return Case(
        f"library step, {setting.tasks} tasks x {setting.rows} rows" + (f", base of width {setting.base.hidden}" if setting.is_real and setting.base else ""),
        {
            "base": "mini base" if setting.base is None else f"width {setting.base.hidden}",
            "tasks": setting.tasks, "rows_per_task": setting.rows, "padded_tokens": everything.input_ids.numel(),
            "adapter_parameters": spec.parameters_per_adapter,
        },
        "bare",
        seconds,
        peak,
        targets,
        sweeps={} if setting.is_real else {"tasks": setting.tasks},
    )  # fmt: skip


def run(scale: str, device: torch.device) -> list[Case]:
    """One case per number of tasks."""
    return [_case(setting, device) for setting in SCALES[scale]]
