"""`t2l describe`: descriptions of tasks, written by a language model."""

from __future__ import annotations

from pathlib import Path

from t2l import describe as describing
from t2l.tasks import suites
from t2l.verbs import Verb
from t2l.verbs.results import of_descriptions
from t2l.verbs.shared import tasks_of


def describe(config: describing.DescribeConfig) -> Path:
    """Writes descriptions of the suite's tasks with a language model. Returns their folder.

    Raises ValueError for an unknown task or split, a describer that fails, or a task left incomplete.
    """
    describer = describing.build(config.describer)
    suite = suites.build(config.suite)
    describing.describe_tasks(config, suite, tasks_of(suite, config.splits, config.tasks), describer)
    return Path(config.run_dir)


VERB = Verb(describing.DescribeConfig, describe, results=of_descriptions)
