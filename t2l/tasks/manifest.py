"""What something was trained on, as content hashes, and what of it a split that claims to be unseen shares."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from t2l.tasks.task import Example, Task, TaskSuite

NEAR_DUPLICATE = 0.2
"""share of a task's test examples found in one training task that makes the two near-duplicates"""


def _hashes(texts: Iterable[str]) -> Int[Tensor, " texts"]:
    """The first eight bytes of each text's sha256, as signed integers."""
    values = [int.from_bytes(hashlib.sha256(t.encode()).digest()[:8], "big", signed=True) for t in texts]
    return torch.tensor(values, dtype=torch.int64)


def _of_examples(examples: Sequence[Example]) -> Tensor:
    return _hashes(f"{e.input}\x1f{e.output}" for e in examples)


def _of_descriptions(descriptions: Sequence[str]) -> Tensor:
    return _hashes(" ".join(d.lower().split()) for d in descriptions)


@dataclass(frozen=True)
class Overlap:
    """Something that a split shares with training.

    `kind` is task, description, example, validation or near_duplicate. All but near duplicates are refused.
    """

    kind: str
    split: str
    task: str
    detail: str

    @property
    def is_refused(self) -> bool:
        """Whether scores on such a split would not be what they claim to be."""
        return self.kind != "near_duplicate"

    def row(self) -> dict[str, str]:
        """As a row of report.json."""
        return vars(self)


@dataclass(frozen=True)
class Manifest:
    """Hashes of what was trained on, by task: examples, descriptions, and the validation examples that decided when
    training stopped or what was kept of it."""

    examples: Mapping[str, Int[Tensor, " examples"]]
    descriptions: Mapping[str, Int[Tensor, " descriptions"]]
    validation: Mapping[str, Int[Tensor, " examples"]] = field(default_factory=dict)

    @classmethod
    def of(cls, tasks: Sequence[Task], descriptions_per_task: int, validated_on: Sequence[Task] = ()) -> Manifest:
        """Of the training examples of these tasks and as many of their training descriptions.

        Args:
            validated_on: tasks whose validation examples decided when training stopped or what was kept of it.
        """
        return cls(
            {t.name: _of_examples(t.examples["train"]) for t in tasks},
            {t.name: _of_descriptions(t.descriptions["train"][:descriptions_per_task]) for t in tasks},
            {t.name: _of_examples(t.examples.get("validation", ())) for t in validated_on},
        )

    @classmethod
    def union(cls, manifests: Iterable[Manifest]) -> Manifest:
        """Everything that any of them was trained on."""
        gathered: dict[str, list[Tensor]] = defaultdict(list)
        for one in manifests:
            for key, hashes in one.tensors().items():
                gathered[key].append(hashes)
        return cls.from_tensors({key: torch.cat(found).unique() for key, found in gathered.items()})

    def tensors(self) -> dict[str, Tensor]:
        """As named tensors for a file."""
        return {f"{kind}/{task}": hashes for kind, part in vars(self).items() for task, hashes in part.items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Manifest:
        """The manifest that `tensors` described."""
        parts: dict[str, dict[str, Tensor]] = {"examples": {}, "descriptions": {}, "validation": {}}
        for key, value in tensors.items():
            kind, task = key.split("/", 1)
            parts[kind][task] = value
        return cls(**parts)

    def is_within(self, task: Task) -> bool:
        """Whether everything of a task that was trained or validated on is a training or validation example of it here."""
        known = _of_examples([*task.examples.get("train", ()), *task.examples.get("validation", ())])
        rows = [part[task.name] for part in (self.examples, self.validation) if task.name in part]
        return bool(torch.isin(torch.cat(rows), known).all()) if rows else False

    def seen(self, task: Task, split: str) -> list[Overlap]:
        """Test examples of a task among the rows of the same task that were trained or validated on."""
        tests = _of_examples(task.examples.get("test", ()))
        found = []
        for kind, part, what in (
            ("example", self.examples, "were trained on"),
            ("validation", self.validation, "decided when its training stopped or what was kept of it"),
        ):
            own = part.get(task.name)
            if own is not None and (count := int(torch.isin(tests, own).sum())):
                found.append(Overlap(kind, split, task.name, f"{count} of its test examples {what}"))
        return found

    def overlaps(self, suite: TaskSuite, name: str, trained: TaskSuite | None = None) -> list[Overlap]:
        """What a split of a suite shares with training, given what it claims.

        Every split's test examples must be new. A split none of whose tasks is in `train` claims unseen tasks; one
        with another phrasing set than `train`'s claims unseen descriptions.

        Args:
            trained: the suite with the split `train`, if it is not the scored one.
        """
        split, train = suite.split(name), (trained or suite).splits.get("train")
        claims_tasks = train is not None and not set(split.tasks) & set(train.tasks)
        claims_descriptions = train is not None and split.phrasing != train.phrasing
        found: list[Overlap] = []
        known_descriptions = torch.cat([torch.empty(0, dtype=torch.int64), *self.descriptions.values()])
        for task in suite.select(split.tasks):
            if claims_tasks and task.name in self.examples:
                found.append(Overlap("task", name, task.name, "it was trained on"))
            found.extend(self.seen(task, name))
            texts = _of_descriptions(task.descriptions.get(split.phrasing, ()))
            if claims_descriptions and (seen := int(torch.isin(texts, known_descriptions).sum())):
                found.append(Overlap("description", name, task.name, f"{seen} of its descriptions were trained on"))
            if claims_tasks:
                found.extend(self._near_duplicates(name, task, texts))
        return found

    def _near_duplicates(self, name: str, task: Task, texts: Tensor) -> list[Overlap]:
        tests, found = _of_examples(task.examples.get("test", ())), []
        for other, examples in self.examples.items():
            if other == task.name:
                continue
            share = float(torch.isin(tests, examples).float().mean()) if len(tests) else 0.0
            known = self.descriptions.get(other)
            alike = 0 if known is None else int(torch.isin(texts, known).sum())
            if share >= NEAR_DUPLICATE or alike:
                detail = f"shares {share:.0%} of its test examples and {alike} descriptions with training task {other}"
                found.append(Overlap("near_duplicate", name, task.name, detail))
        return found


def refuse(
    overlaps: Sequence[Overlap],
    what: str,
    advice: str = "Leave the split out, take the suite (and suite.seed) that was trained on, or train without it",
) -> None:
    """Raises ValueError if something was trained on what a split claims to be unseen.

    Args:
        what: was trained, like `checkpoint runs/a`.
        advice: what to do about it.
    """
    refused = [o for o in overlaps if o.is_refused]
    if refused:
        o, more = refused[0], f" and {len(refused) - 1} more like it" if len(refused) > 1 else ""
        raise ValueError(
            f"{what} cannot be scored on split {o.split!r}: {o.kind} overlap with its training data, "
            f"task {o.task!r}: {o.detail}{more}. {advice}"
        )


def suite_manifest(suite: TaskSuite) -> dict[str, Any]:
    """Content hashes of a suite's tasks, for a report: examples by split, descriptions by phrasing set."""
    return {
        t.name: {"family": t.family, "examples_sha256": t.examples_hash(), "content_sha256": t.content_hash()}
        for t in suite.tasks.values()
    }
