"""What each verb made, read from the folder that it wrote: for trackers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from t2l.evaluation.report.tables import long_table
from t2l.files import read_json
from t2l.hypernetwork.checkpoint import find_checkpoint, load_record
from t2l.hypernetwork.generator import folders_for
from t2l.tasks.suites.descriptions import METADATA_FILE, read_descriptions
from t2l.tracking import Artifact, Results, Table
from t2l.training.pretrain_base import BASE_FILES

REPORT_PATTERNS = ("report.*", "*.png", "*.pdf", "*.svg", "answers.jsonl", "evaluation.json")
"""the files of a report, beside which a quickstart's library and runs lie"""
SCORES = "scores.json"
"""file in a base model's folder that `t2l pretrain_base` wrote: exact match by contender and split"""


def _library(folder: str | Path | None) -> list[Artifact]:
    """The library's folder, if it is named and there."""
    return [Artifact("library", Path(folder))] if folder and Path(folder).is_dir() else []


def _hypernetwork(checkpoint: str | Path, library: str | Path | None = None) -> Artifact:
    """The checkpoint that a run means; called as its run.

    Args:
        library: what it learnt from; None: what the run's record names.
    """
    folder = find_checkpoint(Path(checkpoint))
    run = folder.parent.parent if folder.parent.name == "checkpoints" else folder
    record = run / "run.json"
    if library is None and record.is_file():
        library = (read_json(record).get("config") or {}).get("library")
    return Artifact("hypernetwork", folder, _library(library), run.name)


def of_training(config: Any) -> Results:
    """The hypernetwork, its steps, and what validation chose."""
    made = _hypernetwork(config.run_dir, config.library)
    record, selection = read_json(Path(config.run_dir) / "run.json"), load_record(made.folder).selection
    summary: dict[str, Any] = {"steps": record.get("steps"), "verdict": record.get("verdict")}
    if selection is not None and selection.best_step is not None:
        summary |= {"best_step": selection.best_step, f"best/{selection.by}": selection.best_value}
    return Results({k: v for k, v in summary.items() if v is not None}, artifacts=[made])


def of_base(config: Any) -> Results:
    """The base model, and its exact match with its formal code and without."""
    folder = Path(config.run_dir)
    scores = read_json(folder / SCORES)
    summary = {f"{name}/{split}": value for name, found in scores.items() for split, value in found.items()}
    rows = [(name, split, value) for name, found in scores.items() for split, value in found.items()]
    made = Artifact("base_model", folder, patterns=BASE_FILES)
    return Results(summary, {"scores": Table(("contender", "split", "exact_match"), rows)}, artifacts=[made])


def of_descriptions(config: Any) -> Results:
    """How many descriptions each task has, a few of them, and the folder."""
    folder = Path(config.run_dir)
    found = {p.parent.name: read_descriptions(folder, p.parent.name) for p in sorted(folder.glob(f"*/{METADATA_FILE}"))}
    summary = {"tasks": len(found), "descriptions": sum(map(len, found.values()))}
    table = Table(("task", "descriptions", "first"), [(name, len(texts), texts[0]) for name, texts in found.items()])
    made = Artifact("descriptions", folder, patterns=(f"*/{METADATA_FILE}", "*/prompt.txt"))
    return Results(summary, {"descriptions": table}, artifacts=[made])


def of_library(config: Any) -> Results:
    """The library, its adapters' losses, and how many there are and failed."""
    from t2l.library import LIBRARY_RECORD
    from t2l.verbs.library import examine_library, training_outcome

    folder = Path(config.run_dir)
    outcome = training_outcome(folder)
    summary = {"adapters": outcome.count, "failed": len(outcome.failed), "learnt_nothing": len(outcome.learnt_nothing)}
    tables = {}
    if (folder / LIBRARY_RECORD).is_file():
        entries = examine_library(folder).adapters
        header = ("task", "steps", "loss_before", "final_loss", "validation_loss", "norm", "state")
        rows = [
            (a.task, a.steps, a.loss_before, a.final_loss, a.validation_loss, a.norm, a.problem or "sound")
            for a in entries
        ]
        tables["adapters"] = Table(header, rows)
    return Results(summary, tables, artifacts=_library(folder))


def of_report(config: Any) -> Results:
    """The board: every contender's mean on every split, a table of them with intervals and one by task, and the figures."""
    folder = Path(config.run_dir)
    if getattr(config, "harness", None) is not None:
        return _of_harness(folder)
    report = read_json(folder / "report.json")
    return Results(
        {f"{r['contender']}/{r['split']}": r["mean"] for r in report["results"]},
        {name: long_table(report, name) for name in ("results", "by_task")},
        {path.stem: path for path in sorted(folder.glob("*.png"))},
        [Artifact("report", folder, _scored(report["provenance"]["config"]), patterns=REPORT_PATTERNS)],
    )


def _scored(config: Mapping[str, Any]) -> list[Artifact]:
    return [*map(_hypernetwork, config.get("checkpoints") or []), *_library(config.get("library"))]


def _of_harness(folder: Path) -> Results:
    report = read_json(folder / "harness.json")
    rows = report["rows"]
    summary = {f"{r['contender']}/{r['task']}/{r['metric']}": r["value"] for r in rows}
    tables = {"results": Table(list(rows[0]), [list(r.values()) for r in rows])} if rows else {}
    return Results(summary, tables, {}, [Artifact("report", folder, _scored(report["config"]), patterns=("harness*",))])


def of_adapters(config: Any) -> Results:
    """The folder with the adapters that were generated, made of the hypernetwork."""
    folder = Path(config.run_dir)
    made = {path.name for path in folders_for(folder, config.all_descriptions())}
    patterns = [f"{name}/*" for name in sorted(made)]
    artifact = Artifact("adapter", folder, [_hypernetwork(config.checkpoint)], patterns=patterns)
    return Results({"adapters": len(made)}, artifacts=[artifact])


def of_quickstart(config: Any) -> Results:
    """The library, both hypernetworks, the board, and the adapter that was generated at the end."""
    folder = Path(config.run_dir)
    made = [*_library(folder / "library")]
    made += [
        _hypernetwork(folder / name, folder / "library" if name == "reconstruction" else None)
        for name in ("reconstruction", "sft")
    ]
    made.append(Artifact("adapter", folder / "generated", [made[-1]]))
    board = of_report(config)
    return Results(board.summary, board.tables, board.figures, [*made, *board.artifacts])
