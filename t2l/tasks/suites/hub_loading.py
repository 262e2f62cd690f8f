"""Datasets read from the hub or from local folders, again if the network fails, and kept on disk as examples."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from t2l.files import FileProblemError, write_text
from t2l.run.progress import Progress
from t2l.tasks.suites.hub_rendering import HubTaskConfig, Renderer
from t2l.tasks.task import Example

log = logging.getLogger(__name__)
Made = TypeVar("Made")
CACHE_FORMAT = 1
LASTING = (ValueError, TypeError, LookupError, RuntimeError, FileNotFoundError)
"""errors that another try does not mend; the others (of the network, mostly) are tried again"""
NOT_IN_KEY = ("family", "descriptions", "max_new_tokens")
"""fields of a task's config that its rows do not depend on"""


@dataclass(frozen=True)
class Source:
    """Where datasets come from.

    `local_root`: a folder that holds each dataset under the last part of its id, used instead of the hub;
    `hub_cache`: folder of the datasets library's own cache (None: its default).
    """

    local_root: str | None = None
    hub_cache: str | None = None

    def folder(self, config: HubTaskConfig) -> Path | None:
        """The local folder of a task's dataset; None if it is on the hub. Raises FileProblemError if missing."""
        if self.local_root is not None:
            folder = Path(self.local_root).expanduser() / config.dataset.rstrip("/").rsplit("/", 1)[-1]
        elif config.dataset.startswith((".", "/", "~")) or Path(config.dataset).is_dir():
            folder = Path(config.dataset).expanduser()
        else:
            return None
        if not folder.is_dir():
            raise FileProblemError(f"no such folder: {folder}")
        inner = folder / (config.subset or "")
        return inner if inner.is_dir() else folder

    def rows(self, config: HubTaskConfig, split: str) -> Iterable[Mapping[str, Any]]:
        """The rows of one of a dataset's splits. No code that comes with a dataset is ever run."""
        import datasets

        datasets.disable_progress_bars()
        folder = self.folder(config)
        if folder is None:
            place: dict[str, Any] = {"path": config.dataset, "name": config.subset, "revision": config.revision}
        else:
            named = config.subset if (folder / "README.md").is_file() and folder.name != config.subset else None
            place = {"path": str(folder), "name": named}
        found = datasets.load_dataset(**place, split=split, cache_dir=self.hub_cache)
        return found if config.max_rows is None else found.select(range(min(config.max_rows, len(found))))


@dataclass(frozen=True)
class Rendered:
    """A task's examples by split (train, validation, test), and the descriptions its rows brought."""

    examples: Mapping[str, Sequence[Example]]
    descriptions: Sequence[str]


def render(config: HubTaskConfig, source: Source) -> Rendered:
    """Loads a task's splits and renders their rows.

    Raises ValueError with split and number of a row that cannot be rendered, or a split without rows.
    """
    renderer = Renderer(config)
    examples: dict[str, list[Example]] = {}
    descriptions: dict[str, None] = {}
    for ours, theirs in config.splits.items():
        examples[ours] = []
        for number, row in enumerate(source.rows(config, theirs)):
            try:
                if renderer.is_wanted(row):
                    examples[ours].append(renderer.example(row))
                    descriptions[renderer.description(row)] = None
            except ValueError as error:
                raise ValueError(f"row {number} of split {theirs}: {error}") from None
        if not examples[ours]:
            raise ValueError(f"split {theirs} has no rows" + (f" for which {config.where}" if config.where else ""))
    return Rendered(examples, [d for d in descriptions if d])


class TaskCache:
    """Rendered tasks on disk, one JSON-lines file each, named by everything that decides its content.

    A dataset on the hub counts as unchanged while its config is: pin `revision` to a commit, or remove the file. A
    local one counts by the names, sizes and times of its files. Files are whole or absent, and say how long they are.
    """

    def __init__(self, folder: Path, source: Source) -> None:
        self.folder, self.source = folder, source

    def path(self, name: str, config: HubTaskConfig) -> Path:
        """The file of a task."""
        key: dict[str, Any] = {k: v for k, v in asdict(config).items() if k not in NOT_IN_KEY}
        local = self.source.folder(config)
        if local is not None:
            files = sorted(p for p in local.rglob("*") if p.is_file())
            key["files"] = [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in files]
        digest = hashlib.sha256(json.dumps([CACHE_FORMAT, key], sort_keys=True).encode()).hexdigest()
        return self.folder / f"{name}-{digest[:16]}.jsonl"

    def get(self, name: str, config: HubTaskConfig) -> Rendered | None:
        """A task that is there; None if it is not, or is damaged."""
        path = self.path(name, config)
        if not path.is_file():
            return None
        try:
            head, *rows = map(json.loads, path.read_text().splitlines())
            if head["rows"] != len(rows):
                raise ValueError(f"{len(rows)} of {head['rows']} rows")
            examples: dict[str, list[Example]] = {ours: [] for ours in config.splits}
            for row in rows:
                examples[row["split"]].append(
                    Example(row["input"], row["output"], tuple(row["references"]), tuple(row["choices"]), row["tests"])
                )
            return Rendered(examples, head["descriptions"])
        except (ValueError, LookupError, TypeError) as error:
            log.warning("%s is damaged (%s): it is made again", path, error)
            return None

    def put(self, name: str, config: HubTaskConfig, rendered: Rendered) -> None:
        """Writes a task."""
        rows = [{"split": ours, **asdict(e)} for ours, examples in rendered.examples.items() for e in examples]
        head = {"rows": len(rows), "descriptions": list(rendered.descriptions), "dataset": config.dataset}
        write_text(self.path(name, config), "".join(json.dumps(line) + "\n" for line in (head, *rows)))

    def load(self, name: str, config: HubTaskConfig, retries: int, backoff_s: float) -> Rendered:
        """A task that is there; else it is loaded (see `with_retries`), rendered and put there at once."""
        rendered = self.get(name, config)
        if rendered is None:
            rendered = with_retries(lambda: render(config, self.source), name, retries, backoff_s)
            self.put(name, config, rendered)
        return rendered


def _is_offline(error: BaseException | None) -> bool:
    """Whether the hub was not asked because the libraries are told to stay offline."""
    if error is None:
        return False
    return "Offline" in f"{type(error).__name__}: {error}" or _is_offline(error.__cause__ or error.__context__)


def with_retries(load: Callable[[], Rendered], name: str, retries: int, backoff_s: float) -> Rendered:
    """What `load` gives, after up to `retries` more tries, the first `backoff_s` later and each twice as late."""
    for attempt in range(retries):
        wait = backoff_s * 2**attempt
        try:
            return load()
        except Exception as error:
            if isinstance(error, LASTING) or _is_offline(error):
                raise
            log.warning("%s: %s: %s; again in %.3g s", name, type(error).__name__, error, wait)
        time.sleep(wait)
    return load()


def _told(name: str, config: HubTaskConfig, error: BaseException) -> str:
    """What went wrong with a task, in one line."""
    said = " ".join(str(error).split()) or type(error).__name__
    hint = ""
    if "scripts are no longer supported" in said:
        hint = "; the hub's own conversion may do: set revision: refs/convert/parquet"
    kind = "" if type(error) in (ValueError, FileProblemError) else f"{type(error).__name__}: "
    return f"suite.datasets.{name} ({config.dataset}): {kind}{said}{hint}"


def load_all(
    configs: Mapping[str, HubTaskConfig], load: Callable[[str], Made], workers: int, skip_failed: bool
) -> dict[str, Made]:
    """What `load` makes of every task that can be had, `workers` at once.

    Raises ValueError that names the first task that failed, unless `skip_failed`; tasks under way are finished first, and
    no new ones begun.
    """
    found: dict[str, Made] = {}
    failed: dict[str, str] = {}
    with ThreadPoolExecutor(workers) as pool, Progress("loading datasets", len(configs), "dataset") as progress:
        jobs = {pool.submit(load, name): name for name in configs}
        try:
            for job in as_completed(jobs):
                name = jobs[job]
                progress.advance()
                if job.cancelled():
                    continue
                error = job.exception()
                if error is None:
                    found[name] = job.result()
                    continue
                failed[name] = _told(name, configs[name], error)
                if not skip_failed:
                    for other in jobs:
                        other.cancel()
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    for told in failed.values():
        if not skip_failed:
            kept = f"{len(found)} of {len(configs)} tasks are loaded and kept; run again for the rest"
            raise ValueError(f"{told} ({kept}, or set suite.skip_failed=true)")
        log.warning("skipped: %s", told)
    return {name: found[name] for name in configs if name in found}
