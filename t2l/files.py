"""Files on disk that are either whole or absent: atomic writes, and reads that say what is wrong."""

from __future__ import annotations

import glob
import hashlib
import json
import logging
import math
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import xxhash
from torch import Tensor

from t2l.own_files import RECORD as OWN_RECORD
from t2l.own_files import (
    FileProblemError,
    begin_folder,
    check_own,
    check_replaceable,
    foreign_file,
    is_left_behind,
    mark_of,
    record_folder,
    recording,
    replace_file,
    spare_name,
    write_own,
)

__all__ = [
    "FileProblemError", "atomic_folder", "check_finite", "check_own", "check_replaceable", "file_sha256", "move_into", "read_json", "read_tensors",
    "remove_folder", "tensors_checksum", "write_json", "write_own", "write_tensors", "write_text",
]  # fmt: skip
CHECKSUM = "t2l_xxh3"
"""key of the checksum of its tensors in a safetensors file's metadata"""
NO_CHECKSUM = "0" * 32
"""what stands in its place while it is made"""
EARLIER_CHECKSUM = "t2l_sha256"
"""the key, and the hash, of files from before; sha256 took as long as writing the file"""
log = logging.getLogger(__name__)


@contextmanager
def atomic_folder(folder: Path, owns: Iterable[str] = (), only: Collection[str] | None = None) -> Iterator[Path]:
    """A temporary folder that takes the final name when the block ends well and vanishes otherwise.

    An existing folder of that name is replaced, but only if t2l wrote all that is in it and nobody changed it since.

    Args:
        owns: patterns of names that are surely t2l's, in an existing folder from before that was recorded.
        only: the names that an existing folder may hold, where the user chooses it; None for any (`check_replaceable`).

    Raises FileProblemError, before the block, if the folder holds anything else; after it, if another process was
    faster.
    """
    if folder.is_symlink():
        folder = folder.resolve()
    check_replaceable(folder, owns, only)
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_left_behind(folder)
    temporary = spare_name(folder)
    begin_folder(temporary)
    try:
        yield temporary
        record_folder(temporary)
        _put_in_place(temporary, folder, owns, only)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _remove_left_behind(folder: Path) -> None:
    for old in folder.parent.glob(f".{glob.escape(folder.name)}.*.tmp"):
        if old.is_dir() and is_left_behind(old):
            shutil.rmtree(old, ignore_errors=True)


def _put_in_place(temporary: Path, folder: Path, owns: Iterable[str], only: Collection[str] | None) -> None:
    old = None
    try:
        if folder.exists():
            old = folder.rename(spare_name(folder))
            check_replaceable(old, owns, only)  # again: the block may have taken hours
        temporary.rename(folder)
    except (OSError, FileProblemError) as error:
        if old is not None and not folder.exists():
            old.rename(folder)
        if isinstance(error, FileProblemError):
            raise FileProblemError(
                f"{folder} got other files meanwhile, so it is not replaced: choose another"
            ) from None
        raise FileProblemError(
            f"{folder} cannot be put in place: does another process write there? ({error})"
        ) from error
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)


def remove_folder(folder: Path, owns: Iterable[str] = ()) -> bool:
    """Removes a folder that t2l wrote. One that holds anything else stays as it is. Returns whether it is gone."""
    if folder.is_symlink() or not folder.is_dir():
        return not folder.exists()
    if (name := foreign_file(folder, owns)) is not None:
        log.warning("%s stays: it holds %r, which t2l did not write or which was changed since", folder, name)
        return False
    shutil.rmtree(folder)
    return True


def move_into(source: Path, folder: Path, last: str) -> None:
    """Moves the files of a finished folder into one that may hold other things, and records them as t2l's.

    Args:
        last: name of the file that makes the folder count as whole.

    Raises FileProblemError, before anything is moved, if that would overwrite what is not t2l's.
    """
    files = sorted((p for p in source.iterdir() if p.name != OWN_RECORD), key=lambda p: (p.name == last, p.name))
    check_own(folder, [p.name for p in files])
    folder.mkdir(parents=True, exist_ok=True)
    for path in files:
        with recording(folder, {path.name: mark_of(path)}):
            path.replace(folder / path.name)


def write_text(path: Path, text: str) -> None:
    """Writes a text file under a temporary name and renames it."""
    replace_file(path, text.encode())


def write_json(path: Path, data: Any) -> None:
    """Writes JSON under a temporary name and renames it."""
    write_text(path, json.dumps(data, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """Reads JSON. Raises FileProblemError if the file is missing or not JSON."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise FileProblemError(f"no such file: {path}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise FileProblemError(f"{path} is not valid JSON: {error}") from None


def file_sha256(path: Path) -> str:
    """Sha256 of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def tensors_checksum(tensors: Mapping[str, Tensor], key: str = CHECKSUM) -> str:
    """Hash over the names, dtypes, shapes and bytes of tensors, whatever their order: 128 bits of XXH3, or sha256."""
    digest = xxhash.xxh3_128() if key == CHECKSUM else hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}\x1f{tensor.dtype}\x1f{tuple(tensor.shape)}\x1f".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _is_finite(tensor: Tensor) -> bool:
    # One pass: nan and infinities survive in the sum. Finite values may overflow in it, so only the sum's "yes" counts.
    return math.isfinite(float(tensor.detach().sum())) or bool(tensor.isfinite().all())


def check_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    """Raises FileProblemError if a tensor holds nan or an infinity; integers never do."""
    broken = [k for k, t in tensors.items() if t.is_floating_point() and not _is_finite(t)]
    if broken:
        raise FileProblemError(f"{where}: {len(broken)} tensors hold values that are not finite, first {broken[0]!r}")


def write_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
    finite: bool = True,
    where: str | None = None,
) -> None:
    """Writes a safetensors file with a checksum (into a folder that is itself atomic, or under a fresh name).

    Args:
        finite: whether values that are not finite are refused; false for a state that may hold some and recover.
        where: what an error names; None for the file.

    Raises:
        FileProblemError: a value is not finite; no file stays.
    """
    from safetensors import TensorSpec, serialize_file

    held = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}

    def look_at_all() -> str:
        if finite:
            check_finite(held, where or f"{path.name} cannot be written")
        return tensors_checksum(held)

    # As safetensors.torch.save_file does it, without its search for shared memory and its views in numpy: a third of the time.
    specs = {
        k: TensorSpec(
            dtype=str(t.dtype).removeprefix("torch."), shape=list(t.shape), data_ptr=t.data_ptr(), data_len=t.nbytes
        )
        for k, t in held.items()
    }
    with ThreadPoolExecutor(1) as beside:  # both go through every byte, and neither holds the interpreter
        checksum = beside.submit(look_at_all)
        serialize_file(specs, path, {"format": "pt", **(metadata or {}), CHECKSUM: NO_CHECKSUM})
    try:
        _end_metadata(path, checksum.result())
    except FileProblemError:
        path.unlink()
        raise


def _end_metadata(path: Path, checksum: str) -> None:
    """Puts in the checksum, and brings the metadata of a safetensors file, which come in a random order, into one order."""
    with path.open("r+b") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
        header["__metadata__"] = dict(sorted({**header["__metadata__"], CHECKSUM: checksum}.items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(length)
        assert len(text) == length, "a sorted header is as long as it was"
        stream.seek(8)
        stream.write(text)


def read_tensors(path: Path, finite: bool = True) -> dict[str, Tensor]:
    """Reads a safetensors file, and compares it with its checksum if it has one (files of other programs have none).

    Args:
        finite: whether values that are not finite are refused.

    Raises:
        FileProblemError: the file is missing or damaged (truncated, one bit flipped), or holds nan or an infinity.
    """
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file

    if not path.is_file():
        raise FileProblemError(f"no such file: {path}")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise FileProblemError(f"{path} is damaged and cannot be read ({error}): make it again") from None
    if any(k in metadata and tensors_checksum(tensors, k) != metadata[k] for k in (CHECKSUM, EARLIER_CHECKSUM)):
        raise FileProblemError(f"{path} is damaged: its tensors are not those that were written: make it again")
    if finite:
        check_finite(tensors, str(path))
    return tensors
