"""The rows of harness tasks as examples of a suite, so that they can be compared with what was trained on."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from t2l.evaluation.contenders.interface import SplitView
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
    """The rows that a harness task scores; None where it is a group, or a kind of its own."""
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
