"""Runs every contender on every split and collects answers, estimates and costs."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from t2l.base_model import BaseModel
from t2l.checks import at_least, positive
from t2l.evaluation.contenders.interface import Contender, Entry, SplitView
from t2l.evaluation.costs import Making, Usage, multiplied_weights
from t2l.evaluation.scoring import Answer, greedy_answers
from t2l.evaluation.statistics import Estimate, Scores, estimate
from t2l.evaluation.store import Batches, CellStore
from t2l.lora import LoraSpec
from t2l.lora.source import digest_of
from t2l.run.progress import Progress
from t2l.seeding import generator_for
from t2l.tasks import TaskSuite, render_prompts

KEPT = ("answer", "score", "prompt_tokens", "answer_tokens")
"""of an answer, what is kept beside its question"""


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
    """longest answer in tokens, of tasks that do not say themselves"""
    batch_size: int = 256
    """most questions decoded together, or choices weighed together"""
    tokens_per_batch: int | None = None
    """most tokens of a batch, padding and the longest answer counted; None: batch_size alone decides"""
    bootstrap_samples: int = 1000
    """replicates behind each interval"""
    adapter_memory_gb: float = 0.5
    """most memory (GiB) of adapters that are there at once; with more, questions are answered in groups that share
    theirs (a batch has a copy of its adapter for every row beside it)"""

    def __post_init__(self) -> None:
        at_least(self, 1, *(key for key in vars(self) if key != "adapter_memory_gb"), under="evaluation")
        positive(self, "adapter_memory_gb", under="evaluation")

    @property
    def adapter_memory(self) -> int:
        """Most bytes of adapters at once."""
        return int(self.adapter_memory_gb * 2**30)


def scores_by_task(answers: Sequence[Answer]) -> dict[str, list[float]]:
    """Scores of each task's answers, tasks and examples in the order answered."""
    scores: dict[str, list[float]] = defaultdict(list)
    for answer in answers:
        scores[answer.question.task].append(answer.score)
    return dict(scores)


@dataclass(frozen=True)
class Run:
    """What one contender, under one training seed, answered on a split."""

    answers: list[Answer]
    conditions: list[str]
    usage: Usage
    fingerprint: str
    """of what it fed the base model"""
    making: Making = field(default_factory=Making)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """everything that decided the answers, as hashes"""

    def to_json(self) -> dict[str, Any]:
        """What `from_json` needs beside the entry that was answered."""
        answers = [{"task": a.question.task, **{key: getattr(a, key) for key in KEPT}} for a in self.answers]
        made = {"usage": asdict(self.usage), "making": asdict(self.making)}
        return {"fingerprint": self.fingerprint, **made, "answers": answers}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], entry: Entry, recipe: Mapping[str, Any]) -> Run:
        """The run that `to_json` described, of the same entry."""
        pairs = zip(entry.questions, data["answers"], strict=True)
        answers = [Answer(question, **{key: kept[key] for key in KEPT}) for question, kept in pairs]
        usage, making = Usage(**data["usage"]), Making(**data["making"])
        return cls(answers, entry.conditions, usage, data["fingerprint"], making, recipe)


def scores_of(runs: Sequence[Run]) -> Scores:
    """Every score of runs that differ in their training seed, [seeds, tasks, examples]."""
    return Scores.of([list(scores_by_task(run.answers).values()) for run in runs])


@dataclass(frozen=True)
class Cell:
    """One contender on one split, under one or more training seeds."""

    contender: str
    split: str
    runs: list[Run]
    estimate: Estimate

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks, in order."""
        return list(scores_by_task(self.runs[0].answers))

    @property
    def scores(self) -> Scores:
        """Every score, [seeds, tasks, examples]."""
        return scores_of(self.runs)

    def row(self, metric: str) -> dict[str, Any]:
        """The cell as a row of report.json."""
        return {"contender": self.contender, "split": self.split, "metric": metric, **self.estimate.row("mean")}

    def by_task(self) -> dict[str, float]:
        """Each task's mean over seeds and examples."""
        means = self.scores.task_means().mean(axis=0)
        return {task: round(float(m), 6) for task, m in zip(self.tasks, means, strict=True)}


def view_split(
    suite: TaskSuite, name: str, config: BoardConfig, seed: int, shows_description: bool = False
) -> SplitView:
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
    return SplitView(name, tasks, descriptions, config.examples_per_task, shows_description)


def decoding_conditions(base: BaseModel, max_new_tokens: int) -> dict[str, Any]:
    """What of base model and decoding decides answers, whatever contender gives them: as in every cell's recipe."""
    settings = getattr(base.model.config, "quantization_config", None)
    return {
        "base_fingerprint": base.fingerprint,
        "dtype": str(base.model.dtype).removeprefix("torch."),
        "quantization": None if settings is None else digest_of(getattr(settings, "__dict__", settings)),
        "prompt": render_prompts(base.tokenizer, ["INPUT"])[0],
        "max_new_tokens": max_new_tokens,
        "decoding": "greedy",
    }


class SameInputsError(ValueError):
    """Two contenders that should differ fed the base model the same thing."""


class Board:
    """Scores contenders on splits; remembers what was fed, so that nothing is scored twice under two names."""

    def __init__(
        self, base: BaseModel, spec: LoraSpec, config: BoardConfig, seed: int, store: CellStore | None = None
    ) -> None:
        """`store` keeps answers as they come, and gives those that are there from before; None keeps nothing."""
        self.base, self.spec, self.config, self.seed, self.store = base, spec, config, seed, store
        self._fed: dict[tuple[str, str], Contender] = {}
        self.conditions = decoding_conditions(base, config.max_new_tokens)

    def run(
        self,
        contender: Contender,
        view: SplitView,
        earlier: Sequence[Run] = (),
        on_batch: Callable[[int], None] = lambda n: None,
        is_variant: bool = False,
    ) -> Run:
        """One contender on one split.

        Args:
            earlier: what this contender answered on other splits; if a split puts the same to it
                again (splits that differ in phrasing alone, for what uses no description), that is taken.
            is_variant: of another contender on the board, whose inputs it may share.

        Raises SameInputsError if another contender fed the base the same on this split.
        """
        if self.store is not None:
            contender.keep_in(self.store, self.conditions)
        entry, spec = contender.enter(view), contender.spec or self.spec
        under = digest_of(spec.to_json()) if entry.adapters is not None else None
        recipe = {**self.conditions, "spec": under, **entry.recipe()}
        cell = (contender.name, view.name, recipe)
        stored = self.store.read(*cell) if self.store is not None else None
        run = next((r for r in earlier if r.recipe == recipe), None)
        if stored is not None:
            run = Run.from_json(stored, entry, recipe)
        elif run is None and self.store is not None and entry.adapters is not None:
            entry.adapters.keep_in(self.store.adapters_folder(*cell))
        fingerprint = entry.fingerprint(self.config.adapter_memory) if run is None else run.fingerprint
        other = self._fed.setdefault((view.name, fingerprint), contender)
        if other is not contender and not is_variant:
            raise SameInputsError(
                f"contenders {other.name} and {contender.name} feed the base model the same text under the same adapters on "
                f"split {view.name!r}: one of them does not do what its name says, so neither is scored"
            )
        run = run or next((r for r in earlier if r.fingerprint == fingerprint), None)
        if run is not None:
            on_batch(len(run.answers))
        else:
            batches = self.store.batches(*cell) if self.store is not None else Batches()
            answers, usage, making = self._scored(entry, spec, batches, on_batch)
            run = Run(answers, entry.conditions, usage, fingerprint, making, recipe)
        if self.store is not None and stored is None:
            self.store.write(*cell, run.to_json())
        if entry.adapters is not None:
            entry.adapters.release()
        return run

    def _scored(
        self, entry: Entry, spec: LoraSpec, batches: Batches, on_batch: Callable[[int], None]
    ) -> tuple[list[Answer], Usage, Making]:
        """The answers to an entry, what they cost, and what its adapters did."""
        began = time.perf_counter()
        answers = self._answers(entry, spec, batches, on_batch)
        time_s = time.perf_counter() - began + batches.kept_time_s
        source = entry.adapters
        usage = self._usage(answers, time_s, spec if source is not None else None)
        return answers, usage, Making() if source is None else Making(source.time_s, source.made)

    def _answers(self, entry: Entry, spec: LoraSpec, batches: Batches, on_batch: Callable[[int], None]) -> list[Answer]:
        limits = (self.config.max_new_tokens, self.config.batch_size, on_batch, self.config.tokens_per_batch)
        if entry.attached is not None:
            answers: list[Answer] = []
            for adapter in entry.used:
                with entry.attached(adapter) as adapted:
                    questions = [q for q in entry.questions if q.adapter == adapter]
                    answers += greedy_answers(adapted, questions, None, None, *limits, batches.within(str(adapter)))
            return answers
        if entry.adapters is None:
            return greedy_answers(self.base, entry.questions, spec, None, *limits, batches)
        found: dict[int, Answer] = {}
        for group in entry.adapters.groups(self.config.adapter_memory, entry.used):
            place = {adapter: i for i, adapter in enumerate(group)}
            rows = [i for i, q in enumerate(entry.questions) if q.adapter in place]
            asked = [replace(entry.questions[i], adapter=place[entry.questions[i].adapter]) for i in rows]
            weights, kept = entry.adapters.take(group).to(self.base.device), batches.within(digest_of(group)[:12])
            part = greedy_answers(self.base, asked, spec, weights, *limits, kept)
            found |= {i: replace(a, question=entry.questions[i]) for i, a in zip(rows, part, strict=True)}
        return [found[i] for i in range(len(entry.questions))]

    def _usage(self, answers: Sequence[Answer], time_s: float, spec: LoraSpec | None) -> Usage:
        """Of answers given under LoRAs of a spec, or by the base as it stands."""
        count = len(answers)
        read, written = (sum(getattr(a, key) for a in answers) / count for key in ("prompt_tokens", "answer_tokens"))
        weights = multiplied_weights(self.base.model) + (spec.parameters_per_adapter if spec is not None else 0)
        return Usage(read, written, 2 * weights * (read + written), time_s / count, count)

    def cell(self, name: str, split: str, runs: list[Run]) -> Cell:
        """The runs of one contender (one per training seed) on a split, with their estimate."""
        e = estimate(scores_of(runs), self.config.bootstrap_samples, self.seed, f"{name}:{split}", bounds=(0.0, 1.0))
        return Cell(name, split, runs, e)

    def score(self, contenders: Sequence[Contender], views: Sequence[SplitView]) -> list[Cell]:
        """Every contender on every split that it can enter, greedy decoding. Contenders of one name are seeds of one."""
        runs: dict[tuple[str, str], list[Run]] = defaultdict(list)
        entered = [(c, [v for v in views if c.lacks(v) is None]) for c in contenders]
        total = sum(len(t.examples["test"][: v.examples]) for _, found in entered for v in found for t in v.tasks)
        with Progress("scoring contenders", total, "question") as progress:
            for contender, its_views in entered:
                earlier: list[Run] = []
                try:
                    for view in its_views:
                        run = self.run(contender, view, earlier, progress.advance)
                        earlier.append(run)
                        runs[contender.name, view.name].append(run)
                finally:
                    contender.close()
        return [self.cell(name, split, found) for (name, split), found in runs.items()]


def paired_difference(one: Cell, other: Cell, samples: int, seed: int) -> Estimate:
    """Mean of `one` minus `other` on the same examples, with its bootstrap interval: the mirror image of `other` minus `one`.

    Raises ValueError if they did not answer the same examples.
    """
    if one.tasks != other.tasks:
        raise ValueError(f"{one.contender} and {other.contender} did not answer the same examples")
    if other.contender < one.contender:  # by the same draws, whichever is asked for
        return -paired_difference(other, one, samples, seed)
    return estimate(one.scores - other.scores, samples, seed, f"{one.contender}-{other.contender}:{one.split}")
