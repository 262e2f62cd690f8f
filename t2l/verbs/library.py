"""What a library holds, whether every adapter of it is sound, and which tasks failed: for `t2l library DIR`, and at the
end of `t2l train_library`."""

from __future__ import annotations

import json
import logging
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from t2l.library import AdapterLibrary, LibraryFolder, library_record
from t2l.methods.folder import RECORD_FILE, MethodLibrary
from t2l.objectives.soundness import Losses, Verdict, adapter_size, judge_adapter
from t2l.run.console import print_table, print_wrapped
from t2l.verbs import Verb

log = logging.getLogger(__name__)
SHOWN_NAMES = 20
"""tasks that are named in one line"""


@dataclass
class LibraryConfig:
    """`t2l library`: loads every adapter of a library strictly and says what is there."""

    folder: str = ""
    """folder of `t2l train_library`"""
    list: bool = False
    """whether to list every adapter, not only those that are not sound"""
    json: bool = False
    """whether to print the report as JSON"""


@dataclass(frozen=True)
class AdapterEntry:
    """One adapter of a library; `problem` says what is wrong with it, None if it is sound.

    Losses are in nats per token, `loss_before` that of the bare base; `norm` is the Frobenius norm of scaling * B A over all modules.
    """

    task: str
    steps: int | None = None
    loss_before: float | None = None
    final_loss: float | None = None
    validation_loss: float | None = None
    norm: float | None = None
    problem: str | None = None


@dataclass(frozen=True)
class LibraryReport:
    """A library as it is on disk: its adapters, the tasks that failed to train, and what it was made for."""

    folder: Path
    record: dict[str, Any]
    adapters: list[AdapterEntry]
    failed: dict[str, str]
    static: list[AdapterEntry] = field(default_factory=list)
    """the multi-task LoRA"""

    @property
    def problems(self) -> list[AdapterEntry]:
        """Adapters that are not sound."""
        return [a for a in (*self.adapters, *self.static) if a.problem]

    def to_json(self) -> dict[str, Any]:
        """The report as JSON-able data."""
        return {
            "folder": str(self.folder),
            "base_model": self.record["base_model"],
            "suite": self.record["suite"],
            "adapters": [vars(a) for a in self.adapters],
            "static": [vars(a) for a in self.static],
            "failed": self.failed,
            "problems": len(self.problems),
        }


def _entry(library: AdapterLibrary, task: str, base_norm: float | None) -> AdapterEntry:
    try:
        weights, record = library.load([task]), library.provenance(task)
    except ValueError as error:
        return AdapterEntry(task, problem=" ".join(str(error).split()))
    losses, final = Losses.from_json(record), record.get("final_loss")
    judgement = judge_adapter(library.spec, weights, losses, final, base_norm)
    problem = None if judgement.is_sound else str(judgement)
    if record.get("task") != task:
        problem = f"was trained for task {record.get('task')!r}"
    size = adapter_size(library.spec, weights)
    return AdapterEntry(task, record.get("steps"), losses.loss_before, final, losses.validation_loss, size, problem)


def examine_library(folder: Path) -> LibraryReport:
    """Loads every adapter of a library strictly, one after another, and reports on each.

    Raises:
        FileProblemError: the folder is not one of `t2l train_library`.
    """
    record = library_record(folder)
    library = LibraryFolder.recorded(folder, record)
    adapters, static = (
        [_entry(part, task, record.get("base_norm")) for task in part.folders()]
        for part in (library.adapters, library.static)
    )
    return LibraryReport(folder, record, adapters, failures(record), static)


def _quartiles(values: Sequence[float]) -> str:
    if not values:
        return "none recorded"
    if len(values) == 1:
        return f"{values[0]:.4g}"
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{middle:.4g} (quartiles {low:.4g} and {high:.4g}, from {min(values):.4g} to {max(values):.4g})"


def print_library(report: LibraryReport, whole: bool) -> None:
    """Prints the summary, and the adapters: all of them, or those that are not sound."""
    shown = [*report.adapters, *report.static] if whole else report.problems
    if shown:
        header = ("task", "steps", "loss before", "final loss", "validation loss", "norm", "state")
        rows = []
        for a in shown:
            numbers = [
                "" if v is None else f"{v:.4g}" for v in (a.loss_before, a.final_loss, a.validation_loss, a.norm)
            ]
            rows.append([a.task, "" if a.steps is None else str(a.steps), *numbers, a.problem or "sound"])
        print_table(header, rows, "adapters" if whole else "adapters that are not sound")
    sound = [a for a in report.adapters if not a.problem]
    print_wrapped(f"{report.folder}: {len(sound)} sound adapters of base model {report.record['base_model']}")
    for key in ("steps", "loss_before", "final_loss", "validation_loss"):
        label = key.replace("_", " ")
        print_wrapped(f"  {label}: {_quartiles([v for a in sound if (v := getattr(a, key)) is not None])}")
    print_wrapped(f"  norm of scaling * BA: {_quartiles([a.norm for a in sound if a.norm is not None])}")
    if "base_norm" not in report.record:
        print_wrapped(
            "  made by an older t2l: losses before training and the size of the base's weights are not recorded"
        )
    print_wrapped(f"  not sound: {len(report.problems)}; failed in training: {len(report.failed)}")
    for task, reason in sorted(report.failed.items()):
        print_wrapped(f"    {task}: {reason}")


def failures(record: Mapping[str, Any]) -> dict[str, str]:
    """Tasks that failed and why, from the record of a library or a method library (an older one names only tasks)."""
    failed = record.get("failed", {})
    return dict(failed) if isinstance(failed, Mapping) else dict.fromkeys(failed, "diverged")


@dataclass(frozen=True)
class TrainingOutcome:
    """What `t2l train_library` ends with: how many adapters there are, what learnt nothing, what failed, and why."""

    folder: Path
    count: int
    learnt_nothing: dict[str, str]
    failed: dict[str, str]

    @property
    def is_complete(self) -> bool:
        """Whether every task has an adapter, sound or marked."""
        return not self.failed and self.count > 0

    @property
    def summary(self) -> str:
        """In one line."""
        told = f"{self.folder}: {self.count} adapters; {len(self.failed)} tasks failed and were left out"
        return f"{told}; {len(self.learnt_nothing)} learnt nothing" if self.learnt_nothing else told

    def log(self) -> None:
        """Logs what learnt nothing, a line for each task that failed, and a summary; nothing if all is well."""
        if self.learnt_nothing:
            names, more = sorted(self.learnt_nothing), len(self.learnt_nothing) - SHOWN_NAMES
            told = ", ".join(names[:SHOWN_NAMES]) + (f" and {more} more, see `t2l library`" if more > 0 else "")
            log.warning("learnt nothing: %s", told)
        for task, reason in sorted(self.failed.items()):
            log.warning("failed: %s: %s", task, reason)
        if self.learnt_nothing or not self.is_complete:
            log.warning("%s", self.summary)


def training_outcome(folder: Path) -> TrainingOutcome:
    """The outcome of training, from the records in a folder of `t2l train_library`, of any method."""
    libraries: list[AdapterLibrary | MethodLibrary]
    if (folder / RECORD_FILE).is_file():
        libraries = [method := MethodLibrary.open(folder)]
        failed = failures(method.record())
    else:
        record = library_record(folder)
        library = LibraryFolder.recorded(folder, record)
        libraries, failed = [library.adapters, library.static], failures(record)
    made = {task: part.provenance(task) for part in libraries for task in part.tasks()}
    marked = {t: str(m["reason"]) for t, m in made.items() if m.get("verdict") == Verdict.learnt_nothing}
    return TrainingOutcome(folder, len(libraries[0].tasks()), marked, failed)


def run(config: LibraryConfig) -> None:
    """Prints the report. Raises ValueError if an adapter is not sound."""
    if not config.folder:
        raise ValueError("library needs a folder of `t2l train_library`: t2l library DIR")
    report = examine_library(Path(config.folder))
    if config.json:
        print(json.dumps(report.to_json(), indent=2))
    else:
        print_library(report, config.list)
    if report.problems:
        first = report.problems[0]
        raise ValueError(
            f"{config.folder}: {len(report.problems)} adapters are not sound, first {first.task!r} ({first.problem}): "
            "remove their folders and run `t2l train_library` again"
        )


VERB = Verb(LibraryConfig, run, words=("folder",), keeps_records=False)
