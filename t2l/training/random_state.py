"""The state of every random generator that training may draw from: kept in checkpoints, brought back on resuming."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

log = logging.getLogger(__name__)
ACCELERATORS = ("cuda", "xpu")
"""of torch's backends, those whose devices have a generator each"""


def capture() -> dict[str, Tensor]:
    """The states of Python's, NumPy's and torch's generators, those of every device of this process included."""
    version, words, gauss = random.getstate()
    drawn: Any = np.random.get_state(legacy=True)
    kind, keys, position, has_gauss, cached = drawn
    assert version == 3
    assert kind == "MT19937"
    states = {
        "torch": torch.get_rng_state(),
        "python": torch.tensor(words, dtype=torch.int64),
        "python_gauss": torch.tensor([] if gauss is None else [gauss], dtype=torch.float64),
        "numpy": torch.tensor([*np.asarray(keys).tolist(), position, has_gauss], dtype=torch.int64),
        "numpy_gauss": torch.tensor([cached], dtype=torch.float64),
    }
    for name in ACCELERATORS:
        backend = getattr(torch, name)
        if backend.is_available():
            states |= {f"{name}.{i}": state for i, state in enumerate(backend.get_rng_state_all())}
    if torch.backends.mps.is_available():
        states["mps"] = torch.mps.get_rng_state()
    return states


def restore(states: Mapping[str, Tensor]) -> None:
    """Brings generators to the states that `capture` found; what it did not find is left alone.

    Devices that are no longer there, or have come new, are named in a warning.
    """
    torch.set_rng_state(states["torch"])
    if "python" in states:
        gauss = states["python_gauss"].tolist()
        random.setstate((3, tuple(states["python"].tolist()), gauss[0] if gauss else None))
    if "numpy" in states:
        *keys, position, has_gauss = states["numpy"].tolist()
        cached = float(states["numpy_gauss"])
        np.random.set_state(("MT19937", np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    for name in ACCELERATORS:
        _restore_devices(name, getattr(torch, name), states)
    if "mps" in states and torch.backends.mps.is_available():
        torch.mps.set_rng_state(states["mps"])


def _restore_devices(name: str, backend: Any, states: Mapping[str, Tensor]) -> None:
    keys = sorted((k for k in states if k.startswith(f"{name}.")), key=lambda k: int(k.rpartition(".")[2]))
    kept = [states[key] for key in keys]
    here = backend.device_count() if backend.is_available() else 0
    if len(kept) != here:
        log.warning(
            "random states of %d %s devices were kept, and %d are here: what is drawn on them may differ from an "
            "uninterrupted run",
            len(kept), name, here,
        )  # fmt: skip
    if kept and here:
        backend.set_rng_state_all(kept[:here])


@contextmanager
def undisturbed() -> Iterator[None]:
    """Leaves every generator as it was, whatever the block draws."""
    before = capture()
    try:
        yield
    finally:
        restore(before)
