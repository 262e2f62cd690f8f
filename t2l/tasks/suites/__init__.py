"""Where tasks come from, one file per source. `build` makes the suite of a config."""

from __future__ import annotations

from typing import Any

from t2l.registry import component_of
from t2l.tasks.suites.folder import FolderSuiteConfig
from t2l.tasks.suites.hub import HubSuiteConfig
from t2l.tasks.suites.word_lists import WordListConfig
from t2l.tasks.task import TaskSuite


def build(config: Any) -> TaskSuite:
    """The suite of a config. Raises ValueError if it is none, or of a kind that there is not."""
    return component_of("suite", config).make(config)


__all__ = ["FolderSuiteConfig", "HubSuiteConfig", "WordListConfig", "build"]
