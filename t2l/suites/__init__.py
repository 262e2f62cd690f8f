"""Where tasks come from, one file per source. `build` makes the suite of a config."""

from __future__ import annotations

from t2l.suites import folder, hub, word_lists
from t2l.suites.folder import FolderSuiteConfig
from t2l.suites.hub import HubSuiteConfig
from t2l.suites.word_lists import WordListConfig
from t2l.tasks import TaskSuite

SuiteConfig = WordListConfig | FolderSuiteConfig | HubSuiteConfig


def build(config: SuiteConfig) -> TaskSuite:
    """The suite of a config."""
    if isinstance(config, FolderSuiteConfig):
        return folder.build(config)
    if isinstance(config, HubSuiteConfig):
        return hub.build(config)
    return word_lists.build(config)
