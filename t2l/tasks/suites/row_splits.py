"""What every natural suite has in common: rows dealt into example splits, tasks into splits, phrasings held out.

| split | tasks | described with |
|---|---|---|
| train | those trained on | training descriptions |
| unseen_phrasing | the same | descriptions held out of training, if test_descriptions asks for some |
| unseen_task | held_tasks, or whole families drawn by seed | training descriptions |
| unseen_task_and_phrasing | the same | descriptions held out |
| validation | validation_tasks: for choosing checkpoints | training descriptions |
| evaluation_only | evaluation_tasks, and tasks without training rows | training descriptions |
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from t2l.checks import at_least, in_range, one_of
from t2l.files import FileProblemError
from t2l.seeding import generator_for
from t2l.tasks.suites.descriptions import combined, hold_out, read_descriptions
from t2l.tasks.task import Example, Split, Task, TaskSuite

log = logging.getLogger(__name__)
ROW_SPLITS = ("train", "validation", "test")
ROLES = ("leave_out", "held_tasks", "validation_tasks", "evaluation_tasks")


@dataclass
class DealingConfig:
    """Which tasks of a suite play which role, and how many rows and descriptions are used."""

    tasks: list[str] | None = None
    """names of the tasks to read; None means all"""
    leave_out: list[str] = field(default_factory=list)
    """names of tasks that are not read, whatever `tasks` says"""
    seed: int = 0
    """decides which tasks are held out, how undivided rows are dealt out, and which descriptions are for testing"""
    split_by: str = "family"
    """family or task: what is held out as a whole; near-duplicate tasks share a family"""
    held_fraction: float = 0.2
    """part of the families (or tasks) that form the split unseen_task"""
    held_tasks: list[str] | None = None
    """names of the tasks of unseen_task, instead of drawing them"""
    validation_tasks: list[str] = field(default_factory=list)
    """names of tasks that are kept for choosing checkpoints: the split validation"""
    evaluation_tasks: list[str] = field(default_factory=list)
    """names of tasks that are never trained on: with tasks that have no training rows, the split evaluation_only"""
    train_examples: int = 512
    """most training rows per task"""
    validation_examples: int = 64
    """most validation rows per task"""
    test_examples: int = 64
    """most test rows per task"""
    dealt_validation: int = 0
    """rows taken from the training rows of a task that has no validation rows; they end library training early"""
    descriptions_folder: str | None = None
    """folder with <task>/metadata.yaml, each with a list `descriptions`; every task must have one"""
    descriptions_mode: str = "replace"
    """replace or extend: what the folder's descriptions do to the suite's own"""
    test_descriptions: int = 0
    """descriptions per task that are held out of training, for the splits with unseen phrasing"""

    def __post_init__(self) -> None:
        in_range(self, "[0, 1)", "held_fraction", under="suite")
        one_of(self, ("family", "task"), "split_by", under="suite")
        one_of(self, ("replace", "extend"), "descriptions_mode", under="suite")
        at_least(self, 1, "train_examples", "test_examples", under="suite")
        at_least(self, 0, "validation_examples", "dealt_validation", "test_descriptions", under="suite")
        owner: dict[str, str] = {}
        for role in ROLES:
            for name in getattr(self, role) or ():
                if owner.setdefault(name, role) != role:
                    raise ValueError(f"task {name!r} is named in suite.{owner[name]} and in suite.{role}: name it once")


def select_names(known: Sequence[str], config: DealingConfig, place: str) -> list[str]:
    """Names of the tasks to read. Raises ValueError for a name that the suite does not have, or if none is left."""
    for key in ("tasks", *ROLES):
        unknown = [n for n in getattr(config, key) or () if n not in set(known)]
        if unknown:
            some = ", ".join(known[:8]) + ("..." if len(known) > 8 else "")
            raise ValueError(f"suite.{key}: unknown task {unknown[0]!r} in {place}: it has {some}")
    left_out = set(config.leave_out)
    names = [n for n in (known if config.tasks is None else dict.fromkeys(config.tasks)) if n not in left_out]
    if not names:
        raise ValueError(f"{place} has no task to read: look at suite.tasks and suite.leave_out")
    return names


def deal_rows(
    name: str, declared: Mapping[str, Sequence[Example]], config: DealingConfig
) -> dict[str, tuple[Example, ...]]:
    """A task's rows as training, validation and test examples.

    Args:
        declared: rows by the split they are published in (train, validation, test).

    Without test rows, validation rows are the test rows: so the reference implementation of Charakorn et al. 2025 scores
    the benchmarks whose test answers are not published. A task with training rows alone has its test rows dealt from them by seed. A
    task without training rows stays without. No training row asks what a validation or test row asks.

    Raises ValueError if too few rows are left.
    """
    train, validation, test = (list(declared.get(key, ())) for key in ROW_SPLITS)
    total = len(train) + len(validation) + len(test)
    has_training = bool(train)
    if not test and validation:
        test, validation = validation, []
    if not test:
        order = [train[i] for i in generator_for("rows", config.seed, name).permutation(len(train))]
        cut = min(config.test_examples, max(1, len(train) // 5))
        test, train = order[:cut], order[cut:]
    asked = {e.input for e in test}
    train, validation = ([e for e in part if e.input not in asked] for part in (train, validation))
    if config.dealt_validation and not validation and has_training:
        shuffled = generator_for("validation rows", config.seed, name).permutation(len(train))
        drawn = set(shuffled[: config.dealt_validation])
        validation = [e for i, e in enumerate(train) if i in drawn]
        train = [e for i, e in enumerate(train) if i not in drawn]
    asked = {e.input for e in validation}
    train = [e for e in train if e.input not in asked]
    if not test or (has_training and not train):
        raise ValueError(f"task {name!r} has {total} rows: too few for training and test rows that differ")
    return {
        "train": tuple(train[: config.train_examples]),
        "validation": tuple(validation[: config.validation_examples]),
        "test": tuple(test[: config.test_examples]),
    }


def descriptions_of(own: Mapping[str, Sequence[str]], config: DealingConfig) -> dict[str, dict[str, tuple[str, ...]]]:
    """Each task's phrasing sets, from the suite's own descriptions and those of suite.descriptions_folder.

    Raises ValueError if the folder is missing or lacks a task, or no description can be held out.
    """
    texts = {name: tuple(t) for name, t in own.items()}
    if config.descriptions_folder is not None:
        folder = Path(config.descriptions_folder).expanduser()
        if not folder.is_dir():
            raise FileProblemError(f"suite.descriptions_folder={config.descriptions_folder}: no such folder")
        texts = {n: combined(t, read_descriptions(folder, n), config.descriptions_mode) for n, t in texts.items()}
    return hold_out(texts, config.test_descriptions, config.seed)


def _drawn(tasks: Iterable[Task], config: DealingConfig) -> set[str]:
    """Names of the tasks that are held out, drawn by family or one by one."""
    group_of = {t.name: t.family if config.split_by == "family" else t.name for t in tasks}
    groups = sorted(set(group_of.values()))
    order = generator_for("families", config.seed).permutation(len(groups))
    held = {groups[i] for i in order[: round(config.held_fraction * len(groups))]}
    return {name for name, group in group_of.items() if group in held}


def _roles(tasks: Mapping[str, Task], config: DealingConfig) -> dict[str, tuple[str, ...]]:
    """Names of the tasks of each role: as the config names them, without training rows, or drawn."""
    named = {
        "unseen_task": set(config.held_tasks or ()),
        "validation": set(config.validation_tasks),
        "evaluation_only": set(config.evaluation_tasks),
    }
    free = [t for n, t in tasks.items() if not any(n in names for names in named.values())]
    named["evaluation_only"] |= {t.name for t in free if not t.examples["train"]}
    free = [t for t in free if t.examples["train"]]
    if config.held_tasks is None:
        named["unseen_task"] = _drawn(free, config)
    named["train"] = {t.name for t in free} - named["unseen_task"]
    return {role: tuple(n for n in tasks if n in names) for role, names in named.items()}


def deal_tasks(name: str, tasks: Mapping[str, Task], config: DealingConfig, provenance: Mapping[str, Any]) -> TaskSuite:
    """The suite of these tasks, dealt into splits. Only `train` may be empty."""
    roles = _roles(tasks, config)
    trained = {tasks[n].family: n for n in roles["train"]}
    for role, names in roles.items():
        kin = [n for n in names if role != "train" and tasks[n].family in trained]
        if kin:
            mate = trained[tasks[kin[0]].family]
            log.warning("suite %s: %s of %s is of the same family as training task %s", name, kin[0], role, mate)
    phrased = {"train": "unseen_phrasing", "unseen_task": "unseen_task_and_phrasing"}
    splits = {"train": Split(roles["train"])}
    for role in ("train", "unseen_task", "validation", "evaluation_only"):
        if roles[role]:
            splits[role] = Split(roles[role])
        reworded = tuple(n for n in roles[role] if "test" in tasks[n].descriptions)
        if role in phrased and reworded:
            splits[phrased[role]] = Split(reworded, phrasing="test")
    return TaskSuite(name, tasks, splits, provenance)
