"""Contenders: everything that answers a split's questions, and what each one is given.

Every contender sees the same tasks and examples in the same order; they differ in the adapter a
question runs under and in the text before its input. Those made from other adapters are in
`composition.py`, those trained on a few examples in `few_shot.py`, those made from text in
`conditioning.py`, those with solved examples in the prompt in `in_context.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Protocol

from t2l.base_model import BaseModel
from t2l.evaluation.costs import Costs, Making, mean_costs
from t2l.evaluation.scoring import Question, first_adapter, no_prefix, questions_for
from t2l.library import AdapterLibrary
from t2l.lora.peft_folder import WEIGHTS_FILE
from t2l.lora.source import ADAPTER_MEMORY, AdapterSource, digest_of
from t2l.methods.folder import MethodLibrary
from t2l.tasks import Example, Task
from t2l.tasks.prompting import show_definition


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
        """A task whose training examples are put as the questions are: with the definition where that is shown."""
        return show_definition(task) if self.shows_description else task

    def questions(self, adapter_of: Callable[[int, int], int] = first_adapter) -> list[Question]:
        """The questions of a contender with adapters."""
        prefix_of = self.description if self.shows_description else no_prefix
        return questions_for(self.tasks, self.examples, adapter_of, prefix_of)


@dataclass(frozen=True)
class Entry:
    """What a contender runs on a split: its questions and, unless the base is bare, its adapters.

    Adapters are made when they are asked for: entering a split costs nothing that an answer kept from before saves.
    `conditions[i]` is the text that adapter i was made from, where there is one, or how questions are put. Where adapters are
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
        asked = hashlib.sha256()
        for question in self.questions:
            asked.update(f"{question!r}\x1e".encode())
        under: Any = None if self.adapters is None else self.adapters.recipe()
        if self.attached is not None:
            under = {"attached": [self._attached_key(i) for i in self.used]}
        return {"questions": asked.hexdigest(), "adapters": digest_of(under), "texts": digest_of(self.conditions)}

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


class Contender(Protocol):
    """Something scored on the board. Contenders of one name are one, under several training seeds.

    It may also have a `spec`, where its adapters' geometry is not the board's, `costs(making)`, `close()`, which is
    called when it has answered everything, and `keep_in(store, conditions)`, which tells it where to keep what it tries
    before it answers.
    """

    name: str

    def enter(self, view: SplitView) -> Entry:
        """The questions and adapters for a split."""
        ...


class Base:
    """The frozen base model, told nothing about the task."""

    name = "base"

    def enter(self, view: SplitView) -> Entry:
        """Bare inputs, no adapter."""
        return Entry(questions_for(view.tasks, view.examples))


class Prompted:
    """The base model with the description in its prompt."""

    name = "prompted"

    def enter(self, view: SplitView) -> Entry:
        """The description before every input, no adapter."""
        return Entry(questions_for(view.tasks, view.examples, prefix_of=view.description))


def training_examples(task: Task, count: int) -> Sequence[Example]:
    """The first training examples of a task. Raises ValueError where there are fewer."""
    found = task.examples.get("train", ())[:count]
    if len(found) < count:
        raise ValueError(f"task {task.name!r} has {len(found)} training examples, {count} shots are asked for")
    return found


class FormalCode:
    """The mini base told its own formal code: the ceiling of its skill."""

    name = "formal_code"

    def enter(self, view: SplitView) -> Entry:
        """The formal code before every input, no adapter. Raises ValueError for suites without codes."""
        codes = [task.formal_code for task in view.tasks]
        if None in codes:
            raise ValueError("contender formal_code needs a suite with formal codes: take it out of `contenders`")
        return Entry(questions_for(view.tasks, view.examples, prefix_of=lambda t, e: codes[t] or ""))


class MultiTask:
    """One static LoRA trained on all training tasks."""

    name = "multi_task"

    def __init__(self, library: AdapterLibrary, adapter_name: str) -> None:
        self._library, self._adapter = library, adapter_name
        self._adapters = library.source([adapter_name])

    def enter(self, view: SplitView) -> Entry:
        """Bare inputs, the same adapter everywhere."""
        return Entry(view.questions(), self._adapters)

    def costs(self, making: Making) -> Costs:
        """Of the one adapter; its time is shared by all tasks."""
        return mean_costs([adapter_costs(self._library, self._adapter)])


class Oracle:
    """Each task's own library adapter, trained on that task's examples."""

    name = "oracle"

    def __init__(self, library: AdapterLibrary) -> None:
        self._library = library

    def enter(self, view: SplitView) -> Entry:
        """Bare inputs, one adapter per task. Raises FileProblemError for a task the library lacks."""
        return Entry(view.questions(lambda t, e: t), self._library.source([t.name for t in view.tasks]))

    def costs(self, making: Making) -> Costs:
        """Means over the library; the time is there only where training recorded it."""
        return mean_costs([adapter_costs(self._library, task) for task in self._library.tasks()])


def adapter_costs(library: AdapterLibrary, task: str) -> dict[str, object]:
    """What one adapter of a library cost, as `mean_costs` wants it."""
    size = (library.path(task) / WEIGHTS_FILE).stat().st_size
    own = {"trainable_parameters": library.spec.parameters_per_adapter, "adapter_bytes": size}
    return {"training_time_s": None, **library.provenance(task), **own}


class MethodOracle:
    """What another adaptation method than the library's LoRA learned from each task's own examples."""

    def __init__(self, library: MethodLibrary, base: BaseModel, name: str) -> None:
        """Raises ValueError where the library was trained on another base.

        Args:
            base: loaded as the method wants it (`Method.base_config`).
        """
        library.check_base(base)
        self.name = f"oracle_{name}"
        self.library, self._base = library, base

    def enter(self, view: SplitView) -> Entry:
        """Bare inputs, one task after another. Raises FileProblemError for a task the library lacks."""
        for task in view.tasks:
            self.library.provenance(task.name)
        return Entry(
            view.questions(lambda t, e: t),
            attached=lambda t: self.library.restore(self._base, view.tasks[t].name),
            attached_key=lambda t: self.library.content_digest(view.tasks[t].name),
        )

    def costs(self, making: Making) -> Costs:
        """Means over the library."""
        return mean_costs([self.library.provenance(task) for task in self.library.tasks()])
