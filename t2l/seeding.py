"""Named random generators: each a function of its key, so that no draw depends on what was drawn before."""

from __future__ import annotations

import hashlib

import numpy as np


def generator_for(*key: int | str) -> np.random.Generator:
    """A random generator that is a function of its key alone, the same on every machine."""
    digest = hashlib.sha256("\x1f".join(str(k) for k in key).encode()).digest()
    return np.random.default_rng(np.frombuffer(digest, dtype=np.uint32))
