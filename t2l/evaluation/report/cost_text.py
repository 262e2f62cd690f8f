"""What a report tells of costs: per contender, and what a hypernetwork's training comes to per adapter."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from t2l.evaluation.contenders.oracle import Oracle
from t2l.evaluation.report.findings import without_controls
from t2l.evaluation.report.markdown import markdown_table, number_text
from t2l.evaluation.report.rows import in_order, recipes_in

COUNTS = (100, 1_000, 10_000)
"""of adapters, over which a hypernetwork's training is spread"""


def cost_parts(data: Mapping[str, Any]) -> list[str]:
    """Tables, figure and what to know of them, as parts of a section.

    Args:
        data: what report.json holds.
    """
    scores = {(r["contender"], r["split"]): r["mean"] for r in data["results"]}
    parts = [_cost_table(data["costs"], scores), "![costs](costs.png)"]
    by_name = {c["contender"]: c for c in data["costs"]}
    recipes = [by_name[name] for name in recipes_in(data) if name in by_name]
    if any(c.get("hypernetwork_parameters") for c in recipes):
        oracle = by_name.get(Oracle.name, {}).get("training_time_s")
        parts += [_about_amortised(oracle), _amortised_table(recipes, oracle)]
    return parts


def _cost_table(costs: Sequence[Mapping[str, Any]], scores: Mapping[tuple[str, str], float]) -> str:
    """Costs of each contender that is no control, and its mean score on every split beside them."""
    shown = without_controls(in_order(costs, "contender"))
    splits = list(dict.fromkeys(split for _, split in scores))
    header = [
        "contender", "hypernetwork parameters", "trainable parameters", "training per task (s)",
        "generation per adapter (ms)", "adapter bytes", "prompt tokens", "MFLOPs per answer", "ms per answer", *splits,
    ]  # fmt: skip
    rows = [
        [
            c["contender"],
            number_text(c.get("hypernetwork_parameters"), ","),
            number_text(c["trainable_parameters"], ","),
            number_text(c["training_time_s"], ".2f"),
            number_text(c["generation_time_s"], ".2f", 1000),
            number_text(c["adapter_bytes"], ","),
            number_text(c["prompt_tokens"], ".1f"),
            number_text(c["flops_per_answer"], ".1f", 1e-6),
            number_text(c["time_per_answer_s"], ".2f", 1000),
            *(number_text(scores.get((c["contender"], split)), ".2f") for split in splits),
        ]
        for c in costs
        if c["contender"] in shown
    ]
    return markdown_table(header, rows)


def _about_amortised(oracle: float | None) -> str:
    beside = "" if oracle is None else f", beside {oracle:.2f} s that training an oracle adapter took"
    return (
        f"What a generated adapter costs when the hypernetwork's training is spread over several{beside}. Times are those of "
        "the machines that did the work; training counts up to the step that is scored, without the library or checkpoint "
        "that it began from."
    )


def _amortised_table(recipes: Sequence[Mapping[str, Any]], oracle: float | None) -> str:
    header = [
        "recipe", "hypernetwork parameters", "its training (s)", "generation per adapter (s)",
        *(f"per adapter, of {count:,} (s)" for count in COUNTS), "cheaper than training oracles from",
    ]  # fmt: skip
    rows = []
    for c in recipes:
        training, generation = c.get("hypernetwork_time_s"), c["generation_time_s"]
        each = [None if training is None or generation is None else training / n + generation for n in COUNTS]
        rows.append(
            [
                c["contender"],
                number_text(c.get("hypernetwork_parameters"), ","),
                number_text(training, ",.1f"),
                number_text(generation, ".4f"),
                *(number_text(value, ",.4f") for value in each),
                _from_how_many(training, generation, oracle),
            ]
        )
    return markdown_table(header, rows)


def _from_how_many(training: float | None, generation: float | None, oracle: float | None) -> str:
    """The least number of adapters whose generation, training included, takes less time than training each; empty if a
    time is not known."""
    if training is None or generation is None or oracle is None:
        return ""
    if generation >= oracle:
        return "never"
    return f"{math.floor(training / (oracle - generation)) + 1:,} adapters"
