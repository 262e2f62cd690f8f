"""What the lm-evaluation-harness measured: passes, rows, the table, the files of a report."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from t2l.evaluation.conditions import conditions_text
from t2l.files import FileProblemError, read_json, write_own
from t2l.run.console import print_table
from t2l.tracking import Table

HARNESS_FILES = ("harness.json", "harness.md", "harness_samples.jsonl")


@dataclass(frozen=True)
class Pass:
    """One task scored under one adapter: what the harness measured."""

    contender: str
    run: int
    """number of the contender's training seed"""
    task: str
    text: str | None
    """what the adapter was made from, if there is such a text"""
    prefix: str
    """text before every prompt"""
    checkpoint: str | None
    time_s: float
    found: Mapping[str, Any]
    """what `Harness.score` returned"""

    def scores(self) -> dict[str, tuple[float, float | None]]:
        """Of the task, or the group as a whole: `metric,filter` to value and standard error."""
        results = self.found["results"][self.task]
        scores = {}
        for key, value in results.items():
            metric, comma, how = key.partition(",")
            if not comma or metric.endswith("_stderr") or not isinstance(value, Real):
                continue
            error = results.get(f"{metric}_stderr,{how}")
            scores[key] = (float(value), float(error) if isinstance(error, Real) else None)
        return scores

    def to_json(self) -> dict[str, Any]:
        """Without the samples."""
        kept = {k: v for k, v in vars(self).items() if k != "found"}
        return {**kept, "results": self.found["results"], "n_samples": self.found["n-samples"]}

    def samples(self) -> Iterator[dict[str, Any]]:
        """Every example: who answered it under which adapter, what, and its score by every metric."""
        who = {"contender": self.contender, "run": self.run, "text": self.text}
        for task, samples in self.found["samples"].items():
            yield from ({**who, "task": task, **s} for s in samples)


@dataclass(frozen=True)
class Row:
    """A contender on a task by one metric: means over passes (training seeds, descriptions).

    The standard error is the mean of the passes' own, which is what the mean's is at most: passes share their examples.
    """

    contender: str
    task: str
    metric: str
    value: float
    stderr: float | None
    passes: int

    @classmethod
    def of(cls, passes: Sequence[Pass]) -> list[Row]:
        """A row per metric from all passes of one contender over one task."""
        scores, first = [p.scores() for p in passes], passes[0]
        rows = []
        for metric in scores[0]:
            errors = [e for s in scores if (e := s[metric][1]) is not None]
            value = sum(s[metric][0] for s in scores) / len(scores)
            stderr = sum(errors) / len(errors) if len(errors) == len(scores) else None
            rows.append(cls(first.contender, first.task, metric, value, stderr, len(scores)))
        return rows


def rows_of(passes: Sequence[Pass]) -> list[Row]:
    """A row per contender, task and metric, in the order scored."""
    cells: dict[tuple[str, str], list[Pass]] = {}
    for p in passes:
        cells.setdefault((p.contender, p.task), []).append(p)
    return [row for same in cells.values() for row in Row.of(same)]


def plain(data: Any) -> Any:
    """Data as JSON holds it: numbers of numpy and torch as numbers, the harness's functions and arrays as text."""
    return json.loads(json.dumps(data, default=_number_or_text))


def _number_or_text(value: Any) -> Any:
    if isinstance(value, Integral):
        return int(value)
    return float(value) if isinstance(value, Real) else str(value)


def write_harness_report(
    folder: Path, rows: Sequence[Row], passes: Sequence[Pass], tasks: Mapping[str, Any], provenance: Mapping[str, Any]
) -> None:
    """Writes harness.json, harness.md and harness_samples.jsonl (every example's answer and scores).

    Args:
        tasks: what is known of each task scored, in order, beside what the harness says.
        provenance: everything that went in.
    """
    found = [p.found for p in passes]
    about = {
        key: {n: v for f in found for n, v in f[key].items()} for key in ("versions", "n-shot", "higher_is_better")
    }
    report = {
        "harness": {"name": "lm_eval", "version": found[0]["lm_eval_version"]},
        "tasks": tasks,
        **{key.replace("-", "_"): values for key, values in about.items()},
        "rows": [asdict(r) for r in rows],
        "passes": [p.to_json() for p in passes],
        "task_configs": {n: v for f in found for n, v in f["configs"].items()},
        **provenance,
        "decoding": "as each task says" + str(provenance.get("decoding", "")).removeprefix("greedy"),
    }
    write_own(
        folder / "harness_samples.jsonl",
        "".join(json.dumps(s, default=str) + "\n" for p in passes for s in p.samples()),
    )
    write_own(folder / "harness.json", json.dumps(plain(report), indent=2) + "\n")
    write_own(folder / "harness.md", _markdown(rows, report))


def _markdown(rows: Sequence[Row], report: Mapping[str, Any]) -> str:
    header, *lines = score_lines(rows)
    table = ["| " + " | ".join(line) + " |" for line in [header, ["---"] * len(header), *lines]]
    seen = [name for name, about in report["tasks"].items() if about["trained_on_by"]]
    versions = ", ".join(f"{n} {report['versions'].get(n)}" for n in report["tasks"])
    return "\n".join(
        [
            "# Scores by the lm-evaluation-harness",
            "",
            *table,
            "",
            "Value ± standard error over examples, both means over training seeds and descriptions.",
            f"lm_eval {report['harness']['version']}; task versions: {versions}.",
            f"Base model: {report['base_model']['name']}, {report['base_model']['fingerprint'][:12]}.",
            f"Tasks of these that a checkpoint or an adapter was trained on, by name: {', '.join(seen) or 'none'}.",
            *([report["prompts"]] if report.get("prompts") else []),
            *(f"{note}." for note in report.get("data_notes", [])),
            *(
                [f"Not checked, for want of a record: {', '.join(report['unchecked'])}."]
                if report.get("unchecked")
                else []
            ),
            "",
            *conditions_text(report.get("conditions")),
        ]
    )


def score_lines(rows: Sequence[Row]) -> list[list[str]]:
    """The table as texts, header first: a line per contender, a column per task and metric."""
    keys = list(dict.fromkeys((r.task, r.metric) for r in rows))
    cells = {(r.contender, r.task, r.metric): _cell(r) for r in rows}
    contenders = dict.fromkeys(r.contender for r in rows)
    lines = [[c, *(cells.get((c, *key), "") for key in keys)] for c in contenders]
    return [["contender", *(f"{task} {metric.removesuffix(',none')}" for task, metric in keys)], *lines]


def _cell(row: Row) -> str:
    return f"{row.value:.4f}" if row.stderr is None else f"{row.value:.4f} ± {row.stderr:.4f}"


def harness_table(folder: Path, is_long: bool, contenders: Sequence[str] = (), tasks: Sequence[str] = ()) -> Table:
    """The scores of a run folder of the harness: a row per number, or one per contender with a column per task and metric.

    Args:
        contenders, tasks: those to show; of an empty list all.

    Raises FileProblemError for a damaged report, and ValueError for a contender or task that it does not have.
    """
    saved = read_json(folder / HARNESS_FILES[0])
    try:
        rows = [Row(**row) for row in saved["rows"]]
    except (LookupError, TypeError) as error:
        raise FileProblemError(f"{folder / HARNESS_FILES[0]} is no report of `t2l evaluate harness=lm_eval`") from error
    for kind, wanted in (("contender", contenders), ("task", tasks)):
        there = dict.fromkeys(getattr(row, kind) for row in rows)
        if unknown := [name for name in wanted if name not in there]:
            raise ValueError(f"this report has no {kind} {unknown[0]!r}; it has {', '.join(there)}")
    shown = [r for r in rows if (not contenders or r.contender in contenders) and (not tasks or r.task in tasks)]
    if is_long:
        return Table([f.name for f in fields(Row)], [list(asdict(row).values()) for row in shown])
    header, *lines = score_lines(shown)
    return Table(header, lines)


def print_harness(rows: Sequence[Row], folder: Path) -> None:
    """Prints the scores, in as many tables as the terminal is too narrow for, and where the report is."""
    # Blanks let long names wrap between words.
    header, *lines = [[cell.replace("_", " ") for cell in line] for line in score_lines(rows)]
    print_table(header, lines, "score and standard error")
    print(f"report:\n  {folder / 'harness.md'}\n  {folder / 'harness.json'}")
