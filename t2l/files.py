"""Files on disk that are either whole or absent: atomic writes, and reads that say what is wrong."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

CHECKSUM = "t2l_sha256"
"""key of the checksum of its tensors in a safetensors file's metadata"""


class FileProblemError(ValueError):
    """A file or folder that is missing, damaged or not what it should be."""


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder that takes the final name when the block ends well and vanishes otherwise.

    An existing folder of that name is replaced.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.parent / f".{folder.name}.{os.getpid()}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        old = folder.parent / f".{folder.name}.{os.getpid()}.old"
        if folder.exists():
            folder.rename(old)
        temporary.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file under a temporary name and renames it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text)
    temporary.replace(path)


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file under a temporary name and renames it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(data)
    temporary.replace(path)


def write_json(path: Path, data: Any) -> None:
    """Writes JSON under a temporary name and renames it."""
    write_text(path, json.dumps(data, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """Reads JSON. Raises FileProblemError where the file is missing or not JSON."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise FileProblemError(f"no such file: {path}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise FileProblemError(f"{path} is not valid JSON: {error}") from None


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Sha256 over the names, dtypes, shapes and bytes of tensors, whatever their order."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}\x1f{tensor.dtype}\x1f{tuple(tensor.shape)}\x1f".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def check_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    """Raises FileProblemError if a tensor holds nan or an infinity; integers never do."""
    broken = [k for k, t in tensors.items() if t.is_floating_point() and not bool(t.isfinite().all())]
    if broken:
        raise FileProblemError(f"{where}: {len(broken)} tensors hold values that are not finite, first {broken[0]!r}")


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None, finite: bool = True
) -> None:
    """Writes a safetensors file with a checksum (into a folder that is itself atomic, or under a fresh name).

    Args:
        finite: whether values that are not finite are refused; false for a state that may hold some and recover.

    Raises:
        FileProblemError: a value is not finite; nothing is written.
    """
    from safetensors.torch import save_file

    held = {k: v.detach().contiguous().cpu() for k, v in tensors.items()}
    if finite:
        check_finite(held, f"{path.name} cannot be written")
    save_file(held, path, {"format": "pt", **(metadata or {}), CHECKSUM: tensors_sha256(held)})
    _sort_metadata(path)


def _sort_metadata(path: Path) -> None:
    """Brings the metadata of a safetensors file, which safetensors writes in a random order, into one order."""
    with path.open("r+b") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
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
            written = (file.metadata() or {}).get(CHECKSUM)
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise FileProblemError(f"{path} is damaged and cannot be read ({error}): make it again") from None
    if written is not None and tensors_sha256(tensors) != written:
        raise FileProblemError(f"{path} is damaged: its tensors are not those that were written: make it again")
    if finite:
        check_finite(tensors, str(path))
    return tensors
