from __future__ import annotations

import random

import pytest

from t2l.registry import components
from t2l.tasks import Example, PromptConfig, Task, TaskSuite
from t2l.tasks.suites import WordListConfig, build
from t2l.tasks.suites.rows import check_needs
from t2l.tasks.suites.word_list_vocabulary import ATTRIBUTES, GROUPS
from t2l.tasks.suites.word_lists import ATTRIBUTE_STEPS, WordListRule, all_rules

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


def test_a_row_needs_what_its_metric_declares() -> None:
    """Suites check rows while they read, before anything is scored."""
    needy = []
    for name, found in components("metric").items():
        if found.make.chooses or found.make.against == "tests":
            needy.append(name)
            with pytest.raises(
                ValueError, match=f"metric {name} needs (choices|test or test_list), and the row has none"
            ):
                check_needs(Example("a", "b"), name)
        else:
            check_needs(Example("a", "b"), name)
    assert needy == ["multiple_choice", "multiple_choice_normalised", "pass_at_1"]


def test_definitions_are_shown_only_when_asked() -> None:
    examples = {"train": (Example("dog", "1"), Example("cat", "2"), Example("cow", "3"))}
    task = Task("t", {"train": ("Count.", "Say how many."), "test": ("How many?",)}, examples)
    assert PromptConfig().apply(task) is task
    shown = PromptConfig(definition="shown").apply(task)
    assert [e.input for e in shown.examples["train"]] == ["Count.\ndog", "Say how many.\ncat", "Count.\ncow"]
    assert [e.output for e in shown.examples["train"]] == ["1", "2", "3"]
    assert shown.examples_hash() != task.examples_hash()  # so an adapter trained on it has another recipe
    with pytest.raises(ValueError, match="must be hidden or shown, not 'yes'"):
        PromptConfig(definition="yes")
