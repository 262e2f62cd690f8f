"""Sweeps, patterns and lists where checkpoints are asked for."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from t2l.cli.words import read_words
from t2l.evaluation.checkpoint_folders import scored_folders
from t2l.evaluation.config import EvaluateConfig
from t2l.files import FileProblemError
from t2l.hypernetwork.checkpoint import find_checkpoint


def run(folder: Path, verb: str = "train", finished: bool = True, checkpoint: bool = True) -> str:
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"verb": verb, "config": {}, "finished": finished}))
    if checkpoint:
        (folder / "checkpoints/step-000010").mkdir(parents=True)
        (folder / "checkpoints/step-000010/checkpoint.json").write_text("{}")
    return str(folder)


def test_a_sweep_means_its_finished_runs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sweep = tmp_path / "sweep"
    runs = [run(sweep / str(i)) for i in (0, 2, 10)]
    run(sweep / "3", finished=False)
    run(sweep / "4", finished=False, checkpoint=False)
    run(sweep / "library", verb="train_library", checkpoint=False)
    with caplog.at_level(logging.WARNING):
        assert scored_folders([str(sweep)]) == runs
    assert f"{sweep}: 3 of 5 runs are scored, without 3 (stopped), 4 (stopped)" in caplog.text
    for i in range(20, 29):
        run(sweep / "more" / str(i), finished=False)
    caplog.clear()
    assert scored_folders([str(sweep)]) == runs
    assert caplog.text.strip().endswith("more/24 (stopped), more/25 (stopped), and 3 more")
    assert scored_folders([f"{sweep}:last"]) == [f"{r}:last" for r in runs]
    assert scored_folders([f"{tmp_path}"]) == runs


def test_a_pattern_means_the_folders_it_matches(tmp_path: Path) -> None:
    m, s = (run(tmp_path / name) for name in ("m=1", "s=1"))
    deep = run(tmp_path / "grid" / "0")
    (tmp_path / "notes").write_text("no folder")
    assert scored_folders([f"{tmp_path}/?=1"]) == [m, s]
    assert scored_folders([f"{tmp_path}/*:best"]) == [f"{deep}:best", f"{m}:best", f"{s}:best"]
    with pytest.raises(FileProblemError, match="no folder is called like"):
        scored_folders([f"{tmp_path}/x*"])


def test_what_is_one_run_or_checkpoint_stays_as_it_is_asked_for(tmp_path: Path) -> None:
    one = run(tmp_path / "[a]*:last")
    asked = [one, f"{one}:last", f"{one}/checkpoints/step-000010", f"{tmp_path}/nowhere", "smollm2", one]
    assert scored_folders(asked) == asked[:-1]


def test_a_folder_without_a_finished_run_is_refused(tmp_path: Path) -> None:
    run(tmp_path / "0", finished=False)
    with pytest.raises(FileProblemError, match="none of its 1 runs of `t2l train` is finished"):
        scored_folders([str(tmp_path)])


def test_a_folder_without_runs_of_train_is_told_by_what_is_asked_for_instead(tmp_path: Path) -> None:
    run(tmp_path / "library", verb="train_library", checkpoint=False)
    assert scored_folders([str(tmp_path)]) == [str(tmp_path)]
    with pytest.raises(FileProblemError, match="holds no checkpoint: give a run folder of `t2l train`"):
        find_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("word", "override"),
    [
        ("checkpoints=runs/sweep", "checkpoints=[runs/sweep]"),
        ("--checkpoints=runs/sweep", "checkpoints=[runs/sweep]"),
        ("checkpoints=[a,b]", "checkpoints=[a,b]"),
        ("checkpoints=a,b", "checkpoints=a,b"),  # of a sweep
        ("contenders=choice(base,oracle)", "contenders=choice(base,oracle)"),
        ("splits=null", "splits=null"),
        ("splits=", "splits="),
        ("splits=${other}", "splits=${other}"),
        ("library=a", "library=a"),
    ],
)
def test_one_word_is_a_list_of_one(word: str, override: str) -> None:
    assert read_words([word], EvaluateConfig, [], ()).overrides == [override]
