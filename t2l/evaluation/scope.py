"""What is scored and under which conditions, told from records: no model is loaded for it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from t2l.evaluation.board import view_split
from t2l.evaluation.checkpoint_folders import scored_folders
from t2l.evaluation.conditions import Conditions, ScoredPromptConfig, conditions_for, trained_in
from t2l.evaluation.config import EvaluateConfig
from t2l.evaluation.contenders.interface import SplitView, kinds
from t2l.evaluation.scoring import check_code
from t2l.evaluation.selected import splits_to_score
from t2l.tasks import TaskSuite, suites


@dataclass(frozen=True)
class Scope:
    """What an evaluation scores."""

    config: EvaluateConfig
    """with the conditions of training restored, and each checkpoint of a folder of runs"""
    conditions: Conditions
    suite: TaskSuite
    views: list[SplitView]
    """the splits that are scored"""
    trained: TaskSuite
    """the suite with the training tasks, which may be the scored one"""
    training_tasks: list[str]

    @classmethod
    def of(cls, config: EvaluateConfig) -> Scope:
        """What a configuration asks for.

        Raises ValueError for a split that is not there or decided which checkpoint is scored, for things that were trained
        under different conditions, for a metric that may not run code, and if training tasks are needed and there are none.
        """
        config = replace(config, checkpoints=scored_folders(config.checkpoints))
        suite = suites.build(config.suite)
        trained_by = trained_in(config.checkpoints, config.library, config.method_libraries)
        conditions = conditions_for(config.conditions, config.base_model, config.prompt.definition, trained_by)
        prompt = ScoredPromptConfig(conditions.definition)
        config = replace(config, base_model=conditions.base_model, prompt=prompt)
        names = splits_to_score(suite, config.splits, config.checkpoints)
        views = [view_split(suite, name, config.evaluation, config.seed, prompt.is_shown) for name in names]
        for task in {t.name: t for view in views for t in view.tasks}.values():
            check_code(task)
        trained = suites.build(config.training_suite) if config.training_suite is not None else suite
        tasks = list(trained.split("train").tasks) if "train" in trained.splits else []
        needy = sorted(name for name, kind in kinds(config.contenders).items() if kind.needs.training_tasks)
        if needy and not tasks:
            raise ValueError(
                f"contenders {', '.join(needy)} and their controls come from training tasks, and suite {trained.name} "
                "has none: name the suite that was trained on, suite@training_suite=NAME"
            )
        return cls(config, conditions, suite, views, trained, tasks)
