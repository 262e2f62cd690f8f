"""`t2l runs`: what became of runs and sweeps, from their files, whatever state they are in."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock
from test_cli import refused

from t2l.cli import main
from t2l.cli.command import command_words, read_command, run_sweep
from t2l.files import write_json
from t2l.run.continuation import settings_of
from t2l.run.folder import LOCK, command_of
from t2l.run.memory import PeakMemory
from t2l.run.overview import Comparison, find_runs, read_run
from t2l.run.record import Run
from t2l.verbs.runs import overview

SCORES = {("m", 1): 0.5, ("m", 2): 0.7, ("l", 1): 0.9, ("l", 2): 0.8}


def make_run(folder: Path, words: list[str] | None, score: float | None = None, **more: Any) -> Path:
    """The files of a training run that has validated three times, the second time best."""
    folder.mkdir(parents=True)
    trainer = {"steps": 30, "select_by": "validation/score"}
    config = more.pop("config", {"trainer": trainer})
    typed = {} if words is None else {"typed": words}
    write_json(folder / "run.json", {"verb": "train", "config": config, "finished": True, **typed, **more})
    lines = [{"step": s, "train/loss": 3 - s / 10} for s in (10, 20, 30)]
    if score is not None:
        for line, below in zip(lines, (0.2, 0.0, 0.1), strict=True):
            line["validation/score"] = score - below
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    # Two starts; the second took longer to its line than the first in all.
    pace = [
        {"step": 10, "began": 1.0, "time_s": 5.0, "peak_memory": 2**30},
        {"step": 20, "began": 1.0, "time_s": 9.0, "peak_memory": 2**31},
        {"step": 30, "began": 2.0, "time_s": 10.0, "peak_memory": 2**30},
    ]
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
    jobs = [("out/12_waits", "not started"), ("out/0_m_seed1", "finished")]  # as seen from where the sweep was started
    write_json(root / "sweep.json", {"jobs": [{"folder": f, "overrides": ["seed=4"], "state": s} for f, s in jobs]})
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
    assert (first.time_s, first.peak_memory) == (9.0 + 10.0, 2**31)
    assert first.typed == {"hypernetwork": "m", "seed": "1", "trainer.steps": "30"}
    assert runs["12_waits"].typed == {"seed": "4"}
    assert runs["9_stopped"].step == 30
    assert runs["9_stopped"].score is None
    assert "run.json" in runs["11_damaged"].reason


def test_a_model_that_has_learnt_nothing_is_not_shown_as_a_sound_one(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", [], 0.1, verdict="learnt nothing", reason="the loss did not fall")
    assert read_run(folder).reason == "learnt nothing: the loss did not fall"


def test_what_a_refused_command_left_is_not_taken_for_the_runs_own(tmp_path: Path) -> None:
    """Hydra notes the words of a command before t2l refuses to go on with a run under them."""
    for seed in (1, 2):
        folder = make_run(tmp_path / f"{seed}", [f"seed={seed}"], 0.5)
        (folder / ".hydra").mkdir()
        (folder / ".hydra/overrides.yaml").write_text("- trainer.lr=9\n")
    assert [read_run(tmp_path / f"{seed}").typed for seed in (1, 2)] == [{"seed": "1"}, {"seed": "2"}]
    assert command_of(tmp_path / "1", "train") == "t2l train seed=1"


def test_runs_that_did_not_record_their_words_are_told_apart_by_their_settings(tmp_path: Path) -> None:
    for name, lr in (("a", 0.1), ("b", 0.2)):
        trainer = {"lr": lr, "steps": 30, "select_by": "validation/score"}
        make_run(tmp_path / name, None, 0.5, config={"trainer": trainer, "encoder": {"device": name}})
    compared = Comparison(find_runs(tmp_path))
    assert compared.keys == ["trainer.lr"]  # the device changes no result
    assert [compared.of(run) for run in compared.runs] == [{"trainer.lr": "0.1"}, {"trainer.lr": "0.2"}]


def test_a_job_that_failed_and_was_then_run_by_itself_is_finished(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", ["seed=1"], 0.5)
    job, run = folder / "job.json", folder / "run.json"
    write_json(job, {"launch": "x", "state": "failed", "reason": "killed", "starts": 1})
    os.utime(job, (1, 1))
    assert read_run(folder).state == "finished"
    os.utime(run, (0, 0))  # a later start of the sweep failed: what the run was before is not this job's
    assert read_run(folder).state == "failed"


def test_seeds_are_put_together_with_an_interval(sweep: Path) -> None:
    compared = Comparison([run for run in find_runs(sweep) if run.state == "finished"])
    assert compared.keys == ["hypernetwork", "seed"]
    groups = {g.settings["hypernetwork"]: g for g in compared.groups}
    assert groups["m"].mean == pytest.approx(0.6)
    half = 12.7062 * 0.1  # t of one degree of freedom times the standard error
    assert groups["m"].interval == pytest.approx((0.6 - half, 0.6 + half), abs=1e-4)
    assert Comparison(compared.runs[:1]).groups[0].interval is None
    again = Comparison([*compared.runs, replace(compared.runs[0], folder=Path("again"))])
    assert {g.settings["hypernetwork"]: g.interval is None for g in again.groups} == {"m": True, "l": False}
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
    kinds = [n.split("_")[1] for n in names(capsys, str(sweep), "sort=hypernetwork")]
    assert [k for k in kinds if k in "lm"] == ["l", "l", "m", "m"]
    said = refused(capsys, "runs", str(sweep), "sort=colour")
    assert "sort=colour: choose from score, loss, time, memory, step, folder, hypernetwork, seed" in said


def test_every_form_holds_every_run(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["runs", str(sweep), "to=json"])
    found = json.loads(capsys.readouterr().out)
    assert len(found["runs"]) == 9
    assert [g["differs_in"].get("hypernetwork") for g in found["over_seeds"]][:2] == ["l", "m"]
    main(["runs", str(sweep), "to=markdown"])
    text = capsys.readouterr().out
    assert "| 2 | finished | 30/30 | 0.9 at 20 | 0 | 19 s | 2.00 |" in text
    assert "| 2 | 2_l_seed1 | hypernetwork=l, seed=1 |" in text
    assert "- best by validation/score: " in text
    main(["runs", str(sweep)])
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80 or str(sweep) in shown
    assert "9 runs: 4 finished, 1 running, 1 stopped, 1 failed, 1 not started, 1 damaged" in " ".join(shown.split())
    assert "8_failed: failed, lr is | too high" in shown


def test_json_has_no_nan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run(tmp_path / "run", [])
    (folder / "metrics.jsonl").write_text('{"step": 1, "train/loss": NaN}\n')
    main(["runs", str(tmp_path), "to=json"])
    (run,) = json.loads(capsys.readouterr().out, parse_constant=lambda word: pytest.fail(word))["runs"]
    assert run["loss"] is None


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
    run = Run(Path(settings.run_dir), verb, settings_of(settings))
    run.log_metrics(30, {"train/loss": 1.0, settings.trainer.select_by: 0.1 * settings.seed})
    run.record(finished=True)


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


def test_jobs_with_folders_of_their_own_are_in_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["-m", "seed=1,3", "run_dir=a${seed}", "hydra.sweep.dir=sweep"]
    run_sweep(read_command("train", command_words("train", words)), work)
    rows = list(csv.DictReader(io.StringIO(Path("sweep/runs.csv").read_text())))
    assert {(Path(row["folder"]).name, row["state"]) for row in rows} == {("a1", "finished"), ("a3", "finished")}


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


def test_a_gpu_that_nothing_runs_on_is_left_alone_and_the_fullest_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    peaks, reset = {0: 5, 1: 7}, set[int]()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(peaks))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset.add)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", peaks.__getitem__)
    on_cpu = PeakMemory().read()
    assert on_cpu is not None
    assert on_cpu > 2**20
    assert not reset
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    assert PeakMemory().read() == 7
    assert reset == {0, 1}
