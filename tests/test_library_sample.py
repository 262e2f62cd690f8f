"""A library of a sample of the training tasks, and what is made of its adapters."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from small_run import SMALL, TRAIN
from test_cli import refused

from t2l.cli import main
from t2l.hypernetwork.checkpoint import find_checkpoint, load_record
from t2l.library import training_tasks_in

BRIEF = [f"{p}.{key}" for p in ("training", "multi_task") for key in ("steps=2", "rows_per_task=2", "cycles=1")]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of three training tasks and a named one."""
    folder = tmp_path_factory.mktemp("sample") / "library"
    main(["train_library", *SMALL, *BRIEF, "tasks=[sort]", "sample=3", "training.tasks_at_once=8", f"run_dir={folder}"])
    return folder


def sample_of(library: Path) -> list[str]:
    found: list[str] = json.loads((library / "library.json").read_text())["sample"]
    return found


def test_named_tasks_come_on_top_of_the_sample(library: Path) -> None:
    drawn = sample_of(library)
    assert len(set(drawn)) == 3
    assert {p.name for p in (library / "adapters").iterdir()} == {*drawn, "sort"}
    assert not (library / "static").exists()


def test_the_draw_is_the_seeds(library: Path, tmp_path: Path) -> None:
    brief = [*SMALL, *BRIEF, "sample=3", "training.tasks_at_once=8", "splits=[]"]
    main(["train_library", *brief, "train_multi_task=false", f"run_dir={tmp_path}/same"])
    main(["train_library", *brief, "train_multi_task=false", "seed=1", f"run_dir={tmp_path}/other"])
    assert sample_of(tmp_path / "same") == sample_of(library) != sample_of(tmp_path / "other")


def test_reconstruction_learns_the_sample(library: Path, tmp_path: Path) -> None:
    brief = [*TRAIN, "objective=reconstruction", "trainer.steps=2", "trainer.tasks_per_step=2"]
    main(["train", *brief, f"library={library}", f"run_dir={tmp_path}/run"])
    assert load_record(find_checkpoint(tmp_path / "run")).trained_on["tasks"] == sample_of(library)
    assert "is of a sample: 3 of" in (tmp_path / "run/train.log").read_text()


def learn_a_copy(library: Path, folder: Path) -> list[str]:
    """Trains on a copy of the library, for two steps. Returns the words of the run, less the number of steps."""
    shutil.copytree(library, folder / "library")
    brief = [*TRAIN, "objective=reconstruction", "trainer.schedule=constant", "trainer.warmup_steps=1"]
    words = [*brief, f"library={folder}/library", f"run_dir={folder}/run"]
    main(["train", *words, "trainer.steps=2"])  # with more tasks a step than there are
    return words


def test_reconstruction_does_not_go_on_with_another_sample(
    library: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = learn_a_copy(library, tmp_path)
    record = json.loads((tmp_path / "library/library.json").read_text())
    record["sample"] = record["sample"][:2]
    (tmp_path / "library/library.json").write_text(json.dumps(record))
    assert "was trained on 3 tasks, and its library is one of 2" in refused(capsys, "train", *words, "trainer.steps=4")
    shutil.copy(library / "library.json", tmp_path / "library/library.json")
    main(["train", *words, "trainer.steps=4"])
    assert load_record(find_checkpoint(tmp_path / "run")).step == 4


def test_reconstruction_does_not_go_on_with_adapters_trained_again(
    library: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = learn_a_copy(library, tmp_path)
    one, other, *_ = (tmp_path / "library/adapters" / name / "adapter_model.safetensors" for name in sample_of(library))
    shutil.copy(other, one)
    assert "has learnt other adapters than its library holds" in refused(capsys, "train", *words, "trainer.steps=4")
    shutil.copy(library / one.relative_to(tmp_path / "library"), one)
    main(["train", *words, "trainer.steps=4"])
    assert load_record(find_checkpoint(tmp_path / "run")).step == 4


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        (["tasks=[reverse]"], True),  # more named tasks
        (["tasks=[sort]", "sample=3"], True),  # the same again
        (["splits=[unseen_combination]", "train_multi_task=false"], True),
        (["train_multi_task=false"], False),  # all
    ],
)
def test_a_library_stays_one_of_its_sample_until_it_is_of_all(
    words: list[str], kept: bool, library: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "library"
    shutil.copytree(library, folder)
    main(["train_library", *SMALL, *BRIEF, "training.tasks_at_once=64", *words, f"run_dir={folder}"])
    assert json.loads((folder / "library.json").read_text()).get("sample") == (sample_of(library) if kept else None)


def test_another_sample_is_another_library(library: Path, root: Path, tmp_path: Path, capsys: Any) -> None:
    folders = {"another sample of the": library, "all": root / "library"}
    for kind, made in folders.items():
        folder = tmp_path / kind.split()[0]
        shutil.copytree(made, folder)
        before = (folder / "library.json").read_bytes()
        words = [*SMALL, *BRIEF, "training.tasks_at_once=64", "tasks=[sort]", "sample=2", f"run_dir={folder}"]
        assert f"is a library of {kind} training tasks" in refused(capsys, "train_library", *words)
        assert (folder / "library.json").read_bytes() == before


def test_contenders_of_the_training_tasks_use_the_sample(library: Path, tmp_path: Path) -> None:
    board = ["tasks_per_split=2", "examples_per_task=2", "descriptions_per_task=2", "bootstrap_samples=10"]
    words = [*SMALL, *(f"evaluation.{b}" for b in board), "contenders=[nearest,library_mean,lorahub,arrow]"]
    few = [
        "splits=[unseen_combination]",
        "robustness_split=null",
        "few_shot.examples=2",
        "composition.lorahub_adapters=2",
    ]
    main(["evaluate", *words, *few, f"library={library}", f"run_dir={tmp_path}/board"])
    report = json.loads((tmp_path / "board/report.json").read_text())
    scored = {r["contender"] for r in report["results"]}
    assert {"nearest", "library_mean", "lorahub", "arrow"} <= scored
    assert "is of a sample of 3 of the" in (tmp_path / "board/report.md").read_text()


def test_a_sample_of_other_tasks_is_refused() -> None:
    assert training_tasks_in({}, ["a", "b"], "there") == ["a", "b"]
    assert training_tasks_in({"sample": ["b", "c"]}, ["a", "b"], "there") == ["b"]
    with pytest.raises(ValueError, match="library=there is of a sample of other training tasks"):
        training_tasks_in({"sample": ["c"]}, ["a", "b"], "there")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["sample=100000"], "sample=100000 is more than suite word_lists has training tasks"),
        (["sample=0"], "sample must be at least 1, or null, not 0"),
        (["sample=2", "method=ia3"], "sample: only for method=batched_lora"),
    ],
)
def test_a_sample_that_cannot_be_is_refused(words: list[str], says: str, tmp_path: Path, capsys: Any) -> None:
    line = refused(capsys, "train_library", *SMALL, *BRIEF, *words, f"run_dir={tmp_path}/library")
    assert says in line
