"""Memory of an SFT step: estimated from configs, and measured where there is a device for it.

python -m experiments.memory.run --out experiments/memory/results.json
python -m experiments.memory.run --device cuda --bases gemma2_2b --out /tmp/measured.json
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

BASES = ("gemma2_2b", "mistral_7b")
STORAGES = ("none", "nf4")
HYPERNETWORKS = ("l", "m", "s")
ROWS, LENGTH, RESPONSE = 8, 512, 64
"""the paper's step (8 tasks x 1 example), at the longest row"""
OVERRIDES = (
    "lora=paper",
    "trainer=paper_sft",
    "objective=sft_paper",
    "d_embedding=1024",
    f"length={LENGTH}",
    f"response={RESPONSE}",
)
SAVING = ("trainer.gradient_checkpointing=true", "trainer.optimizer=adamw_8bit", "trainer.adapter_dtype=bfloat16")


def _cells(bases: Sequence[str]) -> Iterator[dict[str, Any]]:
    for base in bases:
        for storage in STORAGES:
            for hypernetwork in HYPERNETWORKS:
                for saving in (False, True):
                    yield {"base_model": base, "quantization": storage, "hypernetwork": hypernetwork, "saving": saving}


def _config(cell: dict[str, Any], more: Sequence[str]) -> Any:
    from t2l.cli.settings import compose_settings

    overrides = [
        f"base_model={cell['base_model']}", f"base_model.quantization={cell['quantization']}",
        f"hypernetwork={cell['hypernetwork']}", *OVERRIDES, *(SAVING if cell["saving"] else ()), *more,
    ]  # fmt: skip
    return compose_settings("plan", overrides)


def random_base(config: Any, device: str) -> Any:
    """A base model of a config's architecture with random weights, stored as the config says."""
    import torch
    from transformers import AutoModelForCausalLM

    from t2l.base_model import BaseModel, Quantization, freeze
    from t2l.base_model.files import model_config
    from t2l.tasks.suites.word_list_tokenizer import build_tokenizer

    torch.manual_seed(0)
    architecture = model_config(config.path)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(architecture, dtype=getattr(torch, config.dtype))
    if config.quantization is Quantization.nf4:
        _store_in_nf4(model, getattr(torch, config.dtype), device)
    return BaseModel(freeze(model), build_tokenizer(), config.path, config.path, "random weights")


def _store_in_nf4(model: Any, dtype: Any, device: str) -> None:
    """Puts every linear layer but the output head into 4 bits, one after another."""
    from bitsandbytes.nn import Linear4bit, Params4bit
    from torch import nn

    for path, module in list(model.named_modules()):
        if not isinstance(module, nn.Linear) or module is model.get_output_embeddings():
            continue
        small = Linear4bit(
            module.in_features, module.out_features, module.bias is not None, compute_dtype=dtype, quant_type="nf4",
            device="meta",
        )  # fmt: skip
        small.weight = Params4bit(
            module.weight.detach().cpu(), requires_grad=False, quant_type="nf4", compress_statistics=True
        )
        if module.bias is not None:
            small.bias = module.bias
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, small.to(device))


def measure(config: Any, device: str, steps: int = 5) -> dict[str, float]:
    """Peak memory and speed of SFT steps through a base with random weights.

    On a CPU the peak is how far the process's resident memory grew, which holds for the first call in a process alone.
    """
    import resource

    import torch

    from t2l import hypernetwork as hypernetworks
    from t2l.base_model import lora_spec
    from t2l.objectives import SftObjective, Steps
    from t2l.tasks import TokenizedExample
    from t2l.training.optimizer import make_optimizer

    trainer = replace(config.trainer, tasks_per_step=ROWS, rows_per_task=1)
    before = _resident_gib()
    base = random_base(config.base_model, device)
    spec = lora_spec(base.model, config.lora)
    hypernetwork = hypernetworks.build(config.hypernetwork, spec, config.d_embedding, seed=0).to(device).train()
    prompt = tuple(range(5, 5 + config.length - config.response))
    row = TokenizedExample(prompt, tuple(range(5, 5 + config.response)))
    embeddings = [torch.randn(1, config.d_embedding) for _ in range(ROWS)]
    training = Steps(SftObjective(config.objective, trainer, base, [[row]] * ROWS), embeddings, trainer, 0)
    optimizer = make_optimizer(trainer, hypernetwork)
    times = []
    for step in range(steps):
        began = time.perf_counter()
        training.backward(hypernetwork, step)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    seconds = sorted(times)[len(times) // 2]
    found = {"tokens_per_second": ROWS * config.length / seconds}
    if device.startswith("cuda"):
        found["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
        torch.cuda.reset_peak_memory_stats()
    else:
        found["peak_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20 - before
    return found


def _resident_gib() -> float:
    """Resident memory of this process (Linux)."""
    import os

    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**30


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes every cell with its estimate, and what was measured."""
    parser = argparse.ArgumentParser(prog="python -m experiments.memory.run", description="Memory of an SFT step.")
    parser.add_argument("--out", type=Path, default=Path("runs/memory.json"), help="file to write")
    parser.add_argument("--bases", default=",".join(BASES), help="comma-separated configs of conf/base_model")
    parser.add_argument("--cells", type=int, default=None, help="number of cells, the first ones; none: all")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="overrides of `t2l plan`, for every cell")
    parser.add_argument("--device", default=None, help="device to measure on, like cuda; none: estimates alone")
    parsed = parser.parse_args(arguments)
    from t2l.files import write_json
    from t2l.run.record import environment
    from t2l.verbs.plan import plan

    rows = []
    for cell in islice(_cells(parsed.bases.split(",")), parsed.cells):
        config = _config(cell, parsed.overrides)
        row = {**cell, "estimated_gib": plan(config).memory.total / 2**30}
        if parsed.device is not None:
            row |= measure(config, parsed.device)
        rows.append(row)
        print(json.dumps(row))
    about = {
        "rows": ROWS,
        "length": LENGTH,
        "response": RESPONSE,
        "device": parsed.device,
        "environment": environment(),
    }
    write_json(parsed.out, {**about, "cells": rows})


if __name__ == "__main__":
    main()
