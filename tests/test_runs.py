"""`t2l runs`: what became of runs and sweeps, from their files, whatever state they are in."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from test_cli import refused

from t2l.cli import main
from t2l.cli.command import command_words, read_command, run_sweep
from t2l.files import write_json
from t2l.run.folder import LOCK
from t2l.run.memory import PeakMemory
from t2l.run.overview import by_seed, differing, find_runs, read_run
from t2l.verbs.runs import overview

SCORES = {("m", 1): 0.5, ("m", 2): 0.7, ("l", 1): 0.9, ("l", 2): 0.8}


def make_run(folder: Path, words: list[str], score: float | None = None, **more: Any) -> Path:
    """The files of a training run that has validated three times, the second time best."""
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra/overrides.yaml").write_text("".join(f"- {w}\n" for w in words))
    trainer = {"steps": 30, "select_by": "validation/score"}
    write_json(folder / "run.json", {"verb": "train", "config": {"trainer": trainer}, "finished": True, **more})
    lines = [{"step": s, "train/loss": 3 - s / 10} for s in (10, 20, 30)]
    if score is not None:
        for line, below in zip(lines, (0.2, 0.0, 0.1), strict=True):
            line["validation/score"] = score - below
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    pace = [{"step": 10, "time_s": 5.0, "peak_memory": 2**30}, {"step": 20, "time_s": 9.0, "peak_memory": 2**31}]
    pace.append({"step": 30, "time_s": 4.0, "peak_memory": 2**30})  # in a second start
    (folder / "timings.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in pace))
    return folder


@pytest.fixture
def sweep(tmp_path: Path) -> Iterator[Path]:
    """Two hypernetworks under two seeds, finished; and of each other state a run."""
    root = tmp_path / "sweep"
    for number, ((kind, seed), score) in enumerate(SCORES.items()):
        words = [f"hypernetwork={kind}", f"seed={seed}", "trainer.steps=30", f"run_dir={root}/{number}"]
        make_run(root / f"{number}_{kind}_seed{seed}", words, score)
    failed = make_run(root / "8_failed", ["hypernetwork=s", "seed=1", "trainer.steps=30"], 0.95, finished=False)
    write_json(failed / "job.json", {"launch": "x", "state": "failed", "reason": "lr is | too high", "starts": 1})
    stopped = make_run(root / "9_stopped", ["hypernetwork=s", "seed=2", "trainer.steps=30"], None, finished=False)
    with (stopped / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 40, "tra')
    running = make_run(root / "10_running", ["hypernetwork=s", "seed=3", "trainer.steps=30"], None, finished=False)
    damaged = root / "11_damaged"
    damaged.mkdir()
    (damaged / "run.json").write_text('{"verb": "tr')
    job = {"folder": str(root / "12_waits"), "overrides": ["hypernetwork=s", "seed=4"], "state": "not started"}
    write_json(root / "sweep.json", {"jobs": [{"job": 12, "reason": None, **job}]})
    with FileLock(running / LOCK):
        yield root


def test_every_state_is_told(sweep: Path) -> None:
    runs = {run.folder.name: run for run in find_runs(sweep)}
    assert [*runs] == [*(f"{i}_{k}_seed{s}" for i, (k, s) in enumerate(SCORES)), "8_failed", "9_stopped", "10_running",
                       "11_damaged", "12_waits"]  # fmt: skip
    assert [run.state for run in runs.values()] == [*["finished"] * 4, "failed", "stopped", "running", "damaged",
                                                    "not started"]  # fmt: skip
    first = runs["0_m_seed1"]
    assert (first.step, first.steps, first.score, first.score_step, first.loss) == (30, 30, 0.5, 20, 0.0)
    assert (first.time_s, first.peak_memory) == (9.0 + 4.0, 2**31)
    assert dict(first.settings) == {"hypernetwork": "m", "seed": "1", "trainer.steps": "30"}
    assert runs["9_stopped"].step == 30
    assert runs["9_stopped"].score is None
    assert "run.json" in runs["11_damaged"].reason


def test_a_model_that_has_learnt_nothing_is_not_shown_as_a_sound_one(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", [], 0.1, verdict="learnt nothing", reason="the loss did not fall")
    assert read_run(folder).reason == "learnt nothing: the loss did not fall"


def test_seeds_are_put_together_with_an_interval(sweep: Path) -> None:
    runs = [run for run in find_runs(sweep) if run.state == "finished"]
    assert differing(runs) == ["hypernetwork", "seed"]
    groups = {g.settings["hypernetwork"]: g for g in by_seed(runs)}
    assert groups["m"].mean == pytest.approx(0.6)
    half = 12.7062 * 0.1  # t of one degree of freedom times the standard error
    assert groups["m"].interval == pytest.approx((0.6 - half, 0.6 + half), abs=1e-4)
    assert by_seed(runs[:1])[0].interval is None
    found = overview([sweep])
    assert found.best is not None
    assert found.best.folder.name == "2_l_seed1"  # not the failed one, which came further
    assert [g.settings.get("hypernetwork") for g in found.groups][:2] == ["l", "m"]


def test_less_loss_is_better(tmp_path: Path) -> None:
    for seed, loss in enumerate((2.0, 1.0)):
        folder = make_run(tmp_path / f"{seed}", [f"seed={seed}"])
        record = json.loads((folder / "run.json").read_text())
        record["config"]["trainer"]["select_by"] = "validation/loss"
        write_json(folder / "run.json", record)
        (folder / "metrics.jsonl").write_text(json.dumps({"step": 1, "validation/loss": loss}) + "\n")
    best = overview([tmp_path]).best
    assert best is not None
    assert best.score == 1.0


def names(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    main(["runs", *words, "to=csv"])
    return [Path(row["folder"]).name for row in csv.DictReader(io.StringIO(capsys.readouterr().out))]


def test_sorting(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    by_score = names(capsys, str(sweep))
    assert [n for n in by_score if n[0] in "01234" and "_seed" in n] == [
        "2_l_seed1",
        "3_l_seed2",
        "1_m_seed2",
        "0_m_seed1",
    ]
    assert names(capsys, str(sweep), "sort=folder")[:2] == ["0_m_seed1", "1_m_seed2"]
    assert names(capsys, str(sweep), "sort=hypernetwork")[1].split("_")[1] == "l"
    said = refused(capsys, "runs", str(sweep), "sort=colour")
    assert "sort=colour: choose from score, loss, time, memory, step, folder, hypernetwork, seed" in said


def test_every_form_holds_every_run(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["runs", str(sweep), "to=json"])
    found = json.loads(capsys.readouterr().out)
    assert len(found["runs"]) == 9
    assert {g["settings"]["hypernetwork"] for g in found["over_seeds"]} == {"m", "l", "s", ""}
    main(["runs", str(sweep), "to=markdown"])
    text = capsys.readouterr().out
    assert "| 2_l_seed1 | finished | 30/30 | 0.9 at 20 | 0 | 13 s | 2.00 | hypernetwork=l, seed=1 |" in text
    assert "- best by validation/score: " in text
    main(["runs", str(sweep)])
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80 or str(sweep) in shown
    assert "9 runs: 4 finished, 1 running, 1 stopped, 1 failed, 1 not started, 1 damaged" in " ".join(shown.split())
    assert "8_failed: failed, lr is | too high" in shown


def test_what_is_not_there_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "there is no folder" in refused(capsys, "runs", f"{tmp_path}/nowhere")
    (tmp_path / "empty").mkdir()
    assert "holds no run" in refused(capsys, "runs", f"{tmp_path}/empty")
    assert "to must be table, markdown, csv or json, not 'yaml'" in refused(
        capsys, "runs", f"{tmp_path}/empty", "to=yaml"
    )


def work(verb: str, settings: Any) -> None:
    """Instead of training."""
    if settings.seed == 2:
        raise ValueError("seed 2 never works")
    folder = Path(settings.run_dir)
    record = {"verb": verb, "config": {"trainer": {"steps": 30, "select_by": "validation/score"}}, "finished": True}
    write_json(folder / "run.json", record)
    line = {"step": 30, "train/loss": 1.0, "validation/score": 0.1 * settings.seed}
    (folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")


def sweep_of_three() -> None:
    with pytest.raises(SystemExit):
        run_sweep(read_command("train", command_words("train", ["-m", "out=out", "seed=1,2,3"])), work)


def test_a_sweep_ends_with_its_table_and_a_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    sweep_of_three()
    shown = capsys.readouterr().out
    assert "3 runs: 2 finished, 1 failed" in shown
    assert "seed 2 never works" in shown
    assert "2 of 3" in shown
    rows = {row["seed"]: row for row in csv.DictReader(io.StringIO(Path("out/runs.csv").read_text()))}
    assert {seed: row["state"] for seed, row in rows.items()} == {"1": "finished", "2": "failed", "3": "finished"}
    assert float(rows["3"]["score"]) == pytest.approx(0.3)
    assert Path("out/runs.png").read_bytes().startswith(b"\x89PNG")
    assert "| all | 2 of 3 |" in Path("out/runs.md").read_text()


def test_another_programs_file_stays_and_the_sweep_ends_as_it_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("out").mkdir()
    Path("out/runs.md").write_text("my notes on these runs")
    sweep_of_three()
    assert Path("out/runs.md").read_text() == "my notes on these runs"
    assert "t2l: the sweep's table was not written: " in capsys.readouterr().err
    assert len(json.loads(Path("out/sweep.json").read_text())["jobs"]) == 3


def test_the_peak_of_memory_is_that_since_it_was_asked_for() -> None:
    def peak(megabytes: int) -> int:
        memory = PeakMemory()
        array = np.ones(megabytes * 2**20, dtype=np.uint8)
        found = memory.read()
        assert found is not None
        return found - int(array[0])

    small, large, again = peak(1), peak(300), peak(1)
    assert large - small > 200 * 2**20
    assert large - again > 200 * 2**20
