"""Contenders on harness tasks: each adapter and text that a contender comes with is a pass of the harness over the task.

A harness task is shown to contenders as a task with descriptions and nothing to read: they enter it as they enter
a split of the board.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

from t2l.base_model import BaseModel
from t2l.evaluation.board import SameInputsError, decoding_conditions
from t2l.evaluation.contenders.interface import Contender, Entry, SplitView
from t2l.evaluation.context import Context
from t2l.evaluation.harness.lm_eval import Harness
from t2l.evaluation.harness.report import Pass, plain
from t2l.evaluation.store import CellStore
from t2l.lora import LoraSpec, inject
from t2l.run.progress import Progress
from t2l.tasks import Example, Task

log = logging.getLogger(__name__)


def view_of(library_tasks: Sequence[str], descriptions: Sequence[Sequence[str]], shows_description: bool) -> SplitView:
    """Harness tasks as contenders see them: descriptions, and per description one question without a text.

    Args:
        library_tasks: what the tasks are called in library and suite.
    """
    blank = [(Example("", ""),) * max(1, len(ds)) for ds in descriptions]
    tasks = [
        Task(name, {"test": tuple(ds)}, {"test": questions})
        for name, ds, questions in zip(library_tasks, descriptions, blank, strict=True)
    ]
    return SplitView("harness", tasks, descriptions, max(map(len, blank)), shows_description)


def can_enter(contender: Contender, view: SplitView) -> bool:
    """Whether the other task is there whose descriptions a control needs; says so if not."""
    if reason := contender.lacks(view):
        log.warning("%s is left out: %s", contender.name, reason)
    return reason is None


@contextmanager
def _under(entry: Entry, adapter: int, spec: LoraSpec, base: BaseModel) -> Iterator[BaseModel]:
    """The base model while it runs under one adapter of an entry."""
    if entry.attached is not None:
        with entry.attached(adapter) as adapted:
            yield adapted
    elif entry.adapters is None:
        yield base
    else:
        with inject(base.model, spec, entry.adapters.take([adapter]).to(base.device)):
            yield base


class HarnessBoard:
    """Runs contenders through the harness, one after another; what a pass found is kept as soon as it is there."""

    def __init__(self, harness: Harness, context: Context, view: SplitView, store: CellStore) -> None:
        self._harness, self._context, self._view, self._store = harness, context, view, store
        self._base, self._memory = context.base, context.config.evaluation.adapter_memory
        self._lm = harness.wrap(self._base)
        self.conditions = {**decoding_conditions(self._base, 0), "harness": harness.identity}

    def enter(self, contenders: Sequence[Contender]) -> list[Entry]:
        """What every contender runs, before any of it runs.

        Raises SameInputsError if two would feed the base the same, and ValueError (or FileProblemError) if a
        contender has nothing for a task.
        """
        fed: dict[str, str] = {}
        entries = []
        for contender in contenders:
            entry = self._enter(contender)
            other = fed.setdefault(entry.fingerprint(self._memory), contender.name)
            if other != contender.name:
                raise SameInputsError(
                    f"contenders {other} and {contender.name} run the base model under the same adapters and text: one of "
                    "them does not do what its name says, so neither is scored"
                )
            entries.append(entry)
        return entries

    def _enter(self, contender: Contender) -> Entry:
        try:
            return contender.enter(self._view)
        except ValueError as error:
            known = zip(self._harness.tasks, self._view.tasks, strict=True)
            name = next((name for name, task in known if repr(task.name) in str(error)), None)
            if name is None:
                raise
            raise type(error)(
                f"{error}; if harness task {name!r} is another one there: +harness.library_tasks.{name}=NAME"
            ) from error

    def score(self, contenders: Sequence[Contender], entries: Sequence[Entry]) -> list[Pass]:
        """Every pass of every contender, those that were finished before among them."""
        found: list[Pass] = []
        total = sum(len({(q.task, q.adapter, q.prefix) for q in entry.questions}) for entry in entries)
        with Progress("scoring by lm_eval", total, "pass") as progress:
            for i, (contender, entry) in enumerate(zip(contenders, entries, strict=True)):
                run = [c.name for c in contenders[:i]].count(contender.name)
                for one in self._passes(contender, entry, run):
                    found.append(one)
                    progress.advance()
        return found

    def _passes(self, contender: Contender, entry: Entry, run: int) -> Iterator[Pass]:
        """Everything one contender is scored on; `run` numbers contenders of one name."""
        spec, questions = contender.spec or self._context.spec, iter(entry.questions)
        digests, of = entry.adapter_digests(self._memory), self._context.checkpoint_of(contender)
        try:
            for name, task in zip(self._harness.tasks, self._view.tasks, strict=True):
                mine = list(islice(questions, len(task.examples["test"])))
                for adapter, prefix in dict.fromkeys((q.adapter, q.prefix) for q in mine):
                    recipe = {
                        **self.conditions,
                        "task": self._harness.task_identities[name],
                        "prefix": prefix,
                        "adapter": digests[adapter],
                        "scaling": spec.scaling,
                    }
                    kept = self._store.read(contender.name, name, recipe)
                    if kept is None:
                        kept = self._score(entry, adapter, spec, name, prefix)
                        self._store.write(contender.name, name, recipe, kept)
                    text = entry.conditions[adapter] if entry.conditions else None
                    path = None if of is None else of.path
                    yield Pass(contender.name, run, name, text, prefix, path, kept["time_s"], kept["found"])
        finally:
            contender.close()

    def _score(self, entry: Entry, adapter: int, spec: LoraSpec, name: str, prefix: str) -> dict[str, Any]:
        """What the harness finds in one pass, as JSON holds it, and how long it took."""
        began = time.perf_counter()
        with _under(entry, adapter, spec, self._base) as model:
            lm = self._lm if model is self._base else self._harness.wrap(model)
            found = self._harness.score(lm, name, prefix)
        return {"time_s": time.perf_counter() - began, "found": plain(found)}
