"""Generated adapters and their controls: is it the description that does it?

All conditions run the same hypernetwork on the same questions; only what goes into it differs:

- matched: the task's own descriptions
- shuffled: another task's descriptions, the same other task for the whole split
- shuffled_nearest: those of the other task whose descriptions are most alike; the hardest such control
- random_text: text that states no task
- static: one adapter for everything, from the mean embedding of all training descriptions
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from t2l.base_model import hash_parameters
from t2l.encoder import TaskEncoder
from t2l.evaluation.contenders.interface import Contender, Entry, Needs, SplitView, in_turn
from t2l.evaluation.costs import Costs, Making
from t2l.evaluation.identity import of_checkpoint
from t2l.hypernetwork import Hypernetwork
from t2l.lora import LoraSpec, LoraWeights
from t2l.lora.source import ADAPTER_MEMORY, AdapterSource, bytes_per_adapter, digest_of, stack
from t2l.registry import register
from t2l.seeding import generator_for
from t2l.tasks import Task

if TYPE_CHECKING:
    from t2l.evaluation.context import Context

CONTROLS = ("shuffled", "shuffled_nearest", "random_text", "static")
CONDITIONS = ("matched", *CONTROLS)
STATIC_TEXT = "(mean of all training descriptions)"


@torch.no_grad()
def generate_adapters(hypernetwork: Hypernetwork, embeddings: Tensor) -> LoraWeights:
    """One adapter per embedding, in one forward pass, outside autograd."""
    device = next(hypernetwork.parameters()).device
    return hypernetwork.eval().generate(embeddings.to(device))


class GeneratedAdapters(AdapterSource):
    """Adapters of embeddings, generated when they are asked for.

    Args:
        made_from: everything that decides hypernetwork and embeddings, as JSON-able data.
    """

    forward_memory = ADAPTER_MEMORY // 4
    """bytes of adapters that come from one forward pass"""

    def __init__(
        self,
        hypernetwork: Hypernetwork,
        embeddings: Float[Tensor, "batch d_embedding"],
        made_from: Mapping[str, Any],
    ) -> None:
        super().__init__(len(embeddings), bytes_per_adapter(hypernetwork.spec))
        self._hypernetwork, self._embeddings, self._made_from = hypernetwork, embeddings, made_from

    def recipe(self) -> Mapping[str, Any]:
        """What they are made from."""
        return self._made_from

    def make(self, indices: Sequence[int]) -> LoraWeights:
        """The adapters of these indices, in this order."""
        parts = self.groups(self.forward_memory, indices)
        made = (generate_adapters(self._hypernetwork, self._embeddings[part]) for part in parts)
        return stack(made, len(indices))


def derangement(count: int, seed: int, key: str) -> list[int]:
    """A permutation in which no task keeps its place. Raises ValueError for fewer than two tasks."""
    if count < 2:
        raise ValueError(f"split {key!r} has {count} task(s): shuffling descriptions needs at least two")
    order = generator_for("shuffled", seed, key).permutation(count)
    other = [0] * count
    for here, there in zip(order, [*order[1:], order[0]], strict=True):
        other[int(here)] = int(there)
    return other


def control_lacks(condition: str, tasks: Sequence[str], training_tasks: Sequence[str]) -> str | None:
    """Why a control is left out on a split; None if it can enter it.

    Args:
        tasks: names of the split's.
    """
    if condition == "shuffled" and len(tasks) < 2:
        return "the split has one task, and no other's description"
    if condition in ("shuffled_nearest", "static"):
        alone = next((name for name in tasks if not {*training_tasks} - {name}), None)
        return None if alone is None else f"there is no training task beside {alone!r} to take a description from"
    return None


def random_text(seed: int, task: str, index: int) -> str:
    """Six to twelve words of random letters: text that states no task."""
    rng = generator_for("random_text", seed, task, index)
    letters = list(string.ascii_lowercase)
    words = ["".join(rng.choice(letters, size=rng.integers(2, 9))) for _ in range(rng.integers(6, 13))]
    return " ".join(words).capitalize() + "."


@dataclass(frozen=True)
class DescriptionBank:
    """Training descriptions of the training tasks, and where each task's lie in the encoder's space."""

    descriptions: Mapping[str, Sequence[str]]
    centres: Float[Tensor, "tasks d_embedding"]
    """mean embedding of each task's descriptions, of norm one, in the order of `descriptions`"""

    @classmethod
    def of(cls, encoder: TaskEncoder, tasks: Sequence[Task], count: int) -> DescriptionBank:
        """The first `count` training descriptions of these tasks."""
        descriptions = {t.name: t.descriptions["train"][:count] for t in tasks}
        groups = encoder.encode_groups(list(descriptions.values()))
        return cls(descriptions, F.normalize(torch.stack([F.normalize(g, dim=-1).mean(dim=0) for g in groups]), dim=-1))

    def of_tasks(self, names: Sequence[str]) -> DescriptionBank:
        """The part of some of the training tasks."""
        index = {name: i for i, name in enumerate(self.tasks)}
        return DescriptionBank({n: self.descriptions[n] for n in names}, self.centres[[index[n] for n in names]])

    @property
    def tasks(self) -> list[str]:
        """Names of the training tasks."""
        return list(self.descriptions)

    def mean(self) -> Float[Tensor, "1 d_embedding"]:
        """The mean over tasks."""
        return self.centres.mean(dim=0, keepdim=True)

    def nearest(self, embeddings: Float[Tensor, "batch d_embedding"], own: Sequence[str]) -> list[str]:
        """The task most alike each embedding by cosine, other than the task of that row's own name."""
        likeness = F.normalize(embeddings, dim=-1) @ self.centres.T
        position = {name: i for i, name in enumerate(self.tasks)}
        for row, name in enumerate(own):
            if name in position:
                likeness[row, position[name]] = -torch.inf
        return [self.tasks[i] for i in likeness.argmax(dim=1).tolist()]


@register("contender", "generated")
class Generated(Contender):
    """Adapters generated from text: the tasks' own descriptions, or a control's."""

    place = 130
    needs = Needs(checkpoints=True, training_tasks=True, descriptions=True)
    is_harness_default = is_generated = True

    def __init__(
        self,
        name: str,
        condition: str,
        hypernetwork: Hypernetwork,
        encoder: TaskEncoder,
        bank: DescriptionBank,
        seed: int,
    ) -> None:
        """Raises ValueError for an unknown condition.

        Args:
            name: of the matched contender; a control's name goes on with the condition.
            seed: decides shuffles and random text.
        """
        if condition not in CONDITIONS:
            raise ValueError(f"unknown condition {condition!r}: choose from {', '.join(CONDITIONS)}")
        self.name = name if condition == "matched" else f"{name}_{condition}"
        self.condition, self._seed, self._bank = condition, seed, bank
        self.hypernetwork, self._encoder = hypernetwork, encoder

    @classmethod
    def make(cls, context: Context) -> list[Contender]:
        """Of every checkpoint, the matched contender and its controls."""
        return [g for checkpoint in context.checkpoints for g in checkpoint.generated]

    def identity(self, context: Context, role: str = "", settings: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The checkpoint that it comes from.

        Args:
            role: what is done with the checkpoint, if not this condition alone.
            settings: of that.
        """
        of = context.checkpoint_of(self)
        assert of is not None
        return of_checkpoint(of.record, of.folder, self.fingerprint, role or self.condition, settings or {})

    @property
    def spec(self) -> LoraSpec:
        """Geometry of the adapters it generates."""
        return self.hypernetwork.spec

    def lacks(self, view: SplitView) -> str | None:
        """Of a control, the other task."""
        return control_lacks(self.condition, [t.name for t in view.tasks], self._bank.tasks)

    def enter(self, view: SplitView) -> Entry:
        """Bare inputs, one adapter per (task, text)."""
        if self.condition == "static":
            told = {"mean_of": {task: list(texts) for task, texts in self._bank.descriptions.items()}}
            return Entry(view.questions(), self._source(self._bank.mean(), told), [STATIC_TEXT])
        return self.entry_for(view, self.texts(view))

    def entry_for(self, view: SplitView, texts: Sequence[Sequence[str]]) -> Entry:
        """Adapters from given texts per task, which take turns over the task's examples."""
        return Entry(view.questions(in_turn(texts)), self.adapters(texts), [t for group in texts for t in group])

    def adapters(self, texts: Sequence[Sequence[str]]) -> GeneratedAdapters:
        """An adapter for each text of each group, in order."""
        flat = [text for group in texts for text in group]
        return self._source(self._encoder.encode(flat), {"texts": flat})

    def _source(self, embeddings: Tensor, told: Mapping[str, Any]) -> GeneratedAdapters:
        by = {"hypernetwork": self.fingerprint, "encoder": self._encoder.identity}
        return GeneratedAdapters(self.hypernetwork, embeddings, {**by, "told": digest_of(told)})

    @cached_property
    def fingerprint(self) -> str:
        """Sha256 of the hypernetwork's parameters and statistics."""
        return hash_parameters(self.hypernetwork)

    def texts(self, view: SplitView) -> list[list[str]]:
        """What each task's adapters are generated from under this condition."""
        if self.condition == "shuffled":
            return [list(view.descriptions[o]) for o in derangement(len(view.tasks), self._seed, view.name)]
        if self.condition == "shuffled_nearest":
            return self._of_nearest(view)
        if self.condition == "random_text":
            return [
                [random_text(self._seed, task.name, i) for i in range(len(d))]
                for task, d in zip(view.tasks, view.descriptions, strict=True)
            ]
        return [list(d) for d in view.descriptions]

    def _of_nearest(self, view: SplitView) -> list[list[str]]:
        groups = self._encoder.encode_groups(view.descriptions)
        centres = torch.stack([F.normalize(g, dim=-1).mean(dim=0) for g in groups])
        others = self._bank.nearest(centres, [t.name for t in view.tasks])
        return [list(self._bank.descriptions[o][: len(ds)]) for o, ds in zip(others, view.descriptions, strict=True)]

    def costs(self, making: Making) -> Costs:
        """Generation time per adapter, and the hypernetwork's size; nothing is trained for a task."""
        size = sum(p.numel() for p in self.hypernetwork.parameters())
        return Costs(0, None, bytes_per_adapter(self.spec), 0, making.each_s, size)
