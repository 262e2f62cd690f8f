"""What several verbs ask of their settings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from t2l.tasks import Task, TaskSuite


def folder_of(run_dir: str | None) -> Path:
    if not run_dir:
        raise ValueError("run_dir is empty: give the folder to write")
    return Path(run_dir)


def tasks_of(suite: TaskSuite, splits: Sequence[str] | None, names: Sequence[str] | None) -> list[Task]:
    if names is not None:
        return suite.select(names)
    chosen = [suite.split(s) for s in (splits if splits is not None else list(suite.splits))]
    return suite.select(dict.fromkeys(name for split in chosen for name in split.tasks))
