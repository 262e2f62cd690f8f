"""Which contenders are scored when none are named: those that suite, library and checkpoints allow."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from t2l.cli import main
from t2l.cli.settings import compose_settings
from t2l.evaluation.board import view_split
from t2l.evaluation.config import EvaluateConfig
from t2l.evaluation.contenders.few_shot import FewShotConfig
from t2l.evaluation.contenders.generated import control_lacks
from t2l.evaluation.contenders.interface import kinds
from t2l.evaluation.scope import chosen_contenders
from t2l.tasks.suites import build
from t2l.tasks.suites.folder import FolderSuiteConfig
from t2l.verbs.quickstart import _planned

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


def test_of_a_single_task_what_needs_another_is_left_out_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = folder_suite(tmp_path / "suite", 1)
    with caplog.at_level(logging.INFO):
        found = chosen(path, library="DIR", checkpoints=["DIR"])
    assert {*BARE, "oracle", "multi_task", "generated"} <= set(found)
    assert not {"nearest", "library_mean", "arrow"} & set(found)
    assert "contender nearest is left out: there is no training task beside 'task0', so it would be that" in caplog.text
    for control in ("shuffled", "shuffled_nearest", "static"):
        assert f"the control {control} is left out on split train: " in caplog.text
    assert "random_text is left out" not in caplog.text
    with pytest.raises(ValueError, match="contender nearest: there is no training task beside 'task0'"):
        chosen(path, library="DIR", contenders=["nearest"])


def test_controls_are_left_out_where_they_have_no_other_task() -> None:
    assert control_lacks("shuffled", ["a"], ["a", "b"]) is not None
    assert control_lacks("shuffled", ["a", "b"], ["a"]) is None
    for control in ("shuffled_nearest", "static"):
        assert control_lacks(control, ["c", "a"], ["a"]) is not None
        assert control_lacks(control, ["a"], ["a", "b"]) is None
        assert control_lacks(control, ["c"], ["a"]) is None
    assert control_lacks("random_text", ["a"], ["a"]) is control_lacks("matched", ["a"], ["a"]) is None


def test_a_split_of_one_task_is_scored_with_all_defaults(tmp_path: Path) -> None:
    """Trained on three tasks; of the held-out split, which has one, everything but the shuffled control."""
    path = folder_suite(tmp_path / "suite", 4)
    suite = ["suite=folder", f"suite.path={path}"]
    brief = ["trainer.steps=2", "trainer.tasks_per_step=3", "trainer.validate_every=null", "descriptions_per_task=1"]
    main(["train", *suite, *brief, "hypernetwork=l", f"run_dir={tmp_path / 'sft'}"])
    only = ["contenders=[base,generated]"]  # all others are scored above
    main(["evaluate", *suite, *BRIEF, *only, f"checkpoints=[{tmp_path / 'sft'}]", f"run_dir={tmp_path / 'run'}"])
    report = json.loads((tmp_path / "run/report.json").read_text())
    tasks = {r["split"]: r["n_tasks"] for r in report["results"]}
    (single,) = (split for split, count in tasks.items() if count == 1)
    there = {(r["contender"], r["split"]) for r in report["results"]}
    assert ("generated_sft_shuffled", single) not in there
    assert {("generated_sft_shuffled", "train"), ("generated_sft_static", single)} <= there
    assert report["confidence"] == {}
    assert {r["control"] for r in report["controls"] if r["split"] == single} == {
        "shuffled_nearest", "random_text", "static"
    }  # fmt: skip


def test_evaluate_on_a_folder_of_tasks_needs_no_more(tmp_path: Path) -> None:
    path = folder_suite(tmp_path / "suite", 4)
    main(["evaluate", "suite=folder", f"suite.path={path}", "splits=[train]", *BRIEF, f"run_dir={tmp_path / 'run'}"])
    report = json.loads((tmp_path / "run/report.json").read_text())
    assert set(BARE) <= {r["contender"] for r in report["results"]}


def test_a_quickstart_says_before_it_trains_what_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    path = folder_suite(tmp_path / "suite", 1)
    words = ["suite=folder", f"suite.path={path}", f"run_dir={tmp_path / 'run'}"]
    with caplog.at_level(logging.INFO):
        planned = _planned(compose_settings("quickstart", words), {n: n for n in ("library", "sft", "reconstruction")})
    assert "generated" in (planned.contenders or ())
    assert "the control shuffled is left out on split train: the split has one task" in caplog.text
    with pytest.raises(SystemExit):
        main(["quickstart", *words, "contenders=[nearest]"])
    assert "contender nearest: there is no training task beside 'task0'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
