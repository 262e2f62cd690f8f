"""Metrics that compare the text of an answer, or of the likeliest choice, with the reference's."""

from __future__ import annotations

import re
import string
from typing import ClassVar

from t2l.evaluation.metrics.interface import Metric, Probe
from t2l.registry import register

_DROPPED = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def _single_spaced(text: str) -> str:
    """Text with outer and repeated white space removed."""
    return " ".join(text.split())


@register("metric", "exact_match")
class ExactMatch(Metric):
    """1 if answer and reference are the same up to white space."""

    probes: ClassVar[tuple[Probe, ...]] = (
        Probe(" dog  cat\n", "dog cat", 1),
        Probe("dog", "dog cat", 0),
        Probe("dog cat", "dog", 0),
        Probe("Dog", "dog", 0),
    )

    def score(self, answer: str, reference: str) -> float:
        return float(_single_spaced(answer) == _single_spaced(reference))


@register("metric", "normalised_match")
class NormalisedMatch(Metric):
    """1 if they agree without case, punctuation and articles (the normalisation of SQuAD, Rajpurkar et al. 2016)."""

    probes = (Probe("The Dog.", "dog", 1), Probe("dogs", "dog", 0), Probe("", "dog", 0))

    def score(self, answer: str, reference: str) -> float:
        given, wanted = (_single_spaced(_ARTICLES.sub(" ", t.lower().translate(_DROPPED))) for t in (answer, reference))
        return float(given == wanted)


@register("metric", "contains_any")
class ContainsAny(Metric):
    """1 if the reference occurs in the answer as whole words, whatever the case; give alternatives as references."""

    probes = (Probe("It is a dog.", "dog", 1), Probe("dog", "it is a dog", 0), Probe("dogs", "dog", 0))

    def score(self, answer: str, reference: str) -> float:
        given, wanted = _single_spaced(answer.lower()), _single_spaced(reference.lower())
        return float(bool(wanted) and re.search(rf"(?<!\w){re.escape(wanted)}(?!\w)", given) is not None)


@register("metric", "exact_set")
class ExactSet(Metric):
    """1 if both list the same items, separated by commas or white space, in any order."""

    probes = (Probe("b, a", "a b", 1), Probe("a", "a b", 0), Probe("a b", "a", 0))

    def score(self, answer: str, reference: str) -> float:
        given, wanted = (set(re.split(r"[,\s]+", t.strip().lower())) - {""} for t in (answer, reference))
        return float(given == wanted)


@register("metric", "multiple_choice")
class MultipleChoice(ExactMatch):
    """1 if the likeliest choice is the right one."""

    probes = (Probe("dog", "dog", 1), Probe("dog", "cat", 0))
    chooses = "total"


@register("metric", "multiple_choice_normalised")
class MultipleChoiceNormalised(MultipleChoice):
    """The same by log-likelihood per byte."""

    chooses = "per_byte"
