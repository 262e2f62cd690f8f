"""Tasks from a folder of JSON lines.

    <folder>/tasks.json     {task: {"descriptions": [str, ...], "metric", "family", "splits": {name: [start, end)}}}
    <folder>/<task>.jsonl   one {"input": str, "output": str} per line, where it applies with "references" (more
                            right answers), "choices", and "test" or "test_list" (assertions about code)

Splits that a task declares are line ranges. Where `train` or `test` is missing, rows are dealt out by
seed. Tasks are split into `train` and `unseen_task` by family, so that a near-duplicate of a training
task is never held out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from t2l.files import FileProblemError, read_json
from t2l.seeding import generator_for
from t2l.tasks import Example, Split, Task, TaskSuite


@dataclass
class FolderSuiteConfig:
    """A suite read from a folder."""

    name: str = "folder"
    """fixed"""
    path: str = "???"
    """folder with tasks.json and one JSON-lines file per task"""
    tasks: list[str] | None = None
    """names of the tasks to read; None means all"""
    seed: int = 0
    """decides which families are held out and how undivided rows are dealt out"""
    held_fraction: float = 0.2
    """part of the families whose tasks form the split unseen_task"""
    train_examples: int = 512
    """most training rows per task"""
    test_examples: int = 64
    """most test rows per task"""

    def __post_init__(self) -> None:
        if self.name != "folder":
            raise ValueError(f"suite.name must be 'folder' for a folder suite, not {self.name!r}")
        if not 0 <= self.held_fraction < 1:
            raise ValueError(f"suite.held_fraction must be in [0, 1), not {self.held_fraction}")
        if self.train_examples < 1 or self.test_examples < 1:
            raise ValueError("suite.train_examples and suite.test_examples must be at least 1")


def _example(row: Mapping[str, Any]) -> Example:
    tests = row.get("test") or "\n".join(row.get("test_list") or ())
    if tests and row.get("entry_point"):
        tests = f"{tests}\ncheck({row['entry_point']})"
    references, choices = (tuple(map(str, row.get(key) or ())) for key in ("references", "choices"))
    return Example(str(row["input"]), str(row["output"]), references, choices, tests)


def _read_rows(path: Path) -> list[Example]:
    if not path.is_file():
        raise FileProblemError(f"no such file: {path} (tasks.json names the task)")
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
            rows.append(_example(row))
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise FileProblemError(f"{path}:{number} is not a row with input and output ({error!r})") from None
    return rows


def _deal_rows(
    name: str, rows: Sequence[Example], record: Mapping[str, Any], config: FolderSuiteConfig
) -> dict[str, tuple[Example, ...]]:
    ranges = record.get("splits") or {}
    if "train" in ranges and "test" in ranges:
        train, test = (rows[slice(*ranges[k])] for k in ("train", "test"))
    else:
        order = generator_for("rows", config.seed, name).permutation(len(rows))
        cut = min(config.test_examples, max(1, len(rows) // 5))
        test, train = [rows[i] for i in order[:cut]], [rows[i] for i in order[cut:]]
    asked = {e.input for e in test}
    train = [e for e in train if e.input not in asked]
    if not train or not test:
        raise ValueError(f"task {name!r} has {len(rows)} rows: too few for training and test rows")
    return {"train": tuple(train[: config.train_examples]), "test": tuple(test[: config.test_examples])}


def build(config: FolderSuiteConfig) -> TaskSuite:
    """Reads the suite of a config.

    Raises:
        FileProblemError: the folder, tasks.json or a task's file is missing or malformed.
        ValueError: an unknown task is asked for, or a task has no description.
    """
    folder = Path(config.path).expanduser()
    if not folder.is_dir():
        raise FileProblemError(f"suite.path={config.path}: no such folder")
    records = read_json(folder / "tasks.json")
    names = list(records) if config.tasks is None else list(config.tasks)
    unknown = [n for n in names if n not in records]
    if unknown:
        raise ValueError(f"unknown task {unknown[0]!r} in {folder}: it has {', '.join(list(records)[:8])}...")
    tasks = {}
    for name in names:
        descriptions = tuple(d for d in records[name].get("descriptions", []) if d.strip())
        if not descriptions:
            raise ValueError(f"task {name!r} in {folder / 'tasks.json'} has no description")
        tasks[name] = Task(
            name=name,
            descriptions={"train": descriptions},
            examples=_deal_rows(name, _read_rows(folder / f"{name}.jsonl"), records[name], config),
            metric=records[name].get("metric", "exact_match"),
            family=records[name].get("family", name),
        )
    families = sorted({t.family for t in tasks.values()})
    order = generator_for("families", config.seed).permutation(len(families))
    held = {families[i] for i in order[: round(config.held_fraction * len(families))]}
    return TaskSuite(
        name=f"folder:{folder.name}",
        tasks=tasks,
        splits={
            "train": Split(tuple(n for n, t in tasks.items() if t.family not in held)),
            "unseen_task": Split(tuple(n for n, t in tasks.items() if t.family in held)),
        },
        provenance={"source": str(folder), "seed": config.seed},
    )
