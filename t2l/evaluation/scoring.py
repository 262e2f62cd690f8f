"""Batched greedy decoding under one adapter per question, scored by the question's metric."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch

from t2l.base_model import BaseModel, label_logits
from t2l.batches import collate, collate_prompts
from t2l.evaluation.metrics import metric
from t2l.injection import inject
from t2l.lora import LoraSpec, LoraWeights
from t2l.objectives import label_loss
from t2l.tasks import Task, TokenizedExample, tokenize_prompts


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
    references: tuple[str, ...] = ()
    """further right answers; the best score counts"""
    choices: tuple[str, ...] = ()

    def score(self, answer: str) -> float:
        """The answer's score by the question's metric."""
        return max(metric(self.metric).score(answer, r) for r in (self.reference, *self.references))


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
            reference = example.tests if task.metric == "pass_at_1" and example.tests else example.output
            questions.append(
                Question(
                    task.name, example.input, content, reference, adapter_of(t, e), prefix, task.metric,
                    example.references, example.choices,
                )
            )  # fmt: skip
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
    None the bare base answers. A question of multiple choice is answered by likelihood (`choose_answers`).
    """
    if any(metric(q.metric).by_likelihood for q in questions):
        return _mixed_answers(base, questions, spec, weights, max_new_tokens, batch_size, on_batch)
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
        answers.append(Answer(q, text.strip(), q.score(text), len(prompts[i]), length))
    return answers


def _mixed_answers(
    base: BaseModel,
    questions: Sequence[Question],
    spec: LoraSpec | None,
    weights: LoraWeights | None,
    max_new_tokens: int,
    batch_size: int,
    on_batch: Callable[[int], None] | None,
) -> list[Answer]:
    chosen = [i for i, q in enumerate(questions) if metric(q.metric).by_likelihood]
    written = [i for i in range(len(questions)) if i not in set(chosen)]
    found = dict(
        zip(chosen, choose_answers(base, [questions[i] for i in chosen], spec, weights, batch_size), strict=True)
    )
    if on_batch is not None:
        on_batch(len(chosen))
    if written:
        rest = [questions[i] for i in written]
        answers = greedy_answers(base, rest, spec, weights, max_new_tokens, batch_size, on_batch)
        found |= dict(zip(written, answers, strict=True))
    return [found[i] for i in range(len(questions))]


@torch.no_grad()
def choose_answers(
    base: BaseModel,
    questions: Sequence[Question],
    spec: LoraSpec | None,
    weights: LoraWeights | None,
    batch_size: int,
) -> list[Answer]:
    """Answers each question with the likeliest of its choices, as the assistant's whole turn.

    By total log-likelihood, or for `multiple_choice_normalised` by that per byte of the choice (Gao et al. 2021, the
    lm-evaluation-harness's acc and acc_norm). Raises ValueError for a question without choices.
    """
    bare = [q.input for q in questions if not q.choices]
    if bare:
        raise ValueError(f"a multiple-choice question has no choices: {bare[0][:60]!r}")
    pairs = [(i, choice) for i, q in enumerate(questions) for choice in q.choices]
    prompts = tokenize_prompts(base.tokenizer, [q.content for q in questions])
    ends = base.tokenizer([choice for _, choice in pairs], add_special_tokens=False)["input_ids"]
    rows = [TokenizedExample(prompts[i], tuple(end)) for (i, _), end in zip(pairs, ends, strict=True)]
    likelihood = [0.0] * len(rows)
    order = sorted(range(len(rows)), key=lambda r: rows[r].length)
    for start in range(0, len(order), batch_size):
        part = order[start : start + batch_size]
        batch = collate([rows[r] for r in part], base.tokenizer.pad_token_id, base.device)
        index = torch.tensor([questions[pairs[r][0]].adapter for r in part], device=base.device)
        block = nullcontext() if weights is None or spec is None else inject(base.model, spec, weights, index)
        with block:
            found = label_logits(base.model, batch.input_ids, batch.attention_mask, batch.labels)
        means = label_loss(found.logits, found.targets, found.rows, len(part))
        for r, mean in zip(part, means.tolist(), strict=True):
            likelihood[r] = -mean * len(rows[r].response_ids)
    answers = []
    for i, q in enumerate(questions):
        mine = [r for r, (owner, _) in enumerate(pairs) if owner == i]
        by_byte = q.metric == "multiple_choice_normalised"
        best = max(mine, key=lambda r: likelihood[r] / (len(pairs[r][1].encode()) if by_byte else 1))
        tokens = sum(len(rows[r].response_ids) for r in mine)
        answers.append(Answer(q, pairs[best][1], q.score(pairs[best][1]), len(prompts[i]) * len(mine), tokens))
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
