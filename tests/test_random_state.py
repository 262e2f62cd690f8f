"""A resumed run draws what an uninterrupted one would have drawn, whatever draws it."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from t2l.files import read_tensors, write_tensors
from t2l.training import random_state


def draws() -> list[float]:
    return [float(torch.rand(())), random.random(), random.gauss(0, 1), *np.random.random(2), float(np.random.normal())]


@pytest.mark.parametrize("before", [0, 1], ids=["fresh", "half a pair of normal values used"])
def test_every_generator_comes_back_through_a_file(tmp_path: Path, before: int) -> None:
    for _ in range(before):
        random.gauss(0, 1), np.random.normal()
    write_tensors(tmp_path / "states.safetensors", random_state.capture())
    expected = draws()
    draws()
    random_state.restore(read_tensors(tmp_path / "states.safetensors"))
    assert draws() == expected


def test_what_a_block_draws_changes_nothing_outside() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    with random_state.undisturbed():
        draws()
    assert torch.equal(torch.rand(4), expected)


class Devices:
    """Stands for torch.cuda on a machine with some devices."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
        self.states = [torch.full((16,), i, dtype=torch.uint8) for i in range(count)]
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(self.states))
        monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: [s.clone() for s in self.states])
        monkeypatch.setattr(torch.cuda, "set_rng_state_all", self.set)

    def set(self, states: list[Tensor]) -> None:
        self.states = [*states, *self.states[len(states) :]]


def test_the_state_of_every_device_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    devices = Devices(monkeypatch, 12)
    kept = random_state.capture()
    assert {k for k in kept if k.startswith("cuda.")} == {f"cuda.{i}" for i in range(12)}
    devices.states = [torch.zeros(16, dtype=torch.uint8)] * 12
    random_state.restore(kept)
    assert [int(s[0]) for s in devices.states] == list(range(12))


def test_another_number_of_devices_is_told(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    Devices(monkeypatch, 2)
    kept = random_state.capture()
    fewer = Devices(monkeypatch, 1)
    fewer.states = [torch.full((16,), 9, dtype=torch.uint8)]
    random_state.restore(kept)
    assert int(fewer.states[0][0]) == 0
    assert "random states of 2 cuda devices were kept, and 1 are here" in caplog.text
