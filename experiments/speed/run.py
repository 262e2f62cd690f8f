"""Runs the benchmarks and writes their report.

python -m experiments.speed.run --out runs/bench --only injection,library_step --device cuda
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

BENCHMARKS = ("injection", "sft_step", "library_step", "reconstruction", "generation", "evaluation")


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m experiments.speed.run", description="Times the hot paths.")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"), help="folder of the report")
    parser.add_argument("--only", default=",".join(BENCHMARKS), help="comma-separated benchmarks (default: all)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda runs Mistral-7B sizes in bf16")
    parser.add_argument("--toy", action="store_true", help="tiny sizes, to see that everything runs")
    parser.add_argument("--threads", type=int, default=None, help="torch threads on the CPU (default: torch's own)")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: time of this process alone")
    parsed = parser.parse_args(arguments)
    parsed.only = parsed.only.split(",")
    unknown = [name for name in parsed.only if name not in BENCHMARKS]
    if unknown:
        parser.error(f"unknown benchmark {unknown[0]!r}: choose from {', '.join(BENCHMARKS)}")
    return parsed


def _about(device: Any, scale: str) -> dict[str, Any]:
    import torch

    from t2l.run.record import environment

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return {"device": name, "threads": torch.get_num_threads(), "scale": scale, "environment": environment()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the benchmarks asked for, prints every case and target, and writes the report."""
    parsed = _arguments(arguments)
    for variable, value in (("HF_HUB_OFFLINE", "1"), ("TOKENIZERS_PARALLELISM", "false"), ("KINETO_LOG_LEVEL", "99")):
        os.environ.setdefault(variable, value)
    import torch
    from transformers.utils import logging

    from experiments.speed.case import case_line, target_line
    from experiments.speed.report import write_report
    from experiments.speed.timing import use_clock

    logging.disable_progress_bar()
    use_clock(parsed.clock)
    if parsed.threads is not None:
        torch.set_num_threads(parsed.threads)
    if parsed.device == "cuda" and not torch.cuda.is_available():
        sys.exit("experiments.speed.run: error: torch sees no CUDA device: use --device cpu")
    device = torch.device(parsed.device)
    scale = "toy" if parsed.toy else parsed.device
    benchmarks: dict[str, list[dict[str, Any]]] = {}
    about = {**_about(device, scale), "clock": parsed.clock, "time_s": {}}
    try:
        for name in parsed.only:
            start = time.perf_counter()
            module = importlib.import_module(f"experiments.speed.{name}")
            benchmarks[name] = [case.to_json() for case in module.run(scale, device)]
            about["time_s"][name] = round(time.perf_counter() - start, 1)
            for case in benchmarks[name]:
                print(case_line(case), flush=True)
                for target in case["targets"]:
                    print(f"    {target_line(target)}", flush=True)
    finally:
        if benchmarks:
            write_report(parsed.out, benchmarks, about)
    print(f"report: {parsed.out / 'report.md'}")


if __name__ == "__main__":
    main()
