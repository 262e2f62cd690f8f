"""The whole path in small, made once for all the tests that look at its results."""

from __future__ import annotations

from pathlib import Path

from t2l.cli import main

SMALL = ["suite.train_examples=16", "suite.test_examples=4", "suite.train_compositions=5"]
TRAINER = ["trainer.steps=12", "trainer.tasks_per_step=8", "trainer.checkpoint_every=3", "trainer.log_every=1"]
TRAIN = [*SMALL, *TRAINER, "descriptions_per_task=2", "hypernetwork=l"]
PLAIN = [
    "base",
    "prompted",
    "icl",
    "prompted_icl",
    "formal_code",
    "library_mean",
    "multi_task",
    "nearest",
    "few_shot",
    "oracle",
]
CONTENDERS = [*PLAIN, "generated", "refined"]
CONTROLS = ["shuffled", "shuffled_nearest", "random_text", "static"]
DESCRIPTION = 'Keep only the animals, please; it\'s 100% "urgent" = now.'


def make(root: Path) -> Path:
    """A library, a reconstruction and an SFT checkpoint, a report, and a generated adapter."""
    brief = [
        f"{part}.{key}" for part in ("training", "multi_task") for key in ("steps=2", "rows_per_task=2", "cycles=1")
    ]
    main(["train_library", *SMALL, *brief, "training.tasks_at_once=64", f"run_dir={root}/library"])
    main(["train", *TRAIN, f"run_dir={root}/sft"])
    main(["train", *TRAIN, "objective=reconstruction", f"library={root}/library", f"run_dir={root}/reconstruction"])
    board = ["tasks_per_split=3", "examples_per_task=2", "descriptions_per_task=2", "bootstrap_samples=20"]
    main(
        ["evaluate", *SMALL, *(f"evaluation.{b}" for b in board), f"library={root}/library",
         f"checkpoints=[{root}/sft,{root}/reconstruction]", f"run_dir={root}/board", "few_shot.steps=2", "keep_calibration=true",
         f"contenders=[{','.join(CONTENDERS)}]"]
    )  # fmt: skip
    main(["generate", DESCRIPTION, "--checkpoint", f"{root}/sft", "--out", f"{root}/one"])
    return root
