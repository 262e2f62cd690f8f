"""In-context learning: the base model with solved examples of the task in its prompt (Brown et al. 2020).

How examples are put to a model matters as much as that they are there. Several formats are tried on a few rows that
are not scored, and the strongest one is used, split by split: a weak baseline would flatter everything above it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from t2l.base_model import BaseModel
from t2l.evaluation.board import BoardConfig, scores_by_task
from t2l.evaluation.contenders.interface import Contender, Entry, Needs, SplitView, training_examples
from t2l.evaluation.scoring import Question, check_scorable, greedy_answers, questions_for
from t2l.evaluation.store import Batches, CellStore
from t2l.registry import register
from t2l.tasks import Example, Task, render_prompts
from t2l.tasks.prompting import Shots

if TYPE_CHECKING:
    from t2l.evaluation.context import Context

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shown:
    """A question as a format puts it: earlier turns, the user's turn, and where a text format's answer ends."""

    content: str
    shots: Shots = ()
    stop: str = ""


def as_turns(told: str, solved: Sequence[Example], asked: str, is_chat: bool) -> Shown:
    """Each solved example a turn of user and assistant, through the base's chat template; the description in the first."""
    users = [e.input for e in solved]
    users[0] = f"{told}\n{users[0]}" if told else users[0]
    return Shown(asked, tuple((user, e.output) for user, e in zip(users, solved, strict=True)))


def as_labelled(told: str, solved: Sequence[Example], asked: str, is_chat: bool) -> Shown:
    """One text of `Input: ... Output: ...`, the description above it."""
    gap = " " if is_chat else "\n"  # a base without a template reads a line break before its answer
    blocks = [f"Input: {e.input}\nOutput:{gap}{e.output}" for e in solved]
    text = "\n\n".join([*([told] if told else []), *blocks, f"Input: {asked}\nOutput:"])
    return Shown(text, stop=_stop(solved, "\nInput:"))


def as_lines(told: str, solved: Sequence[Example], asked: str, is_chat: bool) -> Shown:
    """One text of bare lines: inputs and outputs in turn, the description above them."""
    lines = [text for e in solved for text in (e.input, e.output)]
    return Shown("\n".join([*([told] if told else []), *lines, asked]), stop=_stop(solved, ""))


def _stop(solved: Sequence[Example], otherwise: str) -> str:
    """What ends an answer when the text would go on with further examples: a line break, unless answers have some."""
    return otherwise if any("\n" in e.output.strip() for e in solved) else "\n"


Format = Callable[[str, Sequence[Example], str, bool], Shown]
FORMATS: dict[str, Format] = {"chat turns": as_turns, "labelled text": as_labelled, "bare lines": as_lines}


def formats_for(tokenizer: Any) -> list[str]:
    """The formats that make sense for a base, the likeliest first.

    Chat turns need a chat template that shows earlier turns: some refuse them, or print one message alone.
    """
    if getattr(tokenizer, "chat_template", None) is None:
        return ["labelled text", "bare lines"]
    from jinja2 import TemplateError

    said = ("what was asked", "what was answered", "what is asked")
    try:
        (text,) = render_prompts(tokenizer, [said[2]], [[(said[0], said[1])]])
    except TemplateError:
        text = ""
    return list(FORMATS) if all(part in text for part in said) else list(FORMATS)[1:]


@register("contender", "icl")
class InContext(Contender):
    """The base model with a task's first training examples in its prompt, put as the base understands them best."""

    name, place = "icl", 30
    needs = Needs(examples=lambda config: config.few_shot.shots, chooses_format=True)
    settings = ("few_shot",)

    def __init__(self, base: BaseModel, shots: int, board: BoardConfig, format_rows: int) -> None:
        """Nothing is tried yet.

        Args:
            board: how answers are decoded when formats are tried.
            format_rows: rows per split that formats are tried on, spread over its tasks.
        """
        self._base, self._shots, self._with_description = base, shots, self.needs.descriptions
        self._board, self._rows = board, format_rows
        self._is_chat = getattr(base.tokenizer, "chat_template", None) is not None
        self._found: dict[tuple[Any, ...], tuple[str, str]] = {}
        self._kept: Callable[[Mapping[str, Any]], Batches] = lambda recipe: Batches()

    @classmethod
    def make(cls, context: Context) -> list[Contender]:
        """Of the base model."""
        few = context.config.few_shot
        return [cls(context.base, few.shots, context.config.evaluation, few.format_rows)]

    def keep_in(self, store: CellStore, conditions: Mapping[str, Any]) -> None:
        """Keeps what formats are tried on beside the cells, so that an evaluation that goes on tries none again."""
        self._kept = lambda recipe: store.batches(self.name, "tried", {**conditions, **recipe})

    def enter(self, view: SplitView) -> Entry:
        """The task's first training examples, question and answer, before every input; no adapter.

        Formats are tried on validation examples of the scored tasks or, of a task without, on training examples after
        those that are shown; never on test examples. `conditions` says which is used, and what each scored.

        Raises ValueError for a task with fewer training examples.
        """
        chosen, why = self._chosen(view)
        condition = f"{self._shots} solved examples as {chosen} ({why})"
        return Entry(self._questions(view, view.tasks, view.examples, chosen), conditions=[condition])

    def _chosen(self, view: SplitView) -> tuple[str, str]:
        """A format, and what speaks for it. Splits that put the same to it get the same."""
        texts = tuple(map(tuple, view.descriptions)) if self._with_description else ()
        key = (tuple(t.name for t in view.tasks), texts)
        if key not in self._found:
            self._found[key] = self._choose(view)
            log.info("%s on split %s: %s (%s)", self.name, view.name, *self._found[key])
        return self._found[key]

    def _choose(self, view: SplitView) -> tuple[str, str]:
        formats, each = formats_for(self._base.tokenizer), -(-self._rows // len(view.tasks))
        tasks = [self._tried(task, each) for task in view.tasks]
        count = sum(len(t.examples["test"]) for t in tasks)
        if not count:
            return formats[0], "there are no rows to try others on"
        scores = {name: self._score(view, tasks, each, name) for name in formats}
        said = ", ".join(f"{name} {score:.3f}" for name, score in scores.items())
        return max(scores, key=lambda name: scores[name]), f"of {count} rows that are not scored: {said}"

    def _tried(self, task: Task, count: int) -> Task:
        """The task with the rows that formats are tried on as its test examples, if its metric can score them."""
        rows = task.examples.get("validation") or task.examples.get("train", ())[self._shots :]
        tried = replace(task, examples={**task.examples, "test": tuple(rows[:count])})
        try:
            check_scorable(tried)
        except ValueError:
            return replace(task, examples={**task.examples, "test": ()})
        return tried

    def _score(self, view: SplitView, tasks: Sequence[Task], examples: int, name: str) -> float:
        """The mean over tasks, as splits are scored."""
        board = self._board
        questions = self._questions(view, tasks, examples, name)
        limits = (board.max_new_tokens, board.batch_size, None, board.tokens_per_batch)
        kept = self._kept(Entry(questions).recipe())
        scores = scores_by_task(greedy_answers(self._base, questions, None, None, *limits, kept))
        return sum(sum(own) / len(own) for own in scores.values()) / len(scores)

    def _questions(self, view: SplitView, tasks: Sequence[Task], examples: int, name: str) -> list[Question]:
        solved = [training_examples(t, self._shots) for t in tasks]
        made: list[Question] = []
        for t, task in enumerate(tasks):
            if not task.examples["test"]:
                continue
            for e, question in enumerate(questions_for([task], examples)):
                told = view.description(t, e) if self._with_description else ""
                shown = FORMATS[name](told, solved[t], question.input, self._is_chat)
                lines = as_lines(told, solved[t], "", self._is_chat).content.strip("\n")
                made.append(replace(question, content=shown.content, shots=shown.shots, stop=shown.stop, prefix=lines))
        return made


@register("contender", "prompted_icl")
class PromptedInContext(InContext):
    """The same with the task's description before the examples."""

    name, place = "prompted_icl", 40
    needs = Needs(descriptions=True, examples=lambda config: config.few_shot.shots, chooses_format=True)
