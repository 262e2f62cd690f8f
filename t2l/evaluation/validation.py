"""Validation while a hypernetwork trains: a small fixed set of rows, each under the adapter of one description.

| part | tasks | described with |
|---|---|---|
| unseen_tasks | of the suite's split `validation` | training descriptions |
| unseen_descriptions | training tasks | training descriptions beyond the first `descriptions_per_task` |
| seen_descriptions | training tasks, if none has more descriptions | those that are trained on |

Rows are the tasks' `validation` examples (of unseen tasks without any, `train` examples, which nothing was trained on).
Test examples and test phrasings are never looked at: what is scored has no say in what is chosen.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from t2l.base_model import BaseModel, label_logits
from t2l.distributed import World, reshard
from t2l.evaluation.metrics.interface import metric
from t2l.evaluation.scoring import Question, check_scorable, greedy_answers
from t2l.hypernetwork import Hypernetwork
from t2l.library import AdapterLibrary
from t2l.lora import inject
from t2l.objectives import Objective
from t2l.objectives.losses import label_loss
from t2l.seeding import generator_for
from t2l.tasks import Example, Task, TaskSuite, TokenizedExample, tokenize_examples
from t2l.tasks.batches import batches_within, collate

log = logging.getLogger(__name__)
VALIDATION_SPLIT = "validation"


@dataclass(frozen=True)
class ValidationRow:
    """An example of a task, and the description whose adapter it is asked under."""

    task: Task
    description: str
    example: Example

    def content(self, shows_description: bool) -> str:
        """The user's turn."""
        return f"{self.description}\n{self.example.input}" if shows_description else self.example.input


@dataclass(frozen=True)
class ValidationPart:
    """Rows that test one thing."""

    name: str
    rows: list[ValidationRow]

    def about(self) -> dict[str, Any]:
        """What a record says of it; unseen tasks by name, since whoever scores them must know."""
        names = list(dict.fromkeys(r.task.name for r in self.rows))
        return {
            "tasks": len(names),
            **({"names": names} if self.name == "unseen_tasks" else {}),
            "rows": len(self.rows),
            "descriptions": len({(r.task.name, r.description) for r in self.rows}),
        }


def _draw(names: Sequence[str], count: int) -> list[int]:
    """A sample that depends on the names alone, so that every run of a suite validates on the same."""
    return sorted(generator_for("validation", *names).permutation(len(names))[:count].tolist())


def _unseen(suite: TaskSuite, trained: Sequence[Task]) -> list[Task]:
    """Tasks of the validation split that are not trained on."""
    split, names = suite.splits.get(VALIDATION_SPLIT), {t.name for t in trained}
    return [t for t in suite.select(split.tasks if split else ()) if t.name not in names]


def _rows(task: Task, texts: Sequence[str], examples: Sequence[Example], count: int) -> list[ValidationRow]:
    drawn = [texts[i] for i in generator_for("validation descriptions", task.name).permutation(len(texts))[:count]]
    return [ValidationRow(task, drawn[i % len(drawn)], example) for i, example in enumerate(examples[:count])]


def parts_of(
    suite: TaskSuite,
    trained: Sequence[Task],
    descriptions_per_task: int,
    tasks: int,
    rows: int,
    reads_any_text: bool = True,
) -> list[ValidationPart]:
    """The validation set of a suite; parts without rows are left out.

    Args:
        trained: the training tasks.
        descriptions_per_task: of their training descriptions, how many are trained on.
        tasks: most tasks of a part.
        rows: most rows of a task.
        reads_any_text: false for an encoder that knows the training tasks by name alone; then only the rows are unseen.
    """
    unseen = _unseen(suite, trained) if reads_any_text else []
    known = [t for t in trained if t.examples.get("validation")]
    more = [t for t in known if len(t.descriptions["train"]) > descriptions_per_task] if reads_any_text else []
    seen = () if more else known
    found = {
        "unseen_tasks": [(t, t.descriptions["train"]) for t in unseen],
        "unseen_descriptions": [(t, t.descriptions["train"][descriptions_per_task:]) for t in more],
        "seen_descriptions": [(t, t.descriptions["train"] if reads_any_text else (t.name,)) for t in seen],
    }
    parts = []
    for name, entries in found.items():
        examples_of = ((t, texts, t.examples.get("validation") or t.examples.get("train", ())) for t, texts in entries)
        usable = [entry for entry in examples_of if entry[1] and entry[2]]
        chosen = [usable[i] for i in _draw([t.name for t, _, _ in usable], tasks)]
        made = [row for t, texts, examples in chosen for row in _rows(t, texts, examples, rows)]
        if made:
            parts.append(ValidationPart(name, made))
    return parts


def held_out(suite: TaskSuite, trained: Sequence[Task], library: AdapterLibrary, count: int) -> list[Task]:
    """Validation tasks that have an adapter in the library, as many as asked for."""
    there = set(library.tasks())
    found = [t for t in _unseen(suite, trained) if t.name in there]
    return [found[i] for i in _draw([t.name for t in found], count)]


def distance_to(
    library: AdapterLibrary,
    tasks: Sequence[Task],
    embeddings: Sequence[Float[Tensor, "1 d_embedding"]],
    objective: Objective,
    at_once: int,
) -> Callable[[Hypernetwork], float]:
    """The reconstruction loss of adapters generated for tasks beside the library's own, which are read as they are needed."""
    chunks = [range(start, min(start + at_once, len(tasks))) for start in range(0, len(tasks), at_once)]

    def measure(hypernetwork: Hypernetwork) -> float:
        total, device = 0.0, next(hypernetwork.parameters()).device
        for chunk in chunks:
            predicted = hypernetwork.generate(torch.cat([embeddings[i] for i in chunk]).to(device))
            target = library.load([tasks[i].name for i in chunk]).to(device)
            total += len(chunk) * float(objective.distance(hypernetwork, predicted, target))
        return total / len(tasks)

    return measure


def _is_scored(task: Task) -> bool:
    """Whether answers can be scored in training: code is not run there."""
    return metric(task.metric).against != "tests"


class Validator:
    """Measures a hypernetwork on validation parts.

    `validation/loss` is the cross-entropy of responses under generated adapters (nats per token, averaged per row),
    `validation/score` the mean score of greedy answers by each task's metric; both are means over parts, which are given
    beside them as `validation/loss_PART` and `validation/score_PART`.
    """

    def __init__(
        self,
        parts: Sequence[ValidationPart],
        base: BaseModel,
        embeddings: Sequence[Float[Tensor, "rows d_embedding"]],
        rows_at_once: int,
        max_length: int,
        adapter_dtype: torch.dtype = torch.float32,
        scores: bool = False,
        shows_description: bool = False,
        distance: Callable[[Hypernetwork], float] | None = None,
        world: World | None = None,
        is_sharded: bool = False,
    ) -> None:
        """Raises ValueError if scores are asked for and rows cannot be scored.

        Args:
            embeddings: of each part's rows' descriptions.
            rows_at_once: most rows, and adapters, of a pass: no more than a training step has.
            distance: of generated adapters to known ones, for `validation/distance`.
            world: several processes share the rows out, unless the base is spread over them.
        """
        self.parts, self.base, self._embeddings = list(parts), base, list(embeddings)
        self._at_once, self._dtype, self._distance = rows_at_once, adapter_dtype, distance
        self._world, self._is_sharded, self._shown = world or World(), is_sharded, shows_description
        self._tokenized = [_tokenized(base, part, max_length, shows_description) for part in self.parts]
        self._questions = [self._asked(part) for part in self.parts] if scores else []
        if scores and not any(self._questions):
            raise ValueError(
                "trainer.validate_score=true, but every validation task is scored by running code, which training does "
                "not do: set trainer.validate_score=false"
            )

    @property
    def on(self) -> dict[str, Any]:
        """What is measured on, by part."""
        return {part.name: part.about() for part in self.parts}

    def _asked(self, part: ValidationPart) -> dict[int, Question]:
        """The questions of a part's rows that can be scored, by row."""
        for task in {r.task.name: r.task for r in part.rows if _is_scored(r.task)}.values():
            own = tuple(r.example for r in part.rows if r.task.name == task.name)
            check_scorable(replace(task, examples={"test": own}))
        return {
            i: Question.of(r.task, r.example, prefix=r.description if self._shown else "")
            for i, r in enumerate(part.rows)
            if _is_scored(r.task)
        }

    @torch.no_grad()
    def __call__(self, hypernetwork: Hypernetwork) -> dict[str, float]:
        """The metrics, the same in every process."""
        found: dict[str, float] = {}
        with _evaluating(hypernetwork):
            for kind, measure in (("loss", self._losses), ("score", self._scores)):
                means = {p.name: fmean(v) for i, p in enumerate(self.parts) if (v := measure(hypernetwork, i))}
                found |= {f"validation/{kind}_{name}": mean for name, mean in means.items()}
                if means:
                    found[f"validation/{kind}"] = fmean(means.values())
            if self._distance is not None:
                found["validation/distance"] = self._world.gather(self._distance(hypernetwork))[0]
        reshard(self.base.model)
        return found

    def _losses(self, hypernetwork: Hypernetwork, part: int) -> list[float]:
        rows = self._tokenized[part]

        def measure(batch: Sequence[int]) -> list[float]:
            adapters = self._adapters(hypernetwork, part, batch).to(self._dtype)
            tokens = collate([rows[i] for i in batch], self.base.tokenizer.pad_token_id, self.base.device)
            with inject(self.base.model, hypernetwork.spec, adapters):
                logits = label_logits(self.base.model, tokens.input_ids, tokens.attention_mask, tokens.labels)
            return label_loss(logits.logits, logits.targets, logits.rows, len(batch)).tolist()

        return self._over(range(len(rows)), [r.length for r in rows], measure)

    def _scores(self, hypernetwork: Hypernetwork, part: int) -> list[float]:
        asked = self._questions[part] if self._questions else {}
        numbers, rows = list(asked), self._tokenized[part]
        # A longer answer than the longest right one is wrong in any case, or no better.
        longest = max((len(r.response_ids) for r in rows), default=1)

        def measure(batch: Sequence[int]) -> list[float]:
            adapters = self._adapters(hypernetwork, part, batch)
            questions = [replace(asked[i], adapter=k) for k, i in enumerate(batch)]
            answers = greedy_answers(self.base, questions, hypernetwork.spec, adapters, longest, self._at_once)
            return [a.score for a in answers]

        return self._over(numbers, [rows[i].length for i in numbers], measure)

    def _adapters(self, hypernetwork: Hypernetwork, part: int, batch: Sequence[int]) -> Any:
        return hypernetwork.generate(self._embeddings[part][list(batch)].to(self.base.device))

    def _over(
        self, numbers: Sequence[int], lengths: Sequence[int], measure: Callable[[Sequence[int]], list[float]]
    ) -> list[float]:
        """A value for each row, in order; processes take turns at the batches, unless all must take part in each."""
        batches = [[numbers[i] for i in batch] for batch in batches_within(lengths, self._at_once, None)]
        mine = batches if self._is_sharded else batches[self._world.rank :: self._world.size]
        own = {i: value for batch in mine for i, value in zip(batch, measure(batch), strict=True)}
        found: dict[int, float] = {}
        for values in reversed(self._world.gather(own)):  # the main process has the last word
            found |= values
        return [found[i] for i in numbers]


@contextmanager
def _evaluating(hypernetwork: Hypernetwork) -> Iterator[None]:
    """Without dropout, and as it was afterwards."""
    was_training = hypernetwork.training
    hypernetwork.eval()
    try:
        yield
    finally:
        hypernetwork.train(was_training)


def _tokenized(base: BaseModel, part: ValidationPart, max_length: int, shown: bool) -> list[TokenizedExample]:
    examples = [replace(r.example, input=r.content(shown)) for r in part.rows]
    return tokenize_examples(base.tokenizer, examples, max_length=max_length)
