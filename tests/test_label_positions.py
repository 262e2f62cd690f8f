"""Logits of labelled positions are those of the attached model, under every adaptation method; so are its choices."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from conftest import tiny_model
from test_methods import CASES, bases, batch, case, task  # noqa: F401

from t2l.base_model import BaseModel, label_logits
from t2l.evaluation.scoring import Question, greedy_answers
from t2l.methods import Method
from t2l.tasks import tokenize_prompts
from t2l.tasks.batches import TokenBatch

CHOICES = ("dog", "dog cat hammer", "seven", "lion")
TEXTS = ["dog cat lion", "cow", "hammer seven dog 7 cat cow"]


def disturbed(attached: Any) -> None:
    """Every trained value somewhere else, so that the method says something of its own."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in attached.trainable.values():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)


def test_label_logits_are_the_attached_models(
    case: tuple[Method[Any], BaseModel, int],  # noqa: F811
    batch: TokenBatch,  # noqa: F811
) -> None:
    method, base, _ = case
    rows, positions = (batch.labels[:, 1:] != -100).nonzero(as_tuple=True)
    with method.attach(base, 1) as attached, torch.no_grad():
        disturbed(attached)
        wanted = attached.logits(batch.input_ids, batch.attention_mask)[rows, positions]
        found = label_logits(attached.model, batch.input_ids, batch.attention_mask, batch.labels)
    with torch.no_grad():
        bare = base.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits[rows, positions]
    torch.testing.assert_close(found.logits, wanted, atol=1e-4, rtol=1e-4)
    assert (wanted - bare).abs().max() > 0.01
    assert torch.equal(found.rows, rows)


def test_choices_are_a_direct_computations(case: tuple[Method[Any], BaseModel, int]) -> None:  # noqa: F811
    """One unpadded row at a time, from all logits; margins are wide enough for any rounding."""
    method, base, _ = case
    asked = [Question("t", text, text, "dog", metric="multiple_choice", choices=CHOICES) for text in TEXTS]
    with method.attach(base, 1) as attached:
        disturbed(attached)
        adapted = replace(base, model=attached.model)
        answers = greedy_answers(adapted, asked, None, None, 4, 3)
        for answer, text in zip(answers, TEXTS, strict=True):
            (prompt,) = tokenize_prompts(base.tokenizer, [text])
            found = []
            for choice in CHOICES:
                end = base.tokenizer(choice, add_special_tokens=False)["input_ids"]
                ids = torch.tensor([[*prompt, *end]])
                with torch.no_grad():
                    logits = attached.logits(ids, torch.ones_like(ids))[0].float().log_softmax(dim=-1)
                found.append(logits[len(prompt) - 1 : -1].gather(1, torch.tensor(end)[:, None]).sum().item())
            first, second = sorted(found)[-1], sorted(found)[-2]
            assert answer.answer == CHOICES[found.index(first)] or first - second < 1e-3


def test_a_model_that_hands_on_fewer_positions_is_refused() -> None:
    model = tiny_model("llama")
    head = model.get_output_embeddings()
    handle = head.register_forward_pre_hook(lambda _module, args: (args[0][:, -2:],))
    ids = torch.tensor([[1, 5, 6, 7]])
    with pytest.raises(ValueError, match="gives its output embedding 2 positions of 4"):
        label_logits(model, ids, torch.ones_like(ids), ids)
    handle.remove()


def test_every_method_is_in_the_table() -> None:
    assert len(CASES) == 13
