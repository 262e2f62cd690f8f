"""Contenders made from the library's other adapters: their mean, the nearest one, Arrow routing, LoraHub.

All of them use the training tasks' adapters alone, never an oracle of a held-out task.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from t2l.base_model import BaseModel, label_logits
from t2l.encoder import (
    TaskEncoder,
)
from t2l.evaluation.contenders.generated import DescriptionBank
from t2l.evaluation.contenders.interface import Entry, SplitView, in_turn, training_examples
from t2l.evaluation.costs import Costs, Making
from t2l.library import AdapterLibrary
from t2l.lora import LoraWeights, inject
from t2l.lora.source import ADAPTER_MEMORY, AdapterSource, MadeInChunks, as_source, bytes_per_adapter, digest_of
from t2l.lora.weights import concatenate
from t2l.methods.peft_backed import wrapped_by
from t2l.objectives.losses import label_loss
from t2l.seeding import generator_for
from t2l.tasks import CutCount, Task, tokenize_examples
from t2l.tasks.batches import collate


@dataclass
class CompositionConfig:
    """Contenders made from several library adapters."""

    arrow_top_k: int = 3
    """adapters that Arrow routes a token to"""
    lorahub_adapters: int = 20
    """library adapters that LoraHub combines, drawn at random per task"""

    def __post_init__(self) -> None:
        if self.arrow_top_k < 1 or self.lorahub_adapters < 1:
            raise ValueError("composition: arrow_top_k and lorahub_adapters must be at least 1")


def mean_of_products(adapters: LoraWeights | AdapterSource, rank: int, memory: int = ADAPTER_MEMORY) -> LoraWeights:
    """The adapter (batch of one) whose product is nearest the mean of the adapters' products BA, at a rank.

    Truncated singular value decomposition (Eckart & Young 1936) of each module's mean product.

    Args:
        memory: bytes of adapters, and of products of full size, that are held at once; adapters are gone through again
            for every part of the layers whose products fit.
    """
    source = as_source(adapters)
    first = source.take([0]) if source.count > 1 and len(source.groups(memory)) > 1 else source.all()
    A: dict[str, Tensor] = {}
    B: dict[str, Tensor] = {}
    for name in first.A:
        (_, layers, _, d_in), d_out = first.A[name].shape, first.B[name].shape[2]
        at_once = max(1, memory // (4 * d_in * d_out))
        parts = [range(i, min(i + at_once, layers)) for i in range(0, layers, at_once)]
        factors = [_truncated(_mean_product(source, name, part, memory), rank) for part in parts]
        A[name], B[name] = (torch.cat(side)[None] for side in zip(*factors, strict=True))
    return LoraWeights(A, B)


def _mean_product(source: AdapterSource, name: str, layers: range, memory: int) -> Float[Tensor, "layers d_out d_in"]:
    total: Tensor | None = None
    for group in source.groups(memory):
        weights, part = source.take(group), slice(layers.start, layers.stop)
        product = torch.einsum("nlor,nlri->loi", weights.B[name][:, part], weights.A[name][:, part])
        total = product if total is None else total.add_(product)
    assert total is not None
    return total / source.count


def _truncated(product: Float[Tensor, "layers d_out d_in"], rank: int) -> tuple[Tensor, Tensor]:
    """A [layers, rank, d_in] and B [layers, d_out, rank] of the nearest products of a rank."""
    left, values, right = torch.linalg.svd(product, full_matrices=False)
    root = values[:, :rank].sqrt()
    return root[..., None] * right[:, :rank], left[..., :rank] * root[:, None]


class _MeanAdapter(AdapterSource):
    """The mean of other adapters as one adapter, computed when it is first asked for."""

    def __init__(self, others: AdapterSource, rank: int, memory: int) -> None:
        super().__init__(1, others.adapter_bytes)
        self._others, self._rank, self._memory = others, rank, memory
        self._mean: LoraWeights | None = None

    def recipe(self) -> Mapping[str, Any]:
        """That of the others, and the rank."""
        return {"mean_of": digest_of(self._others.recipe()), "rank": self._rank}

    def make(self, indices: Sequence[int]) -> LoraWeights:
        """The one adapter."""
        if self._mean is None:
            self._mean = mean_of_products(self._others, self._rank, self._memory)
            self._others.release()
        return self._mean


class LibraryMean:
    """One static adapter: the mean of the training tasks' oracle adapters."""

    name = "library_mean"

    def __init__(self, library: AdapterLibrary, training_tasks: Sequence[str], memory: int = ADAPTER_MEMORY) -> None:
        self._size = bytes_per_adapter(library.spec)
        self._mean = _MeanAdapter(library.source(training_tasks), library.spec.rank, memory)

    def enter(self, view: SplitView) -> Entry:
        """Bare inputs, the same adapter everywhere."""
        return Entry(view.questions(), self._mean)

    def costs(self, making: Making) -> Costs:
        """One adapter."""
        return Costs(0, None, self._size, 0)


class NearestAdapter:
    """The oracle adapter of the training task whose descriptions are most alike (retrieval).

    A task's own adapter is left out, so that training tasks are treated as the others are.
    """

    name = "nearest"

    def __init__(self, library: AdapterLibrary, bank: DescriptionBank, encoder: TaskEncoder) -> None:
        self._adapters = library.source(bank.tasks)
        self._size = bytes_per_adapter(library.spec) * len(bank.tasks)
        self._bank, self._encoder = bank, encoder

    def enter(self, view: SplitView) -> Entry:
        """Bare inputs, one adapter per (task, description)."""
        flat = [d for ds in view.descriptions for d in ds]
        own = [t.name for t, ds in zip(view.tasks, view.descriptions, strict=True) for _ in ds]
        chosen = self._bank.nearest(self._encoder.encode(flat), own)
        index = {name: i for i, name in enumerate(self._bank.tasks)}
        adapters = [index[name] for name in chosen]
        which = in_turn(view.descriptions)
        return Entry(view.questions(lambda t, e: adapters[which(t, e)]), self._adapters, self._bank.tasks)

    def costs(self, making: Making) -> Costs:
        """The whole library has to be there; nothing is trained for a task."""
        return Costs(0, None, self._size, 0)


class ArrowRouting:
    """The library routed token by token and layer by layer (Arrow, Ostapenko et al. 2024, arXiv:2405.11157).

    PEFT's implementation over the PEFT folders of the training tasks' adapters.
    """

    name = "arrow"

    def __init__(self, library: AdapterLibrary, training_tasks: Sequence[str], base: BaseModel, top_k: int) -> None:
        library.check(training_tasks)
        self._library, self._tasks = library, list(training_tasks)
        self._paths = [str(library.path(t)) for t in training_tasks]
        self._base, self._top_k = base, min(top_k, len(training_tasks))
        self._stack = ExitStack()
        self._model: Any = None

    def enter(self, view: SplitView) -> Entry:
        """Bare inputs; what to run under is decided by the hidden states alone."""
        return Entry(view.questions(), attached=lambda _: self._attached(), attached_key=lambda _: self._key)

    @cached_property
    def _key(self) -> str:
        routed = digest_of([self._library.content_digest(task) for task in self._tasks])
        return f"{self.name}:{self._top_k}:{routed}"

    def close(self) -> None:
        """Takes the library out of the base again, which holds it from the first question on."""
        self._stack.close()
        self._model = None

    def costs(self, making: Making) -> Costs:
        """The whole library has to be there; nothing is trained for a task."""
        return Costs(0, None, bytes_per_adapter(self._library.spec) * len(self._paths), 0)

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
        *,
        memory: int = ADAPTER_MEMORY,
    ) -> None:
        self._library, self._names, self._base = library, list(training_tasks), base
        self._adapters, self._size = library.source(training_tasks), bytes_per_adapter(library.spec)
        self._max_length = max_length
        self._count, self._shots, self._seed = min(adapters, len(self._names)), shots, seed
        # Each task of a pass has its own draw from the library in memory, unless the whole library fits.
        self._fits = len(self._names) * self._size <= memory
        fitting = tasks_at_once if self._fits else memory // (self._count * self._size)
        self._tasks_at_once = max(1, min(tasks_at_once, fitting))

    def enter(self, view: SplitView) -> Entry:
        """Bare inputs, one adapter per task. Raises ValueError for a task with too few training examples."""
        shown = [view.as_trained(t) for t in view.tasks]
        recipe = {
            "searched": [self.bound, self.penalty, self.budget, self._count, self._seed, self._max_length],
            "library": digest_of([self._names, self._adapters.recipe()]),
            "examples": digest_of([[t.name, [e.content() for e in training_examples(t, self._shots)]] for t in shown]),
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

        cuts, tokenizer, longest = CutCount(), self._base.tokenizer, self._max_length
        drawn = [self._pool(t.name) for t in tasks]
        # A library that fits is read once for all passes.
        union = list(range(self._adapters.count)) if self._fits else sorted({i for pool in drawn for i in pool})
        library, place = self._adapters.take(union), {i: at for at, i in enumerate(union)}
        pools = [[place[i] for i in pool] for pool in drawn]
        rows = [
            r
            for t in tasks
            for r in tokenize_examples(tokenizer, training_examples(t, self._shots), "", longest, t.name, cuts)
        ]
        cuts.warn(longest)
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
