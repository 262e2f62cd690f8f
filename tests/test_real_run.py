"""The commands of `make real` compose, and score what they make oracles of."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.smollm2.run import commands, main, run_to_its_end, scored_tasks
from t2l.cli.command import command_words, read_command
from t2l.evaluation.board import view_split
from t2l.tasks.suites import build


@pytest.mark.parametrize(("brief", "is_fast"), [(True, True), (False, False)])
def test_every_command_composes(tmp_path: Path, brief: bool, is_fast: bool) -> None:
    dtypes = set()
    for words in commands(tmp_path, seed=3, brief=brief, is_fast=is_fast).values():
        for settings in read_command(words[0], command_words(words[0], words[1:])).settings:
            dtypes |= {settings.base_model.dtype} if words[0] in ("train", "train_library") else set()
    assert dtypes == {"bfloat16" if is_fast else "float32"}


def test_the_library_is_of_training_tasks_too(tmp_path: Path) -> None:
    for brief in (True, False):
        made = commands(tmp_path, brief=brief)
        (library,) = read_command("train_library", command_words("train_library", made["library"][1:])).settings
        assert library.train_multi_task
        assert (library.tasks is None) == (library.sample is None) == (not brief)


def test_every_scored_task_gets_an_oracle(tmp_path: Path) -> None:
    made = commands(tmp_path)
    read = {
        name: read_command(made[name][0], command_words(made[name][0], made[name][1:])) for name in ("library", "board")
    }
    (library,), (board,) = read["library"].settings, read["board"].settings
    suite = build(board.suite)
    scored = {t.name for s in board.splits for t in view_split(suite, s, board.evaluation, board.seed).tasks}
    assert set(library.tasks) == scored == set(scored_tasks(("evaluation.tasks_per_split=12",), 0))
    assert len(scored) == 48


def test_a_stop_stops_the_command_too(tmp_path: Path) -> None:
    """Left alone, it would go on writing the folder in which the next start goes on."""
    child = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    whole = f"import sys; from experiments.smollm2.run import run_to_its_end as r; sys.exit(r([sys.executable, '-c', {child!r}]))"
    outer = subprocess.Popen([sys.executable, "-c", whole])
    deadline = time.monotonic() + 60
    while not (tmp_path / "pid").is_file() or not (pid := (tmp_path / "pid").read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    outer.send_signal(signal.SIGTERM)
    assert outer.wait(30) == 128 + signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)


def test_exit_codes_are_handed_on() -> None:
    assert run_to_its_end([sys.executable, "-c", "raise SystemExit(3)"]) == 3


def test_an_unknown_step_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--only", "sftt"])
    assert stopped.value.code == 2
    assert "choose from sft, distillation" in capsys.readouterr().err
