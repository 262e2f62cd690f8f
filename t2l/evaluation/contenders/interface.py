"""What a contender is: what it is given of a split, what it needs, how it is made and what it costs.

Every contender sees the same tasks and examples in the same order; they differ in the adapter a
question runs under and in the text before its input.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Any, ClassVar

from t2l.base_model import BaseModel
from t2l.evaluation.costs import Costs, Making
from t2l.evaluation.identity import identity
from t2l.evaluation.scoring import Question, first_adapter, no_prefix, questions_for
from t2l.evaluation.settings import decisive_settings
from t2l.evaluation.store import CellStore
from t2l.lora import LoraSpec
from t2l.lora.source import ADAPTER_MEMORY, AdapterSource, digest_of
from t2l.registry import components
from t2l.tasks import CutCount, Example, Task, TokenizedExample, tokenize_examples
from t2l.tasks.prompting import show_definition

if TYPE_CHECKING:
    from t2l.evaluation.config import EvaluateConfig
    from t2l.evaluation.context import Context

LIBRARY_PARTS = ("", "own", "training_tasks", "multi_task")


def in_turn(texts: Sequence[Sequence[str]]) -> Callable[[int, int], int]:
    """Which of all texts, counted on from task to task, a (task, example) uses: a task's own take turns."""
    starts = [0, *accumulate(len(group) for group in texts)]
    return lambda task, example: starts[task] + example % len(texts[task])


@dataclass(frozen=True)
class SplitView:
    """The part of a split that is scored: its tasks, the descriptions used, and examples per task.

    `descriptions[t]` are the descriptions of task t that take turns: example e uses number
    e mod len(descriptions[t]). `shows_description` puts it into the prompt of every contender with an
    adapter, too.
    """

    name: str
    tasks: Sequence[Task]
    descriptions: Sequence[Sequence[str]]
    examples: int
    shows_description: bool = False

    def description(self, task: int, example: int) -> str:
        """The description an example uses."""
        return self.descriptions[task][example % len(self.descriptions[task])]

    def as_trained(self, task: Task) -> Task:
        """A task whose training examples are put as the questions are: with the definition if that is shown."""
        return show_definition(task) if self.shows_description else task

    def questions(self, adapter_of: Callable[[int, int], int] = first_adapter) -> list[Question]:
        """The questions of a contender with adapters."""
        prefix_of = self.description if self.shows_description else no_prefix
        return questions_for(self.tasks, self.examples, adapter_of, prefix_of)


@dataclass(frozen=True)
class Entry:
    """What a contender runs on a split: its questions and, unless the base is bare, its adapters.

    Adapters are made when they are asked for: entering a split costs nothing that an answer kept from before saves.
    `conditions[i]` is the text that adapter i was made from, if there is one, or how questions are put. Where adapters are
    not LoRAs that can share a batch, `attached(i)` is a block with the base model under adapter i, and
    `attached_key(i)` names what that is, by content.
    """

    questions: list[Question]
    adapters: AdapterSource | None = None
    conditions: list[str] = field(default_factory=list)
    attached: Callable[[int], AbstractContextManager[BaseModel]] | None = None
    attached_key: Callable[[int], str] | None = None

    @property
    def used(self) -> list[int]:
        """The adapters that questions run under, in the order of their first question."""
        return list(dict.fromkeys(q.adapter for q in self.questions))

    def recipe(self) -> dict[str, Any]:
        """What decides the answers beside the base model, told without making an adapter.

        Entries of one recipe have one fingerprint, but for rounding.
        """
        asked = "".join(f"{question!r}\x1e" for question in self.questions)
        under: Any = None if self.adapters is None else self.adapters.recipe()
        if self.attached is not None:
            under = {"attached": [self._attached_key(i) for i in self.used]}
        return {
            "questions": hashlib.sha256(asked.encode()).hexdigest(),
            "adapters": digest_of(under),
            "texts": digest_of(self.conditions),
        }

    def fingerprint(self, memory: int = ADAPTER_MEMORY) -> str:
        """Sha256 over what the base model is fed: every question's text, and the adapter it runs under.

        Entries of one fingerprint get the same answers.

        Args:
            memory: bytes of adapters that are made together.
        """
        adapters = self.adapter_digests(memory)
        digest = hashlib.sha256()
        for q in self.questions:
            shots = "".join(f"{asked}\x1d{answered}\x1d" for asked, answered in q.shots)
            digest.update(f"{shots}{q.content}\x1f{q.reference}\x1f{adapters[q.adapter]}\x1e".encode())
        return digest.hexdigest()

    def adapter_digests(self, memory: int = ADAPTER_MEMORY) -> dict[int, str]:
        """What tells each adapter that a question runs under from any other."""
        if self.attached is not None:
            return {i: self._attached_key(i) for i in self.used}
        if self.adapters is None:
            return dict.fromkeys(self.used, "bare")
        return self.adapters.digests(memory, self.used)

    def _attached_key(self, index: int) -> str:
        return self.attached_key(index) if self.attached_key is not None else f"{id(self)}:{index}"


@dataclass(frozen=True)
class Needs:
    """What a contender cannot do without. It is checked before anything is scored, and most of it before a model loads."""

    library: str = ""
    """which adapters of library=DIR it uses: own (the scored task's), training_tasks (theirs), multi_task; empty: none"""
    checkpoints: bool = False
    """hypernetworks, checkpoints=[DIR]"""
    training_tasks: bool = False
    """a suite with training tasks: it is made of their adapters or descriptions"""
    descriptions: bool = False
    """a description of the scored task"""
    other_training_task: bool = False
    """a training task beside the scored one, without which it would be the scored task's own adapter"""
    encoder: bool = False
    """the evaluation's own encoder, to compare descriptions"""
    formal_code: bool = False
    """the scored task's formal code"""
    examples: Callable[[EvaluateConfig], int] | None = None
    """how many of the scored task's own training examples it is given; None: it is given none"""
    chooses_format: bool = False
    """whether it tries ways to put its examples on the task's validation examples (or on its other training examples);
    the condition of its entry says which it took"""

    def __post_init__(self) -> None:
        if self.library not in LIBRARY_PARTS:
            raise ValueError(f"a contender's needs: library must be one of {LIBRARY_PARTS}, not {self.library!r}")

    @property
    def is_met_by_harness(self) -> bool:
        """Whether a task of the harness will do, which has descriptions and no examples to give away."""
        return self.examples is None and not self.formal_code


class Contender:
    """Something scored on the board. Contenders of one name are one, under several training seeds.

    A class that is registered under a name can be asked for by that name; it makes one contender or several.
    """

    name: str
    """what it is called on the board"""
    place: ClassVar[int] = 1000
    """where it stands on the board: the lowest first"""
    needs: ClassVar[Needs] = Needs()
    settings: ClassVar[tuple[str, ...]] = ()
    """parts of the configuration that decide what it is, like few_shot"""
    is_harness_default: ClassVar[bool] = False
    """whether the harness scores it, if it has what it needs, when no contenders are named"""
    is_generated: ClassVar[bool] = False
    """whether its adapters come from a hypernetwork alone: then the report tells of styles, scales, confidence and the map"""

    @classmethod
    def make(cls, context: Context) -> Sequence[Contender]:
        """The contenders that the registered name stands for."""
        return [cls()]

    def enter(self, view: SplitView) -> Entry:
        """The questions and adapters for a split."""
        raise NotImplementedError

    def lacks(self, view: SplitView) -> str | None:
        """Why it is left out on a split; None if it can enter it."""
        return None

    @property
    def spec(self) -> LoraSpec | None:
        """Geometry of its adapters; None: the board's."""
        return None

    def identity(self, context: Context) -> dict[str, Any]:
        """What it is, by which reports are compared (`identity.identity`)."""
        what: dict[str, Any] = {"contender": self.name, "base": context.base.fingerprint}
        decisive = decisive_settings(context.config)
        what |= {part: decisive[part] for part in self.settings}
        if not self.needs.library:
            return identity(what, f"base {context.base.name}")
        used = context.library_recipe(self.needs.library)
        return identity({**what, "library": used}, f"adapters of {context.config.library}")

    def costs(self, making: Making) -> Costs | None:
        """What its adapters cost, once; None: it has none."""
        return None

    def keep_in(self, store: CellStore, conditions: Mapping[str, Any]) -> None:
        """Tells it where to keep what it tries before it answers."""

    def close(self) -> None:
        """Called when it has answered everything."""


def kinds(names: Iterable[str] | None = None) -> dict[str, type[Contender]]:
    """Contenders by the name that they are asked for, in the order of the board, or those of these names in their order.

    Raises ValueError for an unknown name.
    """
    found = {name: c.make for name, c in components("contender").items()}
    found = dict(sorted(found.items(), key=lambda item: item[1].place))
    unknown = [name for name in names or () if name not in found]
    if unknown:
        raise ValueError(f"contenders: unknown {unknown[0]!r}; choose from {', '.join(found)}")
    return found if names is None else {name: found[name] for name in names}


def examples_digest(tasks: Sequence[Task], count: int) -> str:
    """What tells the first training examples of tasks from any others. Raises ValueError for a task with fewer."""
    return digest_of([[t.name, [e.content() for e in training_examples(t, count)]] for t in tasks])


def training_rows(base: BaseModel, tasks: Sequence[Task], count: int, max_length: int) -> list[list[TokenizedExample]]:
    """The first training examples of each task in tokens; one warning says how many were cut to `max_length`.

    Raises ValueError for a task with fewer.
    """
    cuts = CutCount()
    rows = [tokenize_examples(base.tokenizer, training_examples(t, count), "", max_length, t.name, cuts) for t in tasks]
    cuts.warn(max_length)
    return rows


def training_examples(task: Task, count: int) -> Sequence[Example]:
    """The first training examples of a task. Raises ValueError if there are fewer."""
    found = task.examples.get("train", ())[:count]
    if len(found) < count:
        raise ValueError(f"task {task.name!r} has {len(found)} training examples, {count} shots are asked for")
    return found
