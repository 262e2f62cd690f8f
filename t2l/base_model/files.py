"""Where a base model's files are, which weights they hold, and its config without its weights.

A base is named by a folder in Hugging Face format, by a hub id, by a GGUF file, or as `mini`, the one that ships with t2l.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

from t2l.base_model.gguf import config_source, gguf_folder, is_gguf
from t2l.files import FileProblemError, file_sha256, read_json

PICKLED = "bin-"


def shipped_folder(name: str) -> Path | None:
    """A folder of `data/`, from a checkout or an installed wheel; None if it is not there."""
    package = Path(__file__).parent.parent
    return next((f for f in (package / "data" / name, package.parent / "data" / name) if f.is_dir()), None)


def mini_base_model_path() -> Path:
    """Folder of the mini base model, from a checkout or an installed wheel."""
    folder = shipped_folder("mini/base_model")
    if folder is not None and (folder / "config.json").is_file():
        return folder
    raise ValueError(
        "the mini base model is not here: make it with `t2l pretrain_base run_dir=DIR` and pass base_model.path=DIR"
    )


def resolve_path(path: str) -> str:
    """`mini` as its folder, a GGUF file as the folder it is converted to, a folder as itself, anything else as a hub id.

    Raises ValueError for what is clearly meant as a folder or file and does not exist, or a GGUF file that is not a model.
    """
    if path == "mini":
        return str(mini_base_model_path())
    if is_gguf(path):
        return str(gguf_folder(path))
    if Path(path).is_dir():
        if not (Path(path) / "config.json").is_file():
            raise ValueError(
                f"base_model.path={path}: the folder has no config.json, so it is not a Hugging Face model"
            )
        return path
    if path.startswith((".", "/", "~")) or path.count("/") > 1:
        raise ValueError(f"base_model.path={path}: no such folder (and it is not a hub id of the form owner/name)")
    return path


def cached_snapshot(path: str, commit: str | None = None) -> str | None:
    """Folder of a hub id in the local cache of Hugging Face; None for a folder, or if it is not cached."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    if Path(path).is_dir():
        return None
    try:
        found = try_to_load_from_cache(path, "config.json", revision=commit)
    except HFValidationError:
        return None
    return str(Path(found).parent) if isinstance(found, str) else None


def _weights_digest(file: Path) -> bytes:
    """Sha256 of a file's content; the hub's cache keeps large files under that very name."""
    blob = file.resolve().name
    if file.is_symlink() and re.fullmatch(r"[0-9a-f]{64}", blob):
        return bytes.fromhex(blob)
    return bytes.fromhex(file_sha256(file))


def _pickled_weights(folder: Path) -> list[Path]:
    """The `.bin` files that transformers reads if there are no safetensors, their index first; other ones
    (training_args.bin, an optimizer's state) are no weights."""
    index = folder / "pytorch_model.bin.index.json"
    if not index.is_file():
        return [f for f in (folder / "pytorch_model.bin",) if f.is_file()]
    names = sorted(set(read_json(index).get("weight_map", {}).values()))
    return [index, *(f for f in (folder / name for name in names) if f.is_file())]


def file_fingerprint(path: str) -> str | None:
    """Sha256 over a folder's weight files, independent of dtype and quantisation at load time.

    The same for a hub id's folder in the cache and for a copy of it; that of `.bin` files begins with `bin-`. None if
    there are no weight files (a hub id, a folder in another format).
    """
    folder = Path(path)
    files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    kind = "" if files else PICKLED
    files = files or (_pickled_weights(folder) if folder.is_dir() else [])
    if not files:
        return None
    digest = hashlib.sha256()
    for file in files:
        digest.update(_weights_digest(file))
    return kind + digest.hexdigest()


def earlier_fingerprint_hint(recorded: str, found: str) -> str:
    """What to add to the message that two fingerprints differ, if they may be of one base of `.bin` files."""
    if not found.startswith(PICKLED) or recorded.startswith(PICKLED):
        return ""
    return (
        "; for bases of .bin files earlier versions recorded a fingerprint that depends on base_model.dtype: if it is the same "
        f"base, replace {recorded} by {found} in the records of what was trained"
    )


def check_fingerprint(made: str, recorded: str, found: str) -> None:
    """Raises ValueError if what was made for one base model meets another.

    Args:
        made: what it is, for the message, like "FOLDER was trained on".
        recorded: fingerprint of the base that it was made for.
        found: fingerprint of the base that is here.
    """
    if recorded != found:
        raise ValueError(
            f"{made} another base model (fingerprint {recorded[:12]}); this base has {found[:12]}"
            f"{earlier_fingerprint_hint(recorded, found)}"
        )


def model_config(path: str, trust_remote_code: bool = False, revision: str | None = None) -> Any:
    """The Hugging Face config of a base model, without its weights.

    A hub id is looked for in the local cache, among the configs that ship with t2l, and on the hub, in this order.

    Raises ValueError if there is none to be had.
    """
    from transformers import AutoConfig

    where = config_source(path) or resolve_path(path)
    shipped = shipped_folder("model_configs")
    if not Path(where).is_dir() and cached_snapshot(where, revision) is None and shipped is not None:
        folder = shipped / where.replace("/", "--")
        where = str(folder) if folder.is_dir() else where
    try:
        return AutoConfig.from_pretrained(where, trust_remote_code=trust_remote_code, revision=revision)
    except (OSError, ValueError) as error:
        if "trust_remote_code" in str(error) and not trust_remote_code:
            raise ValueError(
                f"base_model.path={path} brings Python code of its own, which runs only when told to: read it, then set "
                "base_model.trust_remote_code=true"
            ) from error
        known = sorted(f.name.replace("--", "/") for f in shipped.iterdir() if f.is_dir()) if shipped else []
        raise FileProblemError(
            f"base_model.path={path}: no config of it in the local cache or on the hub ({str(error).splitlines()[0]}); "
            f"configs that ship with t2l: {', '.join(known)}"
        ) from error
