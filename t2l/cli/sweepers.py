"""Sweepers: what Hydra asks for the jobs of a sweep. One runs those of a grid, one searches with Optuna.

Hydra takes plugins from the namespace `hydra_plugins` alone. These are made known under a name there.
"""

from __future__ import annotations

import logging
import sys
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper

from t2l.cli.search import Search, metric_of
from t2l.cli.sweep import GIVEN, OPTUNA, PLUGINS, STARTS, GivenJob, JobState

if TYPE_CHECKING:
    from t2l.cli.job import Job

log = logging.getLogger(__name__)


@dataclass
class GivenJobsConfig:
    """`hydra/sweeper=given_jobs`, which a grid is run by; its keys are those of Hydra's own sweeper."""

    _target_: str = GIVEN
    max_batch_size: int | None = None
    """jobs that are handed to the launcher at a time; None: all"""
    params: dict[str, str] | None = None
    """what is swept over beside the command's words"""


@dataclass
class OptunaConfig:
    """`hydra/sweeper=optuna`: looks for the settings with the best validation score."""

    _target_: str = OPTUNA
    n_trials: int = 20
    """trials in all, those of earlier starts among them"""
    n_jobs: int = 1
    """trials that are chosen, and handed to the launcher, at a time"""
    sampler: str = "tpe"
    """tpe, random, qmc or gp"""
    seed: int = 0
    """of the sampler: with it a sweep that was stopped chooses as it would have"""
    pruner: str | None = "median"
    """median, percentile, halving, hyperband, or null: what ends a trial early whose score at a step is poor beside others'"""
    storage: str | None = None
    """database of the study, like sqlite:///FILE; null: the file optuna.journal in the sweep's folder"""
    study_name: str = "t2l"
    """name of the study in its storage"""
    params: dict[str, str] | None = None
    """what is searched beside the command's words"""


class _SweeperOfJobs(Sweeper):
    """Hands jobs to the chosen launcher."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        """What Hydra tells before the sweep."""
        self.config, self.hydra_context = config, hydra_context
        self.own = config.hydra.sweeper
        self.launcher_kind = str(config.hydra.launcher._target_)
        self.job: Job = task_function
        self.folder = Path(str(config.hydra.sweep.dir))
        self.chosen_launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Runs every job."""
        from omegaconf import OmegaConf

        self.folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, self.folder / "multirun.yaml")
        self.run_all(arguments)

    @abstractmethod
    def run_all(self, arguments: list[str]) -> None:
        """Runs every job."""

    def run(self, jobs: Sequence[GivenJob]) -> None:
        """Runs jobs. If a worker process that was killed took others with it (joblib), these are begun again, one by one."""
        self._launch(jobs)
        if "joblib" not in self.launcher_kind:
            return
        for job in jobs:
            for _ in range(2 * STARTS):  # a pool that has just lost a worker may refuse a start
                if not JobState.read(self.folder / job.folder, self.job.start).has_ended:
                    self._launch([job])

    def _launch(self, jobs: Sequence[GivenJob]) -> None:
        try:
            self.chosen_launcher.launch([job.words for job in jobs], initial_job_idx=jobs[0].number)
        except Exception as error:  # what became of each job stands in its folder
            log.debug("the launcher ended early: %s", error)


class GivenJobs(_SweeperOfJobs):
    """Runs the jobs that are given beforehand: those of a grid that are not finished."""

    def run_all(self, arguments: list[str]) -> None:
        """In batches of `max_batch_size`."""
        jobs = self.job.given
        size = self.settings["max_batch_size"] or len(jobs)
        for i in range(0, len(jobs), size):
            self.run(jobs[i : i + size])


class OptunaSweeper(_SweeperOfJobs):
    """Asks Optuna for trials, runs them, and tells it their scores."""

    def run_all(self, arguments: list[str]) -> None:
        """Until there are `n_trials`."""
        words = [*(f"{key}={value}" for key, value in (self.settings["params"] or {}).items()), *arguments]
        metric = metric_of(self.config)
        search = Search(self.folder, self.own, words, metric, self.job.start)
        while batch := search.next_jobs():
            self.run(batch)
            search.take_scores(batch)


for _sweeper in (GivenJobs, OptunaSweeper):
    _sweeper.__module__ = PLUGINS
sys.modules.setdefault(PLUGINS, sys.modules[__name__])  # worker processes find them by that name


def register_sweepers() -> None:
    """Makes the sweepers known to Hydra; safe to call again."""
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    for name, config, sweeper in (
        ("given_jobs", GivenJobsConfig, GivenJobs),
        ("optuna", OptunaConfig, OptunaSweeper),
    ):
        store.store(group="hydra/sweeper", name=name, node=config, provider="t2l")
        Plugins.instance().register(sweeper)
