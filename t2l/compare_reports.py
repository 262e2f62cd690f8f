"""`t2l compare RUN RUN...`: reports side by side, with differences paired by example."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from t2l.evaluation.report import interval_text, markdown_table
from t2l.evaluation.statistics import Estimate, Scores, estimate
from t2l.files import FileProblemError, read_json

SAMPLES = 1000
Key = tuple[str, str]


def _read(run: Path) -> tuple[list[dict[str, Any]], dict[Key, dict[int, dict[str, dict[str, float]]]]]:
    """A report's results, and its scores by (contender, split), training seed, task and input."""
    results = read_json(run / "report.json")["results"]
    path = run / "answers.jsonl"
    if not path.is_file():
        raise FileProblemError(f"{run} has a report but no answers.jsonl: differences cannot be paired by example")
    scores: dict[Key, dict[int, dict[str, dict[str, float]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(dict))
    )
    for line in path.read_text().splitlines():
        a = json.loads(line)
        scores[a["contender"], a["split"]][a["run"]][a["task"]][a["input"]] = a["score"]
    return results, scores


def _paired(
    first: dict[int, dict[str, dict[str, float]]], other: dict[int, dict[str, dict[str, float]]]
) -> Scores | None:
    """Other minus first on the examples that both answered; None where there is none.

    Training seeds are paired where both have as many, else averaged.
    """
    common = {task: sorted(set(first[0][task]) & set(other[0][task])) for task in sorted(set(first[0]) & set(other[0]))}
    common = {task: inputs for task, inputs in common.items() if inputs}
    if not common:
        return None
    ours, theirs = (
        Scores.of([[[seed[t][i] for i in inputs] for t, inputs in common.items()] for seed in run.values()])
        for run in (first, other)
    )
    if len(ours.values) != len(theirs.values):
        ours, theirs = (Scores(s.values.mean(axis=0, keepdims=True), s.counts) for s in (ours, theirs))
    return theirs - ours


def compare_reports(runs: Sequence[Path], seed: int = 0) -> list[dict[str, Any]]:
    """Every contender and split of the first report beside each other report that has it, as rows.

    Raises:
        FileProblemError: a run has no report, or no answers.
        ValueError: fewer than two runs, or nothing in common.
    """
    if len(runs) < 2:
        raise ValueError("compare needs two report folders of `t2l evaluate` or more")
    read = [_read(run) for run in runs]
    results, scores = read[0]
    rows = []
    for other, (their_results, their_scores) in zip(runs[1:], read[1:], strict=True):
        theirs = {(r["contender"], r["split"]): r for r in their_results}
        for r in results:
            key = (r["contender"], r["split"])
            paired = _paired(scores[key], their_scores[key]) if key in theirs else None
            if paired is None:
                continue
            e: Estimate = estimate(paired, SAMPLES, seed, ":".join(key))
            rows.append(
                {
                    "contender": key[0],
                    "split": key[1],
                    "first": str(runs[0]),
                    "other": str(other),
                    "first_mean": r["mean"],
                    "other_mean": theirs[key]["mean"],
                    "difference": round(e.mean, 6),
                    "ci95": [round(e.low, 6), round(e.high, 6)],
                    "n_tasks": e.n_tasks,
                    "n_examples": e.n_examples,
                    "distinguishable": e.is_distinguishable,
                }
            )
    if not rows:
        raise ValueError(f"{', '.join(map(str, runs))} have no contender, split and example in common")
    return rows


def comparison_table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    header = ["contender", "split", "other", "first", "other's", "other - first", ""]
    return markdown_table(
        header,
        [
            [
                r["contender"], r["split"], r["other"], f"{r['first_mean']:.2f}", f"{r['other_mean']:.2f}",
                interval_text(r["difference"], r["ci95"], "+.2f"), "" if r["distinguishable"] else "not distinguishable",
            ]
            for r in rows
        ],
    )  # fmt: skip
