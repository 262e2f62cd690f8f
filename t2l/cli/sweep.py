"""The jobs of a sweep: each ends for itself, says how in `job.json` in its folder, and the sweep ends with a list.

Hydra's launchers run a job in this process, in others, or on other machines, and end the sweep at the first that raises.
So a job never raises: what became of it is in a file, where every launcher leaves it.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from t2l.cli.overrides import names_a_path, quoted
from t2l.files import FileProblemError, read_json, write_json
from t2l.run.continuation import changes, defaults_of, flat, is_free, plain, settings_of
from t2l.run.overview import RECORD

STATE, LIST = "job.json", "sweep.json"
PLUGINS = "hydra_plugins.t2l"
"""where Hydra finds t2l's sweepers"""
GIVEN, OPTUNA = f"{PLUGINS}.GivenJobs", f"{PLUGINS}.OptunaSweeper"
GRID = ("hydra._internal.core_plugins.basic_sweeper.BasicSweeper", GIVEN)
"""sweepers under which the jobs are all combinations of values"""
STARTS = 2
"""times a job is started whose process was killed; in the second it is alone"""
log = logging.getLogger(__name__)


class PrunedError(Exception):
    """A trial of a search is not worth going on with."""


@dataclass(frozen=True)
class GivenJob:
    """A job of a sweep."""

    number: int
    overrides: tuple[str, ...]
    folder: str
    """inside the sweep's, or absolute"""

    @property
    def words(self) -> list[str]:
        """What Hydra composes it from, its folder among it."""
        return [*self.overrides, folder_word("hydra.sweep.subdir", self.folder)]


def folder_word(key: str, folder: Path | str) -> str:
    """An override that sets a key to a folder."""
    return f"{key}={quoted(str(folder))}"


@dataclass(frozen=True)
class JobState:
    """What became of a job."""

    launch: str
    """the start of the sweep that this is about"""
    state: str
    """running, finished, pruned or failed; of a job that never began, not started"""
    reason: str = ""
    """why it failed or was pruned, in one line"""
    starts: int = 0
    """times this start of the sweep began it"""

    @property
    def has_ended(self) -> bool:
        """Whether it finished or failed, or was pruned."""
        return self.state in ("finished", "failed", "pruned")

    def write(self, folder: Path) -> None:
        """Leaves it in the job's folder."""
        write_json(folder / STATE, asdict(self))

    @classmethod
    def read(cls, folder: Path, launch: str | None) -> JobState:
        """What a job's folder says of this start of the sweep; None: of its last."""
        with suppress(FileProblemError, TypeError):
            found = cls(**read_json(folder / STATE))
            if launch in (None, found.launch):
                return found
        return cls(launch or "", "not started")


def one_line(error: BaseException) -> str:
    """An error in one line; a ValueError is a sentence of t2l's, of any other the kind is told."""
    text = " ".join(str(error).split())
    if isinstance(error, SystemExit):
        return f"stopped with exit code {text or 0}"
    if isinstance(error, ValueError):
        return text
    return f"{type(error).__name__}: {text}".rstrip(": ")


def run_job(folder: Path, number: int, launch: str, work: Callable[[], None]) -> None:
    """Does a job's work and leaves its state; an error stays here. An interrupt or termination goes on up."""
    before = JobState.read(folder, launch)
    if before.has_ended:
        return
    if before.starts >= STARTS:
        replace(before, state="failed", reason="its process was killed; is memory short?").write(folder)
        return
    now = JobState(launch, "running", starts=before.starts + 1)
    now.write(folder)
    try:
        work()
    except PrunedError as pruned:
        replace(now, state="pruned", reason=str(pruned)).write(folder)
        _free_memory()
        return
    except (Exception, SystemExit) as error:
        if not isinstance(error, SystemExit) or error.code not in (None, 0):
            reason = one_line(error)
            _log_to_file(error, reason)
            replace(now, state="failed", reason=reason).write(folder)
            print(f"t2l: error: job {number}: {reason}", file=sys.stderr)
            _free_memory()
            return
    replace(now, state="finished").write(folder)


def _log_to_file(error: BaseException, reason: str) -> None:
    """Into the job's log file alone, with the traceback of what nobody foresaw: the terminal gets one line."""
    trace = None if isinstance(error, ValueError) else (type(error), error, error.__traceback__)
    record = log.makeRecord(log.name, logging.ERROR, __file__, 0, "the job failed: %s", (reason,), trace)
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(record)


def _free_memory() -> None:
    """Gives back what a failed job held, so that the next one, in the same process, has it."""
    import gc

    gc.collect()
    if (torch := sys.modules.get("torch")) is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def check_states(sweep: Path, folders: Sequence[Path]) -> None:
    """Raises FileProblemError if files of a sweep's names are another program's."""
    for path, keys in [(sweep / LIST, {"jobs"}), *((folder / STATE, {"launch", "state"}) for folder in folders)]:
        if path.is_file():
            found = read_json(path)
            if not isinstance(found, dict) or not keys <= found.keys():
                raise FileProblemError(f"{path} was not written by t2l: choose another folder, or move it away")


def finished_before(verb: str, settings: Sequence[Any], folders: Sequence[Path]) -> list[int]:
    """Which jobs an earlier start finished, so that there is nothing to do: of `t2l train`, with the same settings, and no
    file or folder that these name was changed since."""
    return [i for i, folder in enumerate(folders) if verb == "train" and _is_finished(settings[i], folder / RECORD)]


def _is_finished(settings: Any, record: Path) -> bool:
    with suppress(
        FileProblemError, AttributeError, LookupError, TypeError, OSError
    ):  # what cannot be told is begun again
        found, now = read_json(record) if record.is_file() else {}, plain(settings_of(settings))
        if not found.get("finished"):
            return False
        if any(not is_free(change.key) for change in changes(found["config"], now, defaults_of(settings))):
            return False
        named = [value for key, value in flat(now).items() if isinstance(value, str) and names_a_path(key)]
        ended = record.stat().st_mtime
        return all(_newest(Path(re.sub(":(best|last)$", "", path))) <= ended for path in named)
    return False


def _newest(path: Path) -> float:
    """When a file, or any in a folder, was last written; zero if there is none, as of a name on a hub."""
    if path.is_file():
        return path.stat().st_mtime
    return max(
        (Path(folder, name).stat().st_mtime for folder, _, files in os.walk(path) for name in files), default=0.0
    )


def report_sweep(sweep: Path, folders: Sequence[Path], overrides: Sequence[Sequence[str]], launch: str | None) -> bool:
    """Prints a line per job and writes them to `sweep.json`. Returns whether every job finished, or was pruned.

    Args:
        launch: the start of the sweep that is told of; None: the last of each job.
    """
    found = [JobState.read(folder, launch) for folder in folders]
    finished = sum(s.state == "finished" for s in found)
    print(f"t2l: sweep in {sweep}: {finished} of {len(found)} jobs finished", file=sys.stderr)
    rows = []
    for number, (state, words, folder) in enumerate(zip(found, overrides, folders, strict=True)):
        said = {"running": "did not end"}.get(state.state, state.state)
        reason = state.reason or ("its process was lost, or still runs elsewhere" if state.state == "running" else "")
        print(f"  {number:>3}  {said:<11}  {' '.join(words)}{f'  ({reason})' if reason else ''}", file=sys.stderr)
        rows.append(
            {"job": number, "folder": str(folder), "overrides": list(words), "state": said, "reason": reason or None}
        )
    write_json(sweep / LIST, {"jobs": rows})
    _show(sweep, folders)
    return all(s.state in ("finished", "pruned") for s in found)


def _show(sweep: Path, folders: Sequence[Path]) -> None:
    """Prints the sweep's table and leaves it in its folder, if its jobs measured something."""
    from t2l.verbs.runs import print_overview, write_summary

    try:
        found = write_summary(sweep, folders)
    except Exception as error:  # the jobs are done: their list, and what they left, must not be lost to a figure
        print(f"t2l: the sweep's table was not written: {one_line(error)}", file=sys.stderr)
        return
    if found is not None:
        print_overview(found)
