"""A key that no dataclass has is refused however it is written; new keys of mappings are not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from test_cli import refused

from t2l.cli.settings import SettingsError, compose_settings

NEEDED = {"evaluate": ["library=D", "checkpoints=[D]"], "describe": ["run_dir=D"]}


@pytest.mark.parametrize(
    ("verb", "words", "says"),
    [
        ("train", ["+trainer.learning_rate=5"], "unknown config key trainer.learning_rate (it has steps, lr"),
        ("train", ["++trainer.learning_rate=5"], "unknown config key trainer.learning_rate"),
        ("train", ["+trainer={stepz: 5}"], "unknown config key trainer.stepz; did you mean 'steps'?"),
        ("train", ["+libary=D"], "unknown config key libary; did you mean 'library'?"),
        ("train", ["+encoder.pth=x"], "unknown config key encoder.pth; did you mean 'path'?"),
        ("train", ["+suite.sed=1"], "unknown config key suite.sed; did you mean 'seed'?"),
        ("train", ["+hypernetwork.widht=3"], "unknown config key hypernetwork.widht"),
        ("train", ["+objective.label_smooth=3"], "did you mean 'label_smoothing'?"),
        ("train_library", ["+training.stepz=3"], "unknown config key training.stepz; did you mean 'steps'?"),
        ("train_library", ["method=dora", "+method.rnak=3"], "unknown config key method.rnak; did you mean 'rank'?"),
        ("evaluate", ["+harness.numfewshot=1"], "nothing is chosen for harness"),
        ("evaluate", ["+training_suite.path=x"], "nothing is chosen for training_suite"),
        ("evaluate", ["suite@training_suite=folder", "+training_suite.pth=x"], "unknown config key training_suite.pth"),
        ("compare_methods", ["+methods.dora.rnak=3"], "unknown config key methods.dora.rnak; did you mean 'rank'?"),
        ("compare_methods", ["+methods.doora.rank=3"], "methods.doora is no method"),
        ("describe", ["+accept.min_word=3"], "did you mean 'min_words'?"),
        ("quickstart", ["+sft_trainer.stepz=3"], "unknown config key sft_trainer.stepz; did you mean 'steps'?"),
        ("pretrain_base", ["+step=3"], "did you mean 'steps'?"),
        ("generate", ["+warn_belw=0.2"], "did you mean 'warn_below'?"),
        ("plan", ["+trainer.stepz=3"], "unknown config key trainer.stepz; did you mean 'steps'?"),
        ("train", ["+experiment=mini_sft"], "write experiment=mini_sft, without +"),
        ("train", ["hypernetwork=xl"], "hypernetwork=xl: there is none of that name; choose from l, m, residual, "),
        ("train", ["base_model=own/er"], "smollm_360m (a folder or hub id is base_model.path=own/er)"),
    ],
)
def test_unknown_keys_are_refused(verb: str, words: list[str], says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        compose_settings(verb, [*NEEDED.get(verb, []), *words])


@pytest.mark.parametrize(
    ("verb", "words"),
    [
        ("train", ["suite=folder", "suite.path=D", "+suite.row_splits.train=dev"]),
        ("train", ["+base_model.template_values.enable_thinking=false"]),
        ("train", ["experiment=mini_sft", "+hydra.job.env_set.X=1"]),
        ("evaluate", ["harness=lm_eval", "tasks=[arc]", "+harness.descriptions.arc=[Answer.]"]),
        ("compare_methods", ["+method@methods.other=dora", "methods.other.rank=2"]),
        ("plan", ["experiment=mini_sft", "++trainer.steps=3"]),
    ],
)
def test_new_keys_of_mappings_are_not(verb: str, words: list[str]) -> None:
    compose_settings(verb, [*NEEDED.get(verb, []), *words])


@pytest.mark.parametrize("body", ["trainer: {stepz: 3}", "trainer: {learning_rate: 3}", "traner: {steps: 3}"])
def test_experiments_are_held_to_the_same(body: str, tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment/mine.yaml").write_text(f"# @package _global_\n{body}\n")
    with pytest.raises(SettingsError, match="In 'experiment/mine': unknown config key tra"):
        compose_settings("train", [f"hydra.searchpath=['file://{tmp_path}']", "experiment=mine"])


@pytest.mark.parametrize(
    "words",
    [
        ["train", "+trainer.learning_rate=5"],
        ["train", "-m", "seed=1,2", "+trainer.learning_rate=5,6"],
        ["train", "+trainer.learning_rate=5", "--cfg", "job"],
        ["plan", "+trainer.learning_rate=5"],
        ["generate", "Count.", "+checkpoints=x"],
    ],
)
def test_commands_stop_before_anything_is_made(
    words: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "unknown config key" in refused(capsys, *words)
    assert not list(tmp_path.iterdir())
