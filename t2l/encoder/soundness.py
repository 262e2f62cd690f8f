"""Embeddings that cannot be right, told before anything is made of them or kept."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version

import numpy as np
import torch
from jaxtyping import Float

from t2l.distributed import local_device
from t2l.encoder.interface import Embedder, first_line

LIBRARIES = ("torch", "transformers", "sentence-transformers", "tokenizers")
"""what an embedding depends on beside the encoder's own files"""
SAME = 1e-6
"""largest difference of embeddings, relative to the largest value, that batches of different shapes may make"""


def library_versions() -> dict[str, str]:
    """Installed versions of the libraries that compute embeddings, without what names a build (`+cpu`)."""
    return {name: version(name).split("+")[0] for name in LIBRARIES}


def made_by(device: str) -> dict[str, str]:
    """What the last bits of an embedding depend on beside encoder and text: libraries, device, threads, instructions.

    A cache that mixed them would make two runs of one seed differ by what ran before them.
    """
    kind = local_device(device).partition(":")[0]
    if kind != "cpu":
        return {**library_versions(), "device": kind}
    instructions = torch.backends.cpu.get_cpu_capability()
    return {**library_versions(), "threads": str(torch.get_num_threads()), "instructions": instructions}


def check_embeddings(embedder: Embedder, texts: Sequence[str], values: Float[np.ndarray, "texts d_embedding"]) -> None:
    """Raises ValueError if embeddings of distinct texts are not finite, are zero, or are all the same.

    Texts of which the encoder reads the same rightly get one embedding.
    """
    versions = ", ".join(f"{name} {number}" for name, number in library_versions().items())
    advice = f"it does not work as it is set here, with {versions}: choose another encoder (or layer), or the versions it needs"
    broken = [t for t, v in zip(texts, values, strict=True) if not np.isfinite(v).all()]
    if broken:
        raise ValueError(f"{embedder.name} embeds {_short(broken[0])} as values that are not finite numbers; {advice}")
    zero = [t for t, v in zip(texts, values, strict=True) if not v.any()]
    if zero:
        raise ValueError(f"{embedder.name} embeds {_short(zero[0])} as zeros; {advice}")
    is_constant = len(texts) > 1 and np.abs(values - values[0]).max() <= SAME * np.abs(values).max()
    if is_constant and len({embedder.reads(text) for text in texts}) > 1:
        raise ValueError(
            f"{embedder.name} gives {len(texts)} different texts the same embedding ({_short(texts[0])}, "
            f"{_short(texts[1])}...); {advice}"
        )


def _short(text: str) -> str:
    line = " ".join(text.split())
    return repr(line if len(line) <= 40 else f"{line[:40]}...")


def own_code_failed(what: str, error: Exception) -> str:
    """What to tell when code that comes with an encoder fails, in one line. `what` says which encoder does not do what."""
    return (
        f"{what}: {first_line(error)} (its own Python code, with transformers {library_versions()['transformers']}: it may "
        "need another version)"
    )
