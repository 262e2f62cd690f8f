"""Contenders made from the library's adapters of the training tasks: their mean, the nearest one, Arrow routing.

None of them uses an oracle of a held-out task. LoraHub has a file of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from t2l.base_model import BaseModel
from t2l.checks import at_least
from t2l.encoder import TaskEncoder
from t2l.evaluation.contenders.generated import DescriptionBank
from t2l.evaluation.contenders.interface import Contender, Entry, Needs, SplitView, in_turn
from t2l.evaluation.costs import Costs, Making
from t2l.library import AdapterLibrary
from t2l.lora import LoraWeights
from t2l.lora.source import ADAPTER_MEMORY, AdapterSource, as_source, bytes_per_adapter, digest_of
from t2l.methods.peft_backed import wrapped_by
from t2l.registry import register

if TYPE_CHECKING:
    from t2l.evaluation.context import Context


@dataclass
class CompositionConfig:
    """Contenders made from several library adapters."""

    arrow_top_k: int = 3
    """adapters that Arrow routes a token to"""
    lorahub_adapters: int = 20
    """library adapters that LoraHub combines, drawn at random per task"""

    def __post_init__(self) -> None:
        at_least(self, 1, "arrow_top_k", "lorahub_adapters", under="composition")


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


@register("contender", "library_mean")
class LibraryMean(Contender):
    """One static adapter: the mean of the training tasks' oracle adapters, never one of a held-out task."""

    name, place = "library_mean", 60
    needs = Needs(library="training_tasks", training_tasks=True, other_training_task=True)

    def __init__(self, library: AdapterLibrary, training_tasks: Sequence[str], memory: int = ADAPTER_MEMORY) -> None:
        self._mean = _MeanAdapter(library.source(training_tasks), library.spec.rank, memory)

    @classmethod
    def make(cls, context: Context) -> list[Contender]:
        """From the library's adapters of the training tasks."""
        return [cls(context.library.adapters, context.library_tasks, context.config.evaluation.adapter_memory)]

    def enter(self, view: SplitView) -> Entry:
        """Bare inputs, the same adapter everywhere."""
        return Entry(view.questions(), self._mean)

    def costs(self, making: Making) -> Costs:
        """One adapter."""
        return Costs(0, None, self._mean.adapter_bytes, 0)


@register("contender", "nearest")
class NearestAdapter(Contender):
    """The oracle adapter of the training task whose descriptions are most alike (retrieval).

    A task's own adapter is left out, so that training tasks are treated as the others are.
    """

    name, place = "nearest", 80
    needs = Needs(
        library="training_tasks", training_tasks=True, other_training_task=True, descriptions=True, encoder=True
    )

    def __init__(self, library: AdapterLibrary, bank: DescriptionBank, encoder: TaskEncoder) -> None:
        self._adapters = library.source(bank.tasks)
        self._bank, self._encoder = bank, encoder

    @classmethod
    def make(cls, context: Context) -> list[Contender]:
        """From the library's adapters and the descriptions of the training tasks."""
        bank = context.encoders.bank(context.encoder).of_tasks(context.library_tasks)
        return [cls(context.library.adapters, bank, context.encoder)]

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
        return Costs(0, None, self._adapters.adapter_bytes * self._adapters.count, 0)


@register("contender", "arrow")
class ArrowRouting(Contender):
    """The library routed token by token and layer by layer (Arrow, Ostapenko et al. 2024, arXiv:2405.11157).

    PEFT's implementation over the PEFT folders of the training tasks' adapters.
    """

    name, place = "arrow", 90
    needs = Needs(library="training_tasks", training_tasks=True, other_training_task=True)
    settings = ("composition",)

    def __init__(self, library: AdapterLibrary, training_tasks: Sequence[str], base: BaseModel, top_k: int) -> None:
        library.check(training_tasks)
        self._library, self._tasks = library, list(training_tasks)
        self._paths = [str(library.path(t)) for t in training_tasks]
        self._base, self._top_k = base, min(top_k, len(training_tasks))
        self._stack = ExitStack()
        self._model: Any = None

    @classmethod
    def make(cls, context: Context) -> list[Contender]:
        """From the library's adapters of the training tasks."""
        top_k = context.config.composition.arrow_top_k
        return [cls(context.library.adapters, context.library_tasks, context.base, top_k)]

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
            from peft import ArrowConfig, create_arrow_model

            config = ArrowConfig(top_k=self._top_k)
            routed = wrapped_by(lambda model: create_arrow_model(model, self._paths, config), self._base.model)
            self._model = self._stack.enter_context(routed)
        yield replace(self._base, model=self._model)
