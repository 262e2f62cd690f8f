"""Which contenders are scored when none are named: those that suite, library and checkpoints allow."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from t2l.cli import main
from t2l.evaluation.board import view_split
from t2l.evaluation.config import EvaluateConfig
from t2l.evaluation.contenders.few_shot import FewShotConfig
from t2l.evaluation.contenders.interface import kinds
from t2l.evaluation.scope import chosen_contenders
from t2l.tasks.suites import build
from t2l.tasks.suites.folder import FolderSuiteConfig

BARE = ["base", "prompted", "icl", "prompted_icl"]
BRIEF = [
    "evaluation.tasks_per_split=2", "evaluation.examples_per_task=2", "evaluation.descriptions_per_task=1",
    "evaluation.bootstrap_samples=20", "evaluation.max_new_tokens=4", "few_shot.steps=1",
]  # fmt: skip


def folder_suite(path: Path, tasks: int) -> Path:
    """Tasks without formal codes, in a folder."""
    path.mkdir()
    names = [f"task{i}" for i in range(tasks)]
    (path / "tasks.json").write_text(
        json.dumps({name: {"descriptions": [f"Do {name}.", f"Please do {name}."]} for name in names})
    )
    for name in names:
        rows = [{"input": f"dog {i}", "output": f"cat {name}"} for i in range(60)]
        (path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return path


def chosen(path: Path, **settings: object) -> list[str]:
    config = EvaluateConfig(suite=FolderSuiteConfig(path=str(path)), **settings)  # type: ignore[arg-type]
    suite = build(config.suite)
    views = [view_split(suite, name, config.evaluation, 0) for name, split in suite.splits.items() if split.tasks]
    return chosen_contenders(config, views, suite.name, suite.split("train").tasks)


def test_what_does_not_apply_is_left_out_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = folder_suite(tmp_path / "suite", 12)
    with caplog.at_level(logging.INFO):
        found = chosen(path)
    assert set(BARE) <= set(found)
    assert "contender formal_code is left out: task 'task" in caplog.text
    assert "without library or checkpoints there is no " in caplog.text
    made_of = {n for n, k in kinds().items() if k.needs.library or k.needs.checkpoints or k.needs.formal_code}
    assert found == [name for name in kinds() if name not in made_of]
    with_all = chosen(path, library="DIR", checkpoints=["DIR"])
    assert with_all == [name for name in kinds() if name != "formal_code"]


def test_what_is_named_is_refused_if_it_does_not_apply(tmp_path: Path) -> None:
    path = folder_suite(tmp_path / "suite", 12)
    with pytest.raises(ValueError, match=r"^contender formal_code: task 'task\d+' has no formal code; take it out of"):
        chosen(path, contenders=["base", "formal_code"])
    many = FewShotConfig(shots=10_000)
    with pytest.raises(ValueError, match=r"^contender icl: task 'task\d+' has \d+ training examples, 10000 shots are"):
        chosen(path, contenders=["icl"], few_shot=many)


def test_checkpoints_that_are_named_are_never_left_out(tmp_path: Path) -> None:
    path = folder_suite(tmp_path / "suite", 1)
    with pytest.raises(
        ValueError, match=r"contender generated: split '\w+' has 1 task\(s\), and shuffling descriptions needs"
    ):
        chosen(path, checkpoints=["DIR"])


def test_evaluate_on_a_folder_of_tasks_needs_no_more(tmp_path: Path) -> None:
    path = folder_suite(tmp_path / "suite", 4)
    main(["evaluate", "suite=folder", f"suite.path={path}", "splits=[train]", *BRIEF, f"run_dir={tmp_path / 'run'}"])
    report = json.loads((tmp_path / "run/report.json").read_text())
    assert set(BARE) <= {r["contender"] for r in report["results"]}


def test_a_quickstart_is_refused_before_it_trains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder_suite(tmp_path / "suite", 1)
    with pytest.raises(SystemExit) as caught:
        main(["quickstart", "suite=folder", f"suite.path={path}", f"run_dir={tmp_path / 'run'}"])
    assert caught.value.code == 2
    assert "shuffling descriptions needs two" in capsys.readouterr().err
    assert not (tmp_path / "run/library").exists()
