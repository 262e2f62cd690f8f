"""What is scored and under which conditions, told from records: no model is loaded for it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from t2l.evaluation.board import view_split
from t2l.evaluation.checkpoint_folders import scored_folders
from t2l.evaluation.conditions import Conditions, ScoredPromptConfig, conditions_for, trained_in
from t2l.evaluation.config import EvaluateConfig
from t2l.evaluation.contenders.generated import CONTROLS, control_lacks
from t2l.evaluation.contenders.interface import Needs, SplitView, kinds, training_examples
from t2l.evaluation.scoring import check_code
from t2l.evaluation.selected import splits_to_score
from t2l.tasks import TaskSuite, suites

log = logging.getLogger(__name__)


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
        config = replace(config, contenders=chosen_contenders(config, views, trained.name, tasks))
        return cls(config, conditions, suite, views, trained, tasks)

    @property
    def contenders(self) -> list[str]:
        """Names of the contenders, as they are asked for."""
        assert self.config.contenders is not None  # `of` has decided on them
        return self.config.contenders


def chosen_contenders(
    config: EvaluateConfig, views: Sequence[SplitView], trained: str, training_tasks: Sequence[str]
) -> list[str]:
    """The contenders that a configuration names, or without any all that the scored tasks allow; it is said what was left out.

    Args:
        trained: name of the suite with the training tasks.

    Raises ValueError if one that is named, or one made from the checkpoints, lacks something.
    """
    named = config.contenders if config.contenders is not None else config.offered()
    left_out: dict[str, str] = {}
    for name, kind in kinds(named).items():
        reason = _lacks(kind.needs, config, views, trained, training_tasks)
        if reason is None:
            continue
        if config.contenders is not None or kind.needs.checkpoints:
            raise ValueError(f"contender {name}: {reason}")
        left_out[name] = reason
    if config.contenders is None and (absent := [name for name in kinds() if name not in named]):
        wants = " or ".join(key for key in ("library", "checkpoints") if not getattr(config, key))
        log.info("without %s there is no %s", wants, ", ".join(absent))
    for name, reason in left_out.items():
        log.info("contender %s is left out: %s", name, reason)
    chosen = [name for name in named if name not in left_out]
    if any(kind.is_generated for kind in kinds(chosen).values()):
        _say_controls(views, training_tasks)
    return chosen


def _say_controls(views: Sequence[SplitView], training_tasks: Sequence[str]) -> None:
    """Says which controls are left out on which splits."""
    for view in views:
        for control in CONTROLS:
            if reason := control_lacks(control, [t.name for t in view.tasks], training_tasks):
                log.warning("the control %s is left out on split %s: %s", control, view.name, reason)


def _lacks(
    needs: Needs, config: EvaluateConfig, views: Sequence[SplitView], trained: str, training_tasks: Sequence[str]
) -> str | None:
    """What the scored tasks lack of what a contender needs, and what to do; None if nothing."""
    if needs.training_tasks and not training_tasks:
        return (
            f"it and its controls come from training tasks, and suite {trained} has none: name the suite that was trained on, "
            "suite@training_suite=NAME"
        )
    shots = needs.examples(config) if needs.examples else 0
    for view in views:
        for task in view.tasks:
            if needs.other_training_task and not {*training_tasks} - {task.name}:
                return f"there is no training task beside {task.name!r}, so it would be that task's own adapter"
            if needs.formal_code and task.formal_code is None:
                return f"task {task.name!r} has no formal code; take it out of contenders"
            try:
                training_examples(task, shots)
            except ValueError as error:
                return str(error)
    return None
