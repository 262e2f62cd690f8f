"""LoraHub: library adapters summed with coefficients that are searched for each task."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from t2l.base_model import BaseModel, label_logits
from t2l.evaluation.contenders.few_shot import FewShotConfig
from t2l.evaluation.contenders.interface import Contender, Entry, Needs, SplitView, examples_digest, training_rows
from t2l.evaluation.costs import Costs, Making
from t2l.library import AdapterLibrary
from t2l.lora import LoraWeights, inject
from t2l.lora.source import ADAPTER_MEMORY, MadeInChunks, bytes_per_adapter, digest_of
from t2l.lora.weights import concatenate
from t2l.objectives.losses import label_loss
from t2l.registry import register
from t2l.seeding import generator_for
from t2l.tasks import Task
from t2l.tasks.batches import collate

if TYPE_CHECKING:
    from t2l.evaluation.context import Context


def _combine(coefficients: Float[Tensor, " adapters"], factors: Float[Tensor, "adapters ..."]) -> Tensor:
    return torch.einsum("n,n...->...", coefficients.to(factors), factors)[None]


@register("contender", "lorahub")
class LoraHub(Contender):
    """Few-shot composition (LoraHub, Huang et al. 2024, arXiv:2307.13269).

    A few library adapters, drawn at random per task, are summed factor by factor with coefficients w,
    (sum w A, sum w B), and w minimises the loss on the task's first training examples plus
    0.05 * mean |w|, by nevergrad's NGOpt within +-1.5 from w = 0: the paper's equation, bounds, penalty and budget. Tasks
    search side by side, `tasks_at_once` of them in one pass per evaluation: what one finds does not depend on the others
    beyond rounding. (NGOpt chooses COBYLA here, which can carry rounding far when the loss is flat.)
    """

    name, place = "lorahub", 100
    needs = Needs(library="training_tasks", training_tasks=True, examples=lambda config: config.few_shot.examples)
    settings = ("few_shot", "composition")
    bound, penalty, budget = 1.5, 0.05, 40

    def __init__(
        self,
        library: AdapterLibrary,
        training_tasks: Sequence[str],
        base: BaseModel,
        adapters: int,
        few: FewShotConfig,
        seed: int,
        *,
        memory: int = ADAPTER_MEMORY,
    ) -> None:
        self._library, self._names, self._base = library, list(training_tasks), base
        self._adapters, self._size = library.source(training_tasks), bytes_per_adapter(library.spec)
        self._count, self._few, self._seed = min(adapters, len(self._names)), few, seed
        # Each task of a pass has its own draw from the library in memory, unless the whole library fits.
        self._fits = len(self._names) * self._size <= memory
        fitting = few.tasks_at_once if self._fits else memory // (self._count * self._size)
        self._tasks_at_once = max(1, min(few.tasks_at_once, fitting))

    @classmethod
    def make(cls, context: Context) -> list[Contender]:
        """From the library's adapters of the training tasks."""
        library, config, count = context.library.adapters, context.config, context.config.composition.lorahub_adapters
        memory = config.evaluation.adapter_memory
        return [cls(library, context.library_tasks, context.base, count, config.few_shot, config.seed, memory=memory)]

    def enter(self, view: SplitView) -> Entry:
        """Bare inputs, one adapter per task. Raises ValueError for a task with too few training examples."""
        shown = [view.as_trained(t) for t in view.tasks]
        recipe = {
            "searched": [self.bound, self.penalty, self.budget, self._count, self._seed, self._few.max_length],
            "library": digest_of([self._names, self._adapters.recipe()]),
            "examples": examples_digest(shown, self._few.examples),
        }
        adapters = MadeInChunks(
            len(shown), self._size, self._tasks_at_once, recipe,
            lambda span: self._composed_for([shown[i] for i in span]),
        )  # fmt: skip
        return Entry(view.questions(lambda t, e: t), adapters)

    def close(self) -> None:
        """Lets go of the library."""
        self._adapters.release()

    def costs(self, making: Making) -> Costs:
        """Coefficients searched, and the time of the search per task, of tasks searched side by side."""
        return Costs(self._count, making.each_s, self._size, making.count)

    def _composed_for(self, tasks: Sequence[Task]) -> LoraWeights:
        """The best adapter found for each task, from those of the library."""
        import nevergrad

        drawn = [self._pool(t.name) for t in tasks]
        # A library that fits is read once for all passes.
        union = list(range(self._adapters.count)) if self._fits else sorted({i for pool in drawn for i in pool})
        library, place = self._adapters.take(union), {i: at for at, i in enumerate(union)}
        pools = [[place[i] for i in pool] for pool in drawn]
        rows_of = training_rows(self._base, tasks, self._few.examples, self._few.max_length)
        rows = list(chain.from_iterable(rows_of))
        batch = collate(rows, self._base.tokenizer.pad_token_id, self._base.device)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            searches = [self._search(nevergrad, t.name) for t in tasks]
            for _ in range(self.budget):
                asked = [s.ask() for s in searches]
                weights = self._compose(library, pools, [a.value for a in asked])
                with torch.no_grad(), inject(self._base.model, self._library.spec, weights):
                    found = label_logits(self._base.model, batch.input_ids, batch.attention_mask, batch.labels)
                losses = label_loss(found.logits, found.targets, found.rows, len(rows)).view(len(pools), -1).mean(dim=1)
                for search, candidate, loss in zip(searches, asked, losses.tolist(), strict=True):
                    search.tell(candidate, loss + self.penalty * float(abs(candidate.value).mean()))
            best = [s.provide_recommendation().value for s in searches]
        return self._compose(library, pools, best)

    def _pool(self, task: str) -> list[int]:
        others = [i for i, name in enumerate(self._names) if name != task]
        order = generator_for("lorahub", self._seed, task).permutation(len(others))
        return [others[i] for i in order[: self._count]]

    def _search(self, nevergrad: Any, task: str) -> Any:
        space = nevergrad.p.Array(init=[0.0] * self._count).set_bounds(-self.bound, self.bound)
        space.random_state.seed(int(generator_for("lorahub:search", self._seed, task).integers(2**31)))
        return nevergrad.optimizers.NGOpt(parametrization=space, budget=self.budget)

    def _compose(
        self, library: LoraWeights, pools: Sequence[Sequence[int]], coefficients: Sequence[Float[Tensor, " adapters"]]
    ) -> LoraWeights:
        composed = []
        for pool, values in zip(pools, coefficients, strict=True):
            composed.append(library[list(pool)].map(partial(_combine, torch.as_tensor(values))))
        return concatenate(composed).to(self._base.device)
