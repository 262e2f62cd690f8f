from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from t2l.evaluation.metrics.code_runner import passes
from t2l.evaluation.metrics.interface import Metric, Probe, metric
from t2l.registry import components, register

pytestmark = pytest.mark.usefixtures("code_allowed")
METRICS = list(components("metric"))


def scoring_by(right: Metric, score: Callable[[str, str], float]) -> Metric:
    """A metric that scores otherwise than it says."""
    return type("Wrong", (type(right),), {"score": lambda self, answer, reference: score(answer, reference)})("wrong")


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_gives_its_probes_their_scores(name: str) -> None:
    metric(name).check()


SYMMETRIC = ("exact_match", "normalised_match", "exact_set", "rouge_l", "multiple_choice", "multiple_choice_normalised")


@pytest.mark.parametrize("name", [n for n in METRICS if n not in SYMMETRIC])
def test_a_metric_with_swapped_arguments_is_caught(name: str) -> None:
    """Those left out give the same score either way, by definition."""
    right = metric(name)
    swapped = scoring_by(right, lambda answer, reference: right.score(reference, answer))
    with pytest.raises(ValueError, match=r"must give|needs a number"):
        swapped.check()


def test_a_metric_that_ignores_an_argument_is_caught() -> None:
    for name in METRICS:
        lazy = scoring_by(metric(name), lambda answer, reference: 1.0)
        with pytest.raises(ValueError, match="must give"):
            lazy.check()


def new(**said: Any) -> type[Metric]:
    """A metric's class that says this of itself."""
    return type("New", (Metric,), {"score": lambda self, a, r: 0.0, "probes": (Probe("a", "b", 0),), **said})


def test_names_are_taken_once_and_unknown_ones_are_refused() -> None:
    with pytest.raises(ValueError, match="already"):
        register("metric", "exact_match")(new())
    with pytest.raises(ValueError, match="no probe"):
        new(probes=())("new")
    with pytest.raises(ValueError, match="unknown metric 'bleu': choose from choice_label, contains_any"):
        metric("bleu")


def test_published_names_are_understood_with_their_remarks() -> None:
    assert metric("rougeL") is metric("rouge_l")
    assert metric('pass@1 (runs the "test" field; code execution)').name == "pass_at_1"
    assert metric('final_number (text after "#### ")').name == "final_number"


def test_final_number_needs_a_number() -> None:
    score = metric("final_number").score
    assert score("so it is -3.50", "-3.5") == 1
    assert score("", "7") == 0
    with pytest.raises(ValueError, match="needs a number as reference"):
        score("7", "seven")


@pytest.mark.parametrize(
    ("code", "verdict"),
    [
        ("x = 1", True),
        ("x = 2", False),
        ("x = ", False),
        ("import sys; sys.exit(0)", False),
        ("import os; os._exit(0)", False),
        ("while True: pass", False),
        ("x = 1; y = bytearray(2**31)", False),
        ("import socket; x = 1; socket.create_connection(('127.0.0.1', 9))", False),
        ("import urllib.request; x = 1; urllib.request.urlopen('http://127.0.0.1:9')", False),
    ],
    ids=["passes", "fails", "no_python", "leaves_early", "leaves_hard", "runs_on", "takes_memory", "socket", "url"],
)
def test_code_passes_only_within_its_limits(code: str, verdict: bool) -> None:
    assert passes(code, "assert x == 1") is verdict


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [("against", "code", "must be one of output, tests, not 'code'"), ("chooses", "best", "must be one of '', total")],
)
def test_a_metric_of_no_known_kind_is_refused(field: str, value: str, says: str) -> None:
    with pytest.raises(ValueError, match=f"metric 'new': {field} {says}"):
        new(**{field: value})("new")
