"""Collects what a report tells beside the scores: costs, identities, confidence, the map, and everything that went in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any

from t2l.base_model.decoding import describe_decoding
from t2l.evaluation.adapter_map import adapter_maps
from t2l.evaluation.board import Board, Cell
from t2l.evaluation.calibration import calibrate_checkpoints
from t2l.evaluation.contenders.interface import Contender, SplitView
from t2l.evaluation.context import Context
from t2l.evaluation.costs import Making, cost_row, mean_usage
from t2l.evaluation.data_checks import DataChecks
from t2l.evaluation.metrics.interface import metric
from t2l.evaluation.report.findings import Findings
from t2l.evaluation.selected import selection_text
from t2l.hypernetwork.checkpoint import CheckpointRecord
from t2l.library import library_record
from t2l.methods.folder import MethodLibrary
from t2l.run.folder import whole_command
from t2l.run.overview import time_to_step
from t2l.run.record import environment
from t2l.tasks.manifest import suite_manifest


def collect(
    context: Context,
    data: DataChecks,
    board: Board,
    contenders: Sequence[Contender],
    cells: Sequence[Cell],
    variants: Mapping[str, Any],
) -> Findings:
    """Everything that an evaluation found.

    Args:
        variants: rows of `robustness.robustness`.
    """
    config, views = context.config, context.scope.views
    has_generated = any(c.is_generated for c in contenders)
    return Findings(
        cells=cells,
        metric=metric_name(views),
        samples=config.evaluation.bootstrap_samples,
        seed=config.seed,
        costs=_costs(context, contenders, cells),
        identities=_identities(context, contenders),
        overlaps=data.overlaps,
        shows_description=config.prompt.is_shown,
        provenance={**provenance(context, data), "decoding_conditions": board.conditions},
        robustness=variants,
        confidence=calibrate_checkpoints(context, cells) if config.confidence and has_generated else {},
        map=adapter_maps(context) if has_generated else {},
    )


def metric_name(views: Sequence[SplitView]) -> str:
    """The metric of the scored tasks; `mixed` if they have several."""
    metrics = {metric(t.metric).name for v in views for t in v.tasks}
    return metrics.pop() if len(metrics) == 1 else "mixed"


def _costs(context: Context, contenders: Sequence[Contender], cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """A row per contender."""
    first = {c.name: c for c in reversed(contenders)}
    rows = []
    for name in dict.fromkeys(c.name for c in contenders):
        runs = [run for c in cells if c.contender == name for run in c.runs]
        making = sum((run.making for run in runs), Making())
        costs = first[name].costs(making)
        if costs is not None:
            costs = replace(
                costs, hypernetwork_time_s=_training_time(context, [c for c in contenders if c.name == name])
            )
        rows.append(cost_row(name, costs, mean_usage([run.usage for run in runs])))
    return rows


def _training_time(context: Context, seeds: Sequence[Contender]) -> float | None:
    """Seconds that trained the hypernetworks of a contender, mean over training seeds; None if any is not known."""
    folders = [(c.folder, c.record.step) for seed in seeds if (c := context.checkpoint_of(seed)) is not None]
    times = [
        time_to_step(folder.parent.parent, step) if folder.parent.name == "checkpoints" else None
        for folder, step in folders
    ]
    known = [time for time in times if time is not None]
    return fmean(known) if known and len(known) == len(times) else None


def _identities(context: Context, contenders: Sequence[Contender]) -> dict[str, list[dict[str, Any]]]:
    """What each run of each contender is, in the order of the answers' run numbers."""
    found: dict[str, list[dict[str, Any]]] = {}
    for contender in contenders:
        found.setdefault(contender.name, []).append(contender.identity(context))
    return found


def provenance(context: Context, data: DataChecks) -> dict[str, Any]:
    """Everything that went in, as JSON-able data."""
    config, base, suite = context.config, context.base, context.scope.suite
    return {
        "config": {key: value for key, value in asdict(config).items() if key != "logger"},
        "base_model": {"name": base.name, "fingerprint": base.fingerprint},
        "suite": {"name": suite.name, "sha256": suite.content_hash(), **suite.provenance},
        "splits": {name: {"tasks": len(s.tasks), "phrasing": s.phrasing} for name, s in suite.splits.items()},
        "manifest": suite_manifest(suite),
        "library": library_record(Path(config.library)) if config.library else None,
        "checkpoints": {c.path: _of_checkpoint(c.record) for c in context.checkpoints},
        "unchecked": data.unchecked,
        "data_notes": data.notes,
        "conditions": context.scope.conditions.to_json(),
        "method_libraries": {m: MethodLibrary.open(Path(m)).record() for m in config.method_libraries},
        "selection": selection_text({c.path: c.folder for c in context.checkpoints}, config.validation_split),
        "decoding": describe_decoding(base.overridden_decoding),
        "environment": environment(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": whole_command(Path(config.run_dir)) if config.run_dir else None,
    }


def _of_checkpoint(record: CheckpointRecord) -> Mapping[str, Any]:
    keys = (
        "step", "objective", "hypernetwork", "base_fingerprint", "encoder_identity", "trained_on", "conditions", "selection",
    )  # fmt: skip
    return {k: record.to_json()[k] for k in keys}
