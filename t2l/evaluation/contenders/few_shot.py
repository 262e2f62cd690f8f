"""Contenders trained on a few examples of each task: from a fresh LoRA, or from the generated one.

Both get the same examples and the same number of steps; a learning rate each, since a fresh LoRA has
further to go.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from t2l.base_model import BaseModel
from t2l.checks import at_least, positive
from t2l.evaluation.contenders.generated import Generated
from t2l.evaluation.contenders.interface import Contender, Entry, Needs, SplitView, examples_digest, training_rows
from t2l.evaluation.costs import Costs, Making
from t2l.evaluation.settings import decisive_settings
from t2l.library.slots import SlotConfig, SlotTrainer, TrainedAdapter, TrainingJob, initial_adapter
from t2l.lora import LoraSpec, LoraWeights
from t2l.lora.source import AdapterSource, MadeInChunks, bytes_per_adapter
from t2l.lora.weights import concatenate
from t2l.objectives.soundness import Trained, judge_adapter, measure_losses
from t2l.registry import register
from t2l.tasks import Task

if TYPE_CHECKING:
    from t2l.evaluation.context import Context

log = logging.getLogger(__name__)


@dataclass
class FewShotConfig:
    """What may be learnt from a task's own examples at evaluation time."""

    examples: int = 8
    """training examples per task, for training and for LoraHub's search"""
    steps: int = 20
    """optimiser steps, each on all of them"""
    refine_lr: float = 0.001
    """peak learning rate from a generated adapter"""
    fresh_lr: float = 0.007
    """peak learning rate from a fresh LoRA"""
    shots: int = 4
    """solved examples in the prompt of in-context learning"""
    format_rows: int = 48
    """rows per split, none of them scored, on which it is decided how these examples are put (chat turns, text)"""
    tasks_at_once: int = 50
    """tasks that share a forward pass"""
    max_length: int = 512
    """longest training row in tokens; user turns lose their beginning"""

    def __post_init__(self) -> None:
        counts = ("examples", "steps", "shots", "tasks_at_once", "max_length", "format_rows")
        at_least(self, 1, *counts, under="few_shot")
        positive(self, "refine_lr", "fresh_lr", under="few_shot")


def train_few_shot(
    base: BaseModel, spec: LoraSpec, tasks: Sequence[Task], start: LoraWeights, config: FewShotConfig, lr: float,
    seed: int,
) -> LoraWeights:  # fmt: skip
    """Each task's adapter, trained from `start` [tasks] on the task's first training examples, all in one pass.

    What diverged or learnt nothing is warned of. Raises ValueError for a task with too few.
    """
    slots = SlotConfig(steps=config.steps, rows_per_task=config.examples, lr=lr)
    rows = training_rows(base, tasks, config.examples, config.max_length)
    jobs = [TrainingJob(t.name, r) for t, r in zip(tasks, rows, strict=True)]
    trained: dict[str, TrainedAdapter] = {}
    trainer = SlotTrainer(base, spec, jobs, len(jobs), slots, seed)
    trainer.adopt(start.map(lambda t: t.detach().clone()).to(base.device))
    while not trainer.done:
        trained.update({a.name: a for a in trainer.step()})
    _tell(base, spec, jobs, [trained[j.name] for j in jobs], trainer.rows_at_once)
    return concatenate(trained[t.name].weights for t in tasks)


class _FreshAdapters(AdapterSource):
    """Untrained LoRAs, from (seed, task)."""

    def __init__(self, spec: LoraSpec, seed: int, tasks: Sequence[str]) -> None:
        super().__init__(len(tasks), bytes_per_adapter(spec))
        self._spec, self._seed, self._tasks = spec, seed, tasks

    def recipe(self) -> Mapping[str, Any]:
        """Seed and tasks."""
        return {"fresh": self._seed, "tasks": list(self._tasks)}

    def make(self, indices: Sequence[int]) -> LoraWeights:
        """The adapters of these indices, in this order."""
        return concatenate(initial_adapter(self._spec, self._seed, self._tasks[i], False) for i in indices)


def _tell(
    base: BaseModel, spec: LoraSpec, jobs: Sequence[TrainingJob], adapters: Sequence[TrainedAdapter], at_once: int
) -> None:
    """Warns of adapters that are not sound; they are scored all the same, since that is what such training gives."""
    measured = [Trained(a.weights, j.rows) for a, j in zip(adapters, jobs, strict=True)]
    for adapter, losses in zip(adapters, measure_losses(base, spec, measured, at_once), strict=True):
        judgement = judge_adapter(spec, adapter.weights, losses, adapter.final_loss, None)
        if not judgement.is_sound:
            log.warning("few-shot training on task %s %s", adapter.name, judgement)


@register("contender", "few_shot")
class FewShot(Contender):
    """A fresh LoRA trained on a few examples of each task."""

    name, place = "few_shot", 110
    needs = Needs(examples=lambda config: config.few_shot.examples)
    settings = ("few_shot",)

    def __init__(self, base: BaseModel, spec: LoraSpec, config: FewShotConfig, seed: int) -> None:
        self._spec = spec
        self._base, self._config, self._seed = base, config, seed
        self._lr = config.fresh_lr

    @classmethod
    def make(cls, context: Context) -> Sequence[Contender]:
        """With the board's geometry of LoRA."""
        return [cls(context.base, context.spec, context.config.few_shot, context.config.seed)]

    @property
    def spec(self) -> LoraSpec:
        """Geometry of what is trained."""
        return self._spec

    def enter(self, view: SplitView) -> Entry:
        """Bare inputs, one adapter per task. Raises ValueError for a task with too few training examples."""
        start, few = self._start(view), self._config
        before = start.adapters
        assert before is not None
        tasks = [view.as_trained(t) for t in view.tasks]
        recipe = {
            "start": before.recipe(),
            "trained": [few.steps, self._lr, self._seed, few.max_length],
            "examples": examples_digest(tasks, few.examples),
        }

        def train(span: range) -> LoraWeights:
            these = [tasks[i] for i in span]
            return train_few_shot(self._base, self.spec, these, before.take(span), few, self._lr, self._seed)

        trained = MadeInChunks(len(tasks), bytes_per_adapter(self.spec), few.tasks_at_once, recipe, train)
        return replace(start, adapters=trained)

    def _start(self, view: SplitView) -> Entry:
        """The questions, and the adapters that training starts from, one per task."""
        fresh = _FreshAdapters(self.spec, self._seed, [t.name for t in view.tasks])
        return Entry(view.questions(lambda t, e: t), fresh)

    def costs(self, making: Making) -> Costs:
        """Time per task, of tasks trained side by side."""
        return Costs(self.spec.parameters_per_adapter, making.each_s, bytes_per_adapter(self.spec), making.count)


@register("contender", "refined")
class Refined(FewShot):
    """An adapter generated from a task's first description, then trained on a few of its examples."""

    place = 140
    needs = Needs(
        checkpoints=True, training_tasks=True, descriptions=True, examples=lambda config: config.few_shot.examples
    )

    def __init__(self, generated: Generated, base: BaseModel, config: FewShotConfig, seed: int) -> None:
        super().__init__(base, generated.spec, config, seed)
        self.name = f"{generated.name}_refined"
        self.generated, self._lr = generated, config.refine_lr

    @classmethod
    def make(cls, context: Context) -> Sequence[Contender]:
        """One of every checkpoint."""
        config = context.config
        return [cls(c.matched, context.base, config.few_shot, config.seed) for c in context.checkpoints]

    def identity(self, context: Context) -> dict[str, Any]:
        """The checkpoint, and how its adapters were trained on."""
        return self.generated.identity(context, "refined", decisive_settings(context.config)["few_shot"])

    def _start(self, view: SplitView) -> Entry:
        return self.generated.entry_for(view, [[ds[0]] for ds in view.descriptions])
