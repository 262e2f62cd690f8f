from __future__ import annotations

import dataclasses

import pytest

from t2l.tasks import TaskSuite
from t2l.tasks.manifest import Manifest, refuse, suite_manifest
from t2l.tasks.suites import WordListConfig, build


@pytest.fixture(scope="module")
def suite() -> TaskSuite:
    return build(WordListConfig(train_examples=6, validation_examples=1, test_examples=8))


@pytest.fixture(scope="module")
def honest(suite: TaskSuite) -> Manifest:
    return Manifest.of(suite.select(suite.split("train").tasks), 8)


def test_the_embedded_splits_share_nothing_they_claim_to_be_unseen(suite: TaskSuite, honest: Manifest) -> None:
    for name in suite.splits:
        assert honest.overlaps(suite, name) == []


def test_a_manifest_survives_its_tensors(suite: TaskSuite, honest: Manifest) -> None:
    again = Manifest.from_tensors(honest.tensors())
    assert again.tensors().keys() == honest.tensors().keys()
    assert again.overlaps(suite, "unseen_combination") == []


def test_a_held_out_task_that_was_trained_on_is_refused(suite: TaskSuite) -> None:
    held = suite.split("unseen_combination").tasks[0]
    cheat = Manifest.of(suite.select([*suite.split("train").tasks, held]), 8)
    found = cheat.overlaps(suite, "unseen_combination")
    assert ("task", held) in {(o.kind, o.task) for o in found}
    with pytest.raises(ValueError, match=f"cannot be scored on split 'unseen_combination': task overlap.*{held}"):
        refuse(found, "run")


def test_a_description_of_the_test_phrasing_that_was_trained_on_is_refused(suite: TaskSuite) -> None:
    name = suite.split("train").tasks[0]
    task = suite.tasks[name]
    leak = dataclasses.replace(task, descriptions={"train": (task.descriptions["test"][0].upper(),)})
    found = Manifest.of([leak], 1).overlaps(suite, "unseen_phrasing")
    assert [(o.kind, o.task) for o in found] == [("description", name)]
    with pytest.raises(ValueError, match="description overlap"):
        refuse(found, "run")


def test_a_test_example_that_was_trained_on_is_refused(suite: TaskSuite) -> None:
    task = suite.tasks[suite.split("train").tasks[0]]
    leak = dataclasses.replace(task, examples={"train": task.examples["test"][:2]})
    found = Manifest.of([leak], 1).overlaps(suite, "train")
    assert [(o.kind, o.detail) for o in found] == [("example", "2 of its test examples were trained on")]
    with pytest.raises(ValueError, match="example overlap"):
        refuse(found, "run")


def test_a_held_out_task_under_another_name_is_marked(suite: TaskSuite) -> None:
    held = suite.tasks[suite.split("unseen_combination").tasks[0]]
    twin = dataclasses.replace(held, name="twin", examples={"train": held.examples["test"]})
    found = Manifest.of([twin], 4).overlaps(suite, "unseen_combination")
    assert {(o.kind, o.task) for o in found} == {("near_duplicate", held.name)}
    refuse(found, "run")


def test_the_report_names_every_task_by_content(suite: TaskSuite) -> None:
    entries = suite_manifest(suite)
    assert entries.keys() == suite.tasks.keys()
    assert len({e["content_sha256"] for e in entries.values()}) == len(entries)
