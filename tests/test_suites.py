from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from t2l.files import FileProblemError
from t2l.suites import FolderSuiteConfig, WordListConfig, build
from t2l.suites.word_list_vocabulary import ATTRIBUTES, GROUPS
from t2l.suites.word_lists import ATTRIBUTE_STEPS, WordListRule, all_rules
from t2l.tasks import TaskSuite

HELD_OUT = ("unseen_combination", "unseen_composition", "unseen_category")


@pytest.fixture(scope="module")
def suite() -> TaskSuite:
    return build(WordListConfig())


@pytest.mark.parametrize(
    ("steps", "attribute", "items", "answer"),
    [
        (("keep",), "animals", "dog 4 hammer cat", "dog cat"),
        (("keep",), "animals", "hammer 4", "none"),
        (("drop",), "even", "4 dog 7", "dog 7"),
        (("count",), "vowels", "a b e dog", "2"),
        (("first",), "prime", "4 9 7 dog 5", "7"),
        (("last",), "prime", "4 9 7 dog 5", "5"),
        (("any",), "tools", "dog saw", "yes"),
        (("any",), "tools", "dog cat", "no"),
        (("front",), "above_ten", "dog 12 3 19", "12 19 dog 3"),
        (("back",), "above_ten", "dog 12 3 19", "dog 3 12 19"),
        (("mask",), "consonants", "a b dog c", "a _ dog _"),
        (("double",), "multiple_of_three", "3 dog 4", "3 3 dog 4"),
        (("reverse",), None, "a 2 dog", "dog 2 a"),
        (("sort",), None, "dog 12 b 3 apple", "3 12 apple b dog"),
        (("rotate",), None, "a 2 dog", "2 dog a"),
        (("keep", "reverse"), "fruits", "plum dog kiwi", "kiwi plum"),
        (("drop", "trim_first"), "odd", "3 dog 4", "4"),
    ],
)
def test_rules_do_what_their_names_say(steps: tuple[str, ...], attribute: str | None, items: str, answer: str) -> None:
    assert WordListRule(steps, attribute).answer(items.split()) == answer


def test_size_and_variety(suite: TaskSuite) -> None:
    assert len(suite.tasks) >= 300
    for task in suite.tasks.values():
        train, test = set(task.descriptions["train"]), set(task.descriptions["test"])
        assert len(train) + len(test) >= 100
        assert len(train) == len(task.descriptions["train"])


def test_phrasing_sets_are_disjoint_over_the_whole_suite(suite: TaskSuite) -> None:
    train = {d for t in suite.tasks.values() for d in t.descriptions["train"]}
    test = {d for t in suite.tasks.values() for d in t.descriptions["test"]}
    assert not train & test


def test_no_two_tasks_share_a_description(suite: TaskSuite) -> None:
    owner: dict[str, str] = {}
    for task in suite.tasks.values():
        for description in task.descriptions["train"] + task.descriptions["test"]:
            assert owner.setdefault(description, task.name) == task.name


def _steps(suite: TaskSuite, split: str) -> set[tuple[str, str]]:
    """(operation, category) pairs in a split's tasks, of whichever step selects."""
    tasks = suite.select(suite.split(split).tasks)
    return {(t.attributes["operation"].split("+")[0], t.attributes["category"]) for t in tasks}


def test_each_split_changes_one_thing(suite: TaskSuite) -> None:
    trained = suite.select(suite.split("train").tasks)
    pairs = _steps(suite, "train")
    operations, categories = {o for o, _ in pairs}, {c for _, c in pairs}
    step_pairs = {t.attributes["operation"] for t in trained if "+" in t.attributes["operation"]}
    assert not any(set(suite.split(s).tasks) & set(suite.split("train").tasks) for s in HELD_OUT)
    assert suite.split("unseen_phrasing").tasks == suite.split("train").tasks
    assert suite.split("unseen_phrasing").phrasing == "test"
    for operation, category in _steps(suite, "unseen_combination"):
        assert operation in operations
        assert category in categories
        assert (operation, category) not in pairs
    singles = {(t.attributes["operation"], t.attributes["category"]) for t in trained}
    second_steps = {p.split("+")[1] for p in step_pairs} | {o for o, c in singles if c == "(none)"}
    for task in suite.select(suite.split("unseen_composition").tasks):
        first, second = task.attributes["operation"].split("+")
        assert (first, task.attributes["category"]) in singles
        assert second in second_steps
        assert task.attributes["operation"] not in step_pairs
    for operation, category in _steps(suite, "unseen_category"):
        assert operation in operations
        assert category not in categories
    assert {s: suite.split(s).phrasing for s in HELD_OUT} == dict.fromkeys(HELD_OUT, "train")
    assert suite.split("unseen_combination_and_phrasing").tasks == suite.split("unseen_combination").tasks
    assert suite.split("unseen_combination_and_phrasing").phrasing == "test"


def test_examples_never_leak_between_splits(suite: TaskSuite) -> None:
    for task in suite.tasks.values():
        seen = [{e.input for e in task.examples[k]} for k in ("train", "validation", "test")]
        assert sum(map(len, seen)) == len(set.union(*seen))


def test_input_does_not_give_the_task_away() -> None:
    """Of the three groups in a list, the task's own has no more items than the others and stands no earlier."""
    rng = random.Random(0)
    own_items, own_first, lists = 0.0, 0, 0
    for rule in [r for r in all_rules() if r.attribute is not None and len(r.steps) == 1]:
        own = set(GROUPS[ATTRIBUTES[rule.attribute or ""].group])
        for _ in range(40):
            items = rule.sample_input(rng)
            assert sum(bool(set(items) & set(members)) for members in GROUPS.values()) == 3
            if own & set(items):
                own_items += len(own & set(items)) / len(items)
                own_first += items[0] in own
                lists += 1
    assert own_items / lists == pytest.approx(1 / 3, abs=0.02)
    assert own_first / lists == pytest.approx(1 / 3, abs=0.03)


def test_a_list_has_many_right_answers_under_different_tasks(suite: TaskSuite) -> None:
    items = suite.tasks["keep_animals"].examples["test"][0].input.split()
    answers = {WordListRule((s,), a).answer(items) for s in ATTRIBUTE_STEPS for a in ATTRIBUTES}
    assert len(answers) > 20


def test_same_seed_same_suite_other_seed_other_suite(suite: TaskSuite) -> None:
    assert build(WordListConfig()).content_hash() == suite.content_hash()
    assert build(WordListConfig(seed=1)).content_hash() != suite.content_hash()


def test_too_much_held_out_says_so() -> None:
    with pytest.raises(ValueError, match=r"suite\.held_combinations=180 is too many"):
        build(WordListConfig(held_combinations=180))


def _write_folder(folder: Path) -> None:
    folder.mkdir()
    records = {
        "double": {"descriptions": ["Say it twice."], "family": "copy", "splits": {"train": [0, 3], "test": [3, 5]}},
        "same": {"descriptions": ["Say it again."], "family": "copy"},
        "upper": {"descriptions": ["Shout."], "family": "case"},
    }
    (folder / "tasks.json").write_text(json.dumps(records))
    for name in records:
        rows = [json.dumps({"input": f"{name}{i}", "output": f"out{i}"}) for i in range(5)]
        (folder / f"{name}.jsonl").write_text("\n".join(rows) + "\n")


def test_folder_suite_reads_ranges_and_keeps_families_together(tmp_path: Path) -> None:
    _write_folder(tmp_path / "suite")
    suite = build(FolderSuiteConfig(path=str(tmp_path / "suite"), held_fraction=0.5))
    assert [e.input for e in suite.tasks["double"].examples["test"]] == ["double3", "double4"]
    held = set(suite.split("unseen_task").tasks)
    assert held in ({"upper"}, {"double", "same"})
    assert held | set(suite.split("train").tasks) == set(suite.tasks)


def test_folder_suite_reads_references_choices_and_assertions(tmp_path: Path) -> None:
    _write_folder(tmp_path / "suite")
    rows = [
        {"input": "a", "output": "b", "references": ["c", "d"]},
        {"input": "e", "output": "f", "choices": ["f", "g"]},
        {"input": "h", "output": "def h(): pass", "test": "def check(f): f()", "entry_point": "h"},
        {"input": "i", "output": "x = 1", "test_list": ["assert x == 1", "assert x > 0"]},
        {"input": "j", "output": "k"},
    ]
    (tmp_path / "suite/double.jsonl").write_text("\n".join(map(json.dumps, rows)))
    record = json.loads((tmp_path / "suite/tasks.json").read_text())
    record["double"]["splits"] = {"train": [4, 5], "test": [0, 4]}
    (tmp_path / "suite/tasks.json").write_text(json.dumps(record))
    several, choice, checked, listed = (
        build(FolderSuiteConfig(path=str(tmp_path / "suite"))).tasks["double"].examples["test"]
    )
    assert several.references == ("c", "d")
    assert choice.choices == ("f", "g")
    assert checked.tests == "def check(f): f()\ncheck(h)"
    assert listed.tests == "assert x == 1\nassert x > 0"


def test_folder_suite_errors_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(FileProblemError, match="no such folder"):
        build(FolderSuiteConfig(path=str(tmp_path / "nothing")))
    _write_folder(tmp_path / "suite")
    with pytest.raises(ValueError, match="unknown task 'triple'"):
        build(FolderSuiteConfig(path=str(tmp_path / "suite"), tasks=["triple"]))
    (tmp_path / "suite/upper.jsonl").write_text('{"input": "x"}\n')
    with pytest.raises(FileProblemError, match=r"upper\.jsonl:1 is not a row"):
        build(FolderSuiteConfig(path=str(tmp_path / "suite")))
