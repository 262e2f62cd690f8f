"""`t2l compare RUN RUN...`: reports side by side, with differences paired by example.

Contenders are paired by what they are (`evaluation.identity`), and their runs by training seed; wherever a report's
answers were given under other names, in another order or to other prompts, a difference would mean something else.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from t2l.evaluation.report.markdown import interval_text
from t2l.evaluation.statistics import Scores, estimate
from t2l.files import FileProblemError, read_json
from t2l.run.console import broken_name
from t2l.verbs import Verb

SAMPLES = 1000
Example = tuple[str, str, int]
"""task, input, and which of that task's examples with this input it is"""


@dataclass
class CompareConfig:
    """`t2l compare`: puts reports of `t2l evaluate` side by side, of t2l's own board or of the harness."""

    runs: list[str] = field(default_factory=list)
    """report folders; the others are compared with the first"""
    json: bool = False
    """whether to print the rows as JSON"""
    by_name: bool = False
    """whether to pair contenders by name, whatever was trained and whatever they were asked"""


@dataclass(frozen=True)
class Report:
    """What a report says of its contenders, and every answer's score and prompt."""

    folder: Path
    data: Mapping[str, Any]
    scores: Mapping[tuple[str, str], list[dict[Example, float]]]
    """by (contender, split): per run, each example's score"""
    prompts: Mapping[tuple[str, str], dict[Example, tuple[str, str]]]
    """likewise, of the first run: the text before the input, and the reference"""

    @property
    def keys(self) -> list[tuple[str, str, str]]:
        """(contender, split, metric) of every cell, in order."""
        return [(r["contender"], r["split"], r.get("metric", "")) for r in self.data["results"]]

    @property
    def contenders(self) -> list[str]:
        """Names of the contenders, in order."""
        return list(dict.fromkeys(contender for contender, _, _ in self.keys))

    def identities(self, contender: str) -> list[dict[str, Any]]:
        """What each run of a contender is; none if the report is older than that."""
        return self.data.get("identities", {}).get(contender, [])

    @classmethod
    def read(cls, folder: Path) -> Report:
        """The report in a run folder. Raises FileProblemError if there is none, or no answers."""
        data, path = read_json(folder / "report.json"), folder / "answers.jsonl"
        if not path.is_file():
            raise FileProblemError(
                f"{folder} has a report but no answers.jsonl: differences cannot be paired by example"
            )
        scores: dict[tuple[str, str], dict[int, dict[Example, float]]] = defaultdict(lambda: defaultdict(dict))
        prompts: dict[tuple[str, str], dict[Example, tuple[str, str]]] = defaultdict(dict)
        for line in path.read_text().splitlines():
            a = json.loads(line)
            key = (a["contender"], a["split"])
            of_run = scores[key][a["run"]]
            number = 0
            while (example := (a["task"], a["input"], number)) in of_run:
                number += 1
            of_run[example] = a["score"]
            prompts[key].setdefault(example, (a.get("prefix", ""), a.get("reference", "")))
        return cls(folder, data, {key: [runs[i] for i in sorted(runs)] for key, runs in scores.items()}, prompts)


@dataclass(frozen=True)
class Comparison:
    """Rows of differences, and what a reader should know of how they came about."""

    rows: list[dict[str, Any]]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Pair:
    """A contender of the first report and what it is compared with in another: its name there, and runs by place."""

    contender: str
    other: str
    runs: list[tuple[int, int]] | None = None
    """places of runs that were trained alike; None if that is not checked: runs are paired in order, or averaged if their
    numbers differ"""
    has_same_weights: bool = True


def compare_reports(runs: Sequence[Path], seed: int = 0, by_name: bool = False) -> Comparison:
    """Every contender and split of the first report beside each other report that has it.

    Args:
        by_name: pairs contenders by name and their runs in order, whatever they are.

    Raises:
        FileProblemError: a run has no report, or no answers.
        ValueError: fewer than two runs, nothing in common, or something that makes a difference meaningless: another
            thing trained under the same name, other seeds, another metric, or other prompts.
    """
    if len(runs) < 2:
        raise ValueError("compare needs two report folders of `t2l evaluate` or more")
    first, *others = [Report.read(run) for run in runs]
    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    for other in others:
        notes += _check_conditions(first, other, by_name)
        possible = (_pair(first, other, name, by_name) for name in first.contenders)
        pairs = {pair.contender: pair for pair in possible if pair is not None}
        unchecked = [p.contender for p in pairs.values() if p.runs is None]
        if unchecked:
            notes.append(
                f"{other.folder}: paired by name and order, unchecked, since "
                + ("--by-name was given" if by_name else "a report does not say what was trained")
                + f": {', '.join(unchecked)}"
            )
        again = [p.contender for p in pairs.values() if not p.has_same_weights]
        if again:
            notes.append(f"{other.folder}: trained again by the same recipe, to other weights: {', '.join(again)}")
        found = (
            _row(first, other, pairs[c], split, metric, seed, by_name) for c, split, metric in first.keys if c in pairs
        )
        rows += [row for row in found if row is not None]
    if not rows:
        raise ValueError(f"{', '.join(map(str, runs))} have no contender, split and example in common")
    return Comparison(rows, notes)


def _check_conditions(first: Report, other: Report, by_name: bool) -> list[str]:
    """Notes on differences that leave common examples comparable. Raises ValueError for those that do not."""
    ours, theirs = (r.data.get("provenance", {}) for r in (first, other))
    notes = []
    suites = [p.get("suite", {}).get("sha256") for p in (ours, theirs)]
    if None not in suites and suites[0] != suites[1]:
        notes.append(
            f"{other.folder} was scored on another suite or draw of it ({suites[1][:12]}, {first.folder} on "
            f"{suites[0][:12]}): only examples of the same text are compared"
        )
    before, after = ours.get("decoding_conditions"), theirs.get("decoding_conditions")
    if before is not None and after is not None and not by_name:
        different = sorted(k for k in {*before, *after} if before.get(k) != after.get(k))
        if different:
            raise ValueError(
                f"{first.folder} and {other.folder} were answered under other conditions ({', '.join(different)}): "
                "differences would not be those of contenders; --by-name compares them all the same"
            )
    return notes


def _pair(first: Report, other: Report, contender: str, by_name: bool) -> _Pair | None:
    """What a contender is compared with; None if the other report has nothing like it."""
    names = other.contenders
    ours = first.identities(contender)
    if by_name or not ours or not any(other.identities(name) for name in names):
        return _Pair(contender, contender) if contender in names else None
    alike = [name for name in names if _each("what", other.identities(name)) == _each("what", ours)]
    if not alike:
        if contender not in names:
            return None
        mine, theirs = ours[0]["about"], next((i["about"] for i in other.identities(contender)), "it does not say what")
        raise ValueError(
            f"contender {contender} is one thing in {first.folder} ({mine}) and another in {other.folder} ({theirs}): "
            "leave one out, or compare by name with --by-name"
        )
    # Of several trained alike (the same seed again), the one with the same weights, then of the same name.
    same = {name: _each("weights", other.identities(name)) == _each("weights", ours) for name in alike}
    name = max(alike, key=lambda n: (same[n], n == contender))
    return _Pair(contender, name, _paired_runs(first, other, contender, name), same[name])


def _each(key: str, identities: Sequence[Mapping[str, Any]]) -> set[str | None]:
    return {i[key] for i in identities}


def _paired_runs(first: Report, other: Report, contender: str, name: str) -> list[tuple[int, int]]:
    ours, theirs = ([i["seed"] for i in r.identities(n)] for r, n in ((first, contender), (other, name)))
    if sorted(map(str, ours)) != sorted(map(str, theirs)):
        raise ValueError(
            f"contender {contender} has training seeds {_listed(ours)} in {first.folder} and {_listed(theirs)} in "
            f"{other.folder}: score the same ones, or compare by name with --by-name"
        )
    return [(place, theirs.index(seed)) for place, seed in enumerate(ours)]


def _listed(seeds: Sequence[Any]) -> str:
    return ", ".join("none" if s is None else str(s) for s in seeds)


def _row(
    first: Report, other: Report, pair: _Pair, split: str, metric: str, seed: int, by_name: bool
) -> dict[str, Any] | None:
    key, there = (pair.contender, split), (pair.other, split)
    if there not in other.scores or key not in first.scores:
        return None
    theirs_by = next((m for c, s, m in other.keys if (c, s) == there), metric)
    if metric != theirs_by and not by_name:
        raise ValueError(
            f"{pair.contender} on {split} is scored by {metric} in {first.folder} and by {theirs_by} in {other.folder}: "
            "such scores have no difference"
        )
    common = _common(first, other, key, there, by_name)
    if not common:
        return None
    ours, theirs = _scores(first.scores[key], common), _scores(other.scores[there], common)
    if pair.runs is not None:
        ours = Scores(ours.values[[i for i, _ in pair.runs]], ours.counts)
        theirs = Scores(theirs.values[[j for _, j in pair.runs]], theirs.counts)
    elif len(ours.values) != len(theirs.values):
        ours, theirs = (Scores(s.values.mean(axis=0, keepdims=True), s.counts) for s in (ours, theirs))
    e = estimate(theirs - ours, SAMPLES, seed, ":".join(key))
    return {
        "contender": pair.contender,
        "split": split,
        "first": str(first.folder),
        "other": str(other.folder),
        "other_contender": pair.other,
        "paired_by": "name" if pair.runs is None else "identity",
        "first_mean": round(float(ours.task_means().mean()), 6),
        "other_mean": round(float(theirs.task_means().mean()), 6),
        **e.row("difference"),
        "distinguishable": e.is_distinguishable,
    }


def _common(
    first: Report, other: Report, key: tuple[str, str], there: tuple[str, str], by_name: bool
) -> dict[str, list[Example]]:
    """By task, the examples that every run of both sides answered. Raises ValueError if they were put otherwise."""
    sides = [*first.scores[key], *other.scores[there]]
    shared = set.intersection(*(set(run) for run in sides))
    ours, theirs = first.prompts[key], other.prompts[there]
    found: dict[str, list[Example]] = defaultdict(list)
    for example in sorted(shared):
        if not by_name and ours[example] != theirs[example]:
            what = "another reference" if ours[example][0] == theirs[example][0] else "another prompt"
            raise ValueError(
                f"{key[0]} on {key[1]}: example {example[1][:40]!r} of task {example[0]} has {what} in {other.folder} "
                f"than in {first.folder}: score both with the same suite and seed, or compare by name with --by-name"
            )
        found[example[0]].append(example)
    return dict(found)


def _scores(runs: Sequence[Mapping[Example, float]], common: Mapping[str, Sequence[Example]]) -> Scores:
    return Scores.of([[[run[e] for e in examples] for examples in common.values()] for run in runs])


def comparison_lines(comparison: Comparison) -> list[str]:
    """The rows for a terminal of 80 columns: for each other report and split, or task and metric, a line per contender."""
    lines: list[str] = []
    width, before = 30, None
    for r in comparison.rows:
        what = r.get("split") or f"{r['task']}, {r['metric'].removesuffix(',none')}"
        if (r["other"], what) != before:
            before = (r["other"], what)
            lines += ["", f"{r['other']}, on {what}"]
            lines.append(f"  {'contender':<{width}}{'n':>6}{'first':>7}{'other':>7}  other - first")
        *begun, last = broken_name(r["contender"], width)
        numbers = f"{r['n_examples'] or '':>6}{r['first_mean']:>7.2f}{r['other_mean']:>7.2f}"
        has_ends = r["ci95"] is not None
        difference = interval_text(r["difference"], r["ci95"], "+.2f") if has_ends else f"{r['difference']:+.2f}"
        lines += [
            *(f"  {part}" for part in begun),
            f"  {last:<{width}}{numbers}  {difference}{'' if r['distinguishable'] else ' ?'}",
        ]
    if any(not r["distinguishable"] for r in comparison.rows):
        lines += ["", "?: not distinguishable from zero. Means are over the n examples of both reports."]
    return lines[1:]


def _compared(runs: Sequence[Path], by_name: bool) -> Comparison:
    """By t2l's own boards if every run has one, else by the harness. Raises ValueError if some have one and some the other."""
    from t2l.evaluation.harness.report import HARNESS_FILES
    from t2l.verbs.compare_harness import compare_harness_reports

    harness = [r for r in runs if (r / HARNESS_FILES[0]).is_file()]
    boards = [r for r in runs if (r / "report.json").is_file()]
    if harness and len(boards) < len(runs):
        if other := next((r for r in runs if r not in harness), None):
            what = "a report of t2l's own board" if other in boards else "no report"
            raise ValueError(
                f"{harness[0]} holds a report of the lm-evaluation-harness, {other} {what}: compare reports of one kind"
            )
        return compare_harness_reports(runs, by_name)
    return compare_reports(runs, by_name=by_name)


def run(config: CompareConfig) -> None:
    """Prints the comparison, and on standard error what a reader should know of it."""
    found = _compared([Path(r) for r in config.runs], config.by_name)
    for note in found.notes:
        print(f"t2l: note: {note}", file=sys.stderr)
    print(json.dumps(found.rows, indent=2) if config.json else "\n".join(comparison_lines(found)))


VERB = Verb(CompareConfig, run, words=("runs",), keeps_records=False)
