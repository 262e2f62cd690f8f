"""SFT step: what does it cost to train a hypernetwork instead of one static adapter?

The real training loop (generate, inject, forward, backward, clip, update, log) against one step of a PEFT
multi-task LoRA on the same rows, and against the bare base's forward and backward. The ratio of floating-point
operations is what a machine limited by arithmetic alone would take.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from experiments.speed.case import Case, Target
from experiments.speed.contenders import (
    MISTRAL_7B,
    SMOLLM2_135M,
    TOY,
    WIDE,
    RandomBase,
    adamw,
    bare_step,
    copy_of,
    mini_base,
    peft_model,
    peft_step,
    random_base,
    random_rows,
    suite_rows,
    trainable,
)
from experiments.speed.settings import quickstart
from experiments.speed.timing import Call, flops, interleave_loop, peak_bytes
from t2l.base_model import BaseModel, lora_spec
from t2l.hypernetwork import TextToLoraConfig, build
from t2l.hypernetwork.checkpoint import CheckpointRecord
from t2l.objectives import SftObjective, Steps
from t2l.run.record import Run
from t2l.tasks import TokenizedExample
from t2l.tasks.batches import collate
from t2l.training import train
from t2l.training.loop import TrainerConfig

D_EMBEDDING = 4 * 384
"""width of the quickstart's description embeddings: four layers of MiniLM"""


@dataclass(frozen=True)
class Setting:
    """A base, and a step of `tasks` tasks with `rows` rows each.

    `base` None is the mini base; `length` None takes rows of the embedded suite, else random ones of so
    many tokens.
    """

    name: str
    base: RandomBase | None
    tasks: int
    rounds: int
    rows: int = 1
    length: int | None = None
    has_target: bool = False
    is_real: bool = False
    """the size of a real model with a real vocabulary: the target is against the bare base, whose logits are computed
    where t2l computes them"""


SCALES = {
    "toy": [Setting("toy base", TOY, 4, 2), Setting("toy base", TOY, 4, 2, length=8, is_real=True)],
    "cpu": [
        Setting("mini base", None, 144, 12, has_target=True),
        *(Setting("mini base", None, tasks, 6) for tasks in (16, 48)),
        Setting("mini base", None, 48, 6, rows=3),
        Setting("base of width 512, 8 layers", WIDE, 32, 5, has_target=True),
        Setting("SmolLM2-135M geometry", SMOLLM2_135M, 32, 3, length=24, has_target=True, is_real=True),
    ],
    "cuda": [
        Setting("Mistral-7B geometry", MISTRAL_7B, 8, 15, length=256, has_target=True),
        Setting("Mistral-7B geometry", MISTRAL_7B, 2, 10, length=256),
    ],
}


@dataclass(frozen=True)
class _Marked:
    """Steps that tell when they begin."""

    needs_base = True
    steps: Steps
    mark: Call

    def backward(self, hypernetwork: nn.Module, step: int) -> dict[str, float]:
        """One step."""
        self.mark()
        return self.steps.backward(hypernetwork, step)


def _loop(
    base: BaseModel, rows: Sequence[Sequence[TokenizedExample]], trainer: TrainerConfig, folder: Path, on_cuda: bool
) -> Callable[[Call], None]:
    """The real training loop on these rows, all of them in every step, from a fresh hypernetwork."""
    config = quickstart()
    spec = lora_spec(base.model, config.lora)
    architecture = TextToLoraConfig() if on_cuda else config.hypernetwork
    embeddings = list(torch.randn(len(rows), 1, D_EMBEDDING, generator=torch.Generator().manual_seed(0)))
    steps = Steps(SftObjective(config.sft, trainer, base, rows), embeddings, trainer, 0)
    record = CheckpointRecord(
        0, "sft", architecture, spec, D_EMBEDDING, "random", base.fingerprint, base.name, {"benchmark": True}
    )

    def loop(mark: Call) -> None:
        hypernetwork = build(architecture, spec, D_EMBEDDING, 0).to(base.device)
        with tempfile.TemporaryDirectory(dir=folder) as name:
            train(trainer, _Marked(steps, mark), hypernetwork, Run(Path(name), "train", {}), record, 0)

    return loop


def _case(setting: Setting, scale: str, device: torch.device, folder: Path) -> Case:
    base = mini_base(device) if setting.base is None else random_base(setting.base, device)
    length = setting.length
    size = (setting.tasks, setting.rows)
    rows = suite_rows(base, *size) if length is None else random_rows(base, *size, length)
    batch = collate([r for task in rows for r in task], base.tokenizer.pad_token_id, device)
    trainer = replace(
        quickstart().sft_trainer, tasks_per_step=setting.tasks, rows_per_task=setting.rows, steps=setting.rounds + 3,
        checkpoint_every=10**9, description_whitening=None,
    )  # fmt: skip
    spec = lora_spec(base.model, quickstart().lora)
    peft = peft_model(base, spec)
    optimizer = adamw(trainable(peft))
    others = {
        "bare": bare_step(copy_of(base), batch, setting.is_real),
        "peft_multi_task": lambda: peft_step(peft, optimizer, batch, trainer.clip),
    }
    loop = _loop(base, rows, trainer, folder, scale == "cuda")
    seconds = interleave_loop("t2l", loop, others, device)
    one_step = _loop(base, rows, replace(trainer, steps=1), folder, scale == "cuda")
    others["t2l"] = lambda: one_step(lambda: None)
    work = {name: flops(call) for name, call in others.items()}
    peak = {name: peak_bytes(call, device) for name, call in others.items()} if setting.has_target else {}
    targets = [Target("t2l", "peft_multi_task", at_most=1.2)] if setting.has_target and not setting.is_real else []
    targets += [Target("t2l", "bare", at_most=1.25)] if setting.is_real else []
    return Case(
        f"SFT step, {setting.name}, {setting.tasks} tasks x {setting.rows} rows",
        {
            "base": setting.name, "tasks": setting.tasks, "rows_per_task": setting.rows, "padded_tokens": batch.input_ids.numel(),
            "adapter_parameters": spec.parameters_per_adapter,
        },
        "peft_multi_task",
        seconds,
        peak,
        targets,
        {"flop_ratio": {name: round(n / work["peft_multi_task"], 3) for name, n in work.items()}},
        {"tasks": setting.tasks} if setting.base in (None, MISTRAL_7B) and setting.rows == 1 else {},
    )  # fmt: skip


def run(scale: str, device: torch.device) -> list[Case]:
    """One case per setting."""
    with tempfile.TemporaryDirectory() as folder:
        return [_case(setting, scale, device, Path(folder)) for setting in SCALES[scale]]
