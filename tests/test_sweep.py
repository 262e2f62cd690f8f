"""A job of a sweep that fails does so alone, under every launcher, and the sweep ends with a list and exit code 1."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from test_cli import refused

from t2l.cli import main
from t2l.cli.command import command_words, read_command, run_sweep

KINDS = ["value", "error", "exit", "memory", "killed", "interrupt", "fine"]
"""what the job of each seed does"""


def work(verb: str, settings: Any) -> None:
    """Instead of pretraining: fails as the seed says, in one of the ways in which jobs do."""
    kind = KINDS[settings.seed]
    print("began", settings.run_dir)
    if kind == "value":
        raise ValueError("rows_per_task is\ntoo large")
    if kind == "error":
        raise RuntimeError("nobody foresaw this")
    if kind == "exit":
        sys.exit(3)
    if kind == "memory":
        raise MemoryError
    if kind == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "interrupt":
        raise KeyboardInterrupt
    Path(settings.run_dir, "done.txt").write_text("done")


def sweep(kinds: str, *words: str) -> None:
    words_typed = command_words("pretrain_base", ["-m", "out=out", f"seed={kinds}", *words])
    run_sweep(read_command("pretrain_base", words_typed), work)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def states() -> dict[str, tuple[str, str | None]]:
    jobs = json.loads(Path("out/sweep.json").read_text())["jobs"]
    return {KINDS[int(Path(job["folder"]).name.partition("seed")[2])]: (job["state"], job["reason"]) for job in jobs}


def test_each_job_fails_alone(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):  # the same command again does all of them again
        with pytest.raises(SystemExit) as stopped:
            sweep("0,1,2,3,6")
        assert stopped.value.code == 1
        assert states() == {
            "value": ("failed", "rows_per_task is too large"),
            "error": ("failed", "RuntimeError: nobody foresaw this"),
            "exit": ("failed", "stopped with exit code 3"),
            "memory": ("failed", "MemoryError"),
            "fine": ("finished", None),
        }
        shown = capsys.readouterr()
        assert shown.out.count("began") == 5
        assert "Traceback" not in shown.err
        assert "t2l: sweep in out: 1 of 5 jobs finished" in shown.err
        assert "    1  failed       seed=1  (RuntimeError: nobody foresaw this)" in shown.err
        assert "    4  finished     seed=6\n" in shown.err
    assert "Traceback" in Path("out/1_seed1/pretrain_base.log").read_text()
    assert "Traceback" not in Path("out/0_seed0/pretrain_base.log").read_text()
    assert Path("out/4_seed6/done.txt").is_file()


def test_a_sweep_of_sound_jobs_ends_well() -> None:
    sweep("6", "steps=1,2")
    assert {job["state"] for job in json.loads(Path("out/sweep.json").read_text())["jobs"]} == {"finished"}


def test_an_interrupt_ends_the_sweep() -> None:
    with pytest.raises(KeyboardInterrupt):
        sweep("5,6")
    assert not Path("out/1_seed6").exists()


def test_killed_workers_take_no_other_job_with_them() -> None:
    with pytest.raises(SystemExit) as stopped:
        sweep("4,6", "hydra/launcher=local", "hydra.launcher.n_jobs=2")
    assert stopped.value.code == 1
    assert states() == {"killed": ("failed", "its process was killed; is memory short?"), "fine": ("finished", None)}


def test_jobs_of_submitit_fail_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # for this file's `work`
    with pytest.raises(SystemExit) as stopped:
        sweep("1,6", "hydra/launcher=submitit_local", "hydra.launcher.timeout_min=5")
    assert stopped.value.code == 1
    assert states() == {"error": ("failed", "RuntimeError: nobody foresaw this"), "fine": ("finished", None)}


def test_every_job_is_checked_before_any_runs(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "trainer.lr must be positive, not -1" in refused(capsys, "train", "-m", "seed=1,2", "trainer.lr=0.1,-1")
    assert not list(tmp_path.iterdir())


def test_the_command_itself(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["train_library", "-m", "tasks=[sort]", "base_model.path=./nowhere,./neither"])
    assert stopped.value.code == 1
    said = capsys.readouterr().err
    assert "t2l: error: job 0: base_model.path=./nowhere: no such folder" in said
    assert "0 of 2 jobs finished" in said
