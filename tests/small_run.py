"""The whole path in small, made once for all the tests that look at its results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from t2l.base_model import freeze, hash_parameters
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
ONE = "one/keep_only_the_animals_please_it_s_100_urgent_now"
"""the generated adapter"""


BASE_HASHES = "base_hashes.json"
"""by verb, a pair for each base it loaded: the hash of its parameters when it was loaded, and when the verb had ended"""


def make(root: Path) -> Path:
    """A library, a reconstruction and an SFT checkpoint, a report, and a generated adapter."""
    brief = [
        f"{part}.{key}" for part in ("training", "multi_task") for key in ("steps=2", "rows_per_task=2", "cycles=1")
    ]
    board = ["tasks_per_split=3", "examples_per_task=2", "descriptions_per_task=2", "bootstrap_samples=20"]
    commands = {
        "library": ["train_library", *SMALL, *brief, "training.tasks_at_once=64", f"run_dir={root}/library"],
        "sft": ["train", *TRAIN, f"run_dir={root}/sft"],
        "reconstruction": [
            "train", *TRAIN, "objective=reconstruction", f"library={root}/library", f"run_dir={root}/reconstruction",
        ],
        "board": [
            "evaluate", *SMALL, *(f"evaluation.{b}" for b in board), f"library={root}/library",
            f"checkpoints=[{root}/sft,{root}/reconstruction]", f"run_dir={root}/board", "few_shot.steps=2",
            "keep_calibration=true", f"contenders=[{','.join(CONTENDERS)}]",
        ],
        "one": ["generate", DESCRIPTION, "--checkpoint", f"{root}/sft", "--out", f"{root}/one"],
    }  # fmt: skip
    hashes = {name: _watched(command) for name, command in commands.items()}
    (root / BASE_HASHES).write_text(json.dumps(hashes))
    return root


def _watched(command: list[str]) -> list[tuple[str, str]]:
    """Runs a command. Returns the hashes, before and after, of the bases that it loaded."""
    loaded: list[tuple[str, Any]] = []

    def freezing(model: Any) -> Any:
        frozen = freeze(model)
        loaded.append((hash_parameters(frozen), frozen))
        return frozen

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("t2l.base_model.loading.freeze", freezing)
        main(command)
    return [(before, hash_parameters(model)) for before, model in loaded]
