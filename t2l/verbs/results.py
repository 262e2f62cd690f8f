"""What each verb made, read from the folder that it wrote: for trackers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from t2l.files import read_json
from t2l.hypernetwork.checkpoint import find_checkpoint, load_record
from t2l.tracking import Artifact, Results, Table

REPORT_PATTERNS = ("report.*", "*.png", "answers.jsonl", "evaluation.json")
"""the files of a report, beside which a quickstart's library and runs lie"""


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
    if not (folder / "report.json").is_file():
        return Results()
    report = read_json(folder / "report.json")
    rows = [
        (r["contender"], r["split"], r["metric"], r["mean"], *r["ci95"], r["n_tasks"], r["n_examples"], r["n_seeds"])
        for r in report["results"]
    ]
    header = ("contender", "split", "metric", "mean", "low", "high", "tasks", "examples", "seeds")
    by_task = [(r["contender"], r["split"], *pair) for r in report["by_task"] for pair in r["scores"].items()]
    scored = report["provenance"]["config"]
    made_from = [*map(_hypernetwork, scored.get("checkpoints") or []), *_library(scored.get("library"))]
    return Results(
        {f"{row[0]}/{row[1]}": row[3] for row in rows},
        {"results": Table(header, rows), "by_task": Table(("contender", "split", "task", "score"), by_task)},
        {path.stem: path for path in sorted(folder.glob("*.png"))},
        [Artifact("report", folder, made_from, patterns=REPORT_PATTERNS)],
    )


def of_adapters(config: Any) -> Results:
    """The adapters that were generated, each made of the hypernetwork."""
    source = [_hypernetwork(config.checkpoint)]
    folders = sorted({p.parent for p in Path(config.run_dir).glob("**/adapter_config.json")})
    return Results({"adapters": len(folders)}, artifacts=[Artifact("adapter", folder, source) for folder in folders])


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
