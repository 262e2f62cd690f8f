"""`t2l evaluate harness=lm_eval`: contenders on tasks of the lm-evaluation-harness, and what comes of it.

A harness task is shown to contenders as a task with descriptions and nothing to read: they enter it as they enter
a split of the board, and each adapter and text they come with is a pass of the harness over the task.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from t2l.base_model import BaseModel, verify_frozen
from t2l.evaluation.board import SameInputsError, decoding_conditions
from t2l.evaluation.config import EvaluateConfig
from t2l.evaluation.contenders.generated import Generated
from t2l.evaluation.contenders.interface import Contender, Entry, SplitView
from t2l.evaluation.harness.data import as_suite
from t2l.evaluation.harness.harness import Harness, descriptions_of, what_differs
from t2l.evaluation.harness.report import HARNESS_FILES, Pass, Row, plain, rows_of, write_harness_report
from t2l.evaluation.metrics.code_runner import as_configured
from t2l.evaluation.settings import decisive_settings
from t2l.evaluation.store import CellStore, Ledger
from t2l.files import check_own
from t2l.library import MULTI_TASK
from t2l.lora import LoraSpec, inject
from t2l.run.progress import Progress
from t2l.tasks import Example, Task
from t2l.verbs.evaluate import Evaluation, check_report_folder

log = logging.getLogger(__name__)
DESCRIBED = {"prompted", "nearest", "generated"}
"""contenders that are nothing without a task's description"""


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


class _Scoring:
    """Runs contenders through the harness, one after another; what a pass found is kept as soon as it is there."""

    def __init__(self, harness: Harness, parts: Evaluation, view: SplitView, store: CellStore) -> None:
        self._harness, self._parts, self._view, self._store = harness, parts, view, store
        self._lm = harness.wrap(parts.base)
        self.conditions = {**decoding_conditions(parts.base, 0), "harness": harness.identity}
        self._checkpoint_of = {id(g): c.path for c in parts.checkpoints for g in c.generated}

    def enter(self, contenders: Sequence[Contender]) -> list[Entry]:
        """What every contender runs, before any of it runs.

        Raises SameInputsError where two would feed the base the same, and ValueError (or FileProblemError) where a
        contender has nothing for a task.
        """
        fed: dict[str, str] = {}
        entries = []
        for contender in contenders:
            entry = contender.enter(self._view)
            memory = self._parts.config.evaluation.adapter_memory
            other = fed.setdefault(entry.fingerprint(memory), contender.name)
            if other != contender.name:
                raise SameInputsError(
                    f"contenders {other} and {contender.name} run the base model under the same adapters and text: one of "
                    "them does not do what its name says, so neither is scored"
                )
            entries.append(entry)
        return entries

    def passes(self, contender: Contender, entry: Entry, run: int) -> Iterator[Pass]:
        """Everything one contender is scored on; `run` numbers contenders of one name."""
        spec, questions = getattr(contender, "spec", self._parts.spec), iter(entry.questions)
        digests = entry.adapter_digests(self._parts.config.evaluation.adapter_memory)
        try:
            for name, task in zip(self._harness.tasks, self._view.tasks, strict=True):
                mine = list(islice(questions, len(task.examples["test"])))
                for adapter, prefix in dict.fromkeys((q.adapter, q.prefix) for q in mine):
                    recipe = {
                        **self.conditions,
                        "task": self._harness.task_identity(name),
                        "prefix": prefix,
                        "adapter": digests[adapter],
                        "scaling": spec.scaling,
                    }
                    kept = self._store.read(contender.name, name, recipe)
                    if kept is None:
                        kept = self._score(entry, adapter, spec, name, prefix)
                        self._store.write(contender.name, name, recipe, kept)
                    text = entry.conditions[adapter] if entry.conditions else None
                    checkpoint = self._checkpoint_of.get(id(contender))
                    yield Pass(contender.name, run, name, text, prefix, checkpoint, kept["time_s"], kept["found"])
        finally:
            getattr(contender, "close", lambda: None)()

    def _score(self, entry: Entry, adapter: int, spec: LoraSpec, name: str, prefix: str) -> dict[str, Any]:
        """What the harness finds in one pass, as JSON holds it, and how long it took."""
        began = time.perf_counter()
        with _under(entry, adapter, spec, self._parts.base) as model:
            lm = self._lm if model is self._parts.base else self._harness.wrap(model)
            found = self._harness.score(lm, name, prefix)
        return {"time_s": time.perf_counter() - began, "found": plain(found)}


@as_configured
def evaluate_with_harness(config: EvaluateConfig) -> list[Row]:
    """Scores contenders on harness tasks; writes harness.json, harness.md and harness_samples.jsonl. Returns the rows.

    Raises ValueError for an unknown task, a dataset that is not there, a task without a description where a
    contender needs one, and for contenders that fed the base model the same.
    """
    if not config.run_dir:
        raise ValueError("run_dir is empty: give the folder to write")
    folder = Path(config.run_dir)
    check_report_folder(folder)
    check_own(folder, HARNESS_FILES)
    torch.manual_seed(config.seed)
    ledger = Ledger(folder, decisive_settings(config))
    harness = Harness(config.harness, config.tasks)
    parts = Evaluation(replace(config, splits=[]))
    config = parts.config
    _check_checkpoints(parts)
    described = bool(DESCRIBED & set(config.contenders)) or config.prompt.is_shown
    told = {n: descriptions_of(config.harness, n, parts.suite.tasks) if described else ([], "") for n in harness.tasks}
    own = [config.harness.library_tasks.get(n, n) for n in harness.tasks]
    view = view_of(own, [texts for texts, _ in told.values()], config.prompt.is_shown)
    suite, rows_view, notes = as_suite(harness.tasks, view)
    parts.data = parts.check_data(suite, [rows_view], is_strict=False)
    parts.data.notes.extend(notes)
    store = CellStore(folder)
    scoring = _Scoring(harness, parts, view, store)
    contenders = [c for c in parts.contenders() if not _lacks_other_task(c, view)]
    entries = scoring.enter(contenders)
    ledger.start({"base_model": parts.base.fingerprint, "suite": parts.suite.content_hash()})
    if already := store.finished():
        log.info("%s has %d finished passes: what is asked for again is taken from there", config.run_dir, already)
    passes: list[Pass] = []
    total = sum(len({(q.task, q.adapter, q.prefix) for q in entry.questions}) for entry in entries)
    with verify_frozen(parts.base.model), Progress("scoring by lm_eval", total, "pass") as progress:
        for i, (contender, entry) in enumerate(zip(contenders, entries, strict=True)):
            run = [c.name for c in contenders[:i]].count(contender.name)
            for found in scoring.passes(contender, entry, run):
                passes.append(found)
                progress.advance()
    if not store.written:
        log.info("%s was scored already: only the report is written again", config.run_dir)
    rows = rows_of(passes)
    tasks = {
        n: {
            "library_task": t.name,
            "descriptions": texts,
            "descriptions_from": source,
            "trained_on_by": [
                *(c.path for c in parts.checkpoints if t.name in c.record.trained_on.get("tasks", ())),
                *_of_library(parts, t.name),
            ],
        }
        for t, (n, (texts, source)) in zip(view.tasks, told.items(), strict=True)
    }
    about = {**parts.provenance(), "prompts": what_differs(config.harness, parts.base.tokenizer)}
    write_harness_report(folder, rows, passes, tasks, about)
    return rows


def _of_library(parts: Evaluation, task: str) -> list[str]:
    """The library's adapters that are scored and were trained on a task, by name."""
    asked, library = set(parts.config.contenders), parts.library
    if library is None:
        return []
    together = library.static.provenance(MULTI_TASK).get("tasks", ()) if library.static.tasks() else ()
    knows = {"oracle": task in library.adapters.tasks(), "multi_task": task in together}
    return [f"{parts.config.library} ({name})" for name, known in knows.items() if known and name in asked]


def _check_checkpoints(parts: Evaluation) -> None:
    """Raises ValueError where a checkpoint was trained on tasks that the suite, from which controls come, lacks."""
    for checkpoint in parts.checkpoints:
        missing = set(checkpoint.record.trained_on.get("tasks", ())) - set(parts.trained.tasks)
        if missing:
            raise ValueError(
                f"checkpoint {checkpoint.path} was trained on {checkpoint.record.trained_on['suite']}, whose task "
                f"{min(missing)!r} is not in the suite {parts.trained.name}: pass the suite=... (or suite@training_suite=...) it was trained on, from "
                "which the controls take their descriptions"
            )


def _lacks_other_task(contender: Contender, view: SplitView) -> bool:
    """Whether a contender would need another task's description where there is but one task; says so."""
    lacks = isinstance(contender, Generated) and contender.condition == "shuffled" and len(view.tasks) < 2
    if lacks:
        log.warning("%s is left out: with one task there is no other task's description", contender.name)
    return lacks
