"""Where a sentence encoder's files come from, and what makes them these files."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from t2l.encoder.minilm import PYPI_PATH, packaged_minilm
from t2l.files import file_sha256, read_json

HASHED = (".safetensors", ".json", ".txt", ".bin", ".model")
"""endings of the files that make an encoder"""


def resolve(path: str) -> str:
    """A packaged encoder as its folder, a folder as itself, anything else as a hub id.

    Raises ValueError for what is clearly meant as a folder and does not exist.
    """
    if path.startswith("pypi:"):
        if path != PYPI_PATH:
            raise ValueError(f"encoder.path={path}: the only packaged encoder is {PYPI_PATH}")
        return str(packaged_minilm())
    if Path(path).is_dir():
        return path
    if path.startswith((".", "/", "~")) or path.count("/") > 1:
        raise ValueError(f"encoder.path={path}: no such folder (and it is not a hub id of the form owner/name)")
    return path


def whole_path(path: str) -> str:
    """A folder by its whole path; anything else as it is."""
    return str(Path(path).resolve()) if Path(path).is_dir() else path


def hub_commit(path: str, revision: str | None) -> str | None:
    """The commit that a hub id means now, by the hub or by its local cache; None for a folder, and where neither knows."""
    if Path(path).is_dir():
        return None
    if revision is not None and re.fullmatch("[0-9a-f]{40}", revision):
        return revision
    from transformers.utils import cached_file, extract_commit_hash

    for name in ("config.json", "modules.json"):  # the config of some encoders is in a folder of their own
        try:
            return extract_commit_hash(cached_file(path, name, revision=revision), None)
        except OSError:
            continue
    return None


def fingerprint(path: str, commit: str | None, with_code: bool) -> str:
    """What makes an encoder this encoder: the content of its folder, or the hub id and its commit.

    Args:
        path: as `resolve` gives it.
        commit: as `hub_commit` gives it; a hub id alone if it is None.
        with_code: whether Python files count.
    """
    folder = Path(path)
    if not folder.is_dir():
        return hashlib.sha256((f"{path}@{commit}" if commit else path).encode()).hexdigest()
    digest = hashlib.sha256()
    endings = (*HASHED, ".py") if with_code else HASHED
    for file in sorted(folder.rglob("*")):
        if file.is_file() and file.suffix in endings:
            digest.update(f"{file.relative_to(folder)}:{file_sha256(file)}\n".encode())
    return digest.hexdigest()


def own_prompt(path: str) -> str:
    """The text that a sentence-transformers folder puts before every text by default; empty for none."""
    record = Path(path) / "config_sentence_transformers.json"
    settings = read_json(record) if record.is_file() else {}
    return (settings.get("prompts") or {}).get(settings.get("default_prompt_name")) or ""


def changed(identity: str, by: str) -> str:
    """An identity that also tells apart what changes embeddings; itself if nothing does."""
    return hashlib.sha256(f"{identity}:{by}".encode()).hexdigest() if by else identity
