"""`t2l compare` of what the lm-evaluation-harness measured: reports side by side, paired by example if examples make the score."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from t2l.evaluation.harness.report import HARNESS_FILES
from t2l.evaluation.settings import INDECISIVE
from t2l.evaluation.statistics import Estimate, Scores, estimate
from t2l.files import FileProblemError, read_json
from t2l.verbs.compare import SAMPLES, Comparison

REPORT, _, SAMPLES_FILE = HARNESS_FILES
DESCRIBED = ("descriptions_per_task",)
"""settings that decide what adapters are told, and nothing about the task"""
Doc = tuple[str, int]
"""the harness's task (of a group one of its own), and the number of its document"""


@dataclass(frozen=True)
class HarnessReport:
    """What a report of the harness says, and every example's scores."""

    folder: Path
    data: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path) -> HarnessReport:
        """The report in a run folder. Raises FileProblemError if it is damaged."""
        data = read_json(folder / REPORT)
        if not isinstance(data, dict) or not {"rows", "passes"} <= data.keys():
            raise FileProblemError(f"{folder / REPORT} is not a report of `t2l evaluate harness=lm_eval`")
        return cls(folder, data)

    @cached_property
    def rows(self) -> dict[tuple[str, str, str], Mapping[str, Any]]:
        """Its rows by contender, task and metric."""
        return {(r["contender"], r["task"], r["metric"]): r for r in self.data["rows"]}

    @cached_property
    def samples(self) -> dict[tuple[str, str], dict[tuple[Doc, str], list[Mapping[str, Any]]]]:
        """By contender and filter, by document and its hash: scores by metric, of each pass."""
        path = self.folder / SAMPLES_FILE
        if not path.is_file():
            raise FileProblemError(
                f"{self.folder} has {REPORT} but no {SAMPLES_FILE}: differences cannot be paired by example"
            )
        found: dict[Any, dict[Any, list[Any]]] = defaultdict(lambda: defaultdict(list))
        for line in path.read_text().splitlines():
            s = json.loads(line)
            doc = (s["task"], s["doc_id"]), str(s.get("doc_hash"))
            found[s["contender"], s["filter"]][doc].append(s["scores"])
        return {key: dict(docs) for key, docs in found.items()}

    def scores(self, contender: str, task: str, metric: str) -> dict[tuple[Doc, str], float] | None:
        """Each document's score, mean over passes; None if the harness makes the task's score otherwise than by their mean."""
        name, _, how = metric.partition(",")
        parts = {p for one in self.data["passes"] if one["task"] == task for p in one["n_samples"]}
        found = {}
        for doc, passes in self.samples.get((contender, how), {}).items():
            if doc[0][0] in parts:
                values = [scores.get(name) for scores in passes]
                numbers = [float(v) for v in values if isinstance(v, (int, float))]
                if len(numbers) < len(values):
                    return None
                found[doc] = sum(numbers) / len(numbers)
        value = self.rows[contender, task, metric]["value"]
        is_mean = bool(found) and math.isclose(sum(found.values()) / len(found), value, abs_tol=1e-6)
        return found if is_mean else None


def compare_harness_reports(runs: Sequence[Path], by_name: bool = False) -> Comparison:
    """Every contender, task and metric of the first report beside each other report that has it. Contenders go by name.

    Args:
        by_name: compares reports that were made under other conditions all the same.

    Raises:
        FileProblemError: a report is damaged, or has no samples.
        ValueError: fewer than two runs, nothing in common, or conditions that make a difference meaningless: another base
            model, other settings of the harness, another version or number of solved examples of a task.
    """
    if len(runs) < 2:
        raise ValueError("compare needs two report folders of `t2l evaluate` or more")
    first, *others = [HarnessReport.read(run) for run in runs]
    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    for other in others:
        notes += _check(first, other, by_name)
        common = [key for key in first.rows if key in other.rows]
        found = [_row(first, other, key) for key in common]
        apart = dict.fromkeys(f"{r['task']} {r['metric']}" for r in found if not r["paired"])
        if apart:
            notes.append(
                f"{other.folder}: intervals from standard errors, as if the examples were not the same, since the examples' "
                f"mean is not the score, or they differ: {', '.join(apart)}"
            )
        rows += found
    if not rows:
        raise ValueError(f"{', '.join(map(str, runs))} have no contender, task and metric of the harness in common")
    return Comparison(rows, notes)


def _check(first: HarnessReport, other: HarnessReport, by_name: bool) -> list[str]:
    """Notes on what differs and may. Raises ValueError for what must not, unless `by_name`."""
    different = [*_other_conditions(first, other)]
    if different and not by_name:
        raise ValueError(
            f"{first.folder} and {other.folder} were scored under other conditions ({', '.join(different)}): differences "
            "would not be those of contenders; --by-name compares them all the same"
        )
    notes = [f"{other.folder}: other conditions: {', '.join(different)}"] if different else []
    versions = [r.data["harness"]["version"] for r in (first, other)]
    if versions[0] != versions[1]:
        notes.append(f"{other.folder} was scored by lm_eval {versions[1]}, {first.folder} by {versions[0]}")
    for name in dict.fromkeys(contender for contender, *_ in first.rows):
        ours, theirs = (_checkpoints(r, name) for r in (first, other))
        if ours and theirs and ours != theirs:
            notes.append(
                f"{name} is of {', '.join(ours)} in {first.folder}, and of {', '.join(theirs)} in {other.folder}"
            )
    return notes


def _checkpoints(report: HarnessReport, contender: str) -> list[str]:
    found = (p.get("checkpoint") for p in report.data["passes"] if p["contender"] == contender)
    return list(dict.fromkeys(str(c) for c in found if c))


def _other_conditions(first: HarnessReport, other: HarnessReport) -> list[str]:
    ours, theirs = first.data, other.data
    different = []
    if ours["base_model"]["fingerprint"] != theirs["base_model"]["fingerprint"]:
        different.append("base model")
    settings = [(d.get("config") or {}).get("harness") or {} for d in (ours, theirs)]
    free = (*INDECISIVE["harness"], *DESCRIBED, "limit")
    keys = sorted({k for s in settings for k in s} - {*free})
    different += [f"harness.{key}" for key in keys if settings[0].get(key) != settings[1].get(key)]
    tasks = [task for task in ours["tasks"] if task in theirs["tasks"]]
    for key, what in (("versions", "version"), ("n_shot", "solved examples")):
        values = [d.get(key) or {} for d in (ours, theirs)]
        different += [f"{what} of {task}" for task in tasks if values[0].get(task) != values[1].get(task)]
    return different


def _row(first: HarnessReport, other: HarnessReport, key: tuple[str, str, str]) -> dict[str, Any]:
    contender, task, metric = key
    mine, theirs = first.scores(*key), other.scores(*key)
    common = sorted(mine.keys() & theirs.keys()) if mine and theirs else []
    row = {
        "contender": contender, "task": task, "metric": metric, "first": str(first.folder), "other": str(other.folder),
        "paired": bool(common),
    }  # fmt: skip
    if mine is not None and theirs is not None and common:
        ours, them = (_as_scores(scores, common) for scores in (mine, theirs))
        e = estimate(them - ours, SAMPLES, 0, ":".join(key))
        means = [round(float(s.task_means().mean()), 6) for s in (ours, them)]
        return {**row, "first_mean": means[0], "other_mean": means[1], **_told(e), "n_examples": len(common)}
    rows = [r.rows[key] for r in (first, other)]
    difference = rows[1]["value"] - rows[0]["value"]
    errors = [r["stderr"] for r in rows]
    half = None if None in errors else 1.96 * math.hypot(*errors)
    ends = None if half is None else [round(difference - half, 6), round(difference + half, 6)]
    return {
        **row, "first_mean": rows[0]["value"], "other_mean": rows[1]["value"], "difference": round(difference, 6),
        "ci95": ends, "n_examples": None, "distinguishable": ends is not None and (ends[0] > 0 or ends[1] < 0),
    }  # fmt: skip


def _as_scores(scores: Mapping[tuple[Doc, str], float], docs: Sequence[tuple[Doc, str]]) -> Scores:
    """As one task: its score is the mean over all examples, of a group as well."""
    return Scores.of([[[scores[doc] for doc in docs]]])


def _told(e: Estimate) -> dict[str, Any]:
    return {**e.row("difference"), "distinguishable": e.is_distinguishable}
