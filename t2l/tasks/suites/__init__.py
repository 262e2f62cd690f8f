"""Where tasks come from, one file per source. `build` makes the suite of a config."""

from __future__ import annotations

from t2l.tasks.suites import folder, hub, word_lists
from t2l.tasks.suites.folder import FolderSuiteConfig
from t2l.tasks.suites.hub import HubSuiteConfig
from t2l.tasks.suites.word_lists import WordListConfig
from t2l.tasks.task import TaskSuite

SuiteConfig = WordListConfig | FolderSuiteConfig | HubSuiteConfig


def build(config: SuiteConfig) -> TaskSuite:
    """The suite of a config. Raises ValueError where it is none, or of a kind that there is not."""
    if type(config) is FolderSuiteConfig:
        return folder.build(config)
    if type(config) is HubSuiteConfig:
        return hub.build(config)
    if type(config) is WordListConfig:
        return word_lists.build(config)
    raise ValueError(f"suite: there is none for the config {type(config).__name__}; choose one, like suite=word_lists")
