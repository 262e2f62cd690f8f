"""Contenders: everything that answers a split's questions, and what each one is given.

Every contender sees the same tasks and examples in the same order; they differ in the adapter a
question runs under and in the text before its input. No contender but `prompted` and `formal_code`
puts anything about the task into the base model's prompt.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from t2l.adapter_io import WEIGHTS_FILE
from t2l.base_model import BaseModel
from t2l.encoder import TaskEncoder
from t2l.evaluation.costs import Costs, mean_costs
from t2l.evaluation.scoring import Question, questions_for
from t2l.hypernetwork import Hypernetwork
from t2l.library import AdapterLibrary
from t2l.lora import LoraSpec, LoraWeights
from t2l.methods.library import MethodLibrary
from t2l.seeding import generator_for
from t2l.tasks import Task


@dataclass(frozen=True)
class SplitView:
    """The part of a split that is scored: its tasks, the descriptions used, and examples per task.

    `descriptions[t]` are the descriptions of task t that take turns: example e uses number
    e mod len(descriptions[t]).
    """

    name: str
    tasks: Sequence[Task]
    descriptions: Sequence[Sequence[str]]
    examples: int

    def turn(self, task: int, example: int) -> int:
        """Which of a task's descriptions an example uses."""
        return example % len(self.descriptions[task])


@dataclass(frozen=True)
class Entry:
    """What a contender runs on a split: its questions and, unless the base is bare, its adapters.

    `conditions[i]` is the text that adapter i was generated from, where there is one. Where adapters are
    not LoRAs that can share a batch, `attached(i)` is a block with the base model under adapter i.
    """

    questions: list[Question]
    weights: LoraWeights | None = None
    conditions: list[str] = field(default_factory=list)
    attached: Callable[[int], AbstractContextManager[BaseModel]] | None = None

    def asks_the_same(self, other: Entry) -> bool:
        """Whether another entry of the same contender puts the same questions to the same adapters.

        What `attached` restores is taken to follow from a question's task.
        """
        if self.questions != other.questions:
            return False
        if self.weights is None or other.weights is None:
            return self.weights is other.weights
        return all(torch.equal(a, b) for a, b in zip(self.weights.tensors(), other.weights.tensors(), strict=True))


class Contender(Protocol):
    """Something scored on the board."""

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
        return Entry(
            questions_for(view.tasks, view.examples, prefix_of=lambda t, e: view.descriptions[t][view.turn(t, e)])
        )


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
        self._weights = library.load([adapter_name])

    def enter(self, view: SplitView) -> Entry:
        """Bare inputs, the same adapter everywhere."""
        return Entry(questions_for(view.tasks, view.examples), self._weights)


class Oracle:
    """Each task's own library adapter, trained on that task's examples."""

    name = "oracle"

    def __init__(self, library: AdapterLibrary) -> None:
        self._library = library

    def enter(self, view: SplitView) -> Entry:
        """Bare inputs, one adapter per task. Raises FileProblemError for a task the library lacks."""
        weights = self._library.load([t.name for t in view.tasks])
        return Entry(questions_for(view.tasks, view.examples, adapter_of=lambda t, e: t), weights)

    def costs(self) -> Costs:
        """Means over the library; the time is there only where training recorded it."""
        records = []
        for task in self._library.tasks():
            size = (self._library.path(task) / WEIGHTS_FILE).stat().st_size
            record = {"trainable_parameters": self._library.spec.parameters_per_adapter, "adapter_bytes": size}
            records.append({"training_time_s": None, **self._library.provenance(task), **record})
        return mean_costs(records)


class MethodOracle:
    """What another adaptation method than the library's LoRA learned from each task's own examples."""

    def __init__(self, library: MethodLibrary, base: BaseModel, name: str) -> None:
        """Raises ValueError where the library was trained on another base.

        Args:
            base: loaded as the method wants it (`Method.base_config`).
        """
        library.check_base(base)
        self.name = f"oracle_{name}"
        self._library, self._base = library, base

    def enter(self, view: SplitView) -> Entry:
        """Bare inputs, one task after another. Raises FileProblemError for a task the library lacks."""
        for task in view.tasks:
            self._library.provenance(task.name)
        questions = questions_for(view.tasks, view.examples, adapter_of=lambda t, e: t)
        return Entry(questions, attached=lambda t: self._library.restore(self._base, view.tasks[t].name))

    def costs(self) -> Costs:
        """Means over the library."""
        return mean_costs([self._library.provenance(task) for task in self._library.tasks()])


class Generated:
    """Adapters generated from descriptions: the tasks' own, other tasks', or meaningless text.

    `condition` is matched, shuffled or random_text. All three run the same code on the same questions;
    only the text that goes into the hypernetwork differs.
    """

    def __init__(
        self, objective: str, condition: str, hypernetwork: Hypernetwork, encoder: TaskEncoder, seed: int
    ) -> None:
        self.name = f"generated_{objective}" + ("" if condition == "matched" else f"_{condition}")
        self.condition, self._seed = condition, seed
        self._hypernetwork, self._encoder = hypernetwork, encoder

    @property
    def spec(self) -> LoraSpec:
        """Geometry of the adapters it generates."""
        return self._hypernetwork.spec

    def enter(self, view: SplitView) -> Entry:
        """Bare inputs, one adapter per (task, description)."""
        texts = _conditions(self.condition, view, self._seed)
        starts = [sum(len(d) for d in texts[:t]) for t in range(len(texts))]
        flat = [text for group in texts for text in group]
        weights = generate_adapters(self._hypernetwork, self._encoder.encode(flat))
        questions = questions_for(view.tasks, view.examples, adapter_of=lambda t, e: starts[t] + e % len(texts[t]))
        return Entry(questions, weights, flat)


@torch.no_grad()
def generate_adapters(hypernetwork: Hypernetwork, embeddings: Tensor) -> LoraWeights:
    """One adapter per embedding, in one forward pass, outside autograd."""
    device = next(hypernetwork.parameters()).device
    return hypernetwork.eval()(embeddings.to(device))


def _conditions(condition: str, view: SplitView, seed: int) -> list[list[str]]:
    if condition == "matched":
        return [list(d) for d in view.descriptions]
    if condition == "shuffled":
        others = derangement(len(view.tasks), seed, view.name)
        return [list(view.descriptions[o]) for o in others]
    if condition == "random_text":
        return [
            [random_text(seed, task.name, i) for i in range(len(d))]
            for task, d in zip(view.tasks, view.descriptions, strict=True)
        ]
    raise ValueError(f"unknown condition {condition!r}: choose matched, shuffled or random_text")


def derangement(count: int, seed: int, key: str) -> list[int]:
    """A permutation in which no task keeps its place. Raises ValueError for fewer than two tasks."""
    if count < 2:
        raise ValueError(f"split {key!r} has {count} task(s): shuffling descriptions needs at least two")
    order = generator_for("shuffled", seed, key).permutation(count)
    other = [0] * count
    for here, there in zip(order, [*order[1:], order[0]], strict=True):
        other[int(here)] = int(there)
    return other


def random_text(seed: int, task: str, index: int) -> str:
    """Six to twelve words of random letters: text that states no task."""
    rng = generator_for("random_text", seed, task, index)
    letters = list(string.ascii_lowercase)
    words = ["".join(rng.choice(letters, size=rng.integers(2, 9))) for _ in range(rng.integers(6, 13))]
    return " ".join(words).capitalize() + "."
