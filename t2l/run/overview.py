"""The runs below a folder, told from their files alone: what they differ in, how far they are, and what they reached.

Also of a sweep that is still running, or of which half has failed. Nothing heavy is imported for it.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from t2l.files import FileProblemError, read_json
from t2l.run.folder import LOCK

RECORD, JOB, SWEEP = "run.json", "job.json", "sweep.json"
INSIDE_RUNS = ("checkpoints", "adapters", "static", "cells", "wandb")
"""folders of runs in which there are no runs"""
HIGHER = ("validation/score",)
"""metrics of which more is better"""
STATES = ("finished", "running", "stopped", "failed", "not started", "damaged")
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
    """why it failed, or is not to be trusted"""
    settings: Mapping[str, str] = field(default_factory=dict)
    """what was typed, by key"""
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
    """at work, in all its starts"""
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
    found = {path: read_run(path) for path in _run_folders(folder)}
    for path, state in _never_began(folder):
        found.setdefault(path, state)
    if not found:
        raise ValueError(f"{folder} holds no run: there is no {RECORD} and no {JOB} in it or below it")
    return [found[path] for path in sorted(found, key=_natural)]


def _natural(path: Path) -> list[tuple[int, int, str]]:
    """So that job 10 comes after job 9."""
    parts = []
    for part in path.parts:
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        parts.append((0, int(digits), part) if digits else (1, 0, part))
    return parts


def _run_folders(folder: Path) -> Iterator[Path]:
    for path, folders, files in os.walk(folder):
        folders[:] = [f for f in folders if not f.startswith(".") and f not in INSIDE_RUNS]
        if RECORD in files or JOB in files:
            yield Path(path)


def _never_began(folder: Path) -> Iterator[tuple[Path, RunState]]:
    """Jobs that the list of a sweep names."""
    for path in (p / SWEEP for p in (folder, *folder.rglob("*/")) if (p / SWEEP).is_file()):
        with suppress(FileProblemError, LookupError, TypeError, AttributeError):
            for job in read_json(path)["jobs"]:
                settings = _by_key(job["overrides"])
                yield Path(job["folder"]), RunState(Path(job["folder"]), state="not started", settings=settings)


def read_run(folder: Path) -> RunState:
    """One run's state."""
    try:
        record = read_json(folder / RECORD) if (folder / RECORD).is_file() else {}
        job = read_json(folder / JOB) if (folder / JOB).is_file() else {}
        return _told(folder, dict(record), dict(job))
    except (FileProblemError, TypeError, AttributeError, LookupError) as error:
        return RunState(folder, state="damaged", reason=" ".join(str(error).split()))


def _told(folder: Path, record: dict[str, Any], job: dict[str, Any]) -> RunState:
    state, reason = _state(folder, record, job)
    trainer = record.get("config", {}).get("trainer") or {}
    lines = _lines(folder / "metrics.jsonl")
    metric = trainer.get("select_by", "") if any(trainer.get("select_by") in line for line in lines) else ""
    step, score = _best(lines, metric)
    timings = _lines(folder / "timings.jsonl")
    losses = [line["train/loss"] for line in lines if "train/loss" in line]
    return RunState(
        folder, record.get("verb", ""), state, reason, _typed(folder, record), lines[-1]["step"] if lines else None,
        trainer.get("steps"), metric, score, step, losses[-1] if losses else None, _time(timings),
        max((line["peak_memory"] for line in timings if line.get("peak_memory")), default=None),
    )  # fmt: skip


def _state(folder: Path, record: Mapping[str, Any], job: Mapping[str, Any]) -> tuple[str, str]:
    if _is_at_work(folder):
        return "running", ""
    if job.get("state") == "failed":
        return "failed", str(job.get("reason") or "")
    if record.get("finished") or (not record and job.get("state") == "finished"):
        verdict = record.get("verdict", "sound")
        return "finished", "" if verdict == "sound" else f"{verdict}: {record.get('reason', '')}"
    return "stopped", ""


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


def _typed(folder: Path, record: Mapping[str, Any]) -> dict[str, str]:
    """The overrides that Hydra noted; of a run that was not started by it, those of the record."""
    path = folder / ".hydra/overrides.yaml"
    with suppress(OSError, UnicodeDecodeError, yaml.YAMLError):
        if isinstance(found := yaml.safe_load(path.read_text(encoding="utf-8")), list):
            return _by_key(found)
    return _by_key(record.get("overrides") or [])


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


def _best(lines: Sequence[Mapping[str, Any]], metric: str) -> tuple[int | None, float | None]:
    values = [(line["step"], line[metric]) for line in lines if metric in line and math.isfinite(line[metric])]
    if not values:
        return None, None
    sign = 1 if metric in HIGHER else -1
    return max(values, key=lambda pair: sign * pair[1])


def _time(lines: Sequence[Mapping[str, Any]]) -> float | None:
    """Seconds at work: each start of a run counts from zero."""
    times = [line["time_s"] for line in lines if "time_s" in line]
    ends = [now for now, after in zip(times, [*times[1:], -math.inf], strict=False) if after < now]
    return sum(ends) if times else None


def differing(runs: Sequence[RunState]) -> list[str]:
    """Keys whose typed values are not the same in all runs, in the order in which they were typed; the seed last.

    Runs that cannot be read, or of which only a list of jobs knows, have no say.
    """
    told = [run for run in runs if run.state not in ("damaged", "not started")]
    keys = dict.fromkeys(key for run in told for key in run.settings)
    found = [key for key in keys if len({run.settings.get(key) for run in told}) > 1]
    return sorted(found, key="seed".__eq__)


@dataclass(frozen=True)
class SeedGroup:
    """Runs that differ in their seed alone."""

    settings: Mapping[str, str]
    """what tells the group from others"""
    runs: Sequence[RunState]

    @property
    def seeds(self) -> set[str]:
        """As typed; empty for the default."""
        return {run.settings.get("seed", "") for run in self.runs}

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
        """95 % interval of the mean over seeds, by Student's t; None of fewer than two."""
        scores = [run.score for run in self.scored if run.score is not None]
        if len(scores) < 2:
            return None
        from scipy.stats import t

        mean = sum(scores) / len(scores)
        deviation = math.sqrt(sum((s - mean) ** 2 for s in scores) / (len(scores) - 1))
        half = float(t.ppf(0.975, len(scores) - 1)) * deviation / math.sqrt(len(scores))
        return mean - half, mean + half


def by_seed(runs: Sequence[RunState]) -> list[SeedGroup]:
    """Runs grouped by everything in which they differ but the seed."""
    keys = [key for key in differing(runs) if key != "seed"]
    groups: dict[tuple[str, ...], list[RunState]] = {}
    for run in runs:
        groups.setdefault(tuple(run.settings.get(key, "") for key in keys), []).append(run)
    return [SeedGroup(dict(zip(keys, values, strict=True)), found) for values, found in groups.items()]
