"""`t2l library DIR`: what a library holds, whether every adapter of it is sound, and which tasks failed."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from t2l.library import AdapterLibrary, library_record
from t2l.lora import LoraSpec
from t2l.objectives import product_norm


@dataclass(frozen=True)
class AdapterEntry:
    """One adapter of a library; `problem` says what is wrong with it, None where it is sound.

    Losses are in nats per token; `norm` is the Frobenius norm of scaling * B A over all modules.
    """

    task: str
    steps: int | None = None
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

    @property
    def problems(self) -> list[AdapterEntry]:
        """Adapters that are not sound."""
        return [a for a in self.adapters if a.problem]

    def to_json(self) -> dict[str, Any]:
        """The report as JSON-able data."""
        return {
            "folder": str(self.folder),
            "base_model": self.record["base_model"],
            "suite": self.record["suite"],
            "adapters": [vars(a) for a in self.adapters],
            "failed": self.failed,
            "problems": len(self.problems),
        }


def _entry(library: AdapterLibrary, task: str) -> AdapterEntry:
    try:
        weights, record = library.load([task]), library.provenance(task)
    except ValueError as error:
        return AdapterEntry(task, problem=" ".join(str(error).split()))
    problem = None if all(bool(t.isfinite().all()) for t in weights.tensors()) else "holds values that are not finite"
    if record.get("task") != task:
        problem = f"was trained for task {record.get('task')!r}"
    return AdapterEntry(
        task,
        record.get("steps"),
        record.get("final_loss"),
        record.get("validation_loss"),
        float(product_norm(weights)[0].clamp_min(0).sqrt()) * library.spec.scaling,
        problem,
    )


def examine_library(folder: Path) -> LibraryReport:
    """Loads every adapter of a library strictly, one after another, and reports on each.

    Raises:
        FileProblemError: the folder is not one of `t2l train_library`.
    """
    record = library_record(folder)
    spec = LoraSpec.from_json(record["spec"])
    library = AdapterLibrary(folder / "adapters", spec, record["base_model"], record["base_fingerprint"])
    entries = [_entry(library, task) for task in library.folders()]
    return LibraryReport(folder, record, entries, dict(record.get("failed", {})))


def _quartiles(values: Sequence[float]) -> str:
    if not values:
        return "none recorded"
    if len(values) == 1:
        return f"{values[0]:.4g}"
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{middle:.4g} (quartiles {low:.4g} and {high:.4g}, from {min(values):.4g} to {max(values):.4g})"


def print_library(report: LibraryReport, whole: bool) -> None:
    """Prints the summary, and the adapters: all of them, or those that are not sound."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    shown = report.adapters if whole else report.problems
    if shown:
        table = Table(title="adapters" if whole else "adapters that are not sound")
        for column in ("task", "steps", "final loss", "validation loss", "norm", "state"):
            table.add_column(column)
        for a in shown:
            numbers = ["" if v is None else f"{v:.4g}" for v in (a.final_loss, a.validation_loss, a.norm)]
            table.add_row(a.task, "" if a.steps is None else str(a.steps), *numbers, a.problem or "sound")
        console.print(table)
    sound = [a for a in report.adapters if not a.problem]
    console.print(f"{report.folder}: {len(sound)} sound adapters of base model {report.record['base_model']}")
    for label, key in (("steps", "steps"), ("final loss", "final_loss"), ("validation loss", "validation_loss")):
        console.print(f"  {label}: {_quartiles([v for a in sound if (v := getattr(a, key)) is not None])}")
    console.print(f"  norm of scaling * BA: {_quartiles([a.norm for a in sound if a.norm is not None])}")
    console.print(f"  not sound: {len(report.problems)}; failed in training: {len(report.failed)}")
    for task, reason in sorted(report.failed.items()):
        console.print(f"    {task}: {reason}")
