"""A run that is refused after Hydra has made its folder: what was made for it goes again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from t2l.run.folder import COMMAND, LOCK

REFUSED = 2
"""exit code of a command that the user has to mend"""


@contextmanager
def cleared_if_refused(folder: Path | None) -> Iterator[None]:
    """A block that starts a run or a sweep in a folder. If it ends with code 2 or a ValueError, and has made nothing yet but
    records of its start, log and locks, they are removed again, with every folder that was not there before.

    Args:
        folder: None for a process that has none.
    """
    place = None if folder is None else folder.absolute()  # Hydra may change the working directory
    made = [] if place is None else [path for path in (place, *place.parents) if _is_new(path)]
    try:
        yield
    except (SystemExit, ValueError) as end:
        if made and made[0].is_dir() and (not isinstance(end, SystemExit) or end.code == REFUSED):
            _clear(made)
        raise


def _is_new(folder: Path) -> bool:
    """Whether a folder is not there, or holds only the command for which it has just been made."""
    return not folder.exists() or (folder.is_dir() and [path.name for path in folder.iterdir()] == [COMMAND])


def _clear(made: list[Path]) -> None:
    """Removes a folder that holds nothing that a run makes, and those of its parents that are empty then."""
    from filelock import FileLock, Timeout

    folder = made[0]
    with suppress(OSError, Timeout), FileLock(folder / LOCK, timeout=0):  # held: the same command works there
        inside = sorted(folder.rglob("*"), reverse=True)  # what lies deeper comes first
        if not all(path.is_dir() or _is_of_start(path.relative_to(folder)) for path in inside):
            return
        for path in [*inside, *made]:
            path.rmdir() if path.is_dir() else path.unlink()


def _is_of_start(path: Path) -> bool:
    return path.parts[0] == ".hydra" or path.name == COMMAND or path.name.endswith((".log", ".lock"))
