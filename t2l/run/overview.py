"""The runs below a folder, told from their files alone: what they differ in, how far they are, and what they reached.

Also of a sweep that is still running, or of which half has failed. Nothing heavy is imported for it.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from t2l.files import FileProblemError, read_json
from t2l.run.continuation import flat, is_free
from t2l.run.folder import LOCK, typed_in

RECORD, JOB, SWEEP = "run.json", "job.json", "sweep.json"
INSIDE_RUNS = ("checkpoints", "adapters", "static", "cells", "wandb", "tensorboard")
"""folders of runs in which there are no runs"""
HIGHER = ("validation/score",)
"""metrics of which more is better"""
STATES = ("finished", "running", "stopped", "pruned", "failed", "not started", "damaged")
UNSAID = ("run_dir", "logger")
"""settings that say where a run is"""


@dataclass(frozen=True)
class RunState:
    """A run as its files tell it."""

    folder: Path
    verb: str = ""
    state: str = "stopped"
    """one of STATES"""
    reason: str = ""
    """why it failed or was pruned, or is not to be trusted"""
    typed: Mapping[str, str] | None = None
    """what the command that did the work set, by key; None if that is not recorded"""
    config: Mapping[str, Any] = field(default_factory=dict)
    """every setting by its dotted path; empty for a job that has not come to a run"""
    step: int | None = None
    steps: int | None = None
    metric: str = ""
    """what its best checkpoint is chosen by"""
    score: float | None = None
    """the best value of that"""
    score_step: int | None = None
    loss: float | None = None
    """the last training loss"""
    time_s: float | None = None
    """at work in all its starts, as far as their lines are kept"""
    peak_memory: int | None = None
    """bytes"""

    def rank(self, value: float | None = None) -> float:
        """Its score, or another value of the same metric, so that less is better; infinite without one."""
        found = self.score if value is None else value
        return math.inf if found is None else -found if self.metric in HIGHER else found


def find_runs(folder: Path) -> list[RunState]:
    """Every run in a folder or below it, jobs of a sweep that never began among them, in the order of their names.

    Raises ValueError if there is no such folder, or no run in it.
    """
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}: give one of a run or a sweep, or one that holds some")
    paths: set[Path] = set()
    waiting: dict[Path, dict[str, str]] = {}
    for path, folders, files in os.walk(folder):
        folders[:] = [f for f in folders if not f.startswith(".") and f not in INSIDE_RUNS]
        if RECORD in files or JOB in files:
            paths.add(Path(path))
        if SWEEP in files:
            waiting |= _never_began(Path(path))
    if not paths | waiting.keys():
        raise ValueError(f"{folder} holds no run: there is no {RECORD} and no {JOB} in it or below it")
    found = [read_run(path) for path in sorted(paths | waiting.keys(), key=_natural)]
    return [replace(r, typed=waiting.get(r.folder)) if r.state == "not started" else r for r in found]


def _natural(path: Path) -> list[tuple[int, int, str]]:
    """So that job 10 comes after job 9."""
    parts = []
    for part in path.parts:
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        parts.append((0, int(digits), part) if digits else (1, 0, part))
    return parts


def _never_began(sweep: Path) -> dict[Path, dict[str, str]]:
    """Folders and words of the jobs that, as the list of a sweep has it, did not begin. It may have been moved since."""
    with suppress(FileProblemError, LookupError, TypeError, AttributeError):
        jobs = [job for job in read_json(sweep / SWEEP)["jobs"] if job["state"] == "not started"]
        return {sweep / Path(job["folder"]).name: _by_key(job["overrides"]) for job in jobs}
    return {}


def best_run(runs: Sequence[RunState]) -> RunState | None:
    """The finished run with the best score; None if there is none, or scores are of several metrics."""
    scored = [run for run in runs if run.state == "finished" and run.score is not None]
    return None if len({run.metric for run in scored}) != 1 else min(scored, key=RunState.rank)


def read_run(folder: Path) -> RunState:
    """The state of a run, of which there may be no file yet."""
    try:
        record = read_json(folder / RECORD) if (folder / RECORD).is_file() else {}
        job = read_json(folder / JOB) if (folder / JOB).is_file() else {}
        if not record and not job:
            return RunState(folder, state="not started")
        return _told(folder, dict(record), dict(job))
    except (FileProblemError, yaml.YAMLError, TypeError, ValueError, AttributeError, LookupError) as error:
        return RunState(folder, state="damaged", reason=" ".join(str(error).split()))


def _told(folder: Path, record: dict[str, Any], job: dict[str, Any]) -> RunState:
    state, reason = _state(folder, record, job)
    config = record.get("config") or {}
    trainer = config.get("trainer") or {}
    lines, timings = _lines(folder / "metrics.jsonl"), _lines(folder / "timings.jsonl")
    metric = trainer.get("select_by", "") if any(trainer.get("select_by") in line for line in lines) else ""
    step, score = _best(lines, metric)
    losses = [line["train/loss"] for line in lines if "train/loss" in line]
    words = record.get("typed") if record else typed_in(folder)  # of a run, later commands may have been refused
    return RunState(
        folder, record.get("verb", ""), state, reason, None if words is None else _by_key(words),
        flat(config) if config else {}, lines[-1]["step"] if lines else None, trainer.get("steps"), metric, score, step,
        losses[-1] if losses else None, _time(timings),
        max((line["peak_memory"] for line in timings if line.get("peak_memory")), default=None),
    )  # fmt: skip


def _state(folder: Path, record: Mapping[str, Any], job: Mapping[str, Any]) -> tuple[str, str]:
    if _is_at_work(folder):
        return "running", ""
    finished = bool(record.get("finished")) or (not record and job.get("state") == "finished")
    if job.get("state") == "failed" and not (finished and _is_newer(folder / RECORD, folder / JOB)):
        return "failed", str(job.get("reason") or "")
    if job.get("state") == "pruned" and not finished:
        return "pruned", str(job.get("reason") or "")
    if finished:
        verdict = record.get("verdict", "sound")
        return "finished", "" if verdict == "sound" else f"{verdict}: {record.get('reason', '')}"
    return "stopped", ""


def _is_newer(path: Path, other: Path) -> bool:
    """Whether a run ended after it had failed as a job: it was started by itself, then."""
    return path.stat().st_mtime_ns > other.stat().st_mtime_ns


def _is_at_work(folder: Path) -> bool:
    """Whether a process of this machine holds the folder."""
    from filelock import FileLock, Timeout

    if not (folder / LOCK).is_file():
        return False
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        return True
    except OSError:  # it may not be written to
        return False
    lock.release()
    return False


def _by_key(overrides: Sequence[str]) -> dict[str, str]:
    pairs = (str(o).lstrip("+~").partition("=") for o in overrides)
    return {key: value for key, _, value in pairs if key.split(".")[0] not in (*UNSAID, "hydra")}


def _lines(path: Path) -> list[dict[str, Any]]:
    """The records of a file of JSON lines; what is being written is left out."""
    found: list[dict[str, Any]] = []
    with suppress(OSError):
        for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(json.JSONDecodeError):
                line = json.loads(text)
                if isinstance(line, dict) and "step" in line:
                    found.append(line)
    return found


def score_curve(folder: Path, metric: str) -> list[tuple[int, float]]:
    """Steps of a run and the values of a metric there."""
    return [(line["step"], line[metric]) for line in _lines(folder / "metrics.jsonl") if metric in line]


def time_to_step(folder: Path, step: int) -> float | None:
    """Seconds at work that brought a run to a step; None if it keeps no times."""
    return _time([line for line in _lines(folder / "timings.jsonl") if line["step"] <= step])


def _best(lines: Sequence[Mapping[str, Any]], metric: str) -> tuple[int | None, float | None]:
    values = [(line["step"], line[metric]) for line in lines if metric in line and math.isfinite(line[metric])]
    if not values:
        return None, None
    sign = 1 if metric in HIGHER else -1
    return max(values, key=lambda pair: sign * pair[1])


def _time(lines: Sequence[Mapping[str, Any]]) -> float | None:
    """Seconds at work: each start of a run counts from zero, and says when it began."""
    longest: dict[Any, float] = {}
    for line in lines:
        if "time_s" in line:
            longest[line.get("began")] = max(longest.get(line.get("began"), 0.0), line["time_s"])
    return sum(longest.values()) if longest else None


@dataclass(frozen=True)
class Comparison:
    """Runs side by side: what they differ in."""

    runs: Sequence[RunState]

    @cached_property
    def settings(self) -> dict[Path, dict[str, str]]:
        """By the folder of each run, what is held against others: the words typed if all of them recorded these, else every
        setting."""
        is_typed = all(run.typed is not None for run in self.runs if run.config)
        return {run.folder: dict(run.typed or {}) if is_typed or not run.config else _texts(run) for run in self.runs}

    @cached_property
    def keys(self) -> list[str]:
        """Keys whose values are not the same in all runs, in the order in which they were typed; the seed last.

        Runs that cannot be read or have not begun have no say.
        """
        told = [self.settings[run.folder] for run in self.runs if run.state not in ("damaged", "not started")]
        found = [key for key in dict.fromkeys(k for s in told for k in s) if len({s.get(key) for s in told}) > 1]
        return sorted(found, key="seed".__eq__)

    def of(self, run: RunState) -> dict[str, str]:
        """In what a run differs from others."""
        return {key: self.settings[run.folder][key] for key in self.keys if self.settings[run.folder].get(key)}

    @cached_property
    def groups(self) -> list[SeedGroup]:
        """Runs grouped by everything in which they differ but the seed."""
        found: dict[tuple[tuple[str, str], ...], list[RunState]] = {}
        for run in self.runs:
            what = tuple((key, value) for key, value in self.of(run).items() if key != "seed")
            found.setdefault(what, []).append(run)
        return [
            SeedGroup(dict(what), runs, len({self.of(r).get("seed") for r in runs})) for what, runs in found.items()
        ]


def _texts(run: RunState) -> dict[str, str]:
    return {key: str(value) for key, value in run.config.items() if not is_free(key)}


@dataclass(frozen=True)
class SeedGroup:
    """Runs that differ in their seed alone."""

    settings: Mapping[str, str]
    """what tells the group from others"""
    runs: Sequence[RunState]
    seeds: int
    """how many different ones"""

    @property
    def scored(self) -> list[RunState]:
        """Finished runs with a score, of one metric."""
        found = [run for run in self.runs if run.state == "finished" and run.score is not None]
        return [run for run in found if run.metric == found[0].metric]

    @property
    def mean(self) -> float | None:
        """The mean score."""
        scores = [run.score for run in self.scored if run.score is not None]
        return sum(scores) / len(scores) if scores else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval of the mean over seeds, by Student's t; None of fewer than two, or if one was run twice."""
        scores = [run.score for run in self.scored if run.score is not None]
        if len(scores) < 2 or self.seeds < len(self.runs):
            return None
        from scipy.stats import t

        mean = sum(scores) / len(scores)
        deviation = math.sqrt(sum((s - mean) ** 2 for s in scores) / (len(scores) - 1))
        half = float(t.ppf(0.975, len(scores) - 1)) * deviation / math.sqrt(len(scores))
        return mean - half, mean + half
