"""A Hydra verb's command: its overrides, the settings they compose, and the folders of its run or sweep."""

from __future__ import annotations

import logging
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from t2l.cli.overrides import is_of_hydra, quote_paths
from t2l.cli.settings import SettingsError, compose_with_hydra, friendly, settings_of
from t2l.cli.sweep import JobState, check_states, report_sweep, run_job, states
from t2l.run.console import fail, is_main_process
from t2l.run.folder import LOCK, default_folder, job_name

FOLDER_KEYS = ("run_dir", "out")
"""the key of a verb's settings that names its folder"""
QUIET = ("hydra.output_subdir=null", "hydra/job_logging=none", "hydra/hydra_logging=none")
"""what processes of torchrun other than the main one tell Hydra: they leave records and logs to it"""
Work = Callable[[str, Any], None]
"""runs a verb on its settings"""
log = logging.getLogger(__name__)


def folder_key(settings: Any) -> str:
    """Which key of a verb's settings names the folder it writes."""
    return next(key for key in FOLDER_KEYS if hasattr(settings, key))


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
        key = folder_key(settings)
        if getattr(settings, key) is None or (self.names and str(folder) not in self.names):
            setattr(settings, key, str(folder))
        with alone_in(folder, self.verb):
            self.work(self.verb, settings)

    def _follow(self, config: Any) -> None:
        """Another process than the main one, which tells it the folder."""
        settings = settings_of(config)
        setattr(settings, folder_key(settings), None)
        self.work(self.verb, settings)


Launch = Callable[[list[str], Job], None]
"""hands a command's words and its job to Hydra"""


@contextmanager
def alone_in(folder: Path, verb: str) -> Iterator[None]:
    """A block in which no other process of t2l works in a folder. Raises ValueError if one does."""
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK, timeout=0)
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
    """all of it, paths quoted"""
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


def read_command(verb: str, rest: Sequence[str]) -> Command | None:
    """Composes every configuration that a command asks for, before any of them runs; None where it asks for help only.

    Raises ValueError for the first that does not compose or validate.
    """
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra._internal.utils import get_args_parser
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    words = quote_paths(rest)
    parsed = get_args_parser().parse_args(words)
    if parsed.hydra_help or parsed.help or parsed.info or parsed.shell_completion:
        return None

    def split(arguments: list[str]) -> list[list[str]]:
        try:
            return BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(arguments), None)[0]
        except HydraException as error:
            raise SettingsError(friendly(error)) from error

    split(list(parsed.overrides))  # what cannot be read is said before anything is composed
    is_sweep = parsed.multirun or "hydra.mode=MULTIRUN" in parsed.overrides
    first = split(list(parsed.overrides))[0] if is_sweep else list(parsed.overrides)
    settings, hydra = compose_with_hydra(verb, first, parsed.config_dir)
    is_sweep = is_sweep or (not parsed.cfg and str(hydra.mode).endswith("MULTIRUN"))
    task = [o for o in parsed.overrides if not is_of_hydra(o)]
    if not is_sweep:
        return Command(verb, words, task, [task], [settings], hydra, False, bool(parsed.cfg))
    of_hydra = [o for o in parsed.overrides if is_of_hydra(o)]
    task = [*(f"{key}={value}" for key, value in (hydra.sweeper.get("params") or {}).items()), *task]
    jobs = split(task)
    composed = [compose_with_hydra(verb, [*job, *of_hydra], parsed.config_dir)[0] for job in jobs]
    return Command(verb, words, task, jobs, composed, hydra, True, False)


def _folder_word(key: str, folder: Path | str) -> str:
    from hydra.core.override_parser.types import Quote, QuotedString

    return f"{key}={QuotedString(text=str(folder), quote=Quote.single).with_quotes()}"


def _log_name(command: Command) -> list[str]:
    """Names a run's log file after its verb."""
    return [] if command.sets("hydra.job.name") else [f"hydra.job.name={command.verb}"]


def _own_folder(command: Command) -> Path:
    """The folder of a command that names none; says which it is."""
    found = default_folder(Path("runs") / command.verb, command.verb, command.overrides, command.is_sweep)
    if found.is_taken_up:
        anew = "remove it" if command.is_sweep else f"remove it, or give {folder_key(command.settings[0])}=DIR"
        print(f"t2l: going on in {found.path}, where this command was before (to start anew, {anew})", file=sys.stderr)
    else:
        print(f"t2l: folder: {found.path}", file=sys.stderr)
    return found.path


def _check_records(*files: Path) -> None:
    """Raises ValueError where Hydra would overwrite the records of another program's run."""
    import yaml

    from t2l.config import ROOTS

    for file in files:
        if file.is_file():
            try:
                verb = yaml.safe_load(file.read_text())["hydra"]["job"]["config_name"]
            except (yaml.YAMLError, LookupError, TypeError, UnicodeDecodeError):
                verb = None
            if verb not in ROOTS:
                raise ValueError(f"{file} is of another program of Hydra's: choose another folder")


def run_once(command: Command, work: Work, launch: Launch) -> None:
    """A single run, in the folder it names, else in its own.

    Raises ValueError where another program's run is there.
    """
    if not is_main_process():
        words = [*QUIET, _folder_word("hydra.run.dir", ".")]
    elif command.sets("hydra.run.dir"):
        words = []
    else:
        given = getattr(command.settings[0], folder_key(command.settings[0]))
        folder = Path(given) if given else _own_folder(command)
        _check_records(folder / ".hydra/hydra.yaml")
        words = [_folder_word("hydra.run.dir", folder)]
    launch([*command.words, *words, *_log_name(command)], Job(command.verb, work))


def run_sweep(command: Command, work: Work, launch: Launch) -> None:
    """A sweep's jobs, each in a folder of its own; the list of what became of them.

    Raises:
        ValueError: another program's run is there.
        SystemExit: with code 1, unless every job finished.
    """
    key = folder_key(command.settings[0])
    given = [getattr(s, key) for s in command.settings]
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
    elif command.sets(key) and len(set(given)) == 1:
        sweep = Path(given[0])
    else:
        sweep = _own_folder(command)
    folders = [sweep / name for name in names]
    check_states(sweep, folders)
    _check_records(sweep / "multirun.yaml", *(folder / ".hydra/hydra.yaml" for folder in folders))
    words = [*command.words, *_log_name(command), _folder_word("hydra.sweep.dir", sweep)]
    words.append("hydra.sweep.subdir='${job_folder:${hydra.job.num}}'")
    _launch_until_ended(command, job, words, folders, launch)
    if not report_sweep(sweep, folders, command.swept(), number):
        raise SystemExit(1)


def _launch_until_ended(command: Command, job: Job, words: list[str], folders: list[Path], launch: Launch) -> None:
    """Starts the sweep and, where a killed worker process took others with it (joblib), starts those again, one by one."""
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
