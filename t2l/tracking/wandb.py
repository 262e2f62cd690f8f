"""Weights & Biases: curves, the board's scores, tables, figures, and artifacts with what they were made of."""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from t2l.checks import one_of
from t2l.files import read_json, write_json
from t2l.registry import register
from t2l.tracking.interface import About, Artifact, Results, Tracker

RECORD = "wandb.json"
"""file in a run's folder that keeps the run's id, so that it goes on as the same run"""
log = logging.getLogger(__name__)
KINDS = ("base_model", "library", "hypernetwork", "adapter", "report", "descriptions")


@dataclass
class WandbConfig:
    """Weights & Biases."""

    mode: str = "online"
    """online, offline (files that `wandb sync` sends) or disabled"""
    project: str = "t2l"
    """project of the run"""
    entity: str | None = None
    """user or team; None: yours"""
    name: str | None = None
    """name of the run; None: that of its folder"""
    group: str | None = None
    """group of the run; None: the sweep it is a job of"""
    tags: list[str] = field(default_factory=list)
    """tags of the run"""
    notes: str | None = None
    """a longer text on the run"""
    artifacts: list[str] = field(default_factory=lambda: list(KINDS))
    """kinds of what is made that are sent: base_model, library, hypernetwork, adapter, report, descriptions; empty sends none"""

    def __post_init__(self) -> None:
        one_of(self, ("online", "offline", "disabled"), "mode", under="logger")
        unknown = [kind for kind in self.artifacts if kind not in KINDS]
        if unknown:
            raise ValueError(f"logger.artifacts: unknown {unknown[0]!r}; choose from {', '.join(KINDS)}")


@register("logger", "wandb", WandbConfig)
class WandbTracker(Tracker):
    """One run of Weights & Biases for a run of t2l, and the same one when that goes on."""

    def __init__(self, config: WandbConfig, about: About) -> None:
        """Raises ValueError if Weights & Biases refuses, for want of a key or of a network."""
        super().__init__(config, about)
        import wandb

        folder = about.folder
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        os.environ.setdefault("WANDB_SILENT", "true")
        settings: Any = {
            "project": config.project, "entity": config.entity, "mode": config.mode, "tags": config.tags, "notes": config.notes,
            "name": config.name or (folder.name if folder is not None else None), "group": config.group or about.group,
            "job_type": about.verb, "config": dict(about.config), "dir": str(folder or Path.cwd()),
            "reinit": "create_new",
        }  # fmt: skip
        if not os.environ.get("WANDB_SWEEP_ID"):  # `wandb agent` has chosen one
            settings |= {"id": self._id() or uuid.uuid4().hex[:8], "resume": "allow"}
        try:
            self._run = wandb.init(**settings)
        except (wandb.errors.Error, OSError) as error:
            hint = " (without a network: logger=wandb_offline)" if config.mode == "online" else ""
            raise ValueError(f"logger=wandb: {' '.join(str(error).split())}{hint}") from error
        if folder is not None:
            write_json(folder / RECORD, {"id": self._run.id, "project": config.project})
        if self._run.url:
            log.info("Weights & Biases: %s", self._run.url)
        self._stages: set[str] = set()

    def _id(self) -> str | None:
        """That of the run in this folder."""
        record = None if self.about.folder is None else self.about.folder / RECORD
        if record is None or not record.is_file():
            return None
        found = read_json(record)
        return str(found["id"]) if isinstance(found, dict) and isinstance(found.get("id"), str) else None

    def log_metrics(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        """Each stage has an axis of its own, `STAGE/step`."""
        if not stage:
            self._run.log(dict(metrics), step=step, commit=True)
            return
        if stage not in self._stages:
            self._stages.add(stage)
            self._run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")
        self._run.log({f"{stage}/step": step, **{f"{stage}/{k}": v for k, v in metrics.items()}})

    def go_on(self, stage: str, measured: Mapping[int, Mapping[str, float]]) -> None:
        """Sends what the server does not have; offline nobody knows, and all of it stands in this start's file again."""
        last = self._run.summary.get(f"{stage}/step", 0) if stage else self._run.step - 1
        for step, metrics in measured.items():
            if step > last:
                self.log_metrics(stage, step, metrics)

    def log_results(self, results: Results) -> None:
        """Summary, tables, figures, and artifacts with what they were made of."""
        import wandb

        self._run.summary.update(dict(results.summary))
        shown: dict[str, Any] = {
            name: wandb.Table(columns=list(table.header), data=[list(row) for row in table.rows])
            for name, table in results.tables.items()
        }
        shown |= {name: wandb.Image(str(path)) for name, path in results.figures.items()}
        if shown:
            self._run.log(shown)
        for artifact in results.artifacts:
            if artifact.kind in self.config.artifacts:
                self._send(artifact)

    def _send(self, artifact: Artifact) -> None:
        import wandb

        sources = [source.reference for source in artifact.made_from]
        about = {"digest": artifact.digest, "made_from": sources, "folder": str(artifact.folder)}
        made = wandb.Artifact(artifact.name, type=artifact.kind, metadata=about)
        for path in artifact.files:
            made.add_file(str(path), name=str(path.relative_to(artifact.folder)), policy="immutable")
        if self.config.mode == "online":  # offline there is nobody to ask for them
            for reference in sources:
                try:
                    self._run.use_artifact(reference)
                except (wandb.errors.Error, ValueError):
                    continue  # made where it was not sent; its name stands in the metadata
        self._run.log_artifact(made, aliases=["latest", artifact.version])

    def finish(self, failed: bool) -> None:
        """Ends the run, as failed if it was."""
        self._run.finish(exit_code=int(failed))
