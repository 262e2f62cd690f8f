"""The rows of harness tasks as examples of a suite, so that they can be compared with what was trained on."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from t2l.evaluation.contenders.interface import SplitView, kinds
from t2l.evaluation.context import Context
from t2l.evaluation.scope import Scope
from t2l.hypernetwork.checkpoint import find_checkpoint, load_record
from t2l.library import MULTI_TASK
from t2l.tasks import Example, Split, Task, TaskSuite

log = logging.getLogger(__name__)
NOTE = (
    "Rows of harness tasks were compared with training rows by the text of question and answer; a row that the suite words "
    "otherwise is not recognised"
)


def _example(task: Any, doc: Mapping[str, Any]) -> Example:
    target = task.doc_to_target(doc)
    if isinstance(target, int) and task.config.doc_to_choice is not None:
        target = task.doc_to_choice(doc)[target]
    text = target[0] if isinstance(target, list) and target else target
    return Example(str(task.doc_to_text(doc)), str(text))


def _examples(task: Any) -> tuple[Example, ...] | None:
    """The rows that a harness task scores; None if it is a group, or a kind of its own."""
    try:
        return tuple(_example(task, doc) for doc in task.eval_docs)
    except (AttributeError, TypeError, KeyError, IndexError, ValueError) as error:
        log.info("the rows of a harness task cannot be told as question and answer: %r", error)
        return None


def as_suite(tasks: Mapping[str, Any], view: SplitView) -> tuple[TaskSuite, SplitView, list[str]]:
    """Harness tasks as a suite with one split, `harness`, whose test examples are their rows.

    Args:
        tasks: of the harness, by name, in the order of the view's tasks.
        view: how contenders see them.

    Returns the suite, its view, and notes on what cannot be compared.
    """
    found: list[Task] = []
    missed: list[str] = []
    for (name, task), shown in zip(tasks.items(), view.tasks, strict=True):
        rows = _examples(task)
        if rows is None:
            missed.append(name)
        found.append(replace(shown, examples={"test": rows or ()}))
    by_name = {t.name: t for t in found}
    suite = TaskSuite("harness", by_name, {view.name: Split(tuple(by_name), "test")})
    notes = [NOTE, *([f"Not compared: {', '.join(missed)}"] if missed else [])]
    return suite, replace(view, tasks=found), notes


def check_checkpoints(scope: Scope) -> None:
    """Raises ValueError if a checkpoint was trained on tasks that the suite, from which controls come, lacks."""
    for path in scope.config.checkpoints:
        trained_on = load_record(find_checkpoint(Path(path))).trained_on
        missing = set(trained_on.get("tasks", ())) - set(scope.trained.tasks)
        if missing:
            raise ValueError(
                f"checkpoint {path} was trained on {trained_on['suite']}, whose task {min(missing)!r} is not in the suite "
                f"{scope.trained.name}: pass the suite=... (or suite@training_suite=...) it was trained on, from which the "
                "controls take their descriptions"
            )


def tasks_about(
    context: Context, view: SplitView, told: Mapping[str, tuple[Sequence[str], str]]
) -> dict[str, dict[str, Any]]:
    """What is known of each harness task beside what the harness says, for the report.

    Args:
        view: how contenders see the tasks.
        told: by harness task, its descriptions and where they come from.
    """
    return {
        name: {
            "library_task": task.name,
            "descriptions": texts,
            "descriptions_from": source,
            "trained_on_by": [
                *(c.path for c in context.checkpoints if task.name in c.record.trained_on.get("tasks", ())),
                *_of_library(context, task.name),
            ],
        }
        for task, (name, (texts, source)) in zip(view.tasks, told.items(), strict=True)
    }


def _of_library(context: Context, task: str) -> list[str]:
    """The library's adapters that are scored and were trained on a task, by contender."""
    if context.opened is None:
        return []
    adapters, static = context.opened.adapters, context.opened.static
    together = static.provenance(MULTI_TASK).get("tasks", ()) if static.tasks() else ()
    knows = {"own": task in adapters.tasks(), "multi_task": task in together}
    asked = kinds(context.scope.contenders)
    return [
        f"{context.config.library} ({name})"
        for part, known in knows.items() if known
        for name, kind in asked.items() if kind.needs.library == part
    ]  # fmt: skip
