"""Everyday tasks on SmolLM2-135M: hypernetworks, oracles of a sample of tasks, and the board. One command, and again after a stop.

python -m experiments.smollm2.run --out runs/real

Each step is a `t2l` command that goes on where it was stopped and is done at once if it is finished.
"""

from __future__ import annotations

import argparse
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path

CONTENDERS = ("base", "prompted", "icl", "prompted_icl", "library_mean", "multi_task", "nearest", "oracle", "generated")
"""what is scored"""
RECIPES = ("sft", "distillation", "reconstruction")
BRIEF = {
    "sft": ["trainer.steps=360"],
    "distillation": ["trainer.steps=150", "trainer.tasks_per_step=32"],
    "library": ["sample=48", "training.steps=40", "multi_task.steps=100"],
    "reconstruction": [],
    "board": ["evaluation.tasks_per_split=12"],
}
"""for `make real`: what fits into an hour and a half on two cores"""
BRIEF_IN_BFLOAT16 = {**BRIEF, "sft": ["trainer.steps=600"]}
"""the same on processors on which a step takes half as long"""
FAST = ["base_model.dtype=bfloat16", "base_model.attention=eager"]
"""on processors that multiply bfloat16 in hardware (AMX); sdpa's backward is slow in bfloat16"""
THROUGH_BASE = [*FAST, "trainer.adapter_dtype=bfloat16", "trainer.pass_cost=240"]
"""there, of what is trained through the base"""


@cache
def scored_tasks(overrides: tuple[str, ...], seed: int) -> tuple[str, ...]:
    """Names of the tasks that the board scores, in all its splits: what gets an oracle."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf

    from t2l.config import config_folder, register
    from t2l.evaluation.board import view_split
    from t2l.evaluation.config import EvaluateConfig
    from t2l.tasks import suites

    register()
    GlobalHydra.instance().clear()
    words = ["experiment=everyday_board", "contenders=[base]", f"seed={seed}", *overrides]
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = OmegaConf.to_object(compose("evaluate", overrides=words))
    GlobalHydra.instance().clear()
    assert isinstance(config, EvaluateConfig)
    suite = suites.build(config.suite)
    views = [view_split(suite, name, config.evaluation, config.seed) for name in config.splits or suite.splits]
    return tuple(dict.fromkeys(task.name for view in views for task in view.tasks))


def multiplies_bfloat16() -> bool:
    """Whether this processor does so in hardware, by tiles (AMX)."""
    import torch

    return bool(torch.cpu._is_amx_tile_supported())


def commands(out: Path, seed: int = 0, brief: bool = True, is_fast: bool = False) -> dict[str, list[str]]:
    """The `t2l` commands, in order, by the name of what they make.

    Args:
        brief: the lengths of `make real`, with oracles of the scored tasks and of a sample of the training tasks.
        is_fast: whether training goes through the base in bfloat16. Scoring does what training did.
    """
    more = (BRIEF_IN_BFLOAT16 if is_fast else BRIEF) if brief else {key: [] for key in BRIEF}
    own = [f"seed={seed}"]
    library = [*more["library"], "train_multi_task=true"]
    if brief:  # seeds of training are scored on the same tasks
        library.append(f"tasks=[{','.join(scored_tasks(tuple(more['board']), 0))}]")
    base, through = (FAST, THROUGH_BASE) if is_fast else ([], [])
    made = {name: f"{out}/{name}" for name in RECIPES}
    trained = {
        name: ["train", f"experiment=everyday_{name}", *more[name], *own, f"run_dir={folder}"]
        for name, folder in made.items()
    }
    return {
        "sft": [*trained["sft"], *through],
        "distillation": [*trained["distillation"], *through],
        "library": ["train_library", "experiment=everyday_library", *library, *own, *base, f"run_dir={out}/library"],
        "reconstruction": [*trained["reconstruction"], *base, f"library={out}/library"],
        "board": [
            "evaluate", "experiment=everyday_board", *more["board"], f"library={out}/library",
            f"checkpoints=[{','.join(made.values())}]", f"contenders=[{','.join(CONTENDERS)}]", "robustness_split=null",
            "keep_calibration=true", f"run_dir={out}/board",
        ],
        "exported": ["export", made["sft"], f"report={out}/board", f"run_dir={out}/exported", "licence=apache-2.0"],
    }  # fmt: skip


def run_to_its_end(command: Sequence[str]) -> int:
    """Runs a command and returns its exit code. If this process is stopped, so is the command: two would share a folder."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    process = subprocess.Popen(command)
    try:
        return process.wait()
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    finally:
        process.terminate()
        process.wait()
        signal.signal(signal.SIGTERM, before)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the commands, each after the one before it; exits with the code of the first that fails."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.smollm2.run", description=__doc__.splitlines()[0] if __doc__ else ""
    )
    parser.add_argument("--out", type=Path, default=Path("runs/real"), help="folder of everything that is made")
    parser.add_argument("--seed", type=int, default=0, help="seed of training")
    parser.add_argument(
        "--whole", action="store_true", help="the experiments' own lengths: hours instead of 90 minutes"
    )
    parser.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16"),
        default="auto",
        help="what the base computes in; auto: bfloat16 where the processor multiplies it in hardware (AMX)",
    )
    parser.add_argument(
        "--only", default="", help="comma-separated steps: sft, distillation, library, reconstruction, board, exported"
    )
    parsed = parser.parse_args(arguments)
    is_fast = parsed.dtype == "bfloat16" or (parsed.dtype == "auto" and multiplies_bfloat16())
    todo = commands(parsed.out, parsed.seed, not parsed.whole, is_fast)
    unknown = [name for name in parsed.only.split(",") if name and name not in todo]
    if unknown:
        parser.error(f"no step {unknown[0]!r}: choose from {', '.join(todo)}")
    start = time.monotonic()
    for number, (name, words) in enumerate(todo.items(), 1):
        if parsed.only and name not in parsed.only.split(","):
            continue
        print(f"\n[{number}/{len(todo)}] {name}: t2l {shlex.join(words)[:200]}", flush=True)
        code = run_to_its_end([sys.executable, "-m", "t2l", *words])
        if code:
            sys.exit(code)
        print(f"[{number}/{len(todo)}] {name}: done, {(time.monotonic() - start) / 60:.0f} minutes so far", flush=True)


if __name__ == "__main__":
    main()
