"""Code that a model writes runs only where `allow_code_execution=true` says so, and nothing runs on the way to a refusal."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_cli import refused
from test_config import composed

from t2l.evaluation.config import EvaluateConfig
from t2l.evaluation.harness.lm_eval import Harness, HarnessConfig
from t2l.evaluation.metrics import code_runner, interface
from t2l.evaluation.metrics.code_runner import CodeExecutionError, as_configured, code_execution, passes
from t2l.evaluation.metrics.interface import metric
from t2l.evaluation.metrics.pass_at_1 import PassAt1
from t2l.evaluation.scoring import Question, check_scorable
from t2l.tasks import Example, Task
from t2l.verbs.compare_methods import CompareMethodsConfig
from t2l.verbs.quickstart import QuickstartConfig

TASK = Task("code", {"train": ("Do.",)}, {"test": (Example("f", "x", tests="assert f(1) == 1"),)}, "pass@1")


@pytest.fixture
def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any process that would be started fails the test; no metric has been checked before."""

    def run(*_args: Any, **_options: Any) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(interface, "_checked", set())


def suite_with_code(folder: Path) -> Path:
    """Two tasks of which one is scored by running code."""
    folder.mkdir()
    told = {"fine": {"descriptions": ["Do."]}, "code": {"descriptions": ["Do code."], "metric": "pass@1"}}
    (folder / "tasks.json").write_text(json.dumps(told))
    for name in told:
        row = {"output": "b", "test": "assert True"} if name == "code" else {"output": "b"}
        lines = [json.dumps({"input": f"{name} {i}", **row}) for i in range(5)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    return folder


@pytest.mark.usefixtures("nothing_runs")
def test_without_leave_neither_probes_nor_answers_run() -> None:
    found = metric("pass_at_1")
    assert found.runs_code
    for run in (
        lambda: check_scorable(TASK),
        lambda: Question("t", "", "", "assert True", metric="pass@1").score("x = 1"),
        lambda: passes("x = 1", "assert x"),
        found.check,
    ):
        with pytest.raises(CodeExecutionError, match="allow it with allow_code_execution=true, in a sandbox"):
            run()
    assert "pass_at_1" not in interface._checked


def test_with_leave_the_probes_run_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interface, "_checked", set())
    monkeypatch.setattr(PassAt1, "score", lambda self, answer, reference: 1.0)
    with code_execution(True), pytest.raises(ValueError, match="are its arguments swapped"):
        check_scorable(TASK)


def test_leave_ends_with_the_verb_it_was_given_to() -> None:
    @as_configured
    def verb(config: EvaluateConfig) -> bool:
        return passes("x = 1", "assert x")

    assert verb(EvaluateConfig(contenders=["base"], allow_code_execution=True))
    assert not code_runner.is_allowed()
    with code_execution(True), pytest.raises(CodeExecutionError):
        verb(EvaluateConfig(contenders=["base"]))


@pytest.mark.usefixtures("nothing_runs")
@pytest.mark.parametrize("verb", ["evaluate", "compare_methods", "quickstart"])
def test_a_suite_with_code_is_refused_before_a_model_loads(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    given = ["suite=folder", f"suite.path={suite_with_code(tmp_path / 'suite')}", "suite.held_fraction=0.0"]
    given += ["base_model.path=nobody/nothing", f"run_dir={tmp_path}/run", f"hydra.run.dir={tmp_path}/hydra"]
    given += ["contenders=[base]"]
    says = refused(capsys, verb, *given)
    assert "task 'code' (metric pass_at_1) runs the code that the model writes: allow it with allow_code_ex" in says
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("nothing_runs")
def test_a_suite_with_code_can_be_read_and_its_other_tasks_scored(tmp_path: Path) -> None:
    from t2l.tasks import suites
    from t2l.tasks.suites import FolderSuiteConfig

    suite = suites.build(FolderSuiteConfig(path=str(suite_with_code(tmp_path / "suite")), held_fraction=0.0))
    assert suite.tasks["code"].metric == "pass_at_1"
    check_scorable(suite.tasks["fine"])


def test_the_flag_is_a_key_of_every_verb_that_scores(capsys: pytest.CaptureFixture[str]) -> None:
    for verb, kind in (
        ("evaluate", EvaluateConfig),
        ("compare_methods", CompareMethodsConfig),
        ("quickstart", QuickstartConfig),
    ):
        given = ["contenders=[base]"] if verb == "evaluate" else []
        config = composed(verb, *given, "allow_code_execution=true")
        assert isinstance(config, kind)
        assert config.allow_code_execution
        assert not composed(verb, *given).allow_code_execution
    given = ["harness=lm_eval", "tasks=[arc_easy]", "harness.confirm_unsafe_code=true"]
    assert "unknown config key harness.confirm_unsafe_code" in refused(capsys, "evaluate", *given)


@pytest.mark.usefixtures("nothing_runs")
@pytest.mark.parametrize("name", ["codes", "group", "groups", "tagged"])
def test_harness_tasks_that_run_code_are_refused_however_they_are_named(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything of them is loaded: the harness's own code tasks run code while they load."""
    from lm_eval.tasks import TaskManager

    def load(*_args: Any) -> None:
        raise AssertionError("a task was loaded")

    monkeypatch.setattr(TaskManager, "load", load)
    task = {
        "task": "codes",
        "tag": "tagged",
        "dataset_path": "json",
        "unsafe_code": True,
        "output_type": "generate_until",
    }
    for file, content in (
        ("codes", task),
        ("group", {"group": "group", "task": ["codes"]}),
        ("groups", {"group": "groups", "task": [{"group": "inner", "task": ["group"]}]}),
    ):
        (tmp_path / f"{file}.yaml").write_text(yaml.safe_dump(content))
    made = TaskManager.__init__
    monkeypatch.setattr(
        TaskManager, "__init__", lambda self, **options: made(self, **{**options, "include_defaults": False})
    )
    with pytest.raises(CodeExecutionError, match=f"harness task '{name}'.* runs the code that the model writes"):
        Harness(HarnessConfig(include_path=str(tmp_path)), [name])
