"""A trial of a search while it runs: its scores go to the study, which may end it early."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from t2l.cli.search import METRIC, pruner_of, quiet_optuna, storage_of, trial_number
from t2l.cli.sweep import OPTUNA, PrunedError
from t2l.run.record import watched


@contextmanager
def watched_by(sweeper: Any, folder: Path) -> Iterator[None]:
    """A block in which the job of a folder runs; if it is a trial of a search that prunes, the study is told of its scores.

    Raises PrunedError, from within the run, if others did better by that step.
    """
    if sweeper.get("_target_") != OPTUNA or sweeper.pruner is None:
        yield
        return
    import optuna

    quiet_optuna()
    storage = storage_of(folder.parent, sweeper)
    study = optuna.load_study(study_name=sweeper.study_name, storage=storage, pruner=pruner_of(sweeper.pruner))
    study_id = storage.get_study_id_from_name(sweeper.study_name)
    trial_id = storage.get_trial_id_from_study_id_trial_number(study_id, trial_number(folder))
    trial, metric = optuna.Trial(study, trial_id), study.user_attrs[METRIC]
    known = storage.get_trial(trial_id).intermediate_values

    def tell(step: int, metrics: Mapping[str, float]) -> None:
        if metric not in metrics:
            return
        if step not in known:  # a trial that goes on measures again what it was stopped after
            trial.report(metrics[metric], step)
        if trial.should_prune():
            raise PrunedError(f"its {metric} of {metrics[metric]:.4g} at step {step} is poor beside other trials'")

    with watched(tell):
        yield
