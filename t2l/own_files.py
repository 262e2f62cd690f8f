"""Which files of a folder t2l wrote, and left as they are: those alone may be overwritten or removed.

Each folder that t2l writes into keeps the record `.t2l_files.json`: a file's size and, unless it is large, its sha256. A
file that is not in it, or that was changed since, is the user's. Of a folder without the record, made before there was
one, a writer says which names are surely its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import socket
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

RECORD = ".t2l_files.json"
LARGE = 4 * 2**20
"""bytes above which a file is known by its size alone"""


class FileProblemError(ValueError):
    """A file or folder that is missing, damaged or not what it should be."""


def spare_name(path: Path) -> Path:
    """A fresh hidden name beside a path, for what will be renamed to it."""
    return path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")


def replace_file(path: Path, data: bytes) -> None:
    """Writes a file under a fresh temporary name and renames it, so that it is whole or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = spare_name(path)
    try:
        with temporary.open("xb") as stream:
            stream.write(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _known_by(size: int, data: bytes | None) -> str:
    return f"{size}" if data is None else f"{size}:{hashlib.sha256(data).hexdigest()}"


def mark_of(path: Path) -> str:
    """What a file is known by: size and sha256, or its size alone if it is large."""
    size = path.stat().st_size
    return _known_by(size, path.read_bytes() if size <= LARGE else None)


def _recorded(folder: Path) -> dict[str, list[str]] | None:
    """Marks by name, of which a file has one; None if the folder has no record that can be read."""
    try:
        files = json.loads((folder / RECORD).read_text())["files"]
        return {str(name): [str(m) for m in marks] for name, marks in files.items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def _write_record(folder: Path, files: dict[str, list[str]], **about: Any) -> None:
    text = json.dumps({"about": "what t2l wrote here", "files": dict(sorted(files.items())), **about}, indent=1)
    replace_file(folder / RECORD, (text + "\n").encode())


def _contents(folder: Path) -> Iterator[tuple[str, Path]]:
    """Every file, link and empty folder inside, by its name from the folder."""
    for path in sorted(folder.iterdir()):
        inner = list(_contents(path)) if path.is_dir() and not path.is_symlink() else []
        if inner:
            yield from ((f"{path.name}/{name}", p) for name, p in inner)
        elif path.name != RECORD:
            yield path.name, path


def _is_own(name: str, path: Path, recorded: dict[str, list[str]] | None, owns: Iterable[str]) -> bool:
    if path.is_symlink() or not path.is_file():
        return False
    if recorded is None:
        return any(fnmatch(name, pattern) for pattern in owns)
    return name in recorded and mark_of(path) in recorded[name]


def foreign_file(folder: Path, owns: Iterable[str] = ()) -> str | None:
    """Name of something in a folder that t2l did not write, or that was changed since; None if there is nothing.

    Args:
        owns: patterns of names that are surely t2l's, in a folder without a record.
    """
    recorded = _recorded(folder)
    return next((name for name, path in _contents(folder) if not _is_own(name, path, recorded, owns)), None)


def check_replaceable(folder: Path, owns: Iterable[str] = (), only: Collection[str] | None = None) -> None:
    """Raises FileProblemError if a folder cannot be replaced as a whole.

    It holds what t2l did not write; or it is something else of t2l's than what would replace it (a checkpoint, say, where
    an adapter is to be written), and not to be lost by a slip of the user's.

    Args:
        only: the names that the folder may hold; None for any.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise FileProblemError(f"{folder} is a file, not a folder: choose another")
    if (name := foreign_file(folder, owns)) is not None:
        raise FileProblemError(
            f"{folder} holds {name!r}, which t2l did not write or which was changed since, so the folder is not "
            "replaced: choose another, or move that away"
        )
    other = next((name for name, _ in _contents(folder) if only is not None and name not in only), None)
    if other is not None:
        raise FileProblemError(
            f"{folder} holds {other!r}: it is not what would be written there, so it is not replaced: choose another "
            "folder, or remove it"
        )


def check_own(folder: Path, names: Iterable[str], owns: Iterable[str] = ()) -> None:
    """Raises FileProblemError if a folder has files of these names that t2l did not write, or that were changed since."""
    recorded = _recorded(folder)
    for name in names:
        path = folder / name
        if (path.exists() or path.is_symlink()) and not _is_own(name, path, recorded, owns):
            raise FileProblemError(
                f"{path} was not written by t2l, or was changed since, and is not overwritten: choose another folder, "
                "or move it away"
            )


def write_own(path: Path, data: str | bytes, owns: Iterable[str] = ()) -> None:
    """Writes a file that is whole or absent, and records it as t2l's.

    Raises FileProblemError if a file of that name is not t2l's.
    """
    folder, content = path.parent, data.encode() if isinstance(data, str) else data
    check_own(folder, [path.name], owns)
    with recording(folder, {path.name: _known_by(len(content), content if len(content) <= LARGE else None)}, owns):
        replace_file(path, content)


@contextmanager
def recording(folder: Path, marks: dict[str, str], owns: Iterable[str] = ()) -> Iterator[None]:
    """A block that writes files of these marks: whenever it is killed, they count as t2l's, before it and after."""
    recorded = _recorded(folder)
    if recorded is None:  # of before there were records
        recorded = (
            {n: [mark_of(p)] for n, p in _contents(folder) if _is_own(n, p, None, owns)} if folder.is_dir() else {}
        )
    _write_record(folder, recorded | {name: [*recorded.get(name, []), mark] for name, mark in marks.items()})
    yield
    _write_record(folder, recorded | {name: [mark] for name, mark in marks.items()})


def begin_folder(folder: Path) -> None:
    """Marks a temporary folder as this process's, so that it can be told from any other when the process was killed."""
    folder.mkdir()
    _write_record(folder, {}, host=socket.gethostname(), process=os.getpid())


def record_folder(folder: Path) -> None:
    """Records everything in a folder as t2l's."""
    _write_record(folder, {name: [mark_of(path)] for name, path in _contents(folder)})


def is_left_behind(folder: Path) -> bool:
    """Whether a folder is a temporary one that a process of this machine began and was killed over."""
    try:
        about = json.loads((folder / RECORD).read_text())
        if about["host"] == socket.gethostname() and (process := int(about["process"])) != os.getpid():
            os.kill(process, 0)
    except ProcessLookupError:
        return True
    except (OSError, ValueError, LookupError, TypeError):  # no record of this kind, or a process of another user
        return False
    return False
