"""ROUGE-L."""

from __future__ import annotations

import logging
from functools import cache
from typing import Any

from t2l.evaluation.metrics.interface import Metric, Probe
from t2l.registry import register


@cache
def _scorer() -> Any:
    logging.getLogger("absl").setLevel(logging.WARNING)  # it says for every scorer which tokenizer it has
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], use_stemmer=True)


@register("metric", "rouge_l")
class RougeL(Metric):
    """ROUGE-L F1 with stemming (Lin 2004), from the rouge-score package."""

    probes = (
        Probe("a dog runs", "a dog runs", 1),
        Probe("cat", "a dog runs", 0),
        Probe("a dog", "a dog runs far", 2 / 3),
    )
    aliases = ("rougeL",)

    def score(self, answer: str, reference: str) -> float:
        return float(_scorer().score(reference, answer)["rougeL"].fmeasure)
