"""Batched greedy decoding under one adapter per task, and exact match."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from t2l.base_model import BaseModel
from t2l.batches import collate_prompts
from t2l.injection import inject
from t2l.lora import LoraSpec, LoraWeights
from t2l.tasks import Task, tokenize_prompts


def normalise_answer(text: str) -> str:
    """Answers compare with outer and repeated white space removed."""
    return " ".join(text.split())


def exact_match(answer: str, reference: str) -> float:
    """1.0 where answer and reference are the same string up to white space, else 0.0."""
    return float(normalise_answer(answer) == normalise_answer(reference))


@dataclass(frozen=True)
class Question:
    """One prompt to answer: the user's turn, the reference, and which adapter of a batch it runs under."""

    task: str
    input: str
    content: str
    reference: str
    adapter: int = 0
    prefix: str = ""


@dataclass(frozen=True)
class Answer:
    """A question with what was answered and its score in [0, 1]."""

    question: Question
    answer: str
    score: float


def questions_for(
    tasks: Sequence[Task],
    examples: int,
    adapter_of: Callable[[int, int], int] = lambda task, example: 0,
    prefix_of: Callable[[int, int], str] = lambda task, example: "",
) -> list[Question]:
    """The first `examples` test examples of each task as questions.

    Args:
        adapter_of: (task index, example index) to the index of the adapter the question runs under.
        prefix_of: likewise, the text put before the input (a description, a formal code).

    Raises ValueError where a task has no test examples.
    """
    questions = []
    for t, task in enumerate(tasks):
        if not task.examples.get("test"):
            raise ValueError(f"task {task.name!r} has no test examples to score on")
        for e, example in enumerate(task.examples["test"][:examples]):
            prefix = prefix_of(t, e)
            content = f"{prefix}\n{example.input}" if prefix else example.input
            questions.append(Question(task.name, example.input, content, example.output, adapter_of(t, e), prefix))
    return questions


def greedy_answers(
    base: BaseModel,
    questions: Sequence[Question],
    spec: LoraSpec | None,
    weights: LoraWeights | None,
    max_new_tokens: int,
    batch_size: int,
    on_batch: Callable[[int], None] | None = None,
) -> list[Answer]:
    """Answers every question by greedy decoding, each under its own adapter, and scores it.

    Questions are decoded in order of prompt length and returned in the order given. With `weights`
    None the bare base answers.
    """
    prompts = tokenize_prompts(base.tokenizer, [q.content for q in questions])
    order = sorted(range(len(questions)), key=lambda i: len(prompts[i]))
    texts: dict[int, str] = {}
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        ids, mask = collate_prompts([prompts[i] for i in rows], base.tokenizer.pad_token_id, base.device)
        adapter_index = torch.tensor([questions[i].adapter for i in rows], device=base.device)
        decoded = _generate(base, spec, weights, adapter_index, ids, mask, max_new_tokens)
        texts.update(zip(rows, decoded, strict=True))
        if on_batch is not None:
            on_batch(len(rows))
    return [Answer(q, normalise_answer(texts[i]), exact_match(texts[i], q.reference)) for i, q in enumerate(questions)]


@torch.no_grad()
def _generate(
    base: BaseModel,
    spec: LoraSpec | None,
    weights: LoraWeights | None,
    adapter_index: torch.Tensor,
    ids: torch.Tensor,
    mask: torch.Tensor,
    max_new_tokens: int,
) -> list[str]:
    options = {
        "max_new_tokens": max_new_tokens,
        "do_sample": False,
        "pad_token_id": base.tokenizer.pad_token_id,
        "eos_token_id": base.tokenizer.eos_token_id,
    }
    if weights is None or spec is None:
        output = base.model.generate(input_ids=ids, attention_mask=mask, **options)
    else:
        with inject(base.model, spec, weights, adapter_index):
            output = base.model.generate(input_ids=ids, attention_mask=mask, **options)
    return base.tokenizer.batch_decode(output[:, ids.shape[1] :], skip_special_tokens=True)
