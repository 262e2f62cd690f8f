"""Content apart from form, in reports of suites whose answers have both."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from t2l.cli import main
from t2l.evaluation.board import Cell, Run, scores_of
from t2l.evaluation.costs import Usage
from t2l.evaluation.report.content import by_content, has_core
from t2l.evaluation.scoring import Answer, Question
from t2l.evaluation.statistics import estimate
from t2l.files import read_json
from t2l.tasks.suites import build
from t2l.tasks.suites.everyday import EverydayConfig


def cell(*answers: tuple[str, str, str]) -> Cell:
    """Of (core, reference, answer), scored by exact match."""
    asked = [Question("t", f"q{i}", f"q{i}", ref, core=core) for i, (core, ref, _) in enumerate(answers)]
    given = [Answer(q, said, q.score(said)) for q, (_, _, said) in zip(asked, answers, strict=True)]
    run = Run(given, [], Usage(0, 0, 0, 0, 0), "f")
    return Cell("base", "train", [run], estimate(scores_of([run]), 20, 0, "k", bounds=(0.0, 1.0)))


def test_the_core_counts_in_whatever_form() -> None:
    found = cell(
        ("Paris", '{"answer": "Paris"}', "The capital of France is Paris."),
        ("Paris", "PARIS", "paris"),
        ("Paris", "Paris", "Parisian"),
        ("12", "[12]", "It is 112."),
        ("", "dog", "a dog"),
    )
    again = by_content(found, 20, 0)
    assert [a.score for a in found.runs[0].answers] == [0, 0, 0, 0, 0]
    assert [a.score for a in again.runs[0].answers] == [1, 1, 0, 0, 0]
    assert again.estimate.mean == pytest.approx(0.4)
    assert has_core([found])
    assert not has_core([cell(("", "dog", "a dog"))])


def test_a_choice_by_likelihood_keeps_its_score() -> None:
    found = cell(("dog", "dog", "cat"))
    chosen = replace(found.runs[0].answers[0].question, metric="multiple_choice", core="cat")
    run = replace(found.runs[0], answers=[replace(found.runs[0].answers[0], question=chosen)])
    assert by_content(replace(found, runs=[run]), 20, 0).runs[0].answers[0].score == 0


def test_a_core_makes_no_other_question_or_example() -> None:
    """What was answered before examples had cores is still there for the same questions."""
    one = Question("t", "q", "q", "[12]")
    assert repr(replace(one, core="12")) == repr(one)
    example = next(iter(build(EverydayConfig(train_tasks=20)).tasks.values())).examples["test"][0]
    assert replace(example, core="").content() == example.content()


def test_every_everyday_answer_holds_its_core() -> None:
    for task in build(EverydayConfig()).tasks.values():
        for example in task.examples["test"]:
            assert example.core
            assert example.core.lower() in example.output.lower().replace("\\", "")


def test_the_report_has_a_table_of_content(tmp_path: Path) -> None:
    board = ["tasks_per_split=2", "examples_per_task=2", "bootstrap_samples=20"]
    words = ["suite=everyday", "contenders=[base]", "splits=[unseen_task]", *(f"evaluation.{b}" for b in board)]
    main(["evaluate", *words, f"run_dir={tmp_path}"])
    (row,) = read_json(tmp_path / "report.json")["content"]
    assert (row["contender"], row["split"], row["metric"], row["n_tasks"]) == ("base", "unseen_task", "contains_any", 2)
    assert "## Content, whatever the form" in (tmp_path / "report.md").read_text()
