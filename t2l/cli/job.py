"""What runs a verb: by itself, or as a job that Hydra starts, here or wherever a launcher takes it."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from t2l.cli.settings import settings_of
from t2l.cli.sweep import GivenJob, one_line, run_job
from t2l.cli.trial import watched_by
from t2l.run.console import fail, is_main_process
from t2l.run.continuation import settings_of as settings_of_run
from t2l.run.folder import LOCK
from t2l.run.overview import read_run
from t2l.tracking import About, JsonlConfig, Tracker, tracked
from t2l.verbs import Verb, verb_named

Work = Callable[[str, Any], None]
"""runs a verb on its settings"""
log = logging.getLogger(__name__)


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
    """What Hydra calls with a composed configuration, wherever a launcher runs it: it is pickled to other processes."""

    verb: str
    work: Work
    """runs the verb on its settings"""
    start: str = ""
    """this start of the sweep; of a single run empty"""
    given: tuple[GivenJob, ...] = ()
    """the sweep's jobs that are to be run, if they are known"""
    has_own_folders: bool = False
    """whether each job's `run_dir` is its folder; else every job has one inside the sweep's"""

    def __call__(self, config: Any) -> float | None:
        """Returns the run's validation score if it is a job of a sweep and has one, for a sweeper that looks for the best."""
        from hydra.core.hydra_config import HydraConfig

        hydra = HydraConfig.get()
        folder = Path(hydra.runtime.output_dir)
        if self.start and is_main_process():
            number = {job.folder: job.number for job in self.given}.get(str(hydra.sweep.subdir), hydra.job.num)
            with watched_by(hydra.sweeper, folder):
                run_job(folder, number, self.start, lambda: self._run(config, folder))
            return read_run(folder).score
        if self.start:
            with suppress(Exception, SystemExit):  # the main process tells of it
                self._follow(config)
            return None
        try:
            self._run(config, folder) if is_main_process() else self._follow(config)
        except ValueError as error:
            fail(str(error))
        return None

    def _run(self, config: Any, folder: Path) -> None:
        settings = settings_of(config)
        if settings.run_dir is None or (self.start and not self.has_own_folders):
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

    from t2l.cli.sweepers import register_sweepers
    from t2l.config import config_folder, register

    register()
    register_sweepers()
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
