from __future__ import annotations

import pytest

from t2l.evaluation.metrics.choice_label import label_kind, named_label
from t2l.evaluation.metrics.interface import metric

NAMED = {
    "letter": {
        "B": "B", "b": "B", "(b)": "B", " B\n": "B", "B.": "B", "B: wet palms": "B", "**B**": "B", "B) wet palms": "B",
        "Option C: oil": "C", "Choice A": "A", r"$\boxed{C}$": "C",
        "The answer is A": "A", "The answer is: (C) oil": "C", "Answer: D": "D", "Answer: The correct option is B.": "B",
        "Sure! The answer is **A: dry palms**.": "A", "A is wrong. So the correct answer is option D, not B.": "D",
        "B\n\nQuestion: another\nAnswer: C": "B", "e.g., the answer is B": "B",
        "I think B fits.": "B", "A dog would choose B.": "B",
        "": None, "A dog": None, "the answer is a dog": None, "A or B": None, "not B": None, "Because": None, "C's": None,
    },
    "number": {
        "1": "1", "1.": "1", "0: in water": "0", "Ending 2 fits best": "2", "The answer is 3.": "3",
        "10": None, "3.5": None, "1,000": None, "1 or 2": None, "none": None,
    },
    "truth": {
        "true": "true", "False.": "false", "Yes, because no one knew.": "true", "No": "false", "The answer is yes": "true",
        "The statement is false.": "false", "Not true": None, "Nobody knows": None, "It may be true or false": None,
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", NAMED)
def test_an_answer_names_a_label_alone_or_in_a_sentence(kind: str) -> None:
    assert {answer: named_label(answer, kind) for answer in NAMED[kind]} == NAMED[kind]


def test_score_is_one_for_the_references_own_label() -> None:
    assert metric("choice_label").score("The answer is B.", "B") == 1
    assert metric("choice_label").score("The answer is B.", "C") == 0
    assert metric("choice_label").score("Yes.", "true") == metric("choice_label").score("True", "yes") == 1
    assert metric("choice_label").score("no", "true") == 0
    assert metric("choice_label").score("2", " 2 ") == 1


@pytest.mark.parametrize("reference", ["dry palms", "", "12", "Z", "maybe"])
def test_a_reference_must_be_a_label(reference: str) -> None:
    with pytest.raises(ValueError, match="needs a number \\(one digit\\), a letter from A to H"):
        metric("choice_label").score("B", reference)


def test_kinds() -> None:
    assert [label_kind(r) for r in ("A", "7", "False")] == ["letter", "number", "truth"]
