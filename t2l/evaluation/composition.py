"""Contenders made from the library's other adapters: their mean, the nearest one, Arrow routing, LoraHub.

All of them use the training tasks' adapters alone, never an oracle of a held-out task.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from t2l.base_model import BaseModel, label_logits
from t2l.batches import collate
from t2l.encoder import TaskEncoder
from t2l.evaluation.conditioning import DescriptionBank
from t2l.evaluation.contenders import Entry, SplitView, in_turn, training_examples
from t2l.evaluation.costs import Costs
from t2l.injection import inject
from t2l.library import AdapterLibrary
from t2l.lora import LoraWeights, concatenate
from t2l.methods.peft_backed import wrapped_by
from t2l.objectives import label_loss
from t2l.seeding import generator_for
from t2l.tasks import CutCount, Task, tokenize_examples


def mean_of_products(weights: LoraWeights, rank: int) -> LoraWeights:
    """The adapter (batch of one) whose product is nearest the mean of the batch's products BA, at a rank.

    Truncated singular value decomposition (Eckart & Young 1936) of each module's mean product.
    """
    A: dict[str, Tensor] = {}
    B: dict[str, Tensor] = {}
    for name in weights.A:
        product = torch.einsum("nlor,nlri->loi", weights.B[name], weights.A[name]) / weights.batch_size
        left, values, right = torch.linalg.svd(product, full_matrices=False)
        root = values[:, :rank].sqrt()
        A[name] = (root[..., None] * right[:, :rank])[None]
        B[name] = (left[..., :rank] * root[:, None])[None]
    return LoraWeights(A, B)


class LibraryMean:
    """One static adapter: the mean of the training tasks' oracle adapters."""

    name = "library_mean"

    def __init__(self, library: AdapterLibrary, training_tasks: Sequence[str]) -> None:
        self._weights = mean_of_products(library.load(training_tasks), library.spec.rank)
        self._size = 4 * library.spec.parameters_per_adapter

    def enter(self, view: SplitView) -> Entry:
        """Bare inputs, the same adapter everywhere."""
        return Entry(view.questions(), self._weights)

    def costs(self) -> Costs:
        """One adapter."""
        return Costs(0, None, self._size, 0)


class NearestAdapter:
    """The oracle adapter of the training task whose descriptions are most alike (retrieval).

    A task's own adapter is left out, so that training tasks are treated as the others are.
    """

    name = "nearest"

    def __init__(self, library: AdapterLibrary, bank: DescriptionBank, encoder: TaskEncoder) -> None:
        self._weights = library.load(bank.tasks)
        self._size = 4 * library.spec.parameters_per_adapter * len(bank.tasks)
        self._bank, self._encoder = bank, encoder

    def enter(self, view: SplitView) -> Entry:
        """Bare inputs, one adapter per (task, description)."""
        flat = [d for ds in view.descriptions for d in ds]
        own = [t.name for t, ds in zip(view.tasks, view.descriptions, strict=True) for _ in ds]
        chosen = self._bank.nearest(self._encoder.encode(flat), own)
        index = {name: i for i, name in enumerate(self._bank.tasks)}
        adapters = [index[name] for name in chosen]
        which = in_turn(view.descriptions)
        return Entry(view.questions(lambda t, e: adapters[which(t, e)]), self._weights, self._bank.tasks)

    def costs(self) -> Costs:
        """The whole library has to be there; nothing is trained for a task."""
        return Costs(0, None, self._size, 0)


class ArrowRouting:
    """The library routed token by token and layer by layer (Arrow, Ostapenko et al. 2024, arXiv:2405.11157).

    PEFT's implementation over the PEFT folders of the training tasks' adapters.
    """

    name = "arrow"

    def __init__(self, library: AdapterLibrary, training_tasks: Sequence[str], base: BaseModel, top_k: int) -> None:
        self._library, self._paths = library, [str(library.path(t)) for t in training_tasks]
        self._base, self._top_k = base, min(top_k, len(training_tasks))
        self._stack = ExitStack()
        self._model: Any = None

    def enter(self, view: SplitView) -> Entry:
        """Bare inputs; what to run under is decided by the hidden states alone."""
        return Entry(view.questions(), attached=lambda _: self._attached(), attached_key=lambda _: self.name)

    def close(self) -> None:
        """Takes the library out of the base again, which holds it from the first question on."""
        self._stack.close()
        self._model = None

    def costs(self) -> Costs:
        """The whole library has to be there; nothing is trained for a task."""
        size = 4 * self._library.spec.parameters_per_adapter * len(self._paths)
        return Costs(0, None, size, 0)

    @contextmanager
    def _attached(self) -> Iterator[BaseModel]:
        if self._model is None:
            self._model = self._stack.enter_context(self._routed())
        yield replace(self._base, model=self._model)

    def _routed(self) -> AbstractContextManager[Any]:
        from peft import ArrowConfig, create_arrow_model

        config = ArrowConfig(top_k=self._top_k)
        return wrapped_by(lambda model: create_arrow_model(model, self._paths, config), self._base.model)


def _combine(coefficients: Float[Tensor, " adapters"], factors: Float[Tensor, "adapters ..."]) -> Tensor:
    return torch.einsum("n,n...->...", coefficients.to(factors), factors)[None]


class LoraHub:
    """Few-shot composition (LoraHub, Huang et al. 2024, arXiv:2307.13269).

    A few library adapters, drawn at random per task, are summed factor by factor with coefficients w,
    (sum w A, sum w B), and w minimises the loss on the task's first training examples plus
    0.05 * mean |w|, by nevergrad's NGOpt within +-1.5 from w = 0: the paper's equation, bounds, penalty and budget. Tasks
    search side by side, `tasks_at_once` of them in one pass per evaluation: what one finds does not depend on the others
    beyond rounding. (NGOpt chooses COBYLA here, which can carry rounding far where the loss is flat.)
    """

    name = "lorahub"
    bound, penalty, budget = 1.5, 0.05, 40

    def __init__(
        self,
        library: AdapterLibrary,
        training_tasks: Sequence[str],
        base: BaseModel,
        adapters: int,
        shots: int,
        tasks_at_once: int,
        seed: int,
        max_length: int = 512,
    ) -> None:
        self._library, self._names, self._base = library, list(training_tasks), base
        self._tasks_at_once, self._max_length = tasks_at_once, max_length
        self._count, self._shots, self._seed = min(adapters, len(self._names)), shots, seed
        self._time_s, self._composed = 0.0, 0

    def enter(self, view: SplitView) -> Entry:
        """Bare inputs, one adapter per task. Raises ValueError for a task with too few training examples."""
        began = time.perf_counter()
        library = self._library.load(self._names)
        shown = [view.as_trained(t) for t in view.tasks]
        chunks = [shown[i : i + self._tasks_at_once] for i in range(0, len(shown), self._tasks_at_once)]
        cuts = CutCount()
        weights = concatenate(self._composed_for(tasks, library, cuts) for tasks in chunks)
        cuts.warn(self._max_length)
        self._time_s, self._composed = self._time_s + time.perf_counter() - began, self._composed + len(view.tasks)
        return Entry(view.questions(lambda t, e: t), weights)

    def costs(self) -> Costs:
        """Coefficients searched, and the time of the search per task, of tasks searched side by side."""
        each = self._time_s / self._composed if self._composed else None
        return Costs(self._count, each, 4 * self._library.spec.parameters_per_adapter, self._composed)

    def _composed_for(self, tasks: Sequence[Task], library: LoraWeights, cuts: CutCount) -> LoraWeights:
        """The best adapter found for each task, from those of the library."""
        import nevergrad

        pools, tokenizer, longest = [self._pool(t.name) for t in tasks], self._base.tokenizer, self._max_length
        rows = [
            r
            for t in tasks
            for r in tokenize_examples(tokenizer, training_examples(t, self._shots), "", longest, t.name, cuts)
        ]
        batch = collate(rows, tokenizer.pad_token_id, self._base.device)
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
