"""The choice that an answer names: a letter, a digit, or true or false, alone or in a sentence."""

from __future__ import annotations

import re

from t2l.evaluation.metrics.interface import Metric, Probe
from t2l.registry import register

_TRUTH = {"true": "true", "yes": "true", "false": "false", "no": "false"}
_WORDS = f"(?i:{'|'.join(_TRUTH)})"
_DIGIT = r"\d(?![.,]?\d)"
_LABELS = {
    "letter": (r"[A-H](?!\.\w)|[a-h](?=\)?\s*(?:$|\n))", "[A-H]", r"[B-H]|A(?!\s+(?!or\b|and\b)[a-z])"),
    "number": (_DIGIT, _DIGIT, _DIGIT),
    "truth": (_WORDS, _WORDS, _WORDS),
}
"""each kind of label as it begins an answer, as it follows "the answer is", and as it stands anywhere"""
_SAID = r"(?i:\b(?:answer|choice|option|ending|label)\b[\s*_]*(?:is|would be|should be|:|=)[\s*_]*)"
_FILLER = r"(?i:(?:the\s+)?(?:option|choice|ending|letter|number|label|answer)\s*:?\s*)?"
_OPEN, _CLOSE = r"[\s\"'`*_$(\[{:]*", r"(?![\w'\u2019])"
_APART = r"(?=[ \t]*(?:$|[\n.:),;\]}\"'`*_-]))"


def label_kind(reference: str) -> str:
    """Which kind of label a reference is: letter, number or truth. Raises ValueError if it is none."""
    for kind, (whole, _, _) in _LABELS.items():
        if re.fullmatch(whole, reference.strip()):
            return kind
    raise ValueError(
        f"metric choice_label needs a number (one digit), a letter from A to H, or true, false, yes or no as reference, "
        f"not {reference!r}"
    )


def named_label(answer: str, kind: str) -> str | None:
    """The label that an answer names, None if it names none or several.

    The first of these that is there counts: a label that begins the answer and stands alone or before punctuation ("B",
    "(b)", "B. wet palms"; true and false before anything); the label after "the answer is" and the like; the only label
    in the text. There, the capital A before a word in small letters is an article, and what follows "not" is not named.
    """
    begins, follows, anywhere = _LABELS[kind]
    end = _CLOSE if kind == "truth" else _CLOSE + _APART
    found = re.match(f"{_OPEN}{_FILLER}{_OPEN}({begins}){end}", answer) or re.search(
        f"{_SAID}{_OPEN}{_FILLER}{_OPEN}({follows}){_CLOSE}", answer
    )
    names = [found[1]] if found else re.findall(rf"(?<![\w'\u2019.])(?<![Nn]ot )({anywhere}){_CLOSE}", answer)
    distinct = {_canonical(name) for name in names}
    return distinct.pop() if len(distinct) == 1 else None


def _canonical(label: str) -> str:
    return _TRUTH.get(label.lower(), label.upper())


@register("metric", "choice_label")
class ChoiceLabel(Metric):
    """1 if the answer names the reference's label (a letter, a digit, or true or false), alone or in a sentence.

    Yes counts as true and no as false. Raises ValueError if the reference is no label.
    """

    probes = (
        Probe("B", "A", 0),
        Probe("The answer is B.", "B", 1),
        Probe("A: dry palms", "A", 1),
        Probe("A dog", "A", 0),
        Probe("1 or 2", "2", 0),
        Probe("Yes, it was.", "true", 1),
        Probe("It is not true", "true", 0),
    )

    def score(self, answer: str, reference: str) -> float:
        return float(named_label(answer, self.read_reference(reference)) == _canonical(reference.strip()))

    def read_reference(self, reference: str) -> str:
        return label_kind(reference)
