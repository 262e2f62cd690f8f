"""Tasks, suites and splits, and how an example becomes a prompt and labels.

A suite is a set of tasks plus named splits. A split names the tasks it covers and the *phrasing set*
their descriptions come from, so that each split can change exactly one thing relative to training.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


def _sha256(payload: Any) -> str:
    return hashlib.sha256(json.dumps(payload, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Example:
    """One question of a task and its right answer, both plain text.

    `references` are further right answers; `choices` what a multiple-choice question lets one choose from (the right
    one among them); `tests` are assertions that right code passes; `core` is what of the output is the answer itself,
    if the output also has a form (the word in a JSON object); it does not make it another example.
    """

    input: str
    output: str
    references: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    tests: str = ""
    core: str = ""

    def content(self) -> tuple[Any, ...]:
        """What makes it this example: input and output, and the rest if there is any."""
        rest = (self.references, self.choices, self.tests)
        return (self.input, self.output, *rest) if any(rest) else (self.input, self.output)


@dataclass(frozen=True)
class Task:
    """A task: what it asks for in words, and examples of it.

    `descriptions` maps a phrasing set ("train", "test") to descriptions; `examples` maps an example
    split ("train", "validation", "test") to examples. `formal_code` is the code of a base model that
    was pretrained to follow one; it is None for natural suites. `max_new_tokens` is the longest answer in
    tokens, if the task says.

    Raises ValueError for a `max_new_tokens` that is no whole number of at least 1.
    """

    name: str
    descriptions: Mapping[str, tuple[str, ...]]
    examples: Mapping[str, tuple[Example, ...]]
    metric: str = "exact_match"
    family: str = ""
    formal_code: str | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)
    max_new_tokens: int | None = None

    def __post_init__(self) -> None:
        longest = self.max_new_tokens
        if longest is not None and (not isinstance(longest, int) or longest < 1):
            raise ValueError(
                f"task {self.name!r}: max_new_tokens must be a whole number of at least 1, not {longest!r}"
            )

    def examples_hash(self) -> str:
        """Sha256 over the examples: what a trained adapter's provenance records."""
        return _sha256({k: [e.content() for e in v] for k, v in self.examples.items()})

    def content_hash(self) -> str:
        """Sha256 over examples and descriptions."""
        return _sha256([self.examples_hash(), {k: list(v) for k, v in self.descriptions.items()}])


@dataclass(frozen=True)
class Split:
    """The tasks of a split and the phrasing set their descriptions are taken from."""

    tasks: tuple[str, ...]
    phrasing: str = "train"


@dataclass(frozen=True)
class TaskSuite:
    """Tasks by name and splits by name. `train` is the only split a hypernetwork may be trained on."""

    name: str
    tasks: Mapping[str, Task]
    splits: Mapping[str, Split]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for split_name, split in self.splits.items():
            unknown = [t for t in split.tasks if t not in self.tasks]
            if unknown:
                raise ValueError(f"split {split_name!r} of suite {self.name!r} names unknown tasks: {unknown[:5]}")

    def select(self, names: Iterable[str]) -> list[Task]:
        """Tasks by name, in the order given. Raises ValueError for a name the suite does not have."""
        names = list(names)
        unknown = [n for n in names if n not in self.tasks]
        if unknown:
            raise ValueError(
                f"unknown task {unknown[0]!r} in suite {self.name!r}: it has {len(self.tasks)} tasks, "
                f"for example {', '.join(list(self.tasks)[:5])}"
            )
        return [self.tasks[n] for n in names]

    def split(self, name: str) -> Split:
        """A split by name. Raises ValueError with the names allowed."""
        if name not in self.splits:
            raise ValueError(f"unknown split {name!r} of suite {self.name!r}: choose from {sorted(self.splits)}")
        return self.splits[name]

    def content_hash(self) -> str:
        """Sha256 over every task and split: two suites with the same hash hold the same data."""
        digest = hashlib.sha256()
        for name in sorted(self.tasks):
            digest.update(f"{name}:{self.tasks[name].content_hash()}\n".encode())
        for name in sorted(self.splits):
            digest.update(f"{name}:{self.splits[name]}\n".encode())
        return digest.hexdigest()
