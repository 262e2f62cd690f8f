"""What the experiments on SmolLM2 measure beside the board: the likelihood of right answers, and how phrasings are held out."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from small_run import SMALL

from experiments.smollm2 import likelihood, own_library
from experiments.smollm2.phrasings import HELD, TEST, TRAIN, Texts, descriptions, halves, told, whitened
from t2l.base_model import BaseModel, LoraConfig, lora_spec
from t2l.evaluation.contenders.generated import CONTROLS
from t2l.evaluation.contenders.interface import Entry
from t2l.evaluation.scoring import Question
from t2l.hypernetwork.generator import load
from t2l.library import load_library
from t2l.library.trained_on import trained_on
from t2l.tasks import Example, tokenize_examples
from t2l.tasks.suites import build
from t2l.tasks.suites.everyday.suite import EverydayConfig


def test_the_loss_is_that_of_the_reference_and_of_its_content(mini_base: BaseModel) -> None:
    """Against logits of the whole sequence, one question at a time."""
    questions = [
        Question("sort", "dog ant", "dog ant", "ant dog", core="dog"),
        Question("reverse", "red dog ant", "red dog ant", "ant dog red"),
    ]
    spec = lora_spec(mini_base.model, LoraConfig())
    found = likelihood.reference_losses(mini_base, spec, Entry(questions))
    for i, question in enumerate(questions):
        (row,) = tokenize_examples(mini_base.tokenizer, [Example(question.content, question.reference)])
        ids = torch.tensor([[*row.prompt_ids, *row.response_ids]])
        with torch.no_grad():
            logs = mini_base.model(ids).logits[0, len(row.prompt_ids) - 1 : -1].log_softmax(-1)
        losses = [-float(logs[t, token]) for t, token in enumerate(row.response_ids)]
        assert found["answer"][i] == pytest.approx(sum(losses) / len(losses), abs=1e-4)
        words = mini_base.tokenizer.convert_ids_to_tokens(list(row.response_ids))
        inside = [loss for loss, word in zip(losses, words, strict=True) if not question.core or "dog" in word]
        assert 0 < len(inside) <= len(losses)
        assert found["content"][i] == pytest.approx(sum(inside) / len(inside), abs=1e-4)
    assert found["content"][0] != pytest.approx(found["answer"][0], abs=1e-3)


def board_words(root: Path) -> list[str]:
    board = ["tasks_per_split=3", "examples_per_task=2", "descriptions_per_task=2", "bootstrap_samples=20"]
    small = [f"evaluation.{b}" for b in board]
    return [*SMALL, *small, f"checkpoints=[{root}/sft]", "splits=[unseen_combination]"]


def test_every_control_is_held_against_the_matched_adapter(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    likelihood.main([*board_words(root), f"run_dir={tmp_path}"])
    rows = json.loads((tmp_path / "likelihood.json").read_text())
    answers = {(r["contender"], r["condition"]): r for r in rows if r["kind"] == "answer"}
    ours = {condition: r for (name, condition), r in answers.items() if name == "generated_sft"}
    assert ours.keys() == {"matched", *CONTROLS}
    assert {name for name, _ in answers} == {"base", "prompted", "generated_sft"}
    for control in CONTROLS:
        apart = ours[control]["loss"] - ours["matched"]["loss"]
        assert ours[control]["difference"]["difference"] == pytest.approx(apart, abs=1e-4)
    assert "| generated_sft, static | " in capsys.readouterr().out


def test_what_cannot_be_measured_is_said_in_one_line(root: Path, tmp_path: Path, capsys: Any) -> None:
    words = board_words(root)
    for wrong, said in (
        ([*words[:-2], "checkpoints=[nowhere]", f"run_dir={tmp_path}/a"], "nowhere"),
        ([*words, "splits=[nope]", f"run_dir={tmp_path}/b"], "unknown split 'nope'"),
        (words, "give run_dir=DIR"),
    ):
        with pytest.raises(SystemExit) as stopped:
            likelihood.main(wrong)
        assert stopped.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line
    assert not list(tmp_path.iterdir())


def test_held_out_phrases_are_apart_and_no_test_phrase_is_looked_at() -> None:
    found = halves([f"p{i}" for i in range(9)], "key")
    assert len(found["test"]) == round(9 * HELD)
    assert sorted([*found["train"], *found["test"]]) == [f"p{i}" for i in range(9)]
    assert halves(["alone"], "key") == {"train": ("alone",), "test": ("alone",)}
    made = descriptions()
    suite = build(EverydayConfig())
    assert made.count == TRAIN * len(suite.split("train").tasks)
    assert len(made.texts) == (TRAIN + TEST) * len(suite.split("train").tasks)
    scored = {d for t in suite.select(suite.split("train").tasks) for d in t.descriptions["test"]}
    assert not scored & set(made.texts)


def test_shares_are_of_right_ones_and_whitening_makes_tasks_round() -> None:
    labels = torch.tensor([[0, 0], [1, 1]])
    scores = torch.tensor([[1.0, 0, 1, 0], [1, 0, 0, 1]])
    assert told(scores, labels, 2) == (0.5, 0.5, 1.0)
    torch.manual_seed(0)
    x = torch.randn(400, 6) * torch.tensor([9.0, 3, 1, 1, 1, 1])
    texts = Texts([""] * 400, torch.tensor([[i % 2, 0] for i in range(400)]), 400)
    y = whitened(x, texts, 1e-3)
    within = torch.cat([y[i::2] - y[i::2].mean(0) for i in (0, 1)])
    assert torch.cov(within.T).diagonal().sqrt().sub(1).abs().max() < 0.05
    assert math.isfinite(float(y.abs().max()))


def test_a_hypernetworks_own_adapters_are_a_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The means over descriptions, by the checkpoint that comes with t2l; for one task, there are many."""
    generator = load("smollm2")
    task = own_library.training_tasks(generator)[0]
    texts = task.descriptions["train"][:2]
    mean, (one, two) = own_library.mean_adapter(generator, task, 2), (generator([text]) for text in texts)
    for ours, a, b in zip(mean.tensors(), one.tensors(), two.tensors(), strict=True):
        torch.testing.assert_close(ours, (a + b) / 2)
    monkeypatch.setattr(own_library, "training_tasks", lambda _: [task])
    assert list(own_library.own_library("smollm2", tmp_path / "own")) == [task.name]
    library = load_library(tmp_path / "own")
    whole = own_library.mean_adapter(generator, task, generator.record.trained_on["descriptions_per_task"])
    for ours, theirs in zip(library[task.name].tensors(), whole.tensors(), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert trained_on(tmp_path / "own/adapters" / task.name, [build(EverydayConfig())], "hidden").is_within(task)
    with pytest.raises(ValueError, match="is there already"):
        list(own_library.own_library("smollm2", tmp_path / "own"))


def test_the_library_is_of_the_suite_that_was_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_library, "EverydayConfig", lambda: EverydayConfig(seed=1))
    with pytest.raises(ValueError, match="other content than suite=everyday has"):
        own_library.training_tasks(load("smollm2"))
