"""Runs of `t2l train` that were begun before: whether one is finished, and what may change when it goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from t2l.files import read_json
from t2l.hypernetwork.checkpoint import CheckpointRecord
from t2l.objectives import objective_of
from t2l.run.continuation import Change, changes_the_result, defaults_of, settings_of
from t2l.run.record import check_settings, say_finished
from t2l.training import is_trained


def settings_may_change(config: Any, newest: CheckpointRecord | None) -> Callable[[Change], str | None]:
    """What speaks against going on with another value of a setting that may change the result."""

    def why_not(change: Change) -> str | None:
        if change.key != "trainer.steps":
            return changes_the_result(change)
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
        schedules = [
            objective_of(config.objective).schedule_of(config.objective, trainer.steps, newest.step)
            for trainer in (before, config.trainer)
        ]
        if schedules[0] != schedules[1]:
            return (
                f"it changes the schedule of objective.parts in the {newest.step} steps that are done (more steps go with "
                "start, until, rise and fall in steps, not fractions, chosen when a run is begun)"
            )
        return None

    return why_not


def is_finished(config: Any, folder: Path, newest: CheckpointRecord | None) -> bool:
    """Whether there is nothing left to train, which is then said. Raises ValueError for a run of another configuration."""
    check_settings(folder, settings_of(config), defaults_of(config), settings_may_change(config, newest))
    record = read_json(folder / "run.json") if (folder / "run.json").is_file() else {}
    # Runs of earlier versions say no more of their end than that the base was verified.
    has_ended = record.get("finished", "base_parameters_sha256" in record)
    if newest is None or not has_ended or not is_trained(config.trainer, newest):
        return False
    say_finished(folder, record, f"its {newest.step} steps")
    return True
