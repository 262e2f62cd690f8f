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

CONTENDERS = ("base", "prompted", "icl", "prompted_icl", "multi_task", "oracle", "generated")
"""what needs no oracle of every training task"""
BRIEF = {
    "sft": ["trainer.steps=360"],
    "distillation": ["trainer.steps=150", "trainer.tasks_per_step=32"],
    "library": [],
    "board": ["evaluation.tasks_per_split=12"],
}
"""for `make real`: what fits into an hour and a half on two cores"""


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


def commands(out: Path, seed: int = 0, brief: bool = True) -> dict[str, list[str]]:
    """The `t2l` commands, in order, by the name of what they make."""
    more = BRIEF if brief else {key: [] for key in BRIEF}
    tasks = scored_tasks(tuple(more["board"]), 0)  # seeds of training are scored on the same tasks
    own = [f"seed={seed}"]
    made = [f"{out}/{name}" for name in ("sft", "distillation")]
    return {
        "sft": ["train", "experiment=everyday_sft", *more["sft"], *own, f"run_dir={made[0]}"],
        "distillation": ["train", "experiment=everyday_distillation", *more["distillation"], *own, f"run_dir={made[1]}"],
        "library": [
            "train_library", "experiment=everyday_library", *more["library"], *own, f"tasks=[{','.join(tasks)}]",
            f"run_dir={out}/library",
        ],
        "board": [
            "evaluate", "experiment=everyday_board", *more["board"], f"library={out}/library",
            f"checkpoints=[{','.join(made)}]", f"contenders=[{','.join(CONTENDERS)}]", "robustness_split=null",
            "keep_calibration=true", f"run_dir={out}/board",
        ],
        "exported": ["export", made[0], f"report={out}/board", f"run_dir={out}/exported", "licence=apache-2.0"],
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
    parser.add_argument("--only", default="", help="comma-separated steps: sft, distillation, library, board, exported")
    parsed = parser.parse_args(arguments)
    todo = commands(parsed.out, parsed.seed, not parsed.whole)
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
