"""Batched greedy decoding under one adapter per question, scored by the question's metric."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from t2l.base_model import BaseModel
from t2l.batches import collate_prompts
from t2l.evaluation.metrics import metric
from t2l.injection import inject
from t2l.lora import LoraSpec, LoraWeights
from t2l.tasks import Task, tokenize_prompts


@dataclass(frozen=True)
class Question:
    """One prompt to answer: the user's turn, the reference, and which adapter of a batch it runs under."""

    task: str
    input: str
    content: str
    reference: str
    adapter: int = 0
    prefix: str = ""
    metric: str = "exact_match"


@dataclass(frozen=True)
class Answer:
    """A question with what was answered, its score in [0, 1], and the tokens read and written for it."""

    question: Question
    answer: str
    score: float
    prompt_tokens: int = 0
    answer_tokens: int = 0


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
            questions.append(
                Question(task.name, example.input, content, example.output, adapter_of(t, e), prefix, task.metric)
            )
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
    texts: dict[int, tuple[str, int]] = {}
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        ids, mask = collate_prompts([prompts[i] for i in rows], base.tokenizer.pad_token_id, base.device)
        adapter_index = torch.tensor([questions[i].adapter for i in rows], device=base.device)
        decoded = _generate(base, spec, weights, adapter_index, ids, mask, max_new_tokens)
        texts.update(zip(rows, decoded, strict=True))
        if on_batch is not None:
            on_batch(len(rows))
    answers = []
    for i, q in enumerate(questions):
        text, length = texts[i]
        score = metric(q.metric).score(text, q.reference)
        answers.append(Answer(q, text.strip(), score, len(prompts[i]), length))
    return answers


@torch.no_grad()
def _generate(
    base: BaseModel,
    spec: LoraSpec | None,
    weights: LoraWeights | None,
    adapter_index: torch.Tensor,
    ids: torch.Tensor,
    mask: torch.Tensor,
    max_new_tokens: int,
) -> list[tuple[str, int]]:
    """Each row's answer, and its length in tokens with the end-of-sequence token."""
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
    written = output[:, ids.shape[1] :]
    lengths = (written != base.tokenizer.pad_token_id).sum(dim=1).tolist()
    return list(zip(base.tokenizer.batch_decode(written, skip_special_tokens=True), lengths, strict=True))
