"""The jobs of a sweep: each ends for itself, says how in `job.json` in its folder, and the sweep ends with a list.

Hydra's launchers run a job in this process, in others, or on other machines, and end the sweep at the first that raises.
So a job never raises: what became of it is in a file, where every launcher leaves it.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from t2l.files import FileProblemError, read_json, write_json

STATE, LIST = "job.json", "sweep.json"
STARTS = 2
"""times a job is started whose process was killed; in the second it is alone"""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class JobState:
    """What became of a job."""

    launch: str
    """the start of the sweep that this is about"""
    state: str
    """running, finished or failed; of a job that never began, not started"""
    reason: str = ""
    """why it failed, in one line"""
    starts: int = 0
    """times this start of the sweep began it"""

    @property
    def has_ended(self) -> bool:
        """Whether it finished or failed."""
        return self.state in ("finished", "failed")

    def write(self, folder: Path) -> None:
        """Leaves it in the job's folder."""
        write_json(folder / STATE, asdict(self))

    @classmethod
    def read(cls, folder: Path, launch: str) -> JobState:
        """What a job's folder says of this start of the sweep."""
        with suppress(FileProblemError, TypeError):
            found = cls(**read_json(folder / STATE))
            if found.launch == launch:
                return found
        return cls(launch, "not started")


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


def states(folders: Sequence[Path], launch: str) -> list[JobState]:
    """What became of each job."""
    return [JobState.read(folder, launch) for folder in folders]


def report_sweep(sweep: Path, folders: Sequence[Path], overrides: Sequence[Sequence[str]], launch: str) -> bool:
    """Prints a line per job and writes them to `sweep.json`. Returns whether every job finished."""
    found = states(folders, launch)
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
    return finished == len(found)


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
