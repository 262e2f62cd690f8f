"""A verb's command: its words, the settings they compose, and the folders of its run or sweep.

Of Hydra this uses what its documentation names: `hydra.main`, the compose API, HydraConfig, and the override parser (as
its example of a sweeper does). A command is composed here, once, before anything is made; of a run that keeps records
Hydra then composes its own copy, since `hydra.main` takes none that is composed already.
"""

from __future__ import annotations

import itertools
import logging
import os
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from t2l.cli.help import verb_help
from t2l.cli.overrides import is_of_hydra, quote_paths, quoted
from t2l.cli.refusal import cleared_if_refused
from t2l.cli.settings import SettingsError, compose_with_hydra, friendly, groups_of, settings_of
from t2l.cli.sweep import JobState, check_states, one_line, report_sweep, run_job, states
from t2l.cli.words import SHOW_CONFIG, SHOW_ELSE, SWEEP, Words, read_words
from t2l.run.console import fail, is_main_process
from t2l.run.continuation import settings_of as settings_of_run
from t2l.run.folder import LOCK, default_folder, job_name
from t2l.tracking import About, JsonlConfig, Tracker, tracked
from t2l.verbs import VERBS, Verb, verb_named

QUIET = ("hydra.output_subdir=null", "hydra/job_logging=none", "hydra/hydra_logging=none")
"""what processes of torchrun other than the main one tell Hydra: they leave records and logs to it"""
Work = Callable[[str, Any], None]
"""runs a verb on its settings"""
log = logging.getLogger(__name__)


def run_command(name: str, arguments: Sequence[str]) -> None:
    """Runs a verb with the words that follow it.

    Raises ValueError for what the user can mend.
    """
    verb, words = verb_named(name), command_words(name, arguments)
    if words.asks_for_help:
        print(verb_help(name, words.overrides, words.config_folder))
        return
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not verb.is_parallel:
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


def run_verb(name: str, settings: Any) -> None:
    """Runs a verb. Raises ValueError for what the user can mend."""
    from t2l.distributed import world

    _quiet_libraries()
    verb = verb_named(name)
    if not verb.is_parallel:
        with _tracked(name, settings):
            verb.run(settings)
        return
    with world() as processes:
        settings.run_dir = processes.gather(settings.run_dir)[0]  # the main process decided on it
        with _tracked(name, settings) if processes.is_main else nullcontext():
            verb.run(settings, processes)


@contextmanager
def _tracked(name: str, settings: Any) -> Iterator[None]:
    """A block whose metrics, and what came out of it, go to the tracker that the settings name."""
    verb = verb_named(name)
    if isinstance(getattr(settings, "logger", None), JsonlConfig | None):
        yield
        return
    folder = Path(settings.run_dir) if verb.keeps_records and settings.run_dir else None
    group = folder.parent.name if folder is not None and (folder.parent / "multirun.yaml").is_file() else None
    with tracked(settings.logger, About(name, settings_of_run(settings), folder, group)) as tracker:
        try:
            yield
        except SystemExit:  # it ends with a code, as an incomplete library does, and has made what it could
            _tell_results(tracker, verb, settings)
            raise
        _tell_results(tracker, verb, settings)


def _tell_results(tracker: Tracker, verb: Verb, settings: Any) -> None:
    """Tells a tracker what came out. It is there: if it cannot be read again for the tracker, that is a warning."""
    if verb.results is None:
        return
    try:
        results = verb.results(settings)
    except Exception as error:
        log.warning("the tracker is told no results: %s", one_line(error))
        return
    tracker.log_results(results)


def _quiet_libraries() -> None:
    """Keeps other libraries' notices and loading bars out of the way of t2l's own progress."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for library in ("bitsandbytes", "sentence_transformers", "httpx", "matplotlib"):
        logging.getLogger(library).setLevel(logging.ERROR)
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()


@dataclass(frozen=True)
class Job:
    """What Hydra calls with a composed configuration, wherever a launcher runs it.

    It is pickled to other processes, and brings the names of a sweep's jobs with it.
    """

    verb: str
    work: Work
    """runs the verb on its settings"""
    names: tuple[str, ...] = ()
    """folders of a sweep's jobs, inside the sweep's or absolute; none for a single run"""
    launch: str = ""
    """this start of the sweep"""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.register()

    def register(self) -> None:
        """Makes the jobs' names known to OmegaConf as ${job_folder:NUMBER}."""
        from omegaconf import OmegaConf

        OmegaConf.register_new_resolver(
            "job_folder", lambda n: self.names[n] if n < len(self.names) else str(n), replace=True
        )

    def __call__(self, config: Any) -> None:
        from hydra.core.hydra_config import HydraConfig

        hydra = HydraConfig.get()
        folder = Path(hydra.runtime.output_dir)
        if self.names and is_main_process():
            run_job(folder, hydra.job.num, self.launch, lambda: self._run(config, folder))
        elif self.names:
            with suppress(Exception, SystemExit):  # the main process tells of it
                self._follow(config)
        else:
            try:
                self._run(config, folder) if is_main_process() else self._follow(config)
            except ValueError as error:
                fail(str(error))

    def _run(self, config: Any, folder: Path) -> None:
        settings = settings_of(config)
        if settings.run_dir is None or (self.names and str(folder) not in self.names):
            settings.run_dir = str(folder)
        with alone_in(folder, self.verb):
            self.work(self.verb, settings)

    def _follow(self, config: Any) -> None:
        """Another process than the main one, which tells it the folder."""
        settings = settings_of(config)
        settings.run_dir = None
        self.work(self.verb, settings)


def launch(words: list[str], job: Job) -> None:
    """Hands a command's words and its job to Hydra."""
    import hydra

    from t2l.config import config_folder, register

    register()
    sys.argv = ["t2l", *words]
    hydra.main(config_path=str(config_folder()), config_name=job.verb, version_base="1.3")(job)()


@contextmanager
def alone_in(folder: Path, verb: str) -> Iterator[None]:
    """A block in which no other process of t2l works in a folder. Raises ValueError if one does."""
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK, timeout=1)  # `t2l runs` holds it for a moment, to see whether somebody does
    try:
        lock.acquire()
    except Timeout:
        raise ValueError(f"another `t2l {verb}` works in {folder}: wait for it, or choose another folder") from None
    try:
        yield
    finally:
        lock.release()


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

    def sets(self, key: str) -> bool:
        """Whether a word of the command sets a key."""
        return any(w.lstrip("+~").startswith(f"{key}=") for w in self.words)

    def swept(self) -> list[list[str]]:
        """The overrides of each job in which it differs from others."""
        common = set.intersection(*(set(job) for job in self.jobs))
        return [[o for o in job if o not in common] for job in self.jobs]


def _jobs(overrides: Sequence[str]) -> list[list[str]]:
    """The overrides of each job of a sweep, which are all combinations; without a sweep it is one job."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    choices: dict[str, list[str]] = {}
    try:
        for override in OverridesParser.create().parse_overrides(list(overrides)):
            key = override.get_key_element()
            if not override.is_sweep_override():
                choices[key] = [f"{key}={override.get_value_element_as_str()}"]
            elif override.is_discrete_sweep():
                choices[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
            else:
                raise SettingsError(f"{key}: only lists of values and ranges can be swept over")
    except HydraException as error:
        raise SettingsError(friendly(error)) from error
    return [list(job) for job in itertools.product(*choices.values())]


def read_command(name: str, words: Words) -> Command:
    """Composes every configuration that a command asks for, before any of them runs.

    Raises ValueError for the first that does not compose or validate.
    """
    overrides, folder = quote_paths(words.overrides), words.config_folder
    first = _jobs(overrides)[0]  # what cannot be read is said before anything is composed
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
    jobs = _jobs(task)
    composed = [settings_of(compose_with_hydra(name, [*job, *of_hydra], folder)[0]) for job in jobs]
    return Command(name, typed, task, jobs, composed, hydra, True, False)


def _folder_word(key: str, folder: Path | str) -> str:
    return f"{key}={quoted(str(folder))}"


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
        words = [*QUIET, _folder_word("hydra.run.dir", ".")]
    elif command.sets("hydra.run.dir"):
        folder, words = Path(str(command.hydra.run.dir)), []
    else:
        given = command.settings[0].run_dir
        folder = Path(given) if given else _own_folder(command)
        _check_records(folder / ".hydra/hydra.yaml")
        words = [_folder_word("hydra.run.dir", folder)]
    with cleared_if_refused(folder):
        launch([*command.words, *words, *_log_name(command)], Job(command.verb, work))


def run_sweep(command: Command, work: Work) -> None:
    """A sweep's jobs, each in a folder of its own; the list of what became of them.

    Raises:
        ValueError: another program's run is there.
        SystemExit: with code 1, unless every job finished.
    """
    given = [settings.run_dir for settings in command.settings]
    names = [job_name(i, swept) for i, swept in enumerate(command.swept())]
    if len(set(given)) == len(given) > 1:  # each job names its own
        names = [str(Path(folder).absolute()) for folder in given]
    number = uuid.uuid4().hex
    job = Job(command.verb, work, tuple(names), number)
    job.register()
    if not is_main_process():
        with tempfile.TemporaryDirectory() as nowhere:
            words = [*QUIET, _folder_word("hydra.sweep.dir", nowhere), "hydra.sweep.subdir=."]
            launch([*command.words, *words], job)
        return
    if command.sets("hydra.sweep.dir"):
        sweep = Path(str(command.hydra.sweep.dir))
    elif command.sets("run_dir") and len(set(given)) == 1:
        sweep = Path(given[0])
    else:
        sweep = _own_folder(command)
    folders = [sweep / name for name in names]
    check_states(sweep, folders)
    _check_records(sweep / "multirun.yaml", *(folder / ".hydra/hydra.yaml" for folder in folders))
    words = [*command.words, *_log_name(command), _folder_word("hydra.sweep.dir", sweep)]
    words.append("hydra.sweep.subdir='${job_folder:${hydra.job.num}}'")
    _launch_until_ended(command, job, words, folders)
    if not report_sweep(sweep, folders, command.swept(), number):
        raise SystemExit(1)


def _launch_until_ended(command: Command, job: Job, words: list[str], folders: list[Path]) -> None:
    """Starts the sweep and, if a killed worker process took others with it (joblib), starts those again, one by one."""
    before: list[JobState] = []
    while True:
        try:
            launch(words, job)
        except SystemExit:
            log.debug("a launcher ended early; the list of jobs says which did not end")
        found = states(folders, job.launch)
        if all(s.has_ended for s in found) or found == before or "joblib" not in str(command.hydra.launcher._target_):
            return
        before = found
        words = [*words, "hydra.launcher.n_jobs=2", "hydra.launcher.pre_dispatch=1"]
