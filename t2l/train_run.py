"""Runs of `t2l train`: whether one is finished, what it may go on with, and where its weights come from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from t2l.checkpoint import CheckpointRecord
from t2l.config import TrainConfig
from t2l.continuation import Change, defaults_of, settings_of
from t2l.files import read_json
from t2l.origin import Origin
from t2l.run import check_settings, say_finished
from t2l.training import is_trained


def settings_may_change(config: TrainConfig, newest: CheckpointRecord | None) -> Callable[[Change], str | None]:
    """What speaks against going on with another value of a setting that may change the result."""

    def why_not(change: Change) -> str | None:
        if change.key != "trainer.steps":
            return "it changes the result"
        if newest is None:
            return None
        if config.trainer.steps < newest.step:
            return f"{newest.step} steps are done"
        before = replace(config.trainer, steps=int(change.before))
        if any(before.learning_rate(i) != config.trainer.learning_rate(i) for i in range(newest.step)):
            return (
                f"it changes the learning rate of the {newest.step} steps that are done (more steps go with "
                "trainer.schedule=constant and trainer.warmup_steps, chosen when a run is begun)"
            )
        return None

    return why_not


def is_finished(config: TrainConfig, folder: Path, newest: CheckpointRecord | None) -> bool:
    """Whether there is nothing left to train, which is then said. Raises ValueError for a run of another configuration."""
    check_settings(folder, settings_of(config), defaults_of(config), settings_may_change(config, newest))
    record = read_json(folder / "run.json") if (folder / "run.json").is_file() else {}
    # Runs of earlier versions say no more of their end than that the base was verified.
    has_ended = record.get("finished", "base_parameters_sha256" in record)
    if newest is None or not has_ended or not is_trained(config.trainer, newest):
        return False
    say_finished(folder, record, f"its {newest.step} steps")
    return True


def where_from(origin: Origin | None, newest: CheckpointRecord | None) -> dict[str, Any]:
    """What a record's `trained_on` says of the checkpoint that a run started from; nothing where there was none.

    Args:
        newest: the record that the run goes on from; it says it already.
    """
    if origin is not None:
        return {"init_from": origin.to_json()}
    told = None if newest is None else newest.trained_on.get("init_from")
    return {} if told is None else {"init_from": told}
