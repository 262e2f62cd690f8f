"""Generation: how fast do descriptions become adapters, next to writing them to disk?

Embeddings are given; the encoder is not part of the measurement. Each contender makes N adapters. Writing
is timed on few adapters and scaled: `write` ends in the system's cache, `write_through` on the disk.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from experiments.speed.case import Case
from experiments.speed.timing import interleave, peak_bytes
from t2l.hypernetwork import Hypernetwork, TextToLoraConfig, build
from t2l.lora import LoraSpec, LoraWeights, ModuleGroup
from t2l.lora.peft_folder import save_adapter

D_EMBEDDING = 1024
CHUNK = 16
"""descriptions per forward pass, so that memory does not grow with N"""
ARCHITECTURES = ("l", "m", "s")


@dataclass(frozen=True)
class Setting:
    """Sizes of the base that adapters are for, of the hypernetwork, and how many are made and written."""

    width: int
    kv_width: int
    layers: int
    latent: int
    counts: tuple[int, ...]
    written: int
    rounds: int


SCALES = {
    "toy": Setting(16, 8, 2, 8, (1, 2), 1, 2),
    "cpu": Setting(4096, 1024, 32, 128, (1, 16, 256), 4, 5),
    "cuda": Setting(4096, 1024, 32, 128, (1, 16, 256), 16, 15),
}


def _spec(s: Setting) -> LoraSpec:
    layers = tuple(range(s.layers))

    def group(name: str, d_out: int) -> ModuleGroup:
        return ModuleGroup(name, name, s.width, d_out, layers, tuple(f"layers.{i}.{name}" for i in layers))

    return LoraSpec((group("q_proj", s.width), group("v_proj", s.kv_width)), 8, 16.0)


def _generate(hypernetwork: Hypernetwork, embeddings: torch.Tensor) -> Callable[[], None]:
    @torch.no_grad()
    def call() -> None:
        for chunk in embeddings.split(CHUNK):
            hypernetwork(chunk)

    return call


def _write(spec: LoraSpec, weights: LoraWeights, folder: Path, through: bool) -> Callable[[], None]:
    def call() -> None:
        for i in range(weights.batch_size):
            out = folder / str(i)
            save_adapter(out, spec, weights[i], "base", {})
            if through:
                for path in out.iterdir():
                    descriptor = os.open(path, os.O_RDONLY)
                    os.fsync(descriptor)
                    os.close(descriptor)

    return call


def run(scale: str, device: torch.device) -> list[Case]:
    """One case per number of descriptions."""
    s, cases = SCALES[scale], []
    spec = _spec(s)
    hypernetworks = {
        a: build(TextToLoraConfig(a, latent=s.latent), spec, D_EMBEDDING, 0).to(device).eval() for a in ARCHITECTURES
    }
    with tempfile.TemporaryDirectory() as name:
        for count in s.counts:
            embeddings = torch.randn(count, D_EMBEDDING, device=device)
            written = min(count, s.written)
            with torch.no_grad():
                weights = hypernetworks["l"](embeddings[:written]).to("cpu")
            calls = {a: _generate(h, embeddings) for a, h in hypernetworks.items()}
            calls["write"] = _write(spec, weights, Path(name), through=False)
            calls["write_through"] = _write(spec, weights, Path(name), through=True)
            rounds = s.rounds if count <= CHUNK else min(s.rounds, 2)
            seconds = interleave(calls, device, rounds, budget_s=10 if count <= CHUNK else 30)
            scaled = {k: [t * (count / written if k.startswith("write") else 1) for t in v] for k, v in seconds.items()}
            peak = {a: peak_bytes(calls[a], device) for a in hypernetworks} if count <= CHUNK else {}
            best = {k: round(count / min(v), 1) for k, v in scaled.items()}
            cases.append(
                Case(
                    f"generation of {count} adapters",
                    {
                        "adapter_bytes": 4 * spec.parameters_per_adapter, "layers": s.layers, "width": s.width,
                        "parameters": {a: sum(p.numel() for p in h.parameters()) for a, h in hypernetworks.items()},
                        "written": written, "chunk": CHUNK,
                    },
                    "write",
                    scaled,
                    peak,
                    checks={"adapters_per_second": best},
                    sweeps={"descriptions": count},
                )
            )  # fmt: skip
    return cases
