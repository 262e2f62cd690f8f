"""What a tracker is: it is told what a run measures as it goes, and what came out at its end.

To add one: a module here with its config dataclass, a subclass of `Tracker` and `@register("logger", NAME, CONFIG)`.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from t2l.registry import component_of, register

log = logging.getLogger(__name__)
LEFT_OUT = (".log", "timings.jsonl", ".lock", "trainer.safetensors")
"""endings of files that are no part of an artifact: logs, times, and what training alone goes on from"""
OF_TRACKERS = ("wandb", "wandb.json", "tensorboard")
"""what trackers leave in a run's folder"""
LONGEST_NAME = 100
"""characters of an artifact's name behind its kind; Weights & Biases takes 128 in all"""


@dataclass(frozen=True)
class About:
    """What a tracker is told of a run before it begins."""

    verb: str
    config: Mapping[str, Any]
    """the run's settings"""
    folder: Path | None
    """the run's folder; None for a verb that keeps none"""
    group: str | None = None
    """the sweep that the run is a job of"""


@dataclass(frozen=True)
class Table:
    """Rows under a header."""

    header: Sequence[str]
    rows: Sequence[Sequence[Any]]


@dataclass(frozen=True)
class Artifact:
    """A folder that a run made: a library, a hypernetwork, an adapter, a report..."""

    kind: str
    folder: Path
    made_from: Sequence[Artifact] = ()
    """what it was made of, library -> hypernetwork -> adapter"""
    label: str = ""
    """what its name says beside its kind; empty: the folder's name"""
    patterns: Sequence[str] = ("**/*",)
    """which files of the folder belong to it"""

    @property
    def name(self) -> str:
        """One word: kind and label."""
        word = re.sub(r"[^A-Za-z0-9_.-]", "-", self.label or self.folder.name)[:LONGEST_NAME]
        return f"{self.kind}-{word}"

    @property
    def version(self) -> str:
        """What tells it from others of its name: the beginning of the digest."""
        return self.digest[:8]

    @property
    def reference(self) -> str:
        """Name and version, as others are made from it."""
        return f"{self.name}:{self.version}"

    @property
    def files(self) -> list[Path]:
        """Its files, without logs, times and what begins with a dot."""
        found = sorted({p for pattern in self.patterns for p in self.folder.glob(pattern) if p.is_file()})
        return [
            p for p in found
            if not p.name.endswith(LEFT_OUT) and not any(part.startswith(".") or part in OF_TRACKERS for part in p.relative_to(self.folder).parts)
        ]  # fmt: skip

    @cached_property
    def digest(self) -> str:
        """Sha256 over the names and contents of its files."""
        digest = hashlib.sha256()
        for path in self.files:
            with path.open("rb") as stream:
                digest.update(
                    f"{path.relative_to(self.folder)}\0{hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode()
                )
        return digest.hexdigest()


@dataclass(frozen=True)
class Results:
    """What came out of a run."""

    summary: Mapping[str, float | int | str] = field(default_factory=dict)
    tables: Mapping[str, Table] = field(default_factory=dict)
    figures: Mapping[str, Path] = field(default_factory=dict)
    """PNG files by name"""
    artifacts: Sequence[Artifact] = ()

    def under(self, prefix: str) -> Results:
        """The same with names that begin so."""
        parts = ({f"{prefix}{k}": v for k, v in part.items()} for part in (self.summary, self.tables, self.figures))
        summary, tables, figures = parts
        return Results(summary, tables, figures, self.artifacts)  # type: ignore[arg-type]


class Tracker:
    """Told of metrics, of results, and of the end. Does nothing of itself: `metrics.jsonl` is a run's own."""

    def __init__(self, config: Any, about: About) -> None:
        """Begins, or goes on where the same run was before. Raises ValueError for what the user can mend."""
        self.config, self.about = config, about

    def log_metrics(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        """Metrics of a step, by names like `train/loss`.

        Args:
            stage: which part of the run counts these steps, like `sft`; empty if it has one part.
        """
        return None

    def go_on(self, stage: str, measured: Mapping[int, Mapping[str, float]]) -> None:
        """A stage goes on after a stop, from a checkpoint: later steps are about to come again.

        Args:
            measured: all metrics up to there by step. A process that was killed may have lost some of what it was told.
        """
        return None

    def log_results(self, results: Results) -> None:
        """What came out."""
        return None

    def finish(self, failed: bool) -> None:
        """The end, of a run that may have failed."""
        return None


@dataclass
class JsonlConfig:
    """The run's own files alone."""


@register("logger", "jsonl", JsonlConfig)
class NoTracker(Tracker):
    """Nothing besides the run's own files."""


class Forgiving(Tracker):
    """Another tracker, whose errors are a warning: what a run makes must not be lost to it. After one it is told only of the end."""

    def __init__(self, tracker: Tracker) -> None:
        super().__init__(tracker.config, tracker.about)
        self._tracker, self._has_failed = tracker, False

    def _tell(self, what: Callable[..., None], *told: Any) -> None:
        if self._has_failed and what != self._tracker.finish:
            return
        try:
            what(*told)
        except Exception as error:
            self._has_failed = True
            name = type(self._tracker).__name__
            log.warning(
                "%s failed and is told no more: %s: %s", name, type(error).__name__, " ".join(str(error).split())
            )

    def log_metrics(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        """As the other does."""
        self._tell(self._tracker.log_metrics, stage, step, metrics)

    def go_on(self, stage: str, measured: Mapping[int, Mapping[str, float]]) -> None:
        """As the other does."""
        self._tell(self._tracker.go_on, stage, measured)

    def log_results(self, results: Results) -> None:
        """As the other does."""
        self._tell(self._tracker.log_results, results)

    def finish(self, failed: bool) -> None:
        """As the other does."""
        self._tell(self._tracker.finish, failed)


_ACTIVE: list[Tracker] = []
_STAGES: list[str] = []


def active() -> Tracker | None:
    """The tracker of the run that this process is in; None if there is none."""
    return _ACTIVE[-1] if _ACTIVE else None


def current_stage() -> str:
    """The name of the part of the run that this is in; empty if it has one part."""
    return _STAGES[-1] if _STAGES else ""


@contextmanager
def stage(name: str) -> Iterator[None]:
    """A block that is a part of a run, with steps of its own."""
    _STAGES.append(name)
    try:
        yield
    finally:
        _STAGES.pop()


@contextmanager
def tracked(config: Any, about: About) -> Iterator[Tracker]:
    """A block whose metrics and results go to the tracker of a config; None and JsonlConfig: nowhere else.

    Raises ValueError for what the user can mend, as it begins; later a tracker's errors are a warning.
    """
    tracker = Forgiving(component_of("logger", config or JsonlConfig()).make(config, about))
    _ACTIVE.append(tracker)
    failed = True
    try:
        yield tracker
        failed = False
    except SystemExit as end:
        failed = end.code not in (None, 0)
        raise
    finally:
        _ACTIVE.remove(tracker)
        tracker.finish(failed)
