"""Metrics by name. Each scores one answer against its reference, in [0, 1].

A metric carries probes: answers with the score they must get, the wrong way round among them, so that a metric
that ignores or swaps its arguments is refused before it scores anything.
"""

from __future__ import annotations

import logging
import re
import string
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from t2l.evaluation.metrics.choice_labels import choice_label, label_kind
from t2l.evaluation.metrics.code_answers import program
from t2l.evaluation.metrics.code_runner import is_allowed, passes
from t2l.tasks.suites.rows import without_remark


@dataclass(frozen=True)
class Probe:
    """What a metric must give for an answer and a reference."""

    answer: str
    reference: str
    score: float


@dataclass(frozen=True)
class Metric:
    """A named metric: what it says, how it scores, and how that is checked."""

    name: str
    meaning: str
    score: Callable[[str, str], float]
    """(answer, reference) to a score"""
    probes: tuple[Probe, ...]
    against: str = "output"
    """what of an example answers are held against: output, or tests (assertions that right code passes)"""
    chooses: str = ""
    """empty: the answer is what the model writes; total or per_byte: it is the likeliest of the question's choices, by
    their whole log-likelihood or by that per byte (Gao et al. 2021; acc and acc_bytes of the lm-evaluation-harness)"""
    read_reference: Callable[[str], object] = str
    """raises ValueError for a reference that no answer can be held against"""
    runs_code: bool = False
    """whether scoring runs the code that an answer holds, which `allow_code_execution` has to allow"""

    def __post_init__(self) -> None:
        for key, allowed in (("against", ("output", "tests")), ("chooses", ("", "total", "per_byte"))):
            if getattr(self, key) not in allowed:
                names = ", ".join(name or "''" for name in allowed)
                raise ValueError(f"metric {self.name!r}: {key} must be one of {names}, not {getattr(self, key)!r}")

    def check(self) -> None:
        """Raises ValueError where a probe does not get its score."""
        for probe in self.probes:
            found = self.score(probe.answer, probe.reference)
            if abs(found - probe.score) > 1e-6:
                raise ValueError(
                    f"metric {self.name!r} gives {found:.3g} for answer {probe.answer!r} with reference "
                    f"{probe.reference!r}, it must give {probe.score:.3g}: are its arguments swapped?"
                )


METRICS: dict[str, Metric] = {}
_checked: set[str] = set()


def register(metric: Metric) -> Metric:
    """Adds a metric under its name. Raises ValueError where the name is taken or it has no probe."""
    if metric.name in METRICS:
        raise ValueError(f"there is a metric {metric.name!r} already")
    if not metric.probes:
        raise ValueError(f"metric {metric.name!r} has no probe")
    METRICS[metric.name] = metric
    return metric


def metric(name: str) -> Metric:
    """A metric by its name or an alias, checked when it is first asked for.

    The probes of a metric that runs code are code, too: it is checked when running code is first allowed.

    Raises ValueError with the names there are, or where it fails a probe.
    """
    known = without_remark(name)
    if known not in METRICS:
        raise ValueError(f"unknown metric {name!r}: choose from {', '.join(METRICS)}")
    found = METRICS[known]
    if known not in _checked and (is_allowed() or not found.runs_code):
        found.check()
        _checked.add(known)
    return found


def single_spaced(text: str) -> str:
    """Text with outer and repeated white space removed."""
    return " ".join(text.split())


def exact_match(answer: str, reference: str) -> float:
    """1 where answer and reference are the same up to white space."""
    return float(single_spaced(answer) == single_spaced(reference))


_DROPPED = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalised_match(answer: str, reference: str) -> float:
    """1 where they agree without case, punctuation and articles (the normalisation of SQuAD, Rajpurkar et al. 2016)."""
    given, wanted = (single_spaced(_ARTICLES.sub(" ", t.lower().translate(_DROPPED))) for t in (answer, reference))
    return float(given == wanted)


def contains_any(answer: str, reference: str) -> float:
    """1 where the reference occurs in the answer as whole words, whatever the case; give alternatives as references."""
    wanted = single_spaced(reference.lower())
    return float(
        bool(wanted) and re.search(rf"(?<!\w){re.escape(wanted)}(?!\w)", single_spaced(answer.lower())) is not None
    )


def exact_set(answer: str, reference: str) -> float:
    """1 where both list the same items, separated by commas or white space, in any order."""
    given, wanted = (set(re.split(r"[,\s]+", t.strip().lower())) - {""} for t in (answer, reference))
    return float(given == wanted)


@cache
def _rouge_scorer() -> Any:
    logging.getLogger("absl").setLevel(logging.WARNING)  # it says for every scorer which tokenizer it has
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], use_stemmer=True)


def rouge_l(answer: str, reference: str) -> float:
    """ROUGE-L F1 with stemming (Lin 2004), from the rouge-score package."""
    return float(_rouge_scorer().score(reference, answer)["rougeL"].fmeasure)


_NUMBER = re.compile(r"-?\d[\d,]*\.?\d*")


def reference_number(reference: str) -> float:
    """The number a reference says: of one with `####` what follows it (GSM8K, Cobbe et al. 2021), without commas.

    Raises ValueError where that is not a number.
    """
    wanted = reference.rsplit("####", 1)[-1].strip().replace(",", "")
    try:
        return float(wanted)
    except ValueError:
        raise ValueError(f"metric final_number needs a number as reference, not {reference!r}") from None


def final_number(answer: str, reference: str) -> float:
    """1 where the last number of the answer equals the reference (`reference_number`); commas are dropped."""
    value = reference_number(reference)
    found = _NUMBER.findall(answer)
    return float(bool(found) and float(found[-1].replace(",", "").rstrip(".")) == value)


def pass_at_1(answer: str, reference: str) -> float:
    """1 where the answer's program passes the reference's assertions (Chen et al. 2021), in a process of its own.

    The answer may be a whole function, fenced code, or go on from the beginning that the reference holds (`program`).
    """
    return float(passes(program(answer, reference), reference))


register(Metric("exact_match", exact_match.__doc__ or "", exact_match, (
    Probe(" dog  cat\n", "dog cat", 1), Probe("dog", "dog cat", 0), Probe("dog cat", "dog", 0), Probe("Dog", "dog", 0),
)))  # fmt: skip
register(Metric("normalised_match", normalised_match.__doc__ or "", normalised_match, (
    Probe("The Dog.", "dog", 1), Probe("dogs", "dog", 0), Probe("", "dog", 0),
)))  # fmt: skip
register(Metric("contains_any", contains_any.__doc__ or "", contains_any, (
    Probe("It is a dog.", "dog", 1), Probe("dog", "it is a dog", 0), Probe("dogs", "dog", 0),
)))  # fmt: skip
register(Metric("exact_set", exact_set.__doc__ or "", exact_set, (
    Probe("b, a", "a b", 1), Probe("a", "a b", 0), Probe("a b", "a", 0),
)))  # fmt: skip
register(Metric("multiple_choice", "1 where the likeliest choice is the right one", exact_match, (
    Probe("dog", "dog", 1), Probe("dog", "cat", 0),
), chooses="total"))  # fmt: skip
register(Metric("multiple_choice_normalised", "the same by log-likelihood per byte", exact_match, (
    Probe("dog", "dog", 1), Probe("dog", "cat", 0),
), chooses="per_byte"))  # fmt: skip
register(Metric("rouge_l", rouge_l.__doc__ or "", rouge_l, (
    Probe("a dog runs", "a dog runs", 1), Probe("cat", "a dog runs", 0), Probe("a dog", "a dog runs far", 2 / 3),
)))  # fmt: skip
register(Metric("final_number", final_number.__doc__ or "", final_number, (
    Probe("3 + 4 makes 7.", "7", 1), Probe("7, or 3", "7", 0), Probe("none", "7", 0), Probe("1,000", "1000", 1), Probe("so 9", "3 * 3 = 9 #### 9", 1),
), read_reference=reference_number))  # fmt: skip
register(Metric("pass_at_1", pass_at_1.__doc__ or "", pass_at_1, (
    Probe("def f(x):\n    return x + 1", "assert f(1) == 2", 1), Probe("def f(x):\n    return x", "assert f(1) == 2", 0),
), against="tests", runs_code=True))  # fmt: skip
register(Metric("choice_label", choice_label.__doc__ or "", choice_label, (
    Probe("B", "A", 0), Probe("The answer is B.", "B", 1), Probe("A: dry palms", "A", 1), Probe("A dog", "A", 0), Probe("1 or 2", "2", 0),
    Probe("Yes, it was.", "true", 1), Probe("It is not true", "true", 0),
), read_reference=label_kind))  # fmt: skip
