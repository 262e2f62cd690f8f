"""A run's folder: what was run, with which code and data, and what it measured while running."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import platform
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from t2l.files import check_own, read_json, write_json, write_text
from t2l.run.continuation import Change, changes, changes_the_result, is_free
from t2l.run.folder import overrides_of, typed_in
from t2l.run.memory import PeakMemory
from t2l.tracking.interface import active, current_stage

log = logging.getLogger(__name__)
Watcher = Callable[[int, Mapping[str, float]], None]
"""told of the metrics of a step, after they are written; what it raises ends the run"""
_WATCHERS: list[Watcher] = []
PACKAGES = ("torch", "transformers", "peft", "sentence-transformers", "hydra-core", "numpy")


def code_version() -> dict[str, str]:
    """t2l's version and, in a checkout, the commit (with `+changes` if the tree differs from it)."""
    version = _versions("t2l")
    root = Path(__file__).parent.parent.parent
    try:
        git = ["git", "-C", str(root)]
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True)
        status = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return version
    return {**version, "commit": commit.stdout.strip() + ("+changes" if status.stdout.strip() else "")}


def _versions(*packages: str) -> dict[str, str]:
    """Versions of those packages that are installed."""
    found = {}
    for package in packages:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def environment() -> dict[str, Any]:
    """Versions of the code, Python and the packages that results depend on."""
    return {"code": code_version(), "python": platform.python_version(), "packages": _versions(*PACKAGES)}


def environments(record: Path) -> list[dict[str, Any]]:
    """The environments that a JSON record names under `environments`, and this one: all that worked on a folder.

    Warns if this one is none of them: what was begun under other code or packages goes on under these.
    """
    before, now = environments_of(read_json(record)) if record.is_file() else [], environment()
    if now in before:
        return before
    if before:
        found = _differences(before[-1], now)
        log.warning("%s goes on under other code or packages: %s; both are recorded", record.parent, found)
    return [*before, now]


def environments_of(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The environments that a record names; records of earlier versions name the first alone."""
    first = [record["environment"]] if "environment" in record else []
    return list(record.get("environments", first))


def say_finished(folder: Path, record: Mapping[str, Any], what: str) -> None:
    """Says that there is nothing left to do, and warns if the code or packages are not those that did it."""
    log.info("already finished: %s has %s; nothing was trained", folder, what)
    before, now = environments_of(record), environment()
    if before and now not in before:
        log.warning(
            "%s was made by other code or packages (%s): choose another run_dir to make it again with these",
            folder, _differences(before[-1], now),
        )  # fmt: skip


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What two environments differ in, in words."""
    found = changes(before, now)
    return ", ".join(f"{c.key.rsplit('.', 1)[-1]} {str(c.before)[:12]} -> {str(c.now)[:12]}" for c in found)


@contextmanager
def watched(watcher: Watcher) -> Iterator[None]:
    """A block whose runs tell a watcher what they measure."""
    _WATCHERS.append(watcher)
    try:
        yield
    finally:
        _WATCHERS.remove(watcher)


class Run:
    """One run: `run.json` (config, versions), `metrics.jsonl`, and what an active tracker takes.

    Metrics hold no wall-clock times, so that two runs of one seed can be compared line by line; times, and bytes at the
    peak of memory, are in `timings.jsonl`.
    """

    def __init__(
        self,
        folder: Path,
        verb: str,
        config: Mapping[str, Any],
        writes: bool = True,
        defaults: Mapping[str, Any] | None = None,
        may_change: Callable[[Change], str | None] = changes_the_result,
    ) -> None:
        """Opens or continues the run in `folder`; `writes` is false in processes that leave files to the main one.

        A run that goes on records every environment that worked on it, and every setting that changed.

        Args:
            defaults: of settings that a run of an earlier version does not name (`continuation.defaults_of`).
            may_change: what speaks against a change of a setting that is not free; None if nothing does.

        Raises ValueError if the folder holds a run of another configuration.
        """
        self.folder = folder
        self._metrics, self._timings = folder / "metrics.jsonl", folder / "timings.jsonl"
        self._began, self._start, self._memory = round(time.time(), 3), time.perf_counter(), PeakMemory()
        if not writes:
            return
        record = folder / "run.json"
        if record.is_file():
            self._go_on(config, check_settings(folder, config, defaults, may_change))
        else:
            check_own(folder, [self._metrics.name, self._timings.name])
            folder.mkdir(parents=True, exist_ok=True)
            about = {} if (own := overrides_of(folder)) is None else {"overrides": own}
            write_json(
                record, {"verb": verb, **about, **self._typed(), "config": config, "environments": [environment()]}
            )

    def _go_on(self, config: Mapping[str, Any], changed: Sequence[Change]) -> None:
        path = self.folder / "run.json"
        found, worked = read_json(path), environments(path)
        told = [{**vars(c), "environment": worked.index(environment())} for c in changed]
        for change in changed:
            log.info("%s goes on with %s", self.folder, change)
        kept = {k: v for k, v in found.items() if k not in ("environment", "finished", "stopped_early")}
        write_json(
            path,
            {
                **kept,
                **self._typed(),
                "config": config,
                "environments": worked,
                "changes": [*found.get("changes", []), *told],
            },
        )

    def _typed(self) -> dict[str, list[str]]:
        """The words of the command that does the work, for a record of them that a refused command does not change."""
        return {} if (typed := typed_in(self.folder)) is None else {"typed": typed}

    def log_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Appends one line of metrics for a step."""
        with self._metrics.open("a") as stream:
            stream.write(json.dumps({"step": step, **metrics}) + "\n")
        with self._timings.open("a") as stream:
            took, peak = round(time.perf_counter() - self._start, 3), self._memory.read()
            line = {"step": step, "began": self._began, "time_s": took, "peak_memory": peak}
            stream.write(json.dumps(line) + "\n")
        if (tracker := active()) is not None:
            tracker.log_metrics(current_stage(), step, metrics)
        for watcher in _WATCHERS:
            watcher(step, metrics)

    def forget_after(self, step: int) -> None:
        """Drops lines of later steps, which a resumed run is about to write again (or a half line)."""
        for path in filter(Path.is_file, (self._metrics, self._timings)):
            kept = []
            for line in path.read_text().splitlines():
                try:
                    if json.loads(line)["step"] <= step:
                        kept.append(line + "\n")
                except json.JSONDecodeError:
                    break
            write_text(path, "".join(kept))
        if (tracker := active()) is not None:
            told = map(json.loads, self._metrics.read_text().splitlines() if self._metrics.is_file() else ())
            tracker.go_on(current_stage(), {line.pop("step"): line for line in told})

    def record(self, **entries: Any) -> None:
        """Adds entries to run.json."""
        path = self.folder / "run.json"
        write_json(path, {**read_json(path), **entries})


def check_settings(
    folder: Path,
    config: Mapping[str, Any],
    defaults: Mapping[str, Any] | None = None,
    may_change: Callable[[Change], str | None] = changes_the_result,
) -> list[Change]:
    """The settings in which a run that is to go on differs from how it was begun; none if there is no run yet.

    Raises ValueError for a setting that changes what comes out.
    """
    record = folder / "run.json"
    if not record.is_file():
        return []
    found = read_json(record)
    if not isinstance(found, dict) or not isinstance(found.get("config"), dict):
        raise ValueError(f"{record} is no record of a run of t2l's: choose another run_dir")
    changed = changes(found["config"], config, defaults)
    against = [f"{c}: {why}" for c in changed if not is_free(c.key) and (why := may_change(c)) is not None]
    if against:
        told = "; ".join(against[:3])
        more = f"; and {len(against) - 3} more" if len(against) > 3 else ""
        raise ValueError(
            f"{folder} holds a run with another configuration ({told}{more}). Choose another run_dir, or give the values "
            "it was begun with"
        )
    return changed
