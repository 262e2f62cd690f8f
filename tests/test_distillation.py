"""Distillation: the loss against its formula, teacher and student against the base itself, training on a tiny base."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import random_adapters
from test_cli import refused
from test_training import TRAINER, WIDTH, Setup

from t2l import hypernetwork as hypernetworks
from t2l.base_model import BaseModel, hash_parameters
from t2l.hypernetwork import ResidualConfig
from t2l.lora import inject
from t2l.objectives import Materials, Steps
from t2l.objectives.distillation import DistillationConfig, DistillationObjective
from t2l.objectives.interface import Batch
from t2l.objectives.losses import distillation_loss
from t2l.objectives.sft import SftConfig, SftObjective
from t2l.training import TrainerConfig

ROWS = torch.tensor([0, 0, 1, 1, 1])


def logits(seed: int) -> torch.Tensor:
    return torch.randn(5, 11, generator=torch.Generator().manual_seed(seed))


def test_the_loss_is_the_divergence_at_a_temperature() -> None:
    student, teacher, T = logits(0).requires_grad_(), logits(1).requires_grad_(), 2.0
    p, q = (teacher / T).softmax(-1), (student / T).softmax(-1)
    tokens = T**2 * (p * (p.log() - q.log())).sum(-1)
    expected = torch.stack([tokens[:2].mean(), tokens[2:].mean(), torch.zeros(())])
    found = distillation_loss(student, teacher, ROWS, 3, T)
    torch.testing.assert_close(found, expected)
    found.sum().backward()
    assert student.grad is not None
    assert teacher.grad is None
    assert distillation_loss(student, student, ROWS, 3).abs().max() < 1e-6


def make(setup: Setup, config: DistillationConfig, trainer: TrainerConfig = TRAINER) -> DistillationObjective:
    return DistillationObjective.make(config, Materials(trainer, setup.base, setup.tasks))


def as_read(base: BaseModel, text: str) -> str:
    """A text as the tokenizer's tokens spell it."""
    return base.tokenizer.decode(base.tokenizer(text, add_special_tokens=False)["input_ids"])


def whole_logits(base: BaseModel, row: object) -> torch.Tensor:
    """Of one row's response tokens, by a plain forward pass of the model."""
    ids = torch.tensor([[*row.prompt_ids, *row.response_ids]])  # type: ignore[attr-defined]
    return base.model(ids).logits[0, len(row.prompt_ids) - 1 : -1]  # type: ignore[attr-defined]


def test_teacher_and_student_are_one_base_with_and_without_the_description(
    tiny_base: BaseModel, tmp_path: Path
) -> None:
    setup = Setup(tiny_base, tmp_path)
    made = make(setup, DistillationConfig(labels=0.5, temperature=1.5, weight_penalty=0.0))
    task, text = setup.tasks[0], as_read(tiny_base, setup.tasks[0].descriptions["train"][0])
    told = tiny_base.tokenizer.decode(made.rows[0][0].told.prompt_ids)
    assert text in told
    assert text not in tiny_base.tokenizer.decode(made.rows[0][0].prompt_ids)
    assert task.examples["train"][0].input in told
    weights = random_adapters(setup.spec, 2, size=0.1)
    model = hypernetworks.build(ResidualConfig(width=16, description_width=8), setup.spec, WIDTH, seed=0)
    terms = list(made.losses(model, Batch([0, 2], [[0, 1], [2, 3]]), weights))
    expected = []
    with torch.no_grad():
        for i, row in enumerate([made.rows[0][0], made.rows[0][1], made.rows[2][2], made.rows[2][3]]):
            teacher = whole_logits(tiny_base, row.told)
            with inject(tiny_base.model, setup.spec, weights[i // 2 : i // 2 + 1]):
                student = whole_logits(tiny_base, row)
            one = torch.zeros(len(teacher), dtype=torch.long)
            divergence = distillation_loss(student, teacher, one, 1, 1.5)
            expected.append(divergence + 0.5 * F.cross_entropy(student, torch.tensor(row.response_ids)))
    found = torch.stack([t.value for t in terms if t.name == "loss"]).sum()
    torch.testing.assert_close(found, torch.stack(expected).mean())


def test_rows_are_those_of_sft_and_a_cut_response_is_cut_for_the_teacher(tiny_base: BaseModel, tmp_path: Path) -> None:
    setup, trainer = Setup(tiny_base, tmp_path), replace(TRAINER, max_length=9)
    made = make(setup, DistillationConfig(), trainer)
    plain = SftObjective.make(SftConfig(), Materials(trainer, tiny_base, setup.tasks))
    pairs = [
        (a, b) for ours, theirs in zip(made.rows, plain.rows, strict=True) for a, b in zip(ours, theirs, strict=True)
    ]
    assert all((a.prompt_ids, a.response_ids) == (b.prompt_ids, b.response_ids) for a, b in pairs)
    assert any(a.response_ids[-1] != tiny_base.tokenizer.eos_token_id for a, _ in pairs)
    assert all(a.told.response_ids == a.response_ids for a, _ in pairs)


@pytest.mark.parametrize("teacher", ["examples", "both"])
def test_a_teacher_of_solved_examples_never_reads_the_rows_own(
    tiny_base: BaseModel, tmp_path: Path, teacher: str
) -> None:
    setup = Setup(tiny_base, tmp_path)
    made = make(setup, DistillationConfig(teacher=teacher, shots=3))
    for task, rows in zip(setup.tasks, made.rows, strict=True):
        for example, row in zip(task.examples["train"], rows, strict=True):
            text = tiny_base.tokenizer.decode(row.told.prompt_ids)
            assert text.count(example.input) == 1
            assert sum(other.input in text for other in task.examples["train"]) == 4
            described = any(as_read(tiny_base, d) in text for d in task.descriptions["train"])
            assert described == (teacher == "both")
    with pytest.raises(
        ValueError, match=r"objective\.shots=16 needs more training examples than task 'keep_animals' has"
    ):
        make(setup, DistillationConfig(teacher=teacher, shots=16))


def test_a_prompt_that_the_base_cannot_hold_is_refused(tiny_base: BaseModel, tmp_path: Path) -> None:
    setup = Setup(tiny_base, tmp_path)
    setup.tasks = [replace(t, descriptions={"train": ("word " * 5000,)}) for t in setup.tasks]
    with pytest.raises(
        ValueError, match=r"objective\.teacher=description: a prompt of task 'keep_animals' takes \d+ tokens"
    ):
        make(setup, DistillationConfig())


def test_several_passes_are_one(tiny_base: BaseModel, tmp_path: Path) -> None:
    setup = Setup(tiny_base, tmp_path)
    gradients = []
    for most in (None, 2):
        trainer = replace(TRAINER, rows_per_pass=most)
        model = hypernetworks.build(ResidualConfig(width=16, description_width=8), setup.spec, WIDTH, seed=0)
        made = make(setup, DistillationConfig(), trainer)
        loss = Steps(made, setup.embeddings, trainer, 0).backward(model, 1)["train/loss"]
        gradients.append([torch.tensor(loss), *(p.grad for p in model.parameters() if p.grad is not None)])
    for one, several in zip(*gradients, strict=True):
        torch.testing.assert_close(one, several)


def test_training_brings_the_student_to_its_teacher(tiny_base: BaseModel, tmp_path: Path) -> None:
    setup = Setup(tiny_base, tmp_path)
    made = make(setup, DistillationConfig())
    model = hypernetworks.build(ResidualConfig(width=16, description_width=8), setup.spec, WIDTH, seed=0)
    optimizer, before = torch.optim.Adam(model.parameters(), lr=0.01), hash_parameters(tiny_base.model)
    steps, losses = Steps(made, setup.embeddings, TRAINER, 0), []
    for step in range(30):
        losses.append(steps.backward(model, step % 2)["train/loss"])
        optimizer.step()
        optimizer.zero_grad()
    assert min(losses[-2:]) < 0.5 * max(losses[:2])
    assert hash_parameters(tiny_base.model) == before


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("teacher=nobody", "objective.teacher must be description, examples or both, not 'nobody'"),
        ("shots=0", "objective.shots must be at least 1, not 0"),
        ("temperature=0", "objective.temperature must be positive, not 0.0"),
        ("labels=-1", "objective.labels must be at least 0, not -1.0"),
    ],
)
def test_bad_settings_are_one_line(word: str, says: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert says in refused(capsys, "train", "objective=distillation", f"objective.{word}", f"run_dir={tmp_path}/run")
