"""Objectives from outside the package: a second pass of the base, and a sum of two, in one file each."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
import torch
from conftest import random_adapters
from test_training import TRAINER, WIDTH, Setup

from t2l import hypernetwork as hypernetworks
from t2l.base_model import BaseModel, hash_parameters
from t2l.hypernetwork import ResidualConfig
from t2l.lora.source import as_source
from t2l.objectives import Materials, Objective, ReconstructionConfig, ReconstructionObjective, Steps
from t2l.registry import component_of, register

DISTILLATION = '''
from dataclasses import dataclass

import torch

from t2l.base_model import label_logits
from t2l.lora import inject
from t2l.objectives import Objective, Term
from t2l.registry import register
from t2l.tasks import show_definition, tokenize_examples
from t2l.tasks.batches import collate


@dataclass
class DistillationConfig:
    """What the base says when it reads the description, without reading it."""

    name: str = "context_distillation"


@register("objective", "context_distillation", DistillationConfig)
class Distillation(Objective):
    needs_base = True

    def __init__(self, base, bare, told):
        self.base, self.bare, self.told = base, bare, told

    @classmethod
    def make(cls, config, materials):
        def rows(task):
            return tokenize_examples(materials.base.tokenizer, task.examples["train"])

        tasks = materials.tasks
        return cls(materials.base, [rows(t) for t in tasks], [rows(show_definition(t)) for t in tasks])

    def row_counts(self):
        return [len(r) for r in self.bare]

    def logits(self, rows):
        batch = collate(rows, self.base.tokenizer.pad_token_id, self.base.device)
        return label_logits(self.base.model, batch.input_ids, batch.attention_mask, batch.labels).logits

    def losses(self, hypernetwork, batch, weights):
        pick = lambda rows: [rows[t][i] for t, chosen in zip(batch.tasks, batch.rows) for i in chosen]
        with torch.no_grad():
            teacher = self.logits(pick(self.told)).softmax(dim=-1)
        with inject(self.base.model, hypernetwork.spec, weights):
            student = self.logits(pick(self.bare)).log_softmax(dim=-1)
            yield Term("loss", -(teacher * student).sum(dim=-1).mean())
'''


@pytest.fixture
def distillation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type:
    (tmp_path / "outside_objective.py").write_text(DISTILLATION)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("outside_objective", None)
    return importlib.import_module("outside_objective").DistillationConfig


def test_a_second_pass_through_the_base(tiny_base: BaseModel, tmp_path: Path, distillation: type) -> None:
    setup = Setup(tiny_base, tmp_path)
    made = component_of("objective", distillation()).make.make(
        distillation(), Materials(TRAINER, tiny_base, setup.tasks)
    )
    model = hypernetworks.build(ResidualConfig(width=16, description_width=8), setup.spec, WIDTH, seed=0)
    optimizer, before = torch.optim.Adam(model.parameters(), lr=0.01), hash_parameters(tiny_base.model)
    steps, losses = Steps(made, setup.embeddings, TRAINER, 0), []
    for _ in range(20):
        losses.append(steps.backward(model, 0)["train/loss"])
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0]
    assert hash_parameters(tiny_base.model) == before


def test_a_sum_of_objectives(tiny_base: BaseModel, tmp_path: Path) -> None:
    """The gradients of the sum are the sum of the gradients, and the terms are told apart."""
    setup = Setup(tiny_base, tmp_path)
    sft = setup.steps().objective
    model = hypernetworks.build(ResidualConfig(width=16, description_width=8), setup.spec, WIDTH, seed=0)
    library = as_source(random_adapters(setup.spec, len(setup.tasks)))
    reconstruction = ReconstructionObjective(ReconstructionConfig(standardise=False), library)

    class Both(Objective):
        needs_base = needs_library = True

        @classmethod
        def make(cls, config: object, materials: Materials) -> Both:
            return cls()

        def row_counts(self) -> list[int] | None:
            return sft.row_counts()

        def losses(self, hypernetwork, batch, weights):  # type: ignore[no-untyped-def]
            yield from sft.losses(hypernetwork, batch, weights)
            for term in reconstruction.losses(hypernetwork, batch, weights):
                yield type(term)("distance", term.value)

    def gradients(objective: Objective) -> tuple[dict[str, float], list[torch.Tensor]]:
        model.zero_grad()
        metrics = Steps(objective, setup.embeddings, TRAINER, 0).backward(model, 3)
        return metrics, [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters()]

    one, two, both = gradients(sft), gradients(reconstruction), gradients(Both())
    assert both[0] == pytest.approx({**one[0], "train/distance": two[0]["train/loss"]})
    for a, b, together in zip(one[1], two[1], both[1], strict=True):
        torch.testing.assert_close(a + b, together)


def test_a_name_is_taken_once() -> None:
    with pytest.raises(ValueError, match="objective 'sft' is registered already"):
        register("objective", "sft")(lambda: None)
    with pytest.raises(ValueError, match="objective: there is none for the config dict; choose one"):
        component_of("objective", {})
