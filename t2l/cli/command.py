"""A verb's command: its words, the settings they compose, and the folders of its run or sweep.

Of Hydra this uses what its documentation names: `hydra.main`, the compose API, HydraConfig, and the override parser (as
its example of a sweeper does). A command is composed here, once, before anything is made; of a run that keeps records
Hydra then composes its own copy, since `hydra.main` takes none that is composed already.
"""

from __future__ import annotations

import re
import sys
import tempfile
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from t2l.cli.help import verb_help
from t2l.cli.job import Job, Work, alone_in, launch, run_verb
from t2l.cli.overrides import is_of_hydra, quote_paths
from t2l.cli.refusal import cleared_if_refused
from t2l.cli.search import check_search, metric_of, study_in
from t2l.cli.settings import compose_with_hydra, groups_of, settings_of
from t2l.cli.sweep import (
    GRID,
    OPTUNA,
    STATE,
    GivenJob,
    JobState,
    check_states,
    finished_before,
    folder_word,
    report_sweep,
)
from t2l.cli.swept import differing, first_job, first_values, grid
from t2l.cli.words import SHOW_CONFIG, SHOW_ELSE, SWEEP, Words, read_words
from t2l.run.console import is_main_process, is_single_process
from t2l.run.folder import default_folder, job_name, typed_in
from t2l.verbs import VERBS, verb_named

QUIET = ("hydra.output_subdir=null", "hydra/job_logging=none", "hydra/hydra_logging=none")
"""what processes of torchrun other than the main one tell Hydra: they leave records and logs to it"""


def run_command(name: str, arguments: Sequence[str]) -> None:
    """Runs a verb with the words that follow it.

    Raises ValueError for what the user can mend.
    """
    verb, words = verb_named(name), command_words(name, arguments)
    if words.asks_for_help:
        print(verb_help(name, words.overrides, words.config_folder))
        return
    if not is_single_process() and not verb.is_parallel:
        several = ", ".join(sorted(v for v in VERBS if verb_named(v).is_parallel))
        raise ValueError(f"{name} runs in one process: start it without torchrun; in several run {several}")
    if words.has(SHOW_ELSE):
        launch([*words.options, *words.overrides], Job(name, run_verb))
        return
    command = read_command(name, words)
    if command.shows_only:
        launch(command.words, Job(name, run_verb))
    elif verb.keeps_records:
        (run_sweep if command.is_sweep else run_once)(command, run_verb)
    elif command.is_sweep:
        raise ValueError(f"{name} keeps no run folder, so that -m cannot sweep over it: run it once for each value")
    else:
        run_verb(name, command.settings[0])


def by_place(words: Sequence[str], keys: Sequence[str], settings: Any) -> dict[str, Any]:
    """The keys that words by their place are the values of; a key that has a value already is passed over."""
    found: dict[str, Any] = {}
    rest = list(words)
    for key in keys:
        if isinstance(getattr(settings, key), list):
            found |= {key: rest} if rest else {}
        elif rest and (len(keys) == 1 or not getattr(settings, key)):
            found[key] = rest.pop(0)
    return found


def command_words(name: str, arguments: Sequence[str]) -> Words:
    """The words that follow a verb, sorted. Raises ValueError for one that it does not take."""
    verb = verb_named(name)
    return read_words(arguments, verb.config, groups_of(name), verb.words)


@dataclass(frozen=True)
class Command:
    """A command as typed: what it composes, and in how many jobs."""

    verb: str
    words: list[str]
    """overrides and options of Hydra's, paths quoted"""
    overrides: list[str]
    """those of t2l's configuration, not of Hydra's"""
    jobs: list[list[str]]
    """overrides of each job; of a single run one"""
    settings: list[Any]
    """of each job"""
    hydra: Any
    """Hydra's configuration"""
    is_sweep: bool
    shows_only: bool
    """whether it asks to see the configuration, and to run nothing (--cfg)"""
    is_grid: bool = True
    """whether its jobs are known before any runs; else a sweeper chooses them, and `jobs` are what it may begin with"""

    def sets(self, key: str) -> bool:
        """Whether a word of the command sets a key."""
        return any(w.lstrip("+~").startswith(f"{key}=") for w in self.words)

    def swept(self) -> list[list[str]]:
        """The overrides of each job in which it differs from others."""
        return differing(self.jobs)


def read_command(name: str, words: Words) -> Command:
    """Composes every configuration that a command asks for, before any of them runs.

    Of a sweep whose sweeper chooses values as it goes, those that it may begin with.

    Raises ValueError for the first that does not compose or validate.
    """
    overrides, folder = quote_paths(words.overrides), words.config_folder
    first = first_job(overrides)  # what cannot be read is said before anything is composed
    is_sweep = words.has(SWEEP) or "hydra.mode=MULTIRUN" in overrides
    config, hydra = compose_with_hydra(name, first if is_sweep else overrides, folder)
    is_sweep = is_sweep or (not words.has(SHOW_CONFIG) and str(hydra.mode).endswith("MULTIRUN"))
    task = [o for o in overrides if not is_of_hydra(o)]
    typed = [*words.options, *overrides]
    if not is_sweep:
        settings = settings_of(config)
        settings = replace(settings, **by_place(words.positional, verb_named(name).words, settings))
        return Command(name, typed, task, [task], [settings], hydra, False, words.has(SHOW_CONFIG))
    of_hydra = [o for o in overrides if is_of_hydra(o)]
    task = [*(f"{key}={value}" for key, value in (hydra.sweeper.get("params") or {}).items()), *task]
    is_grid = hydra.sweeper._target_ in GRID
    jobs = grid(task) if is_grid else first_values(task)
    composed = [settings_of(compose_with_hydra(name, [*job, *of_hydra], folder)[0]) for job in jobs]
    if hydra.sweeper._target_ == OPTUNA:
        check_search(name, task, composed, hydra.sweeper)
    return Command(name, typed, task, jobs, composed, hydra, True, False, is_grid)


def _log_name(command: Command) -> list[str]:
    """Names a run's log file after its verb."""
    return [] if command.sets("hydra.job.name") else [f"hydra.job.name={command.verb}"]


def _own_folder(command: Command) -> Path:
    """The folder of a command that names none; says which it is."""
    found = default_folder(Path("runs") / command.verb, command.verb, command.overrides, command.is_sweep)
    if found.is_taken_up:
        anew = "remove it" if command.is_sweep else "remove it, or give run_dir=DIR"
        print(f"t2l: going on in {found.path}, where this command was before (to start anew, {anew})", file=sys.stderr)
    else:
        print(f"t2l: folder: {found.path}", file=sys.stderr)
    return found.path


def _check_records(*files: Path) -> None:
    """Raises ValueError if Hydra would overwrite the records of another program's run."""
    import yaml

    for file in filter(Path.is_file, files):
        try:
            verb = yaml.safe_load(file.read_text())["hydra"]["job"]["config_name"]
        except (yaml.YAMLError, LookupError, TypeError, UnicodeDecodeError):
            verb = None
        if verb not in VERBS:
            raise ValueError(f"{file} is of another program of Hydra's: choose another folder")


def run_once(command: Command, work: Work) -> None:
    """A single run, in the folder it names, else in its own.

    Raises ValueError if another program's run is there.
    """
    folder: Path | None = None
    if not is_main_process():
        words = [*QUIET, folder_word("hydra.run.dir", ".")]
    elif command.sets("hydra.run.dir"):
        folder, words = Path(str(command.hydra.run.dir)), []
    else:
        given = command.settings[0].run_dir
        folder = Path(given) if given else _own_folder(command)
        _check_records(folder / ".hydra/hydra.yaml")
        words = [folder_word("hydra.run.dir", folder)]
    with cleared_if_refused(folder):
        launch([*command.words, *words, *_log_name(command)], Job(command.verb, work))


def run_sweep(command: Command, work: Work) -> None:
    """A sweep's jobs, each in a folder of its own; the list of what became of them.

    Raises:
        ValueError: another program's run is there, or another process of t2l works there.
        SystemExit: with code 1, unless every job finished.
    """
    given = [settings.run_dir for settings in command.settings]
    has_own_folders = command.is_grid and len(set(given)) == len(given) > 1
    names = [job_name(i, swept) for i, swept in enumerate(command.swept())]
    folders = [str(Path(f).absolute()) for f in given] if has_own_folders else names
    jobs = tuple(GivenJob(i, tuple(o), f) for i, (o, f) in enumerate(zip(command.jobs, folders, strict=True)))
    job = Job(command.verb, work, uuid.uuid4().hex, jobs if command.is_grid else (), has_own_folders)
    words = _by_given_jobs(command.words) if command.is_grid else command.words
    if not is_main_process():
        with tempfile.TemporaryDirectory() as nowhere:
            job = replace(job, given=tuple(replace(j, folder=".") for j in job.given))
            launch([*words, *QUIET, folder_word("hydra.sweep.dir", nowhere), "hydra.sweep.subdir=."], job)
        return
    if command.sets("hydra.sweep.dir"):
        sweep = Path(str(command.hydra.sweep.dir))
    elif command.sets("run_dir") and len(set(given)) == 1:
        sweep = Path(given[0])
    else:
        sweep = _own_folder(command)
    words = [*words, *_log_name(command), folder_word("hydra.sweep.dir", sweep)]
    with cleared_if_refused(sweep):
        ended = (_run_grid if command.is_grid else _run_search)(command, job, words, sweep)
    if not ended:
        raise SystemExit(1)


def _run_grid(command: Command, job: Job, words: list[str], sweep: Path) -> bool:
    """Runs jobs that are known, without those that an earlier start finished. Returns whether every job finished."""
    folders = [sweep / j.folder for j in job.given]
    check_states(sweep, folders)
    _check_records(sweep / "multirun.yaml", *(folder / ".hydra/hydra.yaml" for folder in folders))
    finished = finished_before(command.verb, command.settings, folders) if is_single_process() else []
    for i in finished:
        JobState(job.start, "finished").write(folders[i])
    if finished:
        print(f"t2l: {len(finished)} of {len(folders)} jobs are finished, and not begun again", file=sys.stderr)
    if left := tuple(j for i, j in enumerate(job.given) if i not in finished):
        _launched(words, replace(job, given=left))  # the list of jobs says which did not end
    return report_sweep(sweep, folders, command.swept(), job.start)


def _run_search(command: Command, job: Job, words: list[str], sweep: Path) -> bool:
    """Runs jobs that a sweeper chooses. Returns whether it and all its jobs ended well."""
    check_states(sweep, [])
    _check_records(sweep / "multirun.yaml")
    if not is_single_process():
        raise ValueError("a sweeper that chooses its jobs as it goes runs in one process: start it without torchrun")
    with alone_in(sweep, job.verb):
        if command.hydra.sweeper._target_ == OPTUNA:
            study_in(sweep, command.hydra.sweeper, command.overrides, metric_of(command.settings[0]))
        ended = _launched([*words, "hydra.sweep.subdir=${hydra.job.num}"], job)
    folders = sorted((p.parent for p in sweep.glob(f"*/{STATE}")), key=_number_first)
    typed = [typed_in(folder) or [] for folder in folders]
    return report_sweep(sweep, folders, differing(typed), None) and ended


def _by_given_jobs(words: Sequence[str]) -> list[str]:
    """A command's words for a sweep over jobs that are known."""
    return [*(w for w in words if not w.startswith("hydra/sweeper=")), "hydra/sweeper=given_jobs"]


def _number_first(folder: Path) -> tuple[int, str]:
    found = re.match(r"\d+", folder.name)
    return int(found[0]) if found else -1, folder.name


def _launched(words: list[str], job: Job) -> bool:
    """Launches a sweep. Returns whether Hydra and its launcher got to the end."""
    try:
        launch(words, job)
    except SystemExit:
        return False
    return True
