"""TensorBoard: event files in the run's folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from t2l.registry import register
from t2l.tracking.interface import About, Results, Table, Tracker


@dataclass
class TensorBoardConfig:
    """Event files for TensorBoard."""

    folder: str = "tensorboard"
    """where, inside the run's folder unless it is absolute"""


@register("logger", "tensorboard", TensorBoardConfig)
class TensorBoardTracker(Tracker):
    """Curves as scalars, a folder for each stage; settings and tables as text, figures as images."""

    def __init__(self, config: TensorBoardConfig, about: About) -> None:
        """Raises ValueError if tensorboard is not installed."""
        super().__init__(config, about)
        try:
            import torch.utils.tensorboard  # noqa: F401
        except ImportError:
            raise ValueError(
                "logger=tensorboard needs the package tensorboard: pip install 't2l[tensorboard]'"
            ) from None
        self._folder = (about.folder or Path("runs")) / config.folder
        self._writers: dict[str, Any] = {}
        self._writer("").add_text("config", f"```\n{json.dumps(about.config, indent=1, default=str)}\n```")

    def _writer(self, stage: str, purge_step: int | None = None) -> Any:
        """The stage's writer; a new one with `purge_step`, from which on TensorBoard leaves out what older files have."""
        from torch.utils.tensorboard import SummaryWriter

        if purge_step is not None and stage in self._writers:
            self._writers.pop(stage).close()
        if stage not in self._writers:
            self._writers[stage] = SummaryWriter(str(self._folder / stage), purge_step=purge_step)
        return self._writers[stage]

    def log_metrics(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        """A scalar each."""
        for name, value in metrics.items():
            self._writer(stage).add_scalar(name, value, step)

    def go_on(self, stage: str, measured: Mapping[int, Mapping[str, float]]) -> None:
        """Writes all of it again, in place of what older files have."""
        self._writer(stage, purge_step=min(measured, default=0))
        for step, metrics in measured.items():
            self.log_metrics(stage, step, metrics)

    def log_results(self, results: Results) -> None:
        """The summary as scalars under `summary/`, or as text if it is no number."""
        writer = self._writer("")
        for name, value in results.summary.items():
            if isinstance(value, str):
                writer.add_text(f"summary/{name}", value)
            else:
                writer.add_scalar(f"summary/{name}", value, 0)
        for name, table in results.tables.items():
            writer.add_text(name, _markdown(table))
        for name, path in results.figures.items():
            writer.add_image(name, _pixels(path), dataformats="HWC")
        made = [
            {"artifact": a.reference, "folder": str(a.folder), "made_from": [s.reference for s in a.made_from]}
            for a in results.artifacts
        ]
        if made:
            writer.add_text(
                "artifacts", _markdown(Table(tuple(made[0]), [tuple(map(str, row.values())) for row in made]))
            )

    def finish(self, failed: bool) -> None:
        """Writes what is still held."""
        for writer in self._writers.values():
            writer.close()


def _markdown(table: Table) -> str:
    lines = [table.header, ["---"] * len(table.header), *table.rows]
    return "\n".join(f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def _pixels(path: Path) -> Any:
    import numpy as np
    from PIL import Image

    return np.asarray(Image.open(path).convert("RGB"))
