"""`t2l runs DIR`: the runs below a folder in one table, and what a sweep ends with."""

from __future__ import annotations

import csv
import io
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from t2l.checks import one_of
from t2l.files import check_own, write_own
from t2l.run.console import print_table, print_wrapped
from t2l.run.continuation import short_keys
from t2l.run.overview import STATES, Comparison, RunState, SeedGroup, best_run, find_runs, read_run
from t2l.run.progress import duration
from t2l.verbs import Verb

SUMMARY = ("runs.md", "runs.csv", "runs.png")
"""what a sweep leaves in its folder"""
FORMS = ("table", "markdown", "csv", "json")
LONGEST_NUMBER = 10
"""characters of a number that is shown as it is"""
SORTS = ("score", "loss", "time", "memory", "step", "folder")


@dataclass
class RunsConfig:
    """`t2l runs`: the runs below folders, also of a sweep that still runs or has half failed."""

    folders: list[str] = field(default_factory=list)
    """folders of runs or sweeps, or that hold some; without any, runs"""
    sort: str = "score"
    """score (the best first), loss, time, memory, step, folder, or a setting in which the runs differ"""
    to: str = "table"
    """table, markdown, csv or json"""

    def __post_init__(self) -> None:
        one_of(self, FORMS, "to", under="")


@dataclass(frozen=True)
class Overview:
    """Runs that were found together, in the order in which they are shown."""

    root: Path
    runs: Sequence[RunState]

    @cached_property
    def compared(self) -> Comparison:
        """What they differ in."""
        return Comparison(self.runs)

    @cached_property
    def groups(self) -> list[SeedGroup]:
        """By everything but the seed, the best mean first; none if no two runs differ in the seed alone."""
        found = self.compared.groups
        if not any(g.seeds > 1 for g in found):
            return []
        return sorted(found, key=lambda g: (g.mean is None, g.scored[0].rank(g.mean) if g.scored else 0.0))

    @property
    def best(self) -> RunState | None:
        """The finished run with the best score; None if there is none, or scores are of several metrics."""
        return best_run(self.runs)

    def name(self, run: RunState) -> str:
        """A run's folder as seen from where it was looked for."""
        return str(run.folder.relative_to(self.root)) if run.folder.is_relative_to(self.root) else str(run.folder)

    def sorted(self, sort: str) -> Overview:
        """In another order. Raises ValueError for what runs cannot be sorted by."""
        return Overview(self.root, sorted(self.runs, key=_order(sort, self.compared)))


def _order(sort: str, compared: Comparison) -> Callable[[RunState], Any]:
    values: dict[str, Callable[[RunState], float | None]] = {
        "score": lambda r: None if r.score is None else r.rank(),
        "loss": lambda r: r.loss,
        "time": lambda r: r.time_s,
        "memory": lambda r: r.peak_memory,
        "step": lambda r: None if r.step is None else -r.step,
    }
    if sort in values:
        return lambda run: ((value := values[sort](run)) is None, run.metric, value or 0.0)
    if sort in compared.keys:
        return lambda run: _as_number(compared.of(run).get(sort, ""))
    if sort == "folder":
        return lambda run: 0
    raise ValueError(f"sort={sort}: choose from {', '.join((*SORTS, *compared.keys))}")


def _as_number(text: str) -> tuple[int, float, str]:
    try:
        return 0, float(text), ""
    except ValueError:
        return 1, 0.0, text


def overview(folders: Sequence[str | Path], sort: str = "score") -> Overview:
    """The runs below folders.

    Raises ValueError for a folder that is not there or holds no run, or a way to sort that there is not.
    """
    roots = [Path(folder) for folder in folders]
    found = {run.folder: run for root in roots for run in find_runs(root)}
    return Overview(roots[0] if len(roots) == 1 else Path(), list(found.values())).sorted(sort)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _memory(value: int | None) -> str:
    return "" if value is None else f"{value / 2**30:.2f}"


def _differences(settings: Mapping[str, str], keys: Sequence[str]) -> str:
    names = short_keys(keys)
    return ", ".join(f"{names[key]}={_short(value)}" for key, value in settings.items()) or "(defaults)"


def _short(value: str) -> str:
    """A value as tables show it: of a number with many digits the first four. CSV and JSON have all."""
    with suppress(ValueError):
        return f"{float(value):.4g}" if len(value) > LONGEST_NUMBER else value
    return value


def _filled(header: Sequence[str], rows: Sequence[Sequence[str]]) -> tuple[list[str], list[list[str]]]:
    """Without columns that are empty."""
    kept = [i for i in range(len(header)) if i == 0 or any(row[i] for row in rows)]
    return [header[i] for i in kept], [[row[i] for i in kept] for row in rows]


def _result_rows(found: Overview) -> tuple[list[str], list[list[str]]]:
    """What each run has come to; runs by number, since their names are long."""
    metrics = {run.metric for run in found.runs if run.metric}
    score = metrics.pop() if len(metrics) == 1 else "score"
    rows = [
        [
            str(number), run.state, "" if run.step is None else f"{run.step}/{run.steps}" if run.steps else str(run.step),
            "" if run.score is None else f"{_number(run.score)} at {run.score_step}", _number(run.loss),
            "" if run.time_s is None else duration(run.time_s), _memory(run.peak_memory),
        ]
        for number, run in enumerate(found.runs, 1)
    ]  # fmt: skip
    return _filled(["#", "state", "step", score, "loss", "time", "GiB"], rows)


def _name_rows(found: Overview) -> tuple[list[str], list[list[str]]]:
    several, keys = len({run.verb for run in found.runs if run.verb}) > 1, found.compared.keys
    rows = [
        [
            str(number), found.name(run), run.verb if several else "",
            _differences(found.compared.of(run), keys) if keys else "",
        ]
        for number, run in enumerate(found.runs, 1)
    ]  # fmt: skip
    return _filled(["#", "run", "verb", "differs in"], rows)


def _group_rows(found: Overview) -> tuple[list[str], list[list[str]]]:
    rows, keys = [], [key for key in found.compared.keys if key != "seed"]
    for group in found.groups:
        interval = group.interval
        peaks = [run.peak_memory for run in group.runs if run.peak_memory is not None]
        rows.append(
            [
                _differences(group.settings, keys) if keys else "all", f"{len(group.scored)} of {len(group.runs)}",
                _number(group.mean), "" if interval is None else f"[{interval[0]:.4g}, {interval[1]:.4g}]",
                _memory(max(peaks, default=None)),
            ]
        )  # fmt: skip
    return _filled(["differs in", "seeds", "mean", "95 % interval", "GiB"], rows)


def _tables(found: Overview) -> dict[str, tuple[list[str], list[list[str]]]]:
    over_seeds = {"over seeds": _group_rows(found)} if found.groups else {}
    return {**over_seeds, "runs": _result_rows(found), "": _name_rows(found)}


def _said(found: Overview) -> list[str]:
    """Lines below the tables: how many are in which state, the best, and what went wrong."""
    counts = {state: sum(run.state == state for run in found.runs) for state in STATES}
    told = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    lines = [f"{len(found.runs)} {'run' if len(found.runs) == 1 else 'runs'}: {told}"]
    if (best := found.best) is not None and len(found.runs) > 1:
        lines.append(f"best by {best.metric}: {best.folder} ({_number(best.score)} at step {best.score_step})")
    lines += [f"{found.name(run)}: {run.state}, {run.reason}" for run in found.runs if run.reason]
    return lines


def print_overview(found: Overview) -> None:
    """Prints the tables for a terminal."""
    for title, (header, rows) in _tables(found).items():
        print_table(header, rows, title or None)
    for line in _said(found):
        print_wrapped(line)


def _markdown(found: Overview) -> str:
    from t2l.evaluation.report.markdown import markdown_table

    tables = [markdown_table(header, rows) for header, rows in _tables(found).values()]
    return "\n\n".join([*tables, "\n".join(f"- {line}" for line in _said(found))]) + "\n"


def _record(run: RunState) -> dict[str, Any]:
    kept = {k: v for k, v in asdict(run).items() if k not in ("folder", "typed", "config")}
    return {"folder": str(run.folder), **kept}


def _csv(found: Overview) -> str:
    keys, stream = found.compared.keys, io.StringIO()
    records = [{**dict.fromkeys(keys), **found.compared.of(run), **_record(run)} for run in found.runs]
    writer = csv.DictWriter(stream, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return stream.getvalue()


def _json(found: Overview) -> str:
    runs = [{**_record(run), "differs_in": found.compared.of(run)} for run in found.runs]
    for run in runs:  # JSON knows no NaN
        run |= {key: None for key, value in run.items() if isinstance(value, float) and not math.isfinite(value)}
    groups = [
        {"differs_in": dict(g.settings), "runs": [str(r.folder) for r in g.runs], "mean": g.mean, "ci95": g.interval}
        for g in found.groups
    ]
    return json.dumps({"runs": runs, "over_seeds": groups}, indent=2, allow_nan=False) + "\n"


def write_summary(sweep: Path, folders: Sequence[Path]) -> Overview | None:
    """The table and figure that a sweep ends with, in its folder. Returns what was found; None if there is nothing to show.

    Args:
        folders: of the sweep's jobs.

    Raises FileProblemError if files of these names are another program's.
    """
    found = Overview(sweep, [read_run(folder) for folder in folders]).sorted("score")
    if not any(run.step is not None for run in found.runs):
        return None
    check_own(sweep, SUMMARY)
    write_own(sweep / "runs.md", _markdown(found))
    write_own(sweep / "runs.csv", _csv(found))
    from t2l.run.overview_figure import draw

    write_own(sweep / "runs.png", draw(found.compared))
    return found


def run(config: RunsConfig) -> None:
    """Prints the table. Raises ValueError for a folder that is not there or holds no run."""
    found = overview(config.folders or ["runs"], config.sort)
    if config.to == "table":
        print_overview(found)
    else:
        sys.stdout.write({"markdown": _markdown, "csv": _csv, "json": _json}[config.to](found))


VERB = Verb(RunsConfig, run, words=("folders",), keeps_records=False)
