"""Runs every contender on every split and collects answers, rows and provenance."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from t2l.base_model import BaseModel
from t2l.evaluation.contenders import Contender, Entry, SplitView
from t2l.evaluation.scoring import Answer, greedy_answers
from t2l.evaluation.statistics import Estimate, bootstrap_mean
from t2l.lora import LoraSpec
from t2l.seeding import generator_for
from t2l.tasks import TaskSuite


@dataclass
class BoardConfig:
    """How much is scored, and how."""

    tasks_per_split: int = 30
    """tasks scored per split, drawn by seed"""
    examples_per_task: int = 16
    """test examples per task"""
    descriptions_per_task: int = 4
    """descriptions that take turns over a task's examples"""
    max_new_tokens: int = 24
    """longest answer in tokens"""
    batch_size: int = 256
    """questions decoded together"""
    bootstrap_samples: int = 1000
    """replicates behind each interval"""

    def __post_init__(self) -> None:
        for key, value in vars(self).items():
            if value < 1:
                raise ValueError(f"evaluation.{key} must be at least 1, not {value}")


@dataclass(frozen=True)
class Cell:
    """One contender on one split."""

    contender: str
    split: str
    answers: list[Answer]
    conditions: list[str]
    estimate: Estimate

    def row(self, metric: str) -> dict[str, Any]:
        """The cell as a row of report.json."""
        e = self.estimate
        return {
            "contender": self.contender,
            "split": self.split,
            "metric": metric,
            "mean": round(e.mean, 6),
            "ci95": [round(e.low, 6), round(e.high, 6)],
            "n_tasks": e.n_tasks,
            "n_examples": e.n_examples,
        }


def scores_by_task(answers: Sequence[Answer]) -> dict[str, list[float]]:
    """Scores of each task's answers, tasks and examples in the order answered."""
    scores: dict[str, list[float]] = defaultdict(list)
    for answer in answers:
        scores[answer.question.task].append(answer.score)
    return dict(scores)


def view_split(suite: TaskSuite, name: str, config: BoardConfig, seed: int) -> SplitView:
    """The tasks and descriptions of a split that are scored: a seeded sample.

    Splits that share their tasks and differ in phrasing score the same tasks.
    """
    split = suite.split(name)
    order = generator_for("evaluation", seed, *split.tasks).permutation(len(split.tasks))
    tasks = suite.select(split.tasks[i] for i in sorted(order[: config.tasks_per_split]))
    descriptions = []
    for task in tasks:
        pool = task.descriptions.get(split.phrasing) or ()
        if not pool:
            raise ValueError(f"task {task.name!r} has no descriptions in the phrasing set {split.phrasing!r}")
        drawn = generator_for("descriptions", seed, name, task.name).permutation(len(pool))
        descriptions.append([pool[i] for i in drawn[: config.descriptions_per_task]])
    return SplitView(name, tasks, descriptions, config.examples_per_task)


def _answers(
    base: BaseModel, spec: LoraSpec, entry: Entry, config: BoardConfig, on_batch: Callable[[int], None]
) -> list[Answer]:
    limits = (config.max_new_tokens, config.batch_size, on_batch)
    if entry.attached is None:
        return greedy_answers(base, entry.questions, spec, entry.weights, *limits)
    answers: list[Answer] = []
    for adapter in dict.fromkeys(q.adapter for q in entry.questions):
        with entry.attached(adapter) as adapted:
            questions = [q for q in entry.questions if q.adapter == adapter]
            answers += greedy_answers(adapted, questions, None, None, *limits)
    return answers


def score_board(
    base: BaseModel,
    spec: LoraSpec,
    contenders: Sequence[Contender],
    views: Sequence[SplitView],
    config: BoardConfig,
    seed: int,
) -> list[Cell]:
    """Every contender on every split, greedy decoding, exact match."""
    from rich.progress import Progress

    cells = []
    with Progress() as progress:
        total = sum(len(v.tasks) * v.examples for v in views) * len(contenders)
        bar = progress.add_task("scoring contenders", total=total)
        for contender in contenders:
            answered: list[tuple[Entry, list[Answer]]] = []
            for view in views:
                entry = contender.enter(view)
                contender_spec = getattr(contender, "spec", spec)
                # Splits that differ in phrasing alone ask what uses no description the same questions again.
                answers = next((found for earlier, found in answered if earlier.asks_the_same(entry)), None)
                if answers is None:
                    answers = _answers(base, contender_spec, entry, config, lambda n: progress.advance(bar, n))
                else:
                    progress.advance(bar, len(answers))
                answered.append((entry, answers))
                scores = list(scores_by_task(answers).values())
                estimate = bootstrap_mean(scores, config.bootstrap_samples, seed, f"{contender.name}:{view.name}")
                cells.append(Cell(contender.name, view.name, answers, entry.conditions, estimate))
    return cells


def paired_difference(one: Cell, other: Cell, samples: int, seed: int) -> Estimate:
    """Mean of `one` minus `other` on the same examples, with its bootstrap interval."""
    ours, theirs = scores_by_task(one.answers), scores_by_task(other.answers)
    if {k: len(v) for k, v in ours.items()} != {k: len(v) for k, v in theirs.items()}:
        raise ValueError(f"{one.contender} and {other.contender} did not answer the same examples")
    differences = [[a - b for a, b in zip(ours[t], theirs[t], strict=True)] for t in ours]
    return bootstrap_mean(differences, samples, seed, f"{one.contender}-{other.contender}:{one.split}")
