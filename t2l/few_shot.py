"""Contenders trained on a few examples of each task: from a fresh LoRA, or from the generated one.

Both get the same examples and the same number of steps; a learning rate each, since a fresh LoRA has
further to go.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace

from t2l.base_model import BaseModel
from t2l.evaluation.conditioning import Generated
from t2l.evaluation.contenders import Entry, SplitView, training_examples
from t2l.evaluation.costs import Costs
from t2l.lora import LoraSpec, LoraWeights, concatenate
from t2l.slots import SlotConfig, SlotTrainer, TrainedAdapter, TrainingJob, initial_adapter
from t2l.soundness import judge_adapter, measure_losses
from t2l.tasks import CutCount, tokenize_examples

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
        for key in ("examples", "steps", "shots", "tasks_at_once", "max_length", "format_rows"):
            if getattr(self, key) < 1:
                raise ValueError(f"few_shot.{key} must be at least 1, not {getattr(self, key)}")
        if self.refine_lr <= 0 or self.fresh_lr <= 0:
            raise ValueError("few_shot: refine_lr and fresh_lr must be positive")


def train_few_shot(
    base: BaseModel, spec: LoraSpec, view: SplitView, start: LoraWeights, config: FewShotConfig, lr: float, seed: int
) -> LoraWeights:
    """Each task's adapter, trained from `start` [tasks] on the task's first training examples.

    What diverged or learnt nothing is warned of. Raises ValueError for a task with too few.
    """
    slots = SlotConfig(steps=config.steps, rows_per_task=config.examples, lr=lr)
    trained: dict[str, TrainedAdapter] = {}
    cuts = CutCount()
    for begin in range(0, len(view.tasks), config.tasks_at_once):
        tasks = [view.as_trained(t) for t in view.tasks[begin : begin + config.tasks_at_once]]
        jobs = []
        for task in tasks:
            examples = training_examples(task, config.examples)
            rows = tokenize_examples(base.tokenizer, examples, "", config.max_length, task.name, cuts)
            jobs.append(TrainingJob(task.name, rows))
        trainer = SlotTrainer(base, spec, jobs, len(jobs), slots, seed)
        trainer.adopt(start[slice(begin, begin + len(tasks))].map(lambda t: t.detach().clone()).to(base.device))
        while not trainer.done:
            trained.update({a.name: a for a in trainer.step()})
        for job in jobs:
            _tell(base, spec, job, trained[job.name], trainer.rows_at_once)
    cuts.warn(config.max_length)
    return concatenate(trained[t.name].weights for t in view.tasks).to(base.device)


def _tell(base: BaseModel, spec: LoraSpec, job: TrainingJob, adapter: TrainedAdapter, at_once: int) -> None:
    """Warns of an adapter that is not sound; it is scored all the same, since that is what such training gives."""
    losses = measure_losses(base, spec, adapter.weights, job.rows, (), None, at_once)
    judgement = judge_adapter(spec, adapter.weights, losses, adapter.final_loss, None)
    if not judgement.is_sound:
        log.warning("few-shot training on task %s %s", job.name, judgement)


class FewShot:
    """A fresh LoRA trained on a few examples of each task."""

    name = "few_shot"

    def __init__(self, base: BaseModel, spec: LoraSpec, config: FewShotConfig, seed: int) -> None:
        self.spec = spec
        self._base, self._config, self._seed = base, config, seed
        self._lr = config.fresh_lr
        self._time_s, self._trained = 0.0, 0

    def enter(self, view: SplitView) -> Entry:
        """Bare inputs, one adapter per task."""
        began = time.perf_counter()
        start = self._start(view)
        assert start.weights is not None
        weights = train_few_shot(self._base, self.spec, view, start.weights, self._config, self._lr, self._seed)
        self._time_s, self._trained = self._time_s + time.perf_counter() - began, self._trained + len(view.tasks)
        return replace(start, weights=weights)

    def _start(self, view: SplitView) -> Entry:
        """The questions, and the adapters that training starts from, one per task."""
        fresh = concatenate(initial_adapter(self.spec, self._seed, t.name, False) for t in view.tasks)
        return Entry(view.questions(lambda t, e: t), fresh)

    def costs(self) -> Costs:
        """Time per task so far, of tasks trained side by side."""
        parameters = self.spec.parameters_per_adapter
        return Costs(parameters, self._time_s / self._trained if self._trained else None, 4 * parameters, self._trained)


class Refined(FewShot):
    """An adapter generated from a task's first description, then trained on a few of its examples."""

    def __init__(self, generated: Generated, base: BaseModel, config: FewShotConfig, seed: int) -> None:
        super().__init__(base, generated.spec, config, seed)
        self.name = f"{generated.name}_refined"
        self._generated, self._lr = generated, config.refine_lr

    def _start(self, view: SplitView) -> Entry:
        return self._generated.entry_for(view, [[ds[0]] for ds in view.descriptions])
