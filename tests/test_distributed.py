"""Two gloo processes on one machine do what one process does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from t2l.cli import main
from t2l.cli.settings import compose_settings
from t2l.distributed import World, launched
from t2l.verbs.library import examine_library
from t2l.verbs.train_library import train_library

SMALL = ["suite.train_examples=16", "suite.test_examples=4", "suite.train_compositions=5"]
TRAIN = [
    *SMALL, "descriptions_per_task=2", "hypernetwork=residual", "trainer.steps=12", "trainer.tasks_per_step=8",
    "trainer.log_every=1", "trainer.description_noise=0.3", "trainer.checkpoint_every=5",
    "trainer.validate_every=4", "trainer.validate_score=true", "trainer.validation_tasks=5", "trainer.validation_rows=3",
]  # fmt: skip
TASKS = "[keep_tools,count_jobs,sort,reverse,any_animals]"
LIBRARY = [*SMALL, f"tasks={TASKS}", "training.steps=25", "training.cycles=1", "training.rows_per_task=2"]


def torchrun(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "t2l"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([*command, *arguments], env=environment, capture_output=True, text=True, timeout=600, cwd=cwd)


def metrics(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    main(["train", *TRAIN, f"run_dir={folder}/run"])
    return folder / "run"


@pytest.mark.slow
@pytest.mark.parametrize("shard", [False, True], ids=["replicated", "sharded"])
def test_two_processes_train_like_one(alone: Path, tmp_path: Path, shard: bool) -> None:
    done = torchrun("train", *TRAIN, f"base_model.shard={shard}", f"run_dir={tmp_path}/run")
    assert done.returncode == 0, done.stderr[-2000:]
    one, two = metrics(alone), metrics(tmp_path / "run")
    assert [m["step"] for m in one] == [m["step"] for m in two] == list(range(1, 13))
    for a, b in zip(one, two, strict=True):
        assert set(a) == set(b)
        for key in a:
            assert b[key] == pytest.approx(a[key], rel=2e-3, abs=1e-5), key


def test_processes_of_a_library_do_not_share_one_base(tmp_path: Path) -> None:
    settings = compose_settings("train_library", [*LIBRARY, "base_model.shard=true", f"run_dir={tmp_path}/library"])
    with pytest.raises(ValueError, match=r"base_model\.shard=false"):
        train_library(settings, World(0, 2))
    assert not (tmp_path / "library").exists()


@pytest.mark.slow
def test_two_processes_train_the_library_of_one(tmp_path: Path) -> None:
    done = torchrun("train_library", *LIBRARY, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    # Without a folder of its own the main process finds one, and tells the other.
    (default,) = (tmp_path / "runs/train_library").glob("[!.]*")
    assert done.stderr.count(f"t2l: folder: runs/train_library/{default.name}") == 1
    assert {p.name for p in tmp_path.iterdir()} == {"runs"}
    default.rename(tmp_path / "two")
    main(["train_library", *LIBRARY, f"run_dir={tmp_path}/one"])
    one, two = (examine_library(tmp_path / name) for name in ("one", "two"))
    assert [a.task for a in one.adapters] == [a.task for a in two.adapters]
    assert len(one.adapters) == 5
    assert not two.problems
    for entry in one.adapters:
        first, second = (
            load_file(tmp_path / name / "adapters" / entry.task / "adapter_model.safetensors")
            for name in ("one", "two")
        )
        for key, tensor in first.items():
            torch.testing.assert_close(tensor, second[key], atol=2e-4, rtol=0)


def test_what_runs_in_one_process_says_so() -> None:
    done = torchrun("evaluate", "contenders=[base]")
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if line.startswith("t2l: error:")]
    assert lines == [
        "t2l: error: evaluate runs in one process: start it without torchrun; in several run train, train_library"
    ]


def test_shares_cover_everything_once() -> None:
    parts = [list(range(12))[World(rank, 3).share(12, "x")] for rank in range(3)]
    assert [i for part in parts for i in part] == list(range(12))
    with pytest.raises(ValueError, match=r"x=10 does not divide among 3 processes"):
        World(0, 3).share(10, "x")


def test_alone_is_a_world_of_one() -> None:
    world = launched()
    assert world == World(0, 1)
    assert world.is_main
    assert world.gather("x") == ["x"]
    assert world.mean({"a": 2.0}) == {"a": 2.0}
    module = torch.nn.Linear(2, 2)
    assert world.data_parallel(module) is module
