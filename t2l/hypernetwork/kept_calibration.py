"""The calibration of a checkpoint's confidence, kept in the checkpoint's own folder and copied with it.

A run made by an earlier version may keep one in its own folder, `RUN/confidence.json`; it is still read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from t2l.files import check_own, file_sha256, read_json, write_own
from t2l.hypernetwork.checkpoint import OWN_FILES, WEIGHTS
from t2l.hypernetwork.confidence import Calibration

CONFIDENCE_FILE = "confidence.json"
_OLDER = (*OWN_FILES, CONFIDENCE_FILE)
"""what is t2l's in a checkpoint from before its files were recorded"""


def _found(checkpoint: Path, step: int) -> Mapping[str, Any] | None:
    """What is on disk for exactly this checkpoint."""
    own = checkpoint / CONFIDENCE_FILE
    if own.is_file():
        data: Mapping[str, Any] = read_json(own)
        if data.get("checkpoint_sha256") == file_sha256(checkpoint / WEIGHTS):
            return data
    run = checkpoint.parent.parent
    is_of_run = checkpoint.parent.name == "checkpoints" and (run / "run.json").is_file()
    if is_of_run and (run / CONFIDENCE_FILE).is_file():
        data = read_json(run / CONFIDENCE_FILE)
        return data if data.get("step") == step else None
    return None


def kept_calibration(checkpoint: Path, step: int) -> Calibration | None:
    """The calibration of a checkpoint; None if none was kept, or it was of other weights."""
    data = _found(checkpoint, step)
    return None if data is None else Calibration.from_json(data)


def check_writable(checkpoint: Path) -> None:
    """Raises ValueError if a calibration could not be kept, before hours are spent on it."""
    if not os.access(checkpoint, os.W_OK):
        raise ValueError(f"keep_calibration=true writes into {checkpoint}, which may not be written: copy it first")
    check_own(checkpoint, [CONFIDENCE_FILE], owns=_OLDER)


def _size(about: Mapping[str, Any], other: Mapping[str, Any]) -> int:
    """How much a calibration rests on: tasks, or answers if one of the two does not know its tasks."""
    key = "n_tasks" if "n_tasks" in about and "n_tasks" in other else "n_fitted"
    return int(about.get(key, 0))


def keep_calibration(checkpoint: Path, calibration: Calibration) -> str:
    """Writes a calibration beside the checkpoint it is of, unless a larger one is there. Returns a line on what was done."""
    found = _found(checkpoint, calibration.step)
    about, before = calibration.about, {} if found is None else found.get("about", {})
    if found is not None and _size(before, about) > _size(about, before):
        what = "tasks" if "n_tasks" in before and "n_tasks" in about else "answers"
        return (
            f"calibration not kept: that of {checkpoint} rests on {_size(before, about)} {what}, this one on "
            f"{_size(about, before)}"
        )
    record = {**calibration.to_json(), "checkpoint_sha256": file_sha256(checkpoint / WEIGHTS)}
    write_own(checkpoint / CONFIDENCE_FILE, json.dumps(record, indent=2) + "\n", owns=_OLDER)
    return f"calibration kept with {checkpoint}: {about.get('n_tasks', 0)} tasks"
