"""What answers was not trained on what it answers: libraries and what is made of them, methods, targets, shots."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import random_adapters

from t2l.base_model import BaseModel, LoraConfig, lora_spec
from t2l.evaluation.board import BoardConfig, view_split
from t2l.evaluation.config import EvaluateConfig
from t2l.evaluation.data_checks import DataChecks
from t2l.evaluation.harness.board import view_of
from t2l.evaluation.harness.data import as_suite
from t2l.files import write_json
from t2l.library import LIBRARY_RECORD, MULTI_TASK, LibraryFolder
from t2l.library.trained_on import adapter_manifest, joint_hash, targets_trained_on
from t2l.library.training import LibraryTrainingConfig, train_library, train_multi_task
from t2l.methods import build as build_method
from t2l.methods.folder import MethodLibrary
from t2l.methods.interface import OptimizationConfig
from t2l.methods.scaling_and_prompts import Ia3Config
from t2l.methods.training import make_method_library
from t2l.tasks import Example, PromptConfig, Split, Task, TaskSuite
from t2l.tasks.manifest import Manifest
from t2l.verbs.evaluate import evaluate

OF_MANY = ["library_mean", "nearest", "arrow", "lorahub", "multi_task"]


def rows(task: str, start: int, count: int) -> tuple[Example, ...]:
    return tuple(Example(f"dog {i}", f"{task} {i}") for i in range(start, start + count))


def make_suite(shift: int = 0, train: tuple[str, ...] = ("sort", "reverse")) -> TaskSuite:
    """Three tasks; another shift deals rows of the same tasks to other uses."""
    tasks = {
        name: Task(
            name,
            {"train": (f"Please {name}.", f"Now {name}."), "test": (f"Do {name}!",)},
            {
                "train": rows(name, shift, 6),
                "validation": rows(name, shift + 6, 2),
                "test": rows(name, shift + 8, 4),
            },
        )
        for name in ("sort", "reverse", "count")
    }
    held = tuple(t for t in tasks if t not in train)
    return TaskSuite(f"dealt-{shift}", tasks, {"train": Split(train), "unseen": Split(held)})


def checks(suite: TaskSuite, splits: tuple[str, ...] = ("train",), **options: Any) -> DataChecks:
    return DataChecks(suite, suite, [view_split(suite, name, BoardConfig(), 0) for name in splits], **options)


def make_library(
    folder: Path, base: BaseModel, suite: TaskSuite, is_old: bool = False, definition: str = "hidden"
) -> LibraryFolder:
    """An oracle for each task and the multi-task LoRA, as training records them; old ones without rows."""
    library, prompt = (
        LibraryFolder.of(folder, lora_spec(base.model, LoraConfig(rank=2)), base),
        PromptConfig(definition),
    )
    write_json(
        folder / LIBRARY_RECORD,
        {
            "spec": library.spec.to_json(),
            "base_model": "tiny",
            "base_fingerprint": base.fingerprint,
            "suite": {"name": suite.name, "sha256": suite.content_hash()},
            "definition": definition,
        },
    )
    weights = random_adapters(library.spec, 1)
    for task in suite.tasks.values():
        record = {"data_sha256": prompt.apply(task).examples_hash()}
        library.adapters.save(
            task.name, weights, record, None if is_old else adapter_manifest([task], prompt, is_validated=True)
        )
    trained = suite.select(suite.split("train").tasks)
    record = {"data_sha256": joint_hash([prompt.apply(t) for t in trained]), "tasks": [t.name for t in trained]}
    rows_seen = None if is_old else adapter_manifest(trained, prompt, is_validated=False)
    library.static.save(MULTI_TASK, weights, record, rows_seen)
    return library


@pytest.mark.parametrize("contender", ["oracle", *OF_MANY])
def test_a_library_of_rows_that_are_scored_is_refused(contender: str, tiny_base: BaseModel, tmp_path: Path) -> None:
    make_library(tmp_path, tiny_base, make_suite())
    dealt_anew = make_suite(shift=-5)  # its test rows are training rows of the library
    with pytest.raises(
        ValueError, match=f"contender {contender}: cannot be scored on split 'train': example"
    ) as refused:
        checks(dealt_anew).library(str(tmp_path), [contender], dealt_anew.split("train").tasks)
    more = 1 if contender == "multi_task" else 3  # of validation rows, and of the other task
    assert f"'sort': 3 of its test examples were trained on and {more} more like it" in str(refused.value)
    assert "Take the suite (and suite.seed) that the library was trained on" in str(refused.value)
    assert "\n" not in str(refused.value)
    same = checks(make_suite(), ("train", "unseen"))
    same.library(str(tmp_path), [contender], ["sort", "reverse"])
    assert (same.overlaps, same.unchecked, same.notes) == ([], [], [])


def test_rows_that_decided_when_to_stop_are_refused(tiny_base: BaseModel, tmp_path: Path) -> None:
    make_library(tmp_path, tiny_base, make_suite())
    suite = make_suite(shift=-2)  # tests are rows 6 to 9, of which 6 and 7 were the library's for validation
    with pytest.raises(
        ValueError, match=r"validation overlap .*: 2 of its test examples decided when its training stopped"
    ):
        checks(suite).library(str(tmp_path), ["oracle"], [])


def test_a_suite_of_other_content_is_said_where_no_row_is_shared(tiny_base: BaseModel, tmp_path: Path) -> None:
    make_library(tmp_path, tiny_base, make_suite())
    found = checks(make_suite(shift=20))
    found.library(str(tmp_path), ["oracle", "multi_task"], [])
    (note,) = found.notes
    assert "was trained on suite dealt-0 with other content" in note


@pytest.mark.parametrize("definition", ["hidden", "shown"])
def test_equal_hashes_of_an_old_library_tell_its_rows(definition: str, tiny_base: BaseModel, tmp_path: Path) -> None:
    make_library(tmp_path, tiny_base, make_suite(), is_old=True, definition=definition)
    found = checks(make_suite())
    found.library(str(tmp_path), ["oracle", *OF_MANY], ["sort", "reverse"])
    assert (found.overlaps, found.unchecked) == ([], [])
    for contender in ("oracle", "nearest", "multi_task"):
        with pytest.raises(ValueError, match="does not say on which rows"):
            checks(make_suite(shift=20)).library(str(tmp_path), [contender], ["sort"])
    lenient = checks(make_suite(shift=20), is_strict=False)
    lenient.library(str(tmp_path), ["oracle"], [])
    assert len(lenient.unchecked) == 2


def test_adapters_that_record_nothing_are_said_to_be_unchecked(tiny_base: BaseModel, tmp_path: Path) -> None:
    library = make_library(tmp_path, tiny_base, make_suite())
    library.adapters.save("sort", random_adapters(library.spec, 1), {})
    found = checks(make_suite())
    found.library(str(tmp_path), ["oracle", "nearest"], ["sort", "reverse"])
    assert found.unchecked == [str(tmp_path / "adapters/sort")]


def test_a_held_out_task_that_the_multi_task_lora_was_trained_on_is_refused(
    tiny_base: BaseModel, tmp_path: Path
) -> None:
    make_library(tmp_path, tiny_base, make_suite(train=("sort", "count")))
    for contender, tasks in (("multi_task", []), ("nearest", ["sort", "count"])):
        with pytest.raises(ValueError, match="split 'unseen': task overlap with its training data, task 'count'"):
            checks(make_suite(), ("unseen",)).library(str(tmp_path), [contender], tasks)
    checks(make_suite(), ("unseen",)).library(str(tmp_path), ["oracle"], [])  # which is trained on each task by design


def test_a_suite_without_training_tasks_claims_what_the_training_suite_left_out() -> None:
    trained = make_suite()
    scored = TaskSuite("other", {"count": trained.tasks["count"]}, {"evaluation_only": Split(("count",))})
    honest, cheat = (Manifest.of(trained.select(names), 2) for names in (["sort", "reverse"], ["sort", "count"]))
    assert honest.overlaps(scored, "evaluation_only", trained) == []
    assert [o.kind for o in cheat.overlaps(scored, "evaluation_only", trained)] == ["task"]


def test_what_another_method_learnt_is_checked_too(tiny_base: BaseModel, tmp_path: Path) -> None:
    suite = make_suite()
    how = OptimizationConfig(steps=1, rows_per_task=2)
    record = {"suite": {"name": suite.name, "sha256": suite.content_hash()}, "definition": "shown"}
    method, shown = build_method(Ia3Config(how)), PromptConfig("shown")
    make_method_library(tmp_path, method, tiny_base, suite.select(["sort", "reverse"]), 0, record, shown)
    checks(suite).method_library(str(tmp_path))
    with pytest.raises(ValueError, match=f"method library {tmp_path} cannot be scored .* example overlap"):
        checks(make_suite(shift=-5)).method_library(str(tmp_path))
    rows_file = MethodLibrary.open(tmp_path).path("sort") / "training_data.safetensors"
    rows_file.unlink()
    checks(suite).method_library(str(tmp_path))  # the hash of the data tells
    with pytest.raises(ValueError, match="does not say on which rows"):
        checks(make_suite(shift=20)).method_library(str(tmp_path))


def test_training_records_the_rows_it_reads(tiny_base: BaseModel, tmp_path: Path) -> None:
    """Those of the suite, not as they are put with a shown definition."""
    suite = make_suite()
    tasks = suite.select(["sort", "reverse"])
    library = LibraryFolder.of(tmp_path, lora_spec(tiny_base.model, LoraConfig(rank=2)), tiny_base)
    config, shown = LibraryTrainingConfig(steps=1, rows_per_task=2, cycles=1), PromptConfig("shown")
    train_library(library.adapters, tiny_base, tasks, config, 0, prompt=shown)
    train_multi_task(library.static, tiny_base, tasks, config, 0, MULTI_TASK, shown)
    sort, together = library.adapters.path("sort"), library.static.path(MULTI_TASK)
    assert (sort / "training_data.safetensors").stat().st_size < 1000
    write_json(
        tmp_path / LIBRARY_RECORD,
        {"spec": library.spec.to_json(), "base_model": "tiny", "base_fingerprint": tiny_base.fingerprint,
         "definition": "shown"},
    )  # fmt: skip
    for contender in ("oracle", "multi_task"):
        checks(suite).library(str(tmp_path), [contender], [])
        with pytest.raises(ValueError, match="example overlap"):
            checks(make_suite(shift=-5)).library(str(tmp_path), [contender], [])
    assert json.loads((together / "t2l.json").read_text())["tasks"] == ["sort", "reverse"]


def test_targets_of_reconstruction_were_trained_on_the_suite(tiny_base: BaseModel, tmp_path: Path) -> None:
    suite = make_suite()
    tasks = suite.select(["sort", "reverse"])
    for name, is_old in (("new", False), ("old", True)):
        make_library(tmp_path / name, tiny_base, suite, is_old)
        found = Manifest.union([m for m in targets_trained_on(tmp_path / name, tasks, suite, "hidden") if m])
        assert len(found.validation["sort"]) == 2
    other = make_suite(shift=1)
    with pytest.raises(ValueError, match="was trained on other rows than suite dealt-1 has for training"):
        targets_trained_on(tmp_path / "new", other.select(["sort"]), other, "hidden")
    with pytest.raises(ValueError, match="does not say on which rows"):
        targets_trained_on(tmp_path / "old", other.select(["sort"]), other, "hidden")
    with pytest.raises(ValueError, match=r"was trained with prompt.definition=hidden: pass that, or train a library"):
        targets_trained_on(tmp_path / "new", tasks, suite, "shown")
    fewer = replace(suite.tasks["sort"], examples={**suite.tasks["sort"].examples, "test": rows("sort", 8, 1)})
    (found_,) = targets_trained_on(tmp_path / "new", [fewer], suite, "hidden")  # other test rows change nothing
    assert found_ is not None


@pytest.mark.parametrize("contender", ["icl", "few_shot", "refined", "lorahub"])
def test_shots_that_are_scored_are_refused(contender: str) -> None:
    suite = make_suite()
    leak = replace(
        suite.tasks["sort"],
        examples={"train": rows("sort", 0, 6), "validation": rows("sort", 20, 1), "test": rows("sort", 5, 4)},
    )
    suite = replace(suite, tasks={**suite.tasks, "sort": leak})
    checks(suite).own_examples({contender: 5})
    with pytest.raises(
        ValueError, match=f"contender {contender} would be given 1 of the scored examples of task 'sort'"
    ):
        checks(suite).own_examples({contender: 6})


def harness_task(docs: list[dict[str, Any]], choices: bool = False) -> SimpleNamespace:
    """As the harness makes a task of a YAML."""
    return SimpleNamespace(
        eval_docs=docs,
        config=SimpleNamespace(doc_to_choice="choices" if choices else None),
        doc_to_text=lambda doc: doc["question"],
        doc_to_target=lambda doc: doc["label"] if choices else doc["answer"],
        doc_to_choice=lambda doc: doc["choices"],
    )


@pytest.mark.parametrize("choices", [False, True])
def test_rows_of_the_harness_that_were_trained_on_are_refused(
    choices: bool, tiny_base: BaseModel, tmp_path: Path
) -> None:
    suite = make_suite()
    make_library(tmp_path, tiny_base, suite)
    view = view_of(["sort", "count"], [["Sort."], ["Count."]], False)

    def checked(row: Example) -> DataChecks:
        doc = {"question": row.input, "answer": row.output, "choices": ["no", row.output], "label": 1}
        rows_of_harness, shown, notes = as_suite({"mine": harness_task([doc], choices), "group": object()}, view)
        assert notes[1] == "Not compared: group"
        return DataChecks(rows_of_harness, suite, [shown], is_strict=False)

    checked(suite.tasks["sort"].examples["test"][0]).library(str(tmp_path), ["oracle", "multi_task"], [])
    for contender in ("oracle", "multi_task"):
        with pytest.raises(ValueError, match="split 'harness': example overlap with its training data, task 'sort'"):
            checked(suite.tasks["sort"].examples["train"][0]).library(str(tmp_path), [contender], [])


@pytest.mark.parametrize(("name", "verb"), [("run.json", "train"), ("library.json", "train_library")])
def test_no_report_among_the_files_of_another_verb(name: str, verb: str, tmp_path: Path) -> None:
    write_json(tmp_path / name, {})
    with pytest.raises(ValueError, match=f"is a folder of `t2l {verb}`: choose another"):
        evaluate(EvaluateConfig(contenders=["base"], run_dir=str(tmp_path)))
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_rows_that_chose_the_format_of_shots_are_refused() -> None:
    suite = make_suite()
    leak = replace(suite.tasks["sort"], examples={**suite.tasks["sort"].examples, "validation": rows("sort", 8, 1)})
    suite = replace(suite, tasks={**suite.tasks, "sort": leak})
    checks(suite).own_examples({"few_shot": 4})
    with pytest.raises(ValueError, match="contender icl would be given 1 of the scored examples"):
        checks(suite).own_examples({"icl": 4})
