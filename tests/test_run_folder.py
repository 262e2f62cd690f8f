"""Runs without a folder of their own get a short one, and the same command finds it again."""

from __future__ import annotations

import multiprocessing
import re
from pathlib import Path
from typing import Any

import pytest

from t2l.cli import main
from t2l.cli.command import command_words, read_command, run_once, run_sweep
from t2l.run.console import fail
from t2l.run.folder import default_folder, identity, job_name, words_of

NAME = r"\d{4}-\d\d-\d\d_\d{6}_"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["seed=1", "experiment=mini_sft"], "mini_sft_seed1"),
        (["hypernetwork=l", "trainer.lr=1e-3"], "hypernetwork-l_lr1e-3"),
        (["library='runs/train_library/seed=1'", "checkpoints=['a b/c=d',e]"], "library-seed-1_checkpoints"),
        (["+method@methods.dora=dora", "~method@methods.ia3"], "dora-dora_ia3"),
        (["suite.path=/a/very/long/path/that/goes/on/and/on", "base_model.path='ü & co'"], "path-on_path-co"),
        ([], "default"),
    ],
)
def test_names_are_a_few_words(overrides: list[str], words: str) -> None:
    assert words_of(overrides, 42) == words


def test_names_are_short_typable_and_sortable(tmp_path: Path) -> None:
    many = [f"suite.some_long_name_{i}={'x' * i}/{i}=?*'" for i in range(40)]
    for overrides in (many, ["seed=1"], []):
        for is_sweep in (False, True):
            name = default_folder(tmp_path, "train", overrides, is_sweep).path.name
            assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d{6}(_sweep)?_[A-Za-z0-9_.-]+", name)
            assert len(name) <= 60
    assert job_name(0, ["hypernetwork=l", "seed=1"]) == "0_hypernetwork-l_seed1"
    assert len(job_name(123, many)) <= 60


def test_the_same_command_finds_its_folder_in_any_order(tmp_path: Path) -> None:
    first = default_folder(tmp_path, "train", ["seed=1", "trainer.steps=3"])
    again = default_folder(tmp_path, "train", ["trainer.steps=3", "seed=1"])
    assert (first.is_taken_up, again.is_taken_up) == (False, True)
    assert first.path == again.path
    others = [
        default_folder(tmp_path, "train", ["seed=2", "trainer.steps=3"]),
        default_folder(tmp_path, "train", ["seed=1", "trainer.steps=3"], is_sweep=True),
        default_folder(tmp_path, "evaluate", ["seed=1", "trainer.steps=3"]),
    ]
    assert len({first.path, *(o.path for o in others)}) == 4
    assert not any(o.is_taken_up for o in others)


def test_the_last_value_of_a_key_counts() -> None:
    assert identity("train", ["seed=1", "seed=2"], False) == identity("train", ["seed=2"], False)


def _made(parent: Path) -> Path:
    return default_folder(parent, "train", ["seed=1"]).path


def test_commands_that_start_at_once_agree(tmp_path: Path) -> None:
    with multiprocessing.get_context("fork").Pool(4) as pool:
        assert len(set(pool.map(_made, [tmp_path] * 8, chunksize=1))) == 1


def test_a_damaged_record_is_no_folder_of_the_command(tmp_path: Path) -> None:
    first = default_folder(tmp_path, "train", ["seed=1"]).path
    (first / "command.json").write_text("{")
    assert default_folder(tmp_path, "train", ["seed=1"]).path != first


def note(verb: str, settings: Any) -> None:
    """Instead of training: writes where it was."""
    folder = Path(settings.run_dir)
    with (folder / "seeds.txt").open("a") as stream:
        stream.write(f"{settings.seed}\n")


def run(*words: str) -> None:
    try:
        command = read_command("train", command_words("train", words))
    except ValueError as error:
        fail(str(error))
    (run_sweep if command.is_sweep else run_once)(command, note)


@pytest.fixture
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("_here")
def test_a_run_is_taken_up(capsys: pytest.CaptureFixture[str]) -> None:
    run("seed=3")
    (folder,) = Path("runs/train").glob("[!.]*")
    assert re.fullmatch(NAME + "seed3", folder.name)
    assert str(folder) in capsys.readouterr().err
    run("seed=3")
    assert f"going on in {folder}" in capsys.readouterr().err
    assert (folder / "seeds.txt").read_text() == "3\n3\n"
    assert (folder / ".hydra/overrides.yaml").is_file()


@pytest.mark.usefixtures("_here")
def test_a_sweep_is_taken_up_in_the_same_folders() -> None:
    for _ in range(2):
        run("-m", "seed=1,2", "trainer.steps=9")
    (sweep,) = Path("runs/train").glob("[!.]*")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d{6}_sweep_seed_steps9", sweep.name)
    assert {p.name: (p / "seeds.txt").read_text() for p in sweep.iterdir() if p.is_dir()} == {
        "0_seed1": "1\n1\n",
        "1_seed2": "2\n2\n",
    }


@pytest.mark.usefixtures("_here")
def test_a_folder_that_is_named_is_the_one() -> None:
    run("seed=1", "run_dir=a b/c=d")
    assert (Path("a b/c=d") / "seeds.txt").is_file()
    run("-m", "seed=1,2", "run_dir=sweep here")
    assert (Path("sweep here/1_seed2") / "seeds.txt").is_file()
    run("-m", "seed=1,2", "run_dir=each/${seed}")
    assert (Path("each/2") / "seeds.txt").is_file()
    assert not list(Path("each").rglob("multirun.yaml"))
    run("seed=1", "hydra.run.dir=given=here")
    assert (Path("given=here") / "seeds.txt").is_file()


@pytest.mark.usefixtures("_here")
def test_another_process_in_the_folder_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    from filelock import FileLock

    Path("busy").mkdir()
    with FileLock("busy/.t2l.lock"), pytest.raises(SystemExit, match="2"):
        run("seed=1", "run_dir=busy")
    assert "another `t2l train` works in" in capsys.readouterr().err
    assert not Path("busy/seeds.txt").exists()


@pytest.mark.usefixtures("_here")
def test_looking_at_the_configuration_makes_nothing() -> None:
    main(["train", "--cfg", "job"])
    main(["train", "--help"])
    main(["generate", "Count the animals.", "--checkpoint", "run", "--run-dir", "made", "--cfg", "job"])
    assert not list(Path().iterdir())
