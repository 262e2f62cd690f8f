"""What several verbs ask of their settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from t2l.files import check_own
from t2l.library import LIBRARY_RECORD
from t2l.methods.folder import RECORD_FILE as METHOD_RECORD
from t2l.tasks import Task, TaskSuite


def settings_from(kind: Any, config: Any, **others: Any) -> Any:
    """A verb's settings: those that another verb's settings have by the same name, and `others` in place of them.

    Args:
        kind: dataclass of the settings to make.
        config: settings of the other verb.
    """
    shared = {f.name: getattr(config, f.name) for f in fields(kind) if hasattr(config, f.name)}
    return kind(**{**shared, **others})


def folder_of(run_dir: str | None) -> Path:
    """The folder that a verb writes. Raises ValueError if none is given."""
    if not run_dir:
        raise ValueError("run_dir is empty: give the folder to write")
    return Path(run_dir)


def report_folder(run_dir: str | None, files: Sequence[str]) -> Path:
    """The folder of a report.

    Args:
        files: what will be written there.

    Raises ValueError if it would be written among the files of what another verb made, or over files that are not t2l's.
    """
    folder = folder_of(run_dir)
    for name, verb in (("run.json", "train"), (LIBRARY_RECORD, "train_library"), (METHOD_RECORD, "train_library")):
        if (folder / name).is_file():
            raise ValueError(f"run_dir={folder} is a folder of `t2l {verb}`: choose another for the report")
    check_own(folder, files)
    return folder


def tasks_of(suite: TaskSuite, splits: Sequence[str] | None, names: Sequence[str] | None) -> list[Task]:
    """The tasks of these names, else of these splits, else all. Raises ValueError for a name or split that there is not."""
    if names is not None:
        return suite.select(names)
    chosen = [suite.split(s) for s in (splits if splits is not None else list(suite.splits))]
    return suite.select(dict.fromkeys(name for split in chosen for name in split.tasks))
