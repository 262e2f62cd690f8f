"""A search with Optuna: its trials are runs, it goes on where it was stopped, and what it cannot do is said before it begins."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from test_cli import refused

from t2l.cli.command import command_words, read_command, run_sweep
from t2l.cli.search import Search
from t2l.run.continuation import settings_of
from t2l.run.overview import read_run
from t2l.run.record import Run

SPACE = ["trainer.lr=tag(log, interval(1e-4, 1e-1))", "hypernetwork=l,m", "trainer.rows_per_task=int(interval(1,8))"]


def work(verb: str, settings: Any) -> None:
    """Instead of training: three validations of a loss that is least at a learning rate of 0.01, with the architecture l."""
    folder = Path(settings.run_dir)
    with Path("begun.txt").open("a") as stream:
        stream.write(f"{folder.name}\n")
    stop_at = Path("stop_at.txt")
    if stop_at.is_file() and folder.name.startswith(stop_at.read_text()):
        stop_at.unlink()
        raise KeyboardInterrupt
    if settings.trainer.rows_per_task == 3:
        raise ValueError("three rows never fit")
    run = Run(folder, verb, settings_of(settings))
    loss = abs(settings.trainer.lr - 0.01) + (settings.hypernetwork.architecture != "l") + 1
    run.forget_after(0)
    for step in (5, 10, 15):
        run.log_metrics(step, {"train/loss": loss, settings.trainer.select_by: loss + 1 / step})
    run.record(finished=True)


def search(*words: str, trials: int = 12) -> None:
    typed = ["-m", "hydra/sweeper=optuna", f"hydra.sweeper.n_trials={trials}", "run_dir=out", *words]
    run_sweep(read_command("train", command_words("train", typed)), work)


def study(sweep: str = "out") -> optuna.Study:
    return optuna.load_study(study_name="t2l", storage=JournalStorage(JournalFileBackend(f"{sweep}/optuna.journal")))


def trials(sweep: str = "out") -> list[tuple[Any, ...]]:
    return [(t.number, t.state, t.value, t.params) for t in study(sweep).trials]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_search_that_is_stopped_ends_as_one_that_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    search("hydra.sweeper.seed=1", "trainer.lr=tag(log, interval(1e-4, 1e-1))", "hypernetwork=l,m", trials=7)
    shown, whole = capsys.readouterr(), trials()
    Path("out").rename("whole")
    for number in (2, 5):
        Path("stop_at.txt").write_text(f"{number}_")
        with pytest.raises(KeyboardInterrupt):
            search("hydra.sweeper.seed=1", "trainer.lr=tag(log, interval(1e-4, 1e-1))", "hypernetwork=l,m", trials=7)
        assert trials()[-1][:2] == (number, TrialState.RUNNING)
    search("hydra.sweeper.seed=1", "trainer.lr=tag(log, interval(1e-4, 1e-1))", "hypernetwork=l,m", trials=7)
    assert trials() == whole
    assert len(whole) == 7
    begun = [name.partition("_")[0] for name in Path("begun.txt").read_text().split()]
    assert begun[7:] == [*"012", *"2345", *"56"]  # a trial that was stopped is begun again, no other
    # The best, from the storage, from the runs' own files, and as it is told.
    best = study().best_trial
    losses = {int(p.name.partition("_")[0]): read_run(p).score for p in Path("out").glob("*_*") if read_run(p).score}
    assert min(losses, key=lambda n: losses[n] or 9.0) == best.number
    assert best.params["hypernetwork"] == "l"
    assert f"(best: trial {best.number}, {best.value:.4g})\nt2l: sweep in out: " in shown.err
    assert f"out/{best.number}_" in shown.out.partition("best by")[2].split("\n")[0]


def test_poor_trials_end_early_and_failed_ones_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        search(*SPACE, "hydra.sweeper.sampler=random", trials=24)
    assert ended.value.code == 1  # some trials fail
    found = study().trials
    failed = {t.number for t in found if t.state is TrialState.FAIL}
    assert failed == {t.number for t in found if t.params["trainer.rows_per_task"] == 3}
    assert failed
    pruned = [t for t in found if t.state is TrialState.PRUNED]
    assert pruned
    assert all(max(t.intermediate_values) < 15 for t in pruned)
    jobs = {job["job"]: job for job in json.loads(Path("out/sweep.json").read_text())["jobs"]}
    assert {n for n, job in jobs.items() if job["state"] == "pruned"} == {t.number for t in pruned}
    assert all(job["reason"] == "three rows never fit" for n, job in jobs.items() if n in failed)
    folder = Path(jobs[pruned[0].number]["folder"])
    assert read_run(folder).state == "pruned"
    assert f"{len(pruned)} pruned, {len(failed)} failed" in capsys.readouterr().out


def test_without_a_pruner_every_trial_ends() -> None:
    search("hypernetwork=l,m", "trainer.lr=choice(0.1,0.01)", "hydra.sweeper.pruner=null", trials=8)
    assert {t.state for t in study().trials} == {TrialState.COMPLETE}


def test_more_trials_of_the_same_search() -> None:
    search("hypernetwork=l,m", trials=2)
    search("hypernetwork=l,m", trials=3)
    assert [t.number for t in study().trials] == [0, 1, 2]
    assert len(Path("begun.txt").read_text().split()) == 3


def test_trials_run_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # for this file's `work`
    search(
        "hypernetwork=l,m", "trainer.lr=interval(0.01,0.1)", "hydra/launcher=local", "hydra.sweeper.n_jobs=2", trials=4
    )
    assert {t.state for t in study().trials} <= {TrialState.COMPLETE, TrialState.PRUNED}
    assert len(study().trials) == 4


def test_a_study_in_a_database_of_its_own() -> None:
    search("hypernetwork=l,m", "hydra.sweeper.storage=sqlite:///all.db", "hydra.sweeper.study_name=mine", trials=2)
    assert len(optuna.load_study(study_name="mine", storage="sqlite:///all.db").trials) == 2
    assert not Path("out/optuna.journal").exists()


def test_every_sampler_and_pruner() -> None:
    for i, (sampler, pruner) in enumerate([("qmc", "percentile"), ("gp", "halving"), ("random", "hyperband")]):
        search(
            "trainer.lr=interval(0.01,0.1)", f"hydra.sweeper.sampler={sampler}", f"hydra.sweeper.pruner={pruner}",
            f"run_dir=out{i}", trials=3,
        )  # fmt: skip
        assert len({t.params["trainer.lr"] for t in study(f"out{i}").trials}) == 3


def test_what_is_searched(tmp_path: Path) -> None:
    words = [*SPACE, "hypernetwork=s", "seed=range(1,4)", "trainer.weight_decay=0.1", "trainer.clip=interval(0.5,1)"]
    sweeper = read_command("train", command_words("train", ["-m", "hydra/sweeper=optuna", *words])).hydra.sweeper
    found = Search(tmp_path, sweeper, words, "validation/loss", "")
    (job,) = found.next_jobs()
    chosen = dict(word.partition("=")[::2] for word in job.overrides)
    assert chosen["hypernetwork"] == "s"  # of one key the last counts
    assert chosen["seed"] in "123"
    assert chosen["trainer.weight_decay"] == "0.1"
    assert int(chosen["trainer.rows_per_task"]) in range(1, 9)
    assert 0.5 <= float(chosen["trainer.clip"]) <= 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["seed=1"], "has nothing to search"),
        (["seed=1,2", "hydra.sweeper.sampler=best"], "hydra.sweeper.sampler=best: choose from tpe, random, qmc, gp"),
        (["seed=1,2", "hydra.sweeper.pruner=x"], "hydra.sweeper.pruner=x: choose from median"),
        (["seed=1,2", "hydra.sweeper.n_trials=0"], "hydra.sweeper.n_trials must be at least 1, not 0"),
        (["seed=1,2", "hydra.sweeper.n_trials=many"], "hydra.sweeper.n_trials"),
        (["seed=1,2", "trainer.validate_every=null"], "needs a validation score: set trainer.validate_every"),
        (
            ["trainer.select_by=validation/loss,validation/score", "trainer.validate_score=true"],
            "trainer.select_by is what trials are judged by",
        ),
        (["trainer.lr=interval(-1,1)"], "trainer.lr must be positive, not -1"),
        (["trainer.lr=tag(log, interval(0,1))"], "trainer.lr"),
        (["hypernetwork=l,nope"], "hypernetwork=nope: there is none of that name"),
        (["hypernetwork=glob(nope*)"], "hypernetwork: there is nothing of that name to sweep over"),
        (["seed=1,2", "hydra.sweeper.storage=nowhere"], "hydra.sweeper.storage=nowhere: "),
        (["seed=1,2", "hydra.sweeper.trials=3"], "hydra.sweeper.trials"),
    ],
)
def test_what_cannot_be_searched_is_said_first(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert said in refused(capsys, "train", "-m", "hydra/sweeper=optuna", "run_dir=out", *words)
    assert not list(Path().iterdir())


def test_a_study_of_another_command_is_not_gone_on_with(capsys: pytest.CaptureFixture[str]) -> None:
    search("hypernetwork=l,m", trials=1)
    said = refused(capsys, "train", "-m", "hydra/sweeper=optuna", "run_dir=out", "hypernetwork=l,m,s")
    assert "has a study t2l of another command (hypernetwork=l,m run_dir=out)" in said


def test_other_verbs_have_no_score(capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, "pretrain_base", "-m", "hydra/sweeper=optuna", "seed=1,2")
    assert "hydra/sweeper=optuna is for `t2l train`" in said


def test_an_interval_needs_a_search(capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, "train", "-m", "trainer.lr=interval(0.1,0.2)")
    assert "trainer.lr: an interval has no list of values to sweep over" in said
    assert "hydra/sweeper=optuna" in said


def test_a_pattern_stands_for_choices() -> None:
    command = read_command("train", command_words("train", ["-m", "hypernetwork=glob([l,m*,residual*])"]))
    assert [job[0] for job in command.jobs] == [f"hypernetwork={n}" for n in ("l", "m", "residual", "residual_mini")]


def test_jobs_return_their_score() -> None:
    """What another sweeper than t2l's own learns of a job."""
    from t2l.cli.job import Job

    seen: list[float | None] = []

    class Listening(Job):
        def __call__(self, config: Any) -> float | None:
            seen.append(super().__call__(config))
            return seen[-1]

    from t2l.cli import command

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "Job", Listening)
        run_sweep(read_command("train", command_words("train", ["-m", "run_dir=out", "hypernetwork=l,s"])), work)
    assert None not in seen
    assert seen[0] != seen[1]
    assert seen == pytest.approx([read_run(Path(f"out/{f}")).score for f in ("0_hypernetwork-l", "1_hypernetwork-s")])


def sweep_of(*words: str) -> list[str]:
    """Runs a grid. Returns the jobs that were begun, in their order."""
    before = Path("begun.txt").read_text().split() if Path("begun.txt").is_file() else []
    run_sweep(read_command("train", command_words("train", ["-m", "run_dir=grid", *words])), work)
    return Path("begun.txt").read_text().split()[len(before) :] if Path("begun.txt").is_file() else []


def test_a_grid_begun_again_begins_no_finished_job(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("stop_at.txt").write_text("2_")
    with pytest.raises(KeyboardInterrupt):
        sweep_of("seed=1,2,3")
    assert sweep_of("seed=1,2,3") == ["2_seed3"]
    assert "2 of 3 jobs are finished, and not begun again" in capsys.readouterr().err
    with monkeypatch.context() as patch:  # nothing is launched at all
        patch.setattr("t2l.cli.command.launch", lambda *_: pytest.fail("launched"))
        assert sweep_of("seed=1,2,3") == []
    assert [job["state"] for job in json.loads(Path("grid/sweep.json").read_text())["jobs"]] == 3 * ["finished"]
    with pytest.raises(SystemExit):  # of other settings: the run itself says what speaks against them
        sweep_of("seed=1,2,3", "trainer.steps=2000")
    assert len(Path("begun.txt").read_text().split()) == 7


def test_a_finished_job_is_begun_again_if_what_it_learnt_from_is_newer() -> None:
    library = Path("library")
    library.mkdir()
    (library / "adapter").write_text("")
    (library / "gone").symlink_to("nowhere")  # cannot be looked at: its job is begun again, without a word
    words = ["seed=1,2", "objective=reconstruction", "library=library"]
    assert len(sweep_of(*words)) == len(sweep_of(*words)) == 2
    (library / "gone").unlink()
    assert sweep_of(*words) == []
    later = Path("grid/0_seed1/run.json").stat().st_mtime + 5
    os.utime(library / "adapter", (later, later))
    assert sweep_of(*words) == ["0_seed1", "1_seed2"]
