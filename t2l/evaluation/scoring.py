"""Answers to questions, one adapter per question, scored by the question's metric.

An answer is written by greedy decoding, or chosen by likelihood if the metric says so.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate, pairwise
from typing import Any

import torch

from t2l.base_model import BaseModel, label_logits
from t2l.base_model.decoding import plain_decoding
from t2l.evaluation.metrics.code_runner import check_allowed
from t2l.evaluation.metrics.interface import Metric, metric
from t2l.lora import LoraSpec, LoraWeights, inject
from t2l.objectives.losses import label_loss
from t2l.tasks import Example, Task, TokenizedExample, tokenize_prompts
from t2l.tasks.batches import batches_within, collate, collate_prompts
from t2l.tasks.prompting import Shots, cut_prompt, template_lengths

log = logging.getLogger(__name__)


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
    max_new_tokens: int | None = None
    """longest answer in tokens, if the task says"""
    shots: Shots = ()
    """solved examples as earlier turns of the chat: what the user says, what the assistant answers"""
    stop: str = ""
    """what ends a written answer if the prompt is a text that would go on (solved examples); empty for nothing"""
    core: str = field(default="", repr=False)
    """what of the reference is the answer itself, if it also has a form; decides nothing that is asked or scored"""

    @classmethod
    def of(cls, task: Task, example: Example, adapter: int = 0, prefix: str = "") -> Question:
        """The question that an example of a task puts, after a text of its own line (a description, a formal code)."""
        return cls(
            task.name, example.input, f"{prefix}\n{example.input}" if prefix else example.input,
            getattr(example, metric(task.metric).against), adapter, prefix, task.metric, example.references,
            example.choices, task.max_new_tokens, core=example.core,
        )  # fmt: skip

    def ended(self, written: str) -> str:
        """What is written up to where the answer ends."""
        return written.strip().split(self.stop)[0] if self.stop else written

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


def check_scorable(task: Task) -> None:
    """Raises ValueError if a task's metric is unknown or may not run code, or test examples lack what it needs."""
    check_code(task)
    examples = task.examples.get("test")
    if not examples:
        raise ValueError(f"task {task.name!r} has no test examples to score on")
    try:
        for example in examples:
            _check_example(metric(task.metric), example)
    except ValueError as error:
        raise ValueError(f"task {task.name!r}: {error}") from None


def check_code(task: Task) -> None:
    """Raises ValueError if a task's metric is unknown, or would run code that nobody has allowed to run."""
    try:
        by = metric(task.metric)
    except ValueError as error:
        raise ValueError(f"task {task.name!r}: {error}") from None
    if by.runs_code:
        check_allowed(f"task {task.name!r} (metric {by.name})")


def _check_example(by: Metric, example: Example) -> None:
    references = (getattr(example, by.against), *example.references)
    where = f"metric {by.name}: the test example {example.input[:60]!r}"
    if by.against == "tests" and not example.tests:
        raise ValueError(f"{where} has no tests, assertions that right code passes")
    if by.chooses and not all(example.choices or ("",)):
        raise ValueError(f"{where} has no choices, or an empty one")
    if by.chooses and not any(by.score(choice, r) for choice in example.choices for r in references):
        raise ValueError(f"{where} has no right answer among its choices")
    for reference in references:
        by.read_reference(reference)


Remember = Callable[[str, Callable[[], list[Any]]], list[Any]]
"""The results of a batch, by what the batch is: kept from before, or computed (and kept). They are JSON-able."""


def _compute(batch: str, results: Callable[[], list[Any]]) -> list[Any]:
    """Nothing is kept."""
    return results()


def first_adapter(task: int, example: int) -> int:
    """The one adapter there is."""
    return 0


def no_prefix(task: int, example: int) -> str:
    """No text before the input."""
    return ""


def questions_for(
    tasks: Sequence[Task],
    examples: int,
    adapter_of: Callable[[int, int], int] = first_adapter,
    prefix_of: Callable[[int, int], str] = no_prefix,
) -> list[Question]:
    """The first `examples` test examples of each task as questions.

    Args:
        adapter_of: (task index, example index) to the index of the adapter the question runs under.
        prefix_of: likewise, the text put before the input (a description, a formal code).

    Raises ValueError if a task cannot be scored (`check_scorable`).
    """
    for task in tasks:
        check_scorable(task)
    return [
        Question.of(task, example, adapter_of(t, e), prefix_of(t, e))
        for t, task in enumerate(tasks)
        for e, example in enumerate(task.examples["test"][:examples])
    ]


def greedy_answers(
    base: BaseModel,
    questions: Sequence[Question],
    spec: LoraSpec | None,
    weights: LoraWeights | None,
    max_new_tokens: int,
    batch_size: int,
    on_batch: Callable[[int], None] | None = None,
    tokens_per_batch: int | None = None,
    remember: Remember = _compute,
) -> list[Answer]:
    """Answers every question by greedy decoding, each under its own adapter, and scores it.

    Questions are decoded in order of length and returned in the order given. With `weights` None the bare
    base answers. A question of multiple choice is answered by likelihood (`choose_answers`).

    Args:
        max_new_tokens: longest answer, of questions that do not say themselves.
        batch_size: most questions (or choices) of a batch.
        on_batch: called with the number of questions answered.
        tokens_per_batch: most tokens of a batch, padding and the longest answer counted; None for any number.
        remember: gives a batch's results if they are there from before. Batches stay what they are, so that the
            others come out to the same digits.

    Raises ValueError if the base's context has no room for a prompt.
    """
    done = on_batch or (lambda n: None)
    found: dict[int, Answer] = {}
    chosen = [i for i, q in enumerate(questions) if metric(q.metric).chooses]
    if chosen:
        answers = choose_answers(
            base, [questions[i] for i in chosen], spec, weights, batch_size, tokens_per_batch, remember
        )
        found |= dict(zip(chosen, answers, strict=True))
        done(len(chosen))
    limits = [q.max_new_tokens or max_new_tokens for q in questions]
    for limit in dict.fromkeys(limits):
        rows = [i for i, own in enumerate(limits) if own == limit and i not in found]
        prompts = _fitting_prompts(base, [questions[i] for i in rows], [limit] * len(rows))
        for batch in batches_within([len(p) + limit for p in prompts], batch_size, tokens_per_batch):
            asked = [questions[rows[b]] for b in batch]
            here = [prompts[b] for b in batch]
            written = remember(
                f"write {limit}: {[rows[b] for b in batch]}",
                partial(_write, base, spec, weights, asked, here, limit),
            )
            for b, q, (text, length) in zip(batch, asked, written, strict=True):
                answer = q.ended(text)
                found[rows[b]] = Answer(q, answer.strip(), q.score(answer), len(prompts[b]), length)
            done(len(batch))
    return [found[i] for i in range(len(questions))]


def _fitting_prompts(base: BaseModel, questions: Sequence[Question], room: Sequence[int]) -> list[tuple[int, ...]]:
    """Prompts as token ids that leave `room` tokens of the base's context for the answer.

    Of one that is longer, earlier turns (solved examples) go first, the earliest before the others; then the user's turn
    is cut on the left.

    Raises ValueError if nothing of a user's turn would be left.
    """
    tokenizer, context = base.tokenizer, base.positions
    prompts = tokenize_prompts(tokenizer, [q.content for q in questions], [q.shots for q in questions])
    if context is None or not prompts:
        return prompts
    long = [i for i, (p, r) in enumerate(zip(prompts, room, strict=True)) if len(p) + r > context]
    before, after = template_lengths(tokenizer) if long else (0, 0)
    for i in long:
        q = questions[i]
        if context - room[i] <= before + after:
            raise ValueError(
                f"task {q.task!r}: an answer of {room[i]} tokens leaves no room for a prompt: base {base.name} reads {context} "
                f"tokens, of which its template takes {before + after}; lower evaluation.max_new_tokens (or the task's own), "
                "or score multiple choice with shorter choices"
            )
        for kept in range(len(q.shots) - 1, -1, -1):
            (prompts[i],) = tokenize_prompts(tokenizer, [q.content], [q.shots[len(q.shots) - kept :]])
            if len(prompts[i]) + room[i] <= context:
                break
        prompts[i] = cut_prompt(prompts[i], context - room[i], before)
    if long:
        log.warning(
            "%d of %d prompts are longer than base %s reads (%d tokens, room for the answer included): cut on the left",
            len(long), len(prompts), base.name, context,
        )  # fmt: skip
    return prompts


@torch.no_grad()
def choose_answers(
    base: BaseModel,
    questions: Sequence[Question],
    spec: LoraSpec | None,
    weights: LoraWeights | None,
    batch_size: int,
    tokens_per_batch: int | None = None,
    remember: Remember = _compute,
) -> list[Answer]:
    """Answers each question with the likeliest of its choices, as the assistant's whole turn (`Metric.chooses`).

    Raises ValueError for a question without choices, or if the base's context has no room for a prompt.
    """
    bare = [q.input for q in questions if not q.choices]
    if bare:
        raise ValueError(f"a multiple-choice question has no choices: {bare[0][:60]!r}")
    starts = [0, *accumulate(len(q.choices) for q in questions)]
    spans = [range(*pair) for pair in pairwise(starts)]
    ends = base.tokenizer([c for q in questions for c in q.choices], add_special_tokens=False)["input_ids"]
    prompts = _fitting_prompts(base, questions, [max(len(ends[r]) for r in span) for span in spans])
    owners = [i for i, span in enumerate(spans) for _ in span]
    rows = [TokenizedExample(prompts[i], tuple(end)) for i, end in zip(owners, ends, strict=True)]
    likelihood = [0.0] * len(rows)

    def losses(part: Sequence[int]) -> list[float]:
        batch = collate([rows[r] for r in part], base.tokenizer.pad_token_id, base.device)
        with _under(base, spec, weights, [questions[owners[r]] for r in part]):
            found = label_logits(base.model, batch.input_ids, batch.attention_mask, batch.labels)
        return label_loss(found.logits, found.targets, found.rows, len(part)).tolist()

    for part in batches_within([row.length for row in rows], batch_size, tokens_per_batch):
        means = remember(f"choose: {list(part)}", partial(losses, part))
        for r, mean in zip(part, means, strict=True):
            likelihood[r] = -mean * len(rows[r].response_ids)
    answers = []
    for q, prompt, span in zip(questions, prompts, spans, strict=True):
        by_byte = metric(q.metric).chooses == "per_byte"
        weighed = [likelihood[r] / (len(c.encode()) if by_byte else 1) for r, c in zip(span, q.choices, strict=True)]
        best = q.choices[weighed.index(max(weighed))]
        tokens = sum(len(ends[r]) for r in span)
        answers.append(Answer(q, best, q.score(best), len(prompt) * len(span), tokens))
    return answers


def _under(
    base: BaseModel, spec: LoraSpec | None, weights: LoraWeights | None, questions: Sequence[Question]
) -> AbstractContextManager[Any]:
    """The base with every row of a batch under its own question's adapter, or bare."""
    if weights is None or spec is None:
        return nullcontext()
    return inject(base.model, spec, weights, torch.tensor([q.adapter for q in questions], device=base.device))


@torch.no_grad()
def _write(
    base: BaseModel,
    spec: LoraSpec | None,
    weights: LoraWeights | None,
    questions: Sequence[Question],
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
) -> list[tuple[str, int]]:
    """Each question's answer, and its length in tokens with the end-of-sequence token."""
    ids, mask = collate_prompts(prompts, base.tokenizer.pad_token_id, base.device)
    with _under(base, spec, weights, questions), plain_decoding(base.model):
        output = base.model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            pad_token_id=base.tokenizer.pad_token_id,
            eos_token_id=base.end_ids,
        )
    written = output[:, ids.shape[1] :]
    is_end = torch.isin(written, torch.tensor(base.end_ids, device=written.device))
    lengths = torch.where(is_end.any(dim=1), is_end.int().argmax(dim=1) + 1, written.shape[1])
    return list(zip(base.tokenizer.batch_decode(written, skip_special_tokens=True), lengths.tolist(), strict=True))
