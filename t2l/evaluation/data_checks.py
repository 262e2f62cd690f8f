"""Is what is scored new to what answers? Checkpoints, libraries and contenders trained on a task's own examples, before
anything is scored. Reads records and hashes alone: no model is loaded."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from t2l.evaluation.contenders.interface import SplitView, kinds
from t2l.evaluation.scope import Scope
from t2l.hypernetwork.checkpoint import find_checkpoint, load_record, load_training_data
from t2l.hypernetwork.kept_calibration import check_writable
from t2l.library import MULTI_TASK, library_record, training_tasks_in
from t2l.library.trained_on import trained_on
from t2l.methods.folder import MethodLibrary
from t2l.tasks import TaskSuite
from t2l.tasks.manifest import Manifest, Overlap, refuse

log = logging.getLogger(__name__)
ADVICE = (
    "Take the suite (and suite.seed) that the library was trained on, which deals other rows to each use, leave the split "
    "out, or train a library on this suite"
)


class DataChecks:
    """What the scored splits share with training.

    Every check raises ValueError if a split is not what it claims; what is no reason to refuse is gathered for the
    report.
    """

    def __init__(
        self, suite: TaskSuite, trained: TaskSuite, views: Sequence[SplitView], is_strict: bool = True
    ) -> None:
        """Args:
        suite: the scored one.
        trained: the one with the training tasks, which may be the same.
        views: the scored splits.
        is_strict: whether adapters of other data whose rows are not recorded are refused, or only said.
        """
        self._suite, self._trained, self._views, self._is_strict = suite, trained, views, is_strict
        self._hashes = cache(lambda: {s.content_hash() for s in (suite, trained)})
        self._overlaps: dict[Overlap, None] = {}
        self.unchecked: list[str] = []
        """what did not record what it was trained on"""
        self.notes: list[str] = []
        """what a reader of the report should know"""

    @property
    def overlaps(self) -> list[Overlap]:
        """What is shared, and allowed."""
        return list(self._overlaps)

    def checkpoint(self, path: str) -> None:
        """A hypernetwork."""
        folder = find_checkpoint(Path(path))
        data, of = load_training_data(folder), load_record(folder).trained_on
        if data is None:
            self._not_checked(path)
            return
        self._compare(f"checkpoint {path}", data.manifest)
        self._note_suite(f"checkpoint {path}", {"name": of.get("suite"), "sha256": of.get("suite_sha256")})
        if of.get("unchecked"):
            self._not_checked(f"{path} (adapters of {of['unchecked']}, which it learnt to reconstruct)")

    def library(self, path: str, contenders: Collection[str], training_tasks: Sequence[str]) -> None:
        """The adapters of a library that these contenders use."""
        folder, record = Path(path), library_record(Path(path))
        if not self._views:
            return
        definition = record.get("definition", "hidden")
        first: dict[str, str] = {}
        for name, kind in kinds().items():
            if name in contenders and kind.needs.library:
                first.setdefault(kind.needs.library, f"library={path}, contender {name}:")
        if "own" in first:
            self._own(first["own"], folder / "adapters", definition)
        if "training_tasks" in first:
            names = training_tasks_in(record, training_tasks, path)
            if len(names) < len(training_tasks):
                self._note(
                    f"library {path} is of a sample of {len(names)} of the {len(training_tasks)} training tasks: contenders that "
                    "use the training tasks' adapters use theirs"
                )
            adapters = [folder / "adapters" / task for task in names]
            self._shared(first["training_tasks"], adapters, definition)
        if "multi_task" in first:
            self._shared(first["multi_task"], [folder / "static" / MULTI_TASK], definition)
        if first:
            self._note_suite(f"library {path}", record.get("suite"))

    def method_library(self, path: str) -> None:
        """What another method learnt of each scored task."""
        record = MethodLibrary.open(Path(path)).record()
        self._own(f"method library {path}", Path(path) / "adapters", record.get("definition", "hidden"))
        self._note_suite(f"method library {path}", record.get("suite"))

    def own_examples(self, needed: Mapping[str, int]) -> None:
        """Contenders that are shown or trained on a scored task's own training examples: the first so many of each task."""
        known = kinds()
        for name, count in needed.items():
            for view in self._views:
                for task in view.tasks:
                    scored = {(e.input, e.output) for e in task.examples.get("test", ())[: view.examples]}
                    shown = [*task.examples.get("train", ())[:count]]
                    if known[name].needs.chooses_format:
                        shown += task.examples.get("validation") or task.examples.get("train", ())
                    if both := len(scored & {(e.input, e.output) for e in shown}):
                        raise ValueError(
                            f"contender {name} would be given {both} of the scored examples of task {task.name!r}: they are "
                            "among its training or validation examples, too; take them out of one of the two"
                        )

    def _own(self, what: str, adapters: Path, definition: str) -> None:
        """Adapters that answer for the task they were trained on: its test examples must be new to them."""
        for view in self._views:
            found: list[Overlap] = []
            for task in view.tasks:
                manifest = self._manifest(adapters / task.name, definition)
                found += [] if manifest is None else manifest.seen(task, view.name)
            refuse(found, what, ADVICE)

    def _shared(self, what: str, adapters: Sequence[Path], definition: str) -> None:
        """Adapters that answer for any task."""
        found = [self._manifest(folder, definition) for folder in adapters]
        self._compare(what, Manifest.union(m for m in found if m is not None), ADVICE)

    def _manifest(self, adapter: Path, definition: str) -> Manifest | None:
        if not adapter.is_dir():
            return None  # there is nothing to score; loading says so
        try:
            manifest = trained_on(adapter, [self._suite, self._trained], definition)
        except ValueError:
            if self._is_strict:
                raise
            manifest = None
        if manifest is None:
            self._not_checked(str(adapter))
        return manifest

    def _compare(self, what: str, manifest: Manifest, *advice: str) -> None:
        for view in self._views:
            overlaps = manifest.overlaps(self._suite, view.name, self._trained)
            refuse(overlaps, what, *advice)
            self._overlaps.update(dict.fromkeys(overlaps))

    def _not_checked(self, what: str) -> None:
        if what not in self.unchecked:
            log.warning("%s does not say what it was trained on: overlap not checked", what)
            self.unchecked.append(what)

    def _note_suite(self, what: str, of: Mapping[str, Any] | None) -> None:
        """Says where something was trained on a suite of other content, though what is scored was new to it."""
        sha256 = (of or {}).get("sha256")
        if not self._views or sha256 is None or sha256 in self._hashes():
            return
        self._note(
            f"{what} was trained on suite {(of or {}).get('name')} with other content ({sha256[:12]}) than that of this suite "
            f"({self._trained.content_hash()[:12]}); no scored example is among the rows of its task that it recorded"
        )

    def _note(self, text: str) -> None:
        self.notes.append(text)
        log.warning("%s", text)


def check_data(
    scope: Scope, suite: TaskSuite | None = None, views: Sequence[SplitView] | None = None, is_strict: bool = True
) -> DataChecks:
    """What the scored splits share with training. Raises ValueError if a split is not what it claims.

    Args:
        suite: what is scored, if not the scope's suite.
        views: its splits, likewise.
        is_strict: whether what was trained on unknown rows of other data is refused, too.
    """
    config = scope.config
    checks = DataChecks(suite or scope.suite, scope.trained, scope.views if views is None else views, is_strict)
    for path in config.checkpoints:
        checks.checkpoint(path)
        if config.keep_calibration:
            check_writable(find_checkpoint(Path(path)))
    if config.library:
        checks.library(config.library, scope.contenders, scope.training_tasks)
    for path in config.method_libraries:
        checks.method_library(path)
    asked = {name: kind.needs for name, kind in kinds(scope.contenders).items()}
    checks.own_examples({name: needs.examples(config) for name, needs in asked.items() if needs.examples})
    return checks
