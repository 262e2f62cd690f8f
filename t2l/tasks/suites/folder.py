"""Tasks from a folder of JSON lines.

    <folder>/tasks.json     {task: {"descriptions": [str, ...], "metric", "family", "splits": {name: [start, end)},
                            "n": number of rows, "max_new_tokens": longest answer}}; all but the descriptions may be
                            missing, and other keys (source, licence...) are not looked at
    <folder>/<task>.jsonl   one {"input": str, "output": str} per line, where it applies with "references" (more
                            right answers), "choices", and "test" or "test_list" (assertions about code)

Splits that a task declares are line ranges, counted from 0. Of these train, validation and test are used; a suite that
names them otherwise says so in suite.row_splits. Rows of other ranges are used only if a task declares none of the
three: then all its rows are dealt out. What becomes of rows and tasks is in `row_splits.py`.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from t2l.checks import one_of
from t2l.files import FileProblemError
from t2l.registry import register
from t2l.tasks.suites.descriptions import check_descriptions
from t2l.tasks.suites.row_splits import ROW_SPLITS, DealingConfig, deal_rows, deal_tasks, descriptions_of, select_names
from t2l.tasks.suites.rows import canonical_metric, example_of
from t2l.tasks.task import Example, Task, TaskSuite

RECORD_KEYS = ("descriptions", "metric", "family", "splits", "n", "max_new_tokens")


@dataclass
class FolderSuiteConfig(DealingConfig):
    """A suite read from a folder."""

    name: str = "folder"
    """fixed"""
    path: str = "???"
    """folder with tasks.json and one JSON-lines file per task"""
    row_splits: dict[str, str] = field(default_factory=dict)
    """train, validation or test to the name of the range that holds these rows, if tasks.json names it otherwise
    (+suite.row_splits.train=NAME)"""

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(self, ["folder"], "name", under="suite")
        unknown = [key for key in self.row_splits if key not in ROW_SPLITS]
        if unknown:
            raise ValueError(f"suite.row_splits: {unknown[0]!r} must be one of {', '.join(ROW_SPLITS)}")


@dataclass(frozen=True)
class _Record:
    """What tasks.json says of a task."""

    name: str
    data: Mapping[str, Any]
    path: Path
    """of tasks.json"""

    def problem(self, error: object) -> FileProblemError:
        """An error about the task."""
        return FileProblemError(f"{self.path}: task {self.name!r}: {error}")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose keys are all different. Raises ValueError for one that is there twice."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"key {key!r} is there twice")
        found[key] = value
    return found


def _read_text(path: Path, why: str) -> str:
    if not path.is_file():
        raise FileProblemError(f"no such file: {path} ({why})")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise FileProblemError(f"{path} is not UTF-8 text: {error}") from None


def _parse(text: str, place: str) -> Any:
    """JSON without a key that is there twice. Raises FileProblemError for any other."""
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        raise FileProblemError(f"{place} is not valid JSON: {error.msg} (column {error.colno})") from None
    except ValueError as error:
        raise FileProblemError(f"{place}: {error}") from None


def _read_records(path: Path) -> dict[str, _Record]:
    """Every task of tasks.json. Raises FileProblemError if it is damaged."""
    found = _parse(_read_text(path, "it names the tasks of the suite"), str(path))
    if not isinstance(found, dict):
        raise FileProblemError(f"{path} must be an object of tasks, not {str(found)[:40]!r}")
    records = {name: _Record(name, data, path) for name, data in found.items()}
    for record in records.values():
        if not isinstance(record.data, dict):
            raise record.problem(f"it must be an object with descriptions, not {str(record.data)[:40]!r}")
    return records


def _check_keys(record: _Record) -> None:
    """Raises FileProblemError for a key that looks like a known one misspelt."""
    for key in set(record.data) - set(RECORD_KEYS):
        near = difflib.get_close_matches(key, RECORD_KEYS, n=1, cutoff=0.8)
        if near:
            raise record.problem(f"unknown key {key!r}; did you mean {near[0]!r}?")
    family = record.data.get("family", "x")
    if not isinstance(family, str) or not family.strip():
        raise record.problem(f"family must be a non-empty text, not {family!r}")
    if "/" in record.name or record.name in ("", ".", ".."):
        raise record.problem("the name must do as the name of a file")


def _own_descriptions(record: _Record, config: FolderSuiteConfig) -> tuple[str, ...]:
    """A task's descriptions in tasks.json; there need be none if a folder replaces them."""
    if config.descriptions_folder is not None and not record.data.get("descriptions"):
        return ()
    try:
        return check_descriptions(record.data.get("descriptions"))
    except ValueError as error:
        raise record.problem(error) from None


def _read_rows(path: Path, record: _Record, metric: str) -> list[Example]:
    """A task's rows. Raises FileProblemError with file and line if one is malformed."""
    lines = _read_text(path, f"{record.path} names the task").split("\n")
    if not lines[-1]:
        lines.pop()
    rows = []
    for number, line in enumerate(lines, start=1):
        data = _parse(line, f"{path}:{number}")
        try:
            rows.append(example_of(data, metric))
        except ValueError as error:
            raise FileProblemError(f"{path}:{number}: {error}") from None
    stated = record.data.get("n", len(rows))
    if stated != len(rows):
        raise record.problem(f"n says {stated!r} rows, {path} has {len(rows)}")
    return rows


def _ranges(record: _Record, count: int) -> dict[str, range]:
    """The ranges of rows that a task declares. Raises FileProblemError for one that is no part of the rows."""
    declared = record.data.get("splits") or {}
    if not isinstance(declared, dict):
        raise record.problem(f"splits must be an object of [start, end) ranges, not {str(declared)[:40]!r}")
    ranges: dict[str, range] = {}
    for name, bounds in declared.items():
        whole = isinstance(bounds, list) and len(bounds) == 2 and all(type(b) is int for b in bounds)
        if not whole or not 0 <= bounds[0] < bounds[1] <= count:
            raise record.problem(
                f"split {name!r} must be [start, end) with 0 <= start < end <= {count}, not {bounds!r}"
            )
        ranges[name] = range(*bounds)
    for (name, mine), (other, theirs) in combinations(ranges.items(), 2):
        if mine.start < theirs.stop and theirs.start < mine.stop:
            raise record.problem(f"splits {name!r} and {other!r} share rows")
    return ranges


def _declared_rows(
    record: _Record, rows: Sequence[Example], config: FolderSuiteConfig
) -> Mapping[str, Sequence[Example]]:
    ranges = _ranges(record, len(rows))
    missing = [name for name in config.row_splits.values() if name not in ranges]
    if missing:
        has = ", ".join(ranges) or "none"
        raise record.problem(f"suite.row_splits asks for split {missing[0]!r}, and the task declares {has}")
    names = {key: config.row_splits.get(key, key) for key in ROW_SPLITS}
    found = {key: [rows[i] for i in ranges[name]] for key, name in names.items() if name in ranges}
    return found or {"train": list(rows)}


def _read_task(record: _Record, folder: Path, config: FolderSuiteConfig) -> Task:
    """A task, without descriptions as yet."""
    _check_keys(record)
    try:
        metric = canonical_metric(record.data.get("metric", "exact_match"))
    except ValueError as error:
        raise record.problem(error) from None
    rows = _read_rows(folder / f"{record.name}.jsonl", record, metric)
    declared = _declared_rows(record, rows, config)
    family, longest = record.data.get("family", record.name), record.data.get("max_new_tokens")
    try:
        examples = deal_rows(record.name, declared, config)
        return Task(record.name, {}, examples, metric, family, max_new_tokens=longest)
    except ValueError as error:
        raise FileProblemError(f"{record.path}: {error}") from None


@register("suite", "folder", FolderSuiteConfig)
def build(config: FolderSuiteConfig) -> TaskSuite:
    """Reads the suite of a config.

    Raises:
        FileProblemError: the folder, tasks.json or a task's file is missing or malformed; with the task, or file and line.
        ValueError: a task is asked for that the folder does not have, or roles that do not go together.
    """
    folder = Path(config.path).expanduser()
    if not folder.is_dir():
        raise FileProblemError(f"suite.path={config.path}: no such folder")
    records = _read_records(folder / "tasks.json")
    names = select_names(list(records), config, str(folder))
    own = {name: _own_descriptions(records[name], config) for name in names}
    tasks = {name: _read_task(records[name], folder, config) for name in names}
    phrasings = descriptions_of(own, config)
    tasks = {name: replace(task, descriptions=phrasings[name]) for name, task in tasks.items()}
    return deal_tasks(f"folder:{folder.name}", tasks, config, {"source": str(folder), "seed": config.seed})
