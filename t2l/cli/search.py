"""A search for the settings with the best validation score, by Optuna: its study, its trials, and their scores.

A trial is a run of `t2l train` in a folder of its own. All that a search knows is in its storage, so that it goes on where
it was stopped, and other tools of Optuna's read it.
"""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t2l.cli.sweep import GivenJob, JobState
from t2l.cli.swept import parsed, values_of
from t2l.run.folder import job_name
from t2l.run.overview import HIGHER, read_run

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

JOURNAL = "optuna.journal"
"""file of a study, in the sweep's folder"""
METRIC, COMMAND = "metric", "overrides"
"""attributes of a study: what its trials are judged by, and the words that it searches for"""
SAMPLERS = ("tpe", "random", "qmc", "gp")
PRUNERS = ("median", "percentile", "halving", "hyperband")


def check_search(verb: str, overrides: Sequence[str], settings: Sequence[Any], sweeper: Any) -> None:
    """Raises ValueError for a search that cannot be made.

    Args:
        settings: of jobs that it may begin with.
        sweeper: the settings of hydra/sweeper=optuna.
    """
    if importlib.util.find_spec("optuna") is None:
        raise ValueError("hydra/sweeper=optuna needs the package optuna: pip install optuna (t2l's extra `optuna`)")
    if verb != "train":
        raise ValueError(f"hydra/sweeper=optuna is for `t2l train`: `t2l {verb}` has no validation score")
    for key in ("n_trials", "n_jobs"):
        if sweeper[key] < 1:
            raise ValueError(f"hydra.sweeper.{key} must be at least 1, not {sweeper[key]}")
    for key, known in (("sampler", SAMPLERS), ("pruner", (*PRUNERS, None))):
        if sweeper[key] not in known:
            choices = ", ".join(k or "null" for k in known)
            raise ValueError(f"hydra.sweeper.{key}={sweeper[key]}: choose from {choices}")
    if len({s.trainer.select_by for s in settings}) > 1:
        raise ValueError("trainer.select_by is what trials are judged by: give it one value")
    if any(s.trainer.validate_every is None for s in settings):
        raise ValueError("hydra/sweeper=optuna needs a validation score: set trainer.validate_every=STEPS")
    found = space_of(parsed(overrides))
    if not found:
        raise ValueError(
            "hydra/sweeper=optuna has nothing to search: give a key several values, like "
            "trainer.lr='tag(log, interval(1e-4, 1e-2))' hypernetwork=l,m"
        )


def metric_of(settings: Any) -> str:
    """What trials are judged by."""
    return str(settings.trainer.select_by)


def space_of(overrides: Sequence[Override]) -> dict[str, BaseDistribution]:
    """What is searched, by key: every override of several values.

    `int(interval(1, 8))` holds whole numbers; of one tagged `log`, a number is as likely to be in any of its decades.
    Raises ValueError for a space that Optuna does not take.
    """
    return {key: _distribution(o) for key, o in _last(overrides).items() if o.is_sweep_override()}


def _last(overrides: Sequence[Override]) -> dict[str, Override]:
    """By key, the override that counts."""
    return {o.get_key_element(): o for o in overrides}


def _distribution(override: Override) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    found: Any = override.value()
    if not override.is_interval_sweep():
        return CategoricalDistribution(values_of(override))
    is_log = "log" in found.tags
    if is_log and found.start <= 0:
        raise ValueError(f"{override.get_key_element()}: tag(log, ...) needs an interval above zero")
    if not found.start < found.end:
        raise ValueError(f"{override.get_key_element()}: an interval needs its lower end first")
    if isinstance(found.start, int) and isinstance(found.end, int):
        return IntDistribution(found.start, found.end, log=is_log)
    return FloatDistribution(float(found.start), float(found.end), log=is_log)


def storage_of(sweep: Path, sweeper: Any) -> BaseStorage:
    """Where the study of a sweep is kept. Raises ValueError for an address that Optuna cannot open."""
    from optuna.storages import JournalStorage, get_storage
    from optuna.storages.journal import JournalFileBackend

    if sweeper.storage is None:
        return JournalStorage(JournalFileBackend(str(sweep / JOURNAL)))
    try:
        return get_storage(sweeper.storage)
    except Exception as error:  # each kind of database has its own
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"hydra.sweeper.storage={sweeper.storage}: {text}") from error


def quiet_optuna() -> None:
    """Leaves what is said of trials to t2l."""
    import warnings

    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


def study_in(sweep: Path, sweeper: Any, overrides: Sequence[str], metric: str) -> Study:
    """The study of a sweep, begun or gone on with. Raises ValueError if one of that name searches for something else."""
    import optuna

    quiet_optuna()
    study = optuna.create_study(
        study_name=sweeper.study_name,
        storage=storage_of(sweep, sweeper),
        direction="maximize" if metric in HIGHER else "minimize",
        load_if_exists=True,
    )
    about = {METRIC: metric, COMMAND: sorted(overrides)}
    if any(study.user_attrs.get(key, value) != value for key, value in about.items()):
        where = sweeper.storage or sweep / JOURNAL
        words = " ".join(study.user_attrs.get(COMMAND, []))
        raise ValueError(
            f"{where} has a study {sweeper.study_name} of another command ({words}): choose another run_dir, or name another "
            "with hydra.sweeper.study_name=NAME"
        )
    for key, value in about.items():
        study.set_user_attr(key, value)
    return study


def trial_number(folder: Path) -> int:
    """The number of the trial whose run is in a folder."""
    return int(folder.name.partition("_")[0])


def pruner_of(name: str | None) -> BasePruner:
    """What decides whether a trial is ended early."""
    from optuna import pruners

    if name is None:
        return pruners.NopPruner()
    known: dict[str, BasePruner] = {
        "median": pruners.MedianPruner(),
        "percentile": pruners.PercentilePruner(25.0),
        "halving": pruners.SuccessiveHalvingPruner(),
        "hyperband": pruners.HyperbandPruner(),
    }
    return known[name]


def sampler_of(name: str, seed: int, number: int) -> BaseSampler:
    """What chooses the settings of a trial: a function of the seed, the trial's number and the trials before it."""
    from optuna import samplers

    from t2l.seeding import generator_for  # numpy, which `--help` has no use for

    own = int(generator_for("optuna", seed, number).integers(2**31))
    if name == "tpe":
        return samplers.TPESampler(seed=own, constant_liar=True)
    if name == "random":
        return samplers.RandomSampler(seed=own)
    return samplers.QMCSampler(seed=seed) if name == "qmc" else samplers.GPSampler(seed=own)


class Search:
    """The trials of a sweep: which are to be run next, and what came of them."""

    def __init__(self, sweep: Path, sweeper: Any, overrides: Sequence[str], metric: str, start: str) -> None:
        """Goes on with the study of the sweep.

        Args:
            overrides: of the command, those that are searched among them.
            start: this start of the sweep.
        """
        found = parsed(overrides)
        self._sweep, self._sweeper, self._metric, self._start = sweep, sweeper, metric, start
        self._study = study_in(sweep, sweeper, overrides, metric)
        self._space = space_of(found)
        self._fixed = [o.input_line or "" for o in _last(found).values() if not o.is_sweep_override()]
        self._asked: set[int] = set()

    def next_jobs(self) -> list[GivenJob]:
        """The next trials, `n_jobs` or fewer: first those that were running when the sweep was stopped; none at the end."""
        trials = [t for t in self._stopped if t.number not in self._asked][: self._sweeper.n_jobs]
        while not trials or len(trials) < self._sweeper.n_jobs:
            if self._chosen >= self._sweeper.n_trials:
                break
            trials.append(self._ask())
        self._asked |= {t.number for t in trials}
        return [self._job(t) for t in trials]

    @cached_property
    def _stopped(self) -> list[FrozenTrial]:
        """Trials of earlier starts that did not end; one whose settings were not yet chosen never began."""
        from optuna.trial import TrialState

        found = self._study.get_trials(states=[TrialState.RUNNING])
        for trial in found:
            if trial.params.keys() != self._space.keys():
                self._study.tell(trial.number, state=TrialState.FAIL)
        return [t for t in found if t.params.keys() == self._space.keys()]

    @property
    def _chosen(self) -> int:
        """Trials whose settings were chosen."""
        return sum(t.params.keys() == self._space.keys() for t in self._study.get_trials(deepcopy=False))

    def _ask(self) -> FrozenTrial:
        self._study.sampler = sampler_of(self._sweeper.sampler, self._sweeper.seed, len(self._study.get_trials()))
        number = self._study.ask(dict(self._space)).number
        return self._study.get_trials()[number]

    def _job(self, trial: FrozenTrial) -> GivenJob:
        chosen = trial.params.items()
        words = [f"{key}={value!r}" if isinstance(value, float) else f"{key}={value}" for key, value in chosen]
        short = [f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}" for key, value in chosen]
        return GivenJob(trial.number, (*self._fixed, *words), job_name(trial.number, short))

    def take_scores(self, jobs: Sequence[GivenJob]) -> None:
        """Tells the study what trials came to, and says it."""
        from optuna.trial import TrialState

        for job in jobs:
            state, run = JobState.read(self._sweep / job.folder, self._start), read_run(self._sweep / job.folder)
            if state.state == "finished" and run.score is not None and math.isfinite(run.score):
                self._study.tell(job.number, run.score)
                told = f"{self._metric} {run.score:.4g}"
            elif state.state == "pruned":
                self._study.tell(job.number, state=TrialState.PRUNED)
                told = f"pruned: {state.reason}"
            else:
                self._study.tell(job.number, state=TrialState.FAIL)
                told = "failed" if state.has_ended else "its process was lost"
            print(f"t2l: trial {job.number}: {told}{self._best()}", file=sys.stderr)

    def _best(self) -> str:
        from optuna.trial import TrialState

        if not self._study.get_trials(deepcopy=False, states=[TrialState.COMPLETE]):
            return ""
        best = self._study.best_trial
        return f" (best: trial {best.number}, {best.value:.4g})"
