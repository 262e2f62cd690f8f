"""Evaluation: many adapters answering in mixed batches, against PEFT with one adapter after another.

Everyone decodes greedily with a key-value cache, the same questions for the same number of tokens at most.
PEFT either loads each adapter's folder when its turn comes, or has all of them loaded and switches.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from experiments.speed.case import Case, Target
from experiments.speed.contenders import (
    MISTRAL_7B,
    SMOLLM2_135M,
    TOY,
    RandomBase,
    copy_of,
    mini_base,
    random_base,
    suite,
)
from experiments.speed.settings import quickstart
from experiments.speed.timing import interleave, peak_bytes
from t2l.base_model import BaseModel, lora_spec
from t2l.evaluation.scoring import Question, greedy_answers, questions_for
from t2l.lora import LoraSpec, LoraWeights
from t2l.lora.peft_folder import save_adapter
from t2l.lora.weights import fresh_lora
from t2l.tasks import tokenize_prompts
from t2l.tasks.batches import collate_prompts

FEW_QUESTIONS = 4
"""per adapter, in the sweep over adapters"""


@dataclass(frozen=True)
class Setting:
    """`adapters` tasks with `questions` each; `base` None is the mini base."""

    base: RandomBase | None
    adapters: int
    questions: int
    batch_size: int
    max_new_tokens: int
    rounds: int
    has_target: bool = False
    is_real: bool = False
    """as in the SFT step: t2l against the bare base on the same questions, without PEFT"""


SCALES = {
    "toy": [Setting(TOY, 2, 2, 4, 2, 2), Setting(TOY, 2, 2, 4, 2, 2, is_real=True)],
    "cpu": [
        Setting(None, 64, FEW_QUESTIONS, 256, 24, 5, has_target=True),
        *(Setting(None, a, FEW_QUESTIONS, 256, 24, 3) for a in (4, 16)),
        Setting(None, 64, 16, 256, 24, 3),
        Setting(SMOLLM2_135M, 32, 1, 32, 8, 3, is_real=True),
    ],
    "cuda": [
        Setting(MISTRAL_7B, 64, FEW_QUESTIONS, 256, 32, 3, has_target=True),
        Setting(MISTRAL_7B, 16, FEW_QUESTIONS, 64, 32, 3),
    ],
}


def _random_adapters(spec: LoraSpec, count: int) -> LoraWeights:
    """Adapters strong enough to change answers: A as a fresh LoRA's, B of that size too."""
    generator = torch.Generator().manual_seed(0)
    fresh = fresh_lora(spec, generator, count)
    return LoraWeights(fresh.A, {k: 0.02 * torch.randn(b.shape, generator=generator) for k, b in fresh.B.items()})


class _Peft:
    """PEFT on the base, asked about one adapter's questions at a time."""

    def __init__(self, base: BaseModel, folders: Sequence[Path], questions: Sequence[Question], s: Setting) -> None:
        from peft import PeftModel

        self.base, self.folders, self.setting = base, folders, s
        self.contents = [[q.content for q in questions if q.adapter == i] for i in range(len(folders))]
        self.loading = PeftModel.from_pretrained(copy_of(base), folders[0], adapter_name="0")
        self.switching = PeftModel.from_pretrained(copy_of(base), folders[0], adapter_name="0")
        for i, folder in enumerate(folders[1:], 1):
            self.switching.load_adapter(str(folder), adapter_name=str(i))

    @torch.no_grad()
    def _answers(self, model: torch.nn.Module, i: int) -> list[str]:
        prompts = tokenize_prompts(self.base.tokenizer, self.contents[i])
        ids, mask = collate_prompts(prompts, self.base.tokenizer.pad_token_id, self.base.device)
        output = model.generate(  # type: ignore[operator]
            input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=self.setting.max_new_tokens,
            pad_token_id=self.base.tokenizer.pad_token_id, eos_token_id=self.base.tokenizer.eos_token_id,
        )  # fmt: skip
        texts = self.base.tokenizer.batch_decode(output[:, ids.shape[1] :], skip_special_tokens=True)
        return [t.strip() for t in texts]

    def load_each(self) -> list[str]:
        """Answers in the questions' order; every adapter is read from its folder when its turn comes."""
        answers, model, active = [], self.loading, next(iter(self.loading.peft_config))
        for i, folder in enumerate(self.folders):
            name = "odd" if active != "odd" else "even"
            model.load_adapter(str(folder), adapter_name=name)
            model.set_adapter(name)
            model.delete_adapter(active)
            active = name
            answers += self._answers(model, i)
        return answers

    def switch(self) -> list[str]:
        """The same with every adapter loaded beforehand."""
        answers = []
        for i in range(len(self.folders)):
            self.switching.set_adapter(str(i))
            answers += self._answers(self.switching, i)
        return answers


def _case(s: Setting, device: torch.device, folder: Path) -> Case:
    base = mini_base(device) if s.base is None else random_base(s.base, device)
    tasks = suite().select(suite().split("train").tasks[: s.adapters])
    questions = questions_for(tasks, s.questions, adapter_of=lambda task, _: task)
    spec = lora_spec(base.model, quickstart().lora)
    weights = _random_adapters(spec, s.adapters)
    if s.is_real:
        return _beside_bare(base, questions, spec, weights.to(device), s, device)
    folders = [folder / str(i) for i in range(s.adapters)]
    for i, path in enumerate(folders):
        save_adapter(path, spec, weights[i], base.path, {})
    peft = _Peft(base, folders, questions, s)
    on_device = weights.to(device)

    def mixed() -> list[str]:
        found = greedy_answers(base, questions, spec, on_device, s.max_new_tokens, s.batch_size)
        return [a.answer for a in found]

    calls: dict[str, Callable[[], list[str]]] = {
        "t2l": mixed, "peft_load_each": peft.load_each, "peft_switch": peft.switch
    }  # fmt: skip
    answers = {name: call() for name, call in calls.items()}
    seconds = interleave(calls, device, s.rounds, budget_s=30)
    quicker = min(("peft_load_each", "peft_switch"), key=lambda name: statistics.median(seconds[name]))
    same = [a == b for a, b in zip(answers["t2l"], answers["peft_switch"], strict=True)]
    return Case(
        f"evaluation of {s.adapters} adapters x {s.questions} questions",
        {
            "base": "mini base" if s.base is None else f"width {s.base.hidden}", "adapters": s.adapters,
            "questions": s.questions, "batch_size": s.batch_size, "max_new_tokens": s.max_new_tokens,
        },
        "t2l",
        seconds,
        {name: peak_bytes(call, device) for name, call in calls.items()} if s.has_target else {},
        [Target(quicker, "t2l", at_least=5)] if s.has_target else [],
        {"same_answers_as_peft": sum(same) / len(same)},
        sweeps={"adapters": s.adapters} if s.questions == FEW_QUESTIONS else {},
    )  # fmt: skip


def _beside_bare(
    base: BaseModel,
    questions: Sequence[Question],
    spec: LoraSpec,
    weights: LoraWeights,
    s: Setting,
    device: torch.device,
) -> Case:
    """Every question under its own adapter, and the same questions under none; all are answered to the last token."""
    calls = {
        "t2l": lambda: greedy_answers(base, questions, spec, weights, s.max_new_tokens, s.batch_size),
        "bare": lambda: greedy_answers(base, questions, None, None, s.max_new_tokens, s.batch_size),
    }
    written = {name: sum(a.answer_tokens for a in call()) for name, call in calls.items()}
    return Case(
        f"evaluation of {s.adapters} adapters x {s.questions} questions, beside the bare base",
        {"adapters": s.adapters, "questions": s.questions, "batch_size": s.batch_size, "tokens": written},
        "bare",
        interleave(calls, device, s.rounds, budget_s=30),
        targets=[Target("t2l", "bare", at_most=1.25)],
        checks={"same_number_of_tokens": written["t2l"] == written["bare"]},
    )


def run(scale: str, device: torch.device) -> list[Case]:
    """One case per number of adapters and questions."""
    cases = []
    for setting in SCALES[scale]:
        with tempfile.TemporaryDirectory() as folder:
            cases.append(_case(setting, device, Path(folder)))
    return cases
