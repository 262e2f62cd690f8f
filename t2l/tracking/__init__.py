"""Where metrics and results go besides a run's own files: Weights & Biases, TensorBoard, or nowhere."""

from __future__ import annotations

from t2l.tracking.interface import About, Artifact, JsonlConfig, Results, Table, Tracker, active, stage, tracked

__all__ = ["About", "Artifact", "JsonlConfig", "Results", "Table", "Tracker", "active", "stage", "tracked"]
