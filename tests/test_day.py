"""A day's work as the README has it: every command of that block, in small settings."""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
from pathlib import Path

import pytest
from small_run import SMALL, TRAINER
from test_cli import refused

from t2l.cli import main

README = Path(__file__).parent.parent / "README.md"
BOARD = ["tasks_per_split=2", "examples_per_task=2", "descriptions_per_task=1", "bootstrap_samples=20"]
SMALLER = {
    "train": [*SMALL, *TRAINER, "descriptions_per_task=2", "trainer.steps=2", "trainer.validate_every=2", "trainer.validation_tasks=2"],
    "evaluate": [*SMALL, *(f"evaluation.{b}" for b in BOARD), "keep_calibration=true", "robustness_split=null", "contenders=[base,generated]", "splits=[unseen_combination]"],
}  # fmt: skip
"""what makes a command of the block quick"""


def commands() -> list[list[str]]:
    """The words of each command behind `t2l`."""
    block = re.search(r"A day's work.*?```\n(.*?)```", README.read_text(), re.DOTALL)
    assert block is not None
    return [shlex.split(line)[1:] for line in block[1].splitlines()]


def run(words: list[str]) -> None:
    main([*words, *SMALLER.get(words[0], [])])


def test_a_days_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    sweep, runs, evaluate, report, generate, merge = commands()
    # One job fails: a run of other settings is in its folder.
    taken = Path("runs/day/3_hypernetwork-m_seed2")
    taken.mkdir(parents=True)
    (taken / "run.json").write_text(json.dumps({"verb": "train", "config": {"seed": 7}}))
    with pytest.raises(SystemExit) as ended:
        run(sweep)
    assert ended.value.code == 1
    shown = capsys.readouterr()
    assert "t2l: sweep in runs/day: 7 of 8 jobs finished" in shown.err
    assert "8 runs: 7 finished, 1 failed" in shown.out
    best = re.search(r"best by validation/loss: (runs/day/\S+)", shown.out)
    assert best is not None

    run(runs)
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert sorted(row["state"] for row in rows) == ["failed", *7 * ["finished"]]
    assert min((row for row in rows if row["score"]), key=lambda row: float(row["score"]))["folder"] == best[1]

    run(evaluate)
    told = json.loads(Path("runs/day_board/report.json").read_text())
    names = {row["contender"] for row in told["results"] if row["contender"].startswith("generated")}
    for architecture in ("l", "m", "s", "residual"):
        assert any(re.search(rf"\b{architecture}\b", name) for name in names), (architecture, names)
    assert not [name for name in names if re.search(r"_\d\b", name)]

    run(report)
    assert "\\begin{tabular}" in Path("day_board.tex").read_text()

    capsys.readouterr()
    run(generate)
    assert f"runs/day is a sweep: {best[1]}, " in "".join(capsys.readouterr())
    run(merge)
    assert Path("day_model/model.safetensors").is_file()


def test_a_sweep_without_a_finished_run_has_no_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs/day/0_seed1").mkdir(parents=True)
    Path("runs/day/0_seed1/job.json").write_text(json.dumps({"launch": "x", "state": "failed", "reason": "no"}))
    Path("runs/day/sweep.json").write_text(json.dumps({"jobs": []}))
    said = refused(capsys, "generate", "Keep it.", "checkpoint=runs/day", "run_dir=out")
    assert "of the 1 runs of that sweep no finished one has the best validation score" in said
    assert not Path("out").exists()
