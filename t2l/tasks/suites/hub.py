"""Tasks from datasets on the Hugging Face hub, each described in the config by its id, columns and templates.

    suite=hub with   datasets: {boolq: {dataset: google/boolq, splits: {train: train, test: validation},
                                        input: "{{ passage }}", output: "{{ answer }}", descriptions: [...]}, ...}

`conf/suite/benchmarks.yaml` and `conf/suite/lots_of_loras.yaml` are such configs. Each task is rendered once and kept
on disk (`hub_loading.py`); what becomes of rows and tasks is in `row_splits.py`.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from t2l.checks import at_least, one_of
from t2l.files import FileProblemError
from t2l.registry import register
from t2l.tasks.suites.hub_loading import Source, TaskCache, load_all
from t2l.tasks.suites.hub_rendering import HubTaskConfig, Renderer
from t2l.tasks.suites.row_splits import DealingConfig, deal_rows, deal_tasks, descriptions_of, select_names
from t2l.tasks.suites.rows import canonical_metric
from t2l.tasks.task import Task, TaskSuite

TASK_KEYS = tuple(f.name for f in fields(HubTaskConfig))


@dataclass
class HubSuiteConfig(DealingConfig):
    """A suite of datasets."""

    name: str = "hub"
    """fixed"""
    datasets: dict[str, Any] = field(default_factory=dict)
    """task name to the fields of HubTaskConfig that differ from `each`; null if none does"""
    each: HubTaskConfig = field(default_factory=HubTaskConfig)
    """what the tasks have in common"""
    local_root: str | None = None
    """folder that holds every dataset under the last part of its id, read instead of the hub"""
    cache: str = "~/.cache/t2l/hub"
    """folder of rendered tasks"""
    hub_cache: str | None = None
    """folder of the datasets library's own cache; None: its default"""
    retries: int = 3
    """more tries after the network failed"""
    backoff_s: float = 2.0
    """seconds before the first of them; each waits twice as long as the one before"""
    workers: int = 4
    """datasets loaded at once"""
    skip_failed: bool = False
    """whether to go on without a dataset that cannot be loaded, with a warning that names it"""

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(self, ["hub"], "name", under="suite")
        if not self.cache:
            raise ValueError("suite.cache is empty: give a folder for rendered tasks")
        at_least(self, 0, "retries", "backoff_s", under="suite")
        at_least(self, 1, "workers", under="suite")
        for name in self.datasets:
            self.task(name)

    def task(self, name: str) -> HubTaskConfig:
        """The whole config of a task. Raises ValueError if a key is unknown, or something is missing."""
        place, given = f"suite.datasets.{name}", self.datasets[name] or {}
        if not name or "/" in name or name.startswith("."):
            raise ValueError(f"{place}: the name must do as the name of a file")
        if not isinstance(given, Mapping):
            raise ValueError(f"{place} must be a mapping of {', '.join(TASK_KEYS)}, not {given!r}")
        for key in given:
            if key not in TASK_KEYS:
                near = difflib.get_close_matches(str(key), TASK_KEYS, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise ValueError(f"{place}: unknown key {key!r}{hint} (it has {', '.join(TASK_KEYS)})")
        made = replace(self.each, **given)
        try:
            made.check()
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from None
        return made


def _check_all(made: Mapping[str, HubTaskConfig], config: HubSuiteConfig) -> None:
    """Raises ValueError for what is wrong without any dataset being looked at."""
    if config.local_root is not None and not Path(config.local_root).expanduser().is_dir():
        raise FileProblemError(f"suite.local_root={config.local_root}: no such folder")
    for name, task in made.items():
        try:
            Renderer(task)
        except ValueError as error:
            raise ValueError(f"suite.datasets.{name}: {error}") from None
        if not (task.descriptions or task.description or config.descriptions_folder):
            raise ValueError(
                f"suite.datasets.{name} has no description: give descriptions, or suite.descriptions_folder"
            )


@register("suite", "hub", HubSuiteConfig)
def build(config: HubSuiteConfig) -> TaskSuite:
    """Loads the suite of a config.

    Raises:
        FileProblemError: a local folder is missing.
        ValueError: a dataset cannot be loaded or rendered, a task has no description, or roles do not go together.
    """
    if not config.datasets:
        raise ValueError("suite.datasets is empty: name tasks and their datasets, as conf/suite/benchmarks.yaml does")
    names = select_names(list(config.datasets), config, "suite.datasets")
    made = {name: config.task(name) for name in names}
    _check_all(made, config)
    cache = TaskCache(Path(config.cache).expanduser(), Source(config.local_root, config.hub_cache))

    def task(name: str) -> Task:
        """A task with all its descriptions; its rows are cut to size here, for there may be hundreds of tasks."""
        of, rendered = made[name], cache.load(name, made[name], config.retries, config.backoff_s)
        texts = tuple(dict.fromkeys((*of.descriptions, *rendered.descriptions)))
        examples, metric = deal_rows(name, rendered.examples, config), canonical_metric(of.metric)
        return Task(name, {"train": texts}, examples, metric, of.family or name, max_new_tokens=of.max_new_tokens)

    tasks = load_all(made, task, config.workers, config.skip_failed)
    if not tasks:
        raise ValueError("suite.skip_failed=true, and not one dataset could be loaded")
    phrasings = descriptions_of({name: t.descriptions["train"] for name, t in tasks.items()}, config)
    tasks = {name: replace(t, descriptions=phrasings[name]) for name, t in tasks.items()}
    provenance = {
        "datasets": {n: f"{made[n].dataset}@{made[n].revision or 'newest'}" for n in tasks},
        "skipped": [n for n in names if n not in tasks],
        "seed": config.seed,
    }
    return deal_tasks("hub", tasks, config, provenance)
