"""Adapters that are made when they are asked for, a group at a time.

A thousand adapters of a real model are gigabytes. Nothing that goes through them all needs more than a group of them at
once: it asks a source for the adapters of some indices, and is done with them before it asks for the next.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from t2l.files import atomic_folder, read_json, read_tensors, write_json, write_tensors
from t2l.lora.weights import LoraSpec, LoraWeights

ADAPTER_MEMORY = 2**29
"""bytes of adapters held at once, unless told otherwise"""


def digest_of(data: Any) -> str:
    """Sha256 of JSON-able data."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, default=str).encode()).hexdigest()


def adapter_digest(weights: LoraWeights, index: int) -> str:
    """Sha256 over the values of one adapter of a batch."""
    digest = hashlib.sha256()
    for tensor in weights.tensors():
        digest.update(tensor[index].detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def bytes_per_adapter(spec: LoraSpec) -> int:
    """Size of one adapter in float32."""
    return 4 * spec.parameters_per_adapter


def stack(parts: Iterable[LoraWeights], count: int) -> LoraWeights:
    """Batches of adapters as one batch of `count`; of the parts, only one needs to be there at a time."""
    whole: LoraWeights | None = None
    filled = 0
    for part in parts:
        if part.batch_size == count:
            return part
        if whole is None:
            whole = part.map(lambda t: t.new_empty((count, *t.shape[1:])))
        for ours, theirs in zip(whole.tensors(), part.tensors(), strict=True):
            ours[filled : filled + part.batch_size] = theirs
        filled += part.batch_size
    if whole is None or filled != count:
        raise ValueError(f"{filled} adapters were made where {count} were asked for")
    return whole


class AdapterSource(ABC):
    """`count` adapters of one geometry, made when they are asked for.

    The newest group is kept, so that whoever asks for the same indices twice in a row has them made once.
    """

    def __init__(self, count: int, adapter_bytes: int) -> None:
        self.count, self.adapter_bytes = count, adapter_bytes
        self.time_s, self.made = 0.0, 0
        """seconds spent making adapters, and how many were made in them"""
        self._newest: tuple[tuple[int, ...], LoraWeights] | None = None
        self._folder: Path | None = None

    @abstractmethod
    def recipe(self) -> Mapping[str, Any]:
        """Everything that decides the adapters, as JSON-able data, without making them."""

    @abstractmethod
    def make(self, indices: Sequence[int]) -> LoraWeights:
        """The adapters of these indices, in this order."""

    def take(self, indices: Sequence[int]) -> LoraWeights:
        """The adapters of these indices, in this order, as one batch."""
        wanted = tuple(indices)
        if self._newest is None or self._newest[0] != wanted:
            self._newest = None  # what was there goes before the new one comes
            began = time.perf_counter()
            self._newest = (wanted, self.make(wanted))
            self._count(time.perf_counter() - began, len(wanted))
        return self._newest[1]

    def _count(self, time_s: float, made: int) -> None:
        self.time_s, self.made = self.time_s + time_s, self.made + made

    def all(self) -> LoraWeights:
        """Every adapter at once: of use if there are few."""
        return self.take(range(self.count))

    def release(self) -> None:
        """Lets go of what is held."""
        self._newest = None

    def keep_in(self, folder: Path) -> None:
        """Where adapters that are costly to make are kept, and found again by a later process."""
        self._folder = folder

    def groups(self, memory: int = ADAPTER_MEMORY, indices: Iterable[int] | None = None) -> list[list[int]]:
        """The indices (all of them unless given), in order, in groups of which each fits `memory` bytes.

        A group has at least one.
        """
        wanted, size = list(range(self.count) if indices is None else indices), max(1, memory // self.adapter_bytes)
        return [wanted[i : i + size] for i in range(0, len(wanted), size)]

    def digests(self, memory: int = ADAPTER_MEMORY, indices: Iterable[int] | None = None) -> dict[int, str]:
        """Sha256 of each adapter's values."""
        found: dict[int, str] = {}
        for group in self.groups(memory, indices):
            found |= self._digests_of(group)
        return found

    def _digests_of(self, group: Sequence[int]) -> dict[int, str]:
        weights = self.take(group)
        return {i: adapter_digest(weights, place) for place, i in enumerate(group)}


class Held(AdapterSource):
    """Adapters that are in memory already."""

    def __init__(self, weights: LoraWeights) -> None:
        size = sum(t[0].numel() * t.element_size() for t in weights.tensors())
        super().__init__(weights.batch_size, size)
        self._weights = weights

    def recipe(self) -> Mapping[str, Any]:
        """Their values."""
        return {"values": [adapter_digest(self._weights, i) for i in range(self.count)]}

    def make(self, indices: Sequence[int]) -> LoraWeights:
        """The adapters of these indices, in this order."""
        return self._weights if list(indices) == list(range(self.count)) else self._weights[list(indices)]


def as_source(adapters: LoraWeights | AdapterSource) -> AdapterSource:
    """Adapters in memory as a source; a source as it is."""
    return adapters if isinstance(adapters, AdapterSource) else Held(adapters)


class Scaled(AdapterSource):
    """The adapters of another source with their products times a factor."""

    def __init__(self, source: AdapterSource, factor: float) -> None:
        super().__init__(source.count, source.adapter_bytes)
        self._source, self._factor = source, factor

    def recipe(self) -> Mapping[str, Any]:
        """The other source's, and the factor."""
        return {"scaled": self._factor, "of": self._source.recipe()}

    def make(self, indices: Sequence[int]) -> LoraWeights:
        """The adapters of these indices, in this order."""
        weights = self._source.make(indices)
        return LoraWeights(weights.A, {k: v * self._factor for k, v in weights.B.items()})


class Joined(AdapterSource):
    """The adapters of several sources of one geometry, one source after another."""

    def __init__(self, sources: Sequence[AdapterSource]) -> None:
        super().__init__(sum(s.count for s in sources), max(s.adapter_bytes for s in sources))
        self._places = [(source, i) for source in sources for i in range(source.count)]

    def recipe(self) -> Mapping[str, Any]:
        """Those of all sources."""
        return {"joined": [s.recipe() for s in dict.fromkeys(source for source, _ in self._places)]}

    def make(self, indices: Sequence[int]) -> LoraWeights:
        """The adapters of these indices, in this order."""
        runs = groupby((self._places[index] for index in indices), key=itemgetter(0))
        return stack((source.make([i for _, i in run]).to("cpu") for source, run in runs), len(indices))


class Cached(AdapterSource):
    """The adapters of another source, of which as many as fit `memory` bytes stay in memory, the newest used."""

    def __init__(self, source: AdapterSource, memory: int = ADAPTER_MEMORY) -> None:
        super().__init__(source.count, source.adapter_bytes)
        self._source, self._most = source, max(1, memory // source.adapter_bytes)
        self._there: OrderedDict[int, LoraWeights] = OrderedDict()

    def recipe(self) -> Mapping[str, Any]:
        """The other source's."""
        return self._source.recipe()

    def take(self, indices: Sequence[int]) -> LoraWeights:
        """The adapters of these indices, in this order, as one batch."""
        return self.make(indices)

    def make(self, indices: Sequence[int]) -> LoraWeights:
        """The adapters of these indices, in this order."""
        return stack((self._one(i) for i in indices), len(indices))

    def _one(self, index: int) -> LoraWeights:
        if index not in self._there:
            while len(self._there) >= self._most:
                self._there.popitem(last=False)
            self._there[index] = self._source.make([index])
        self._there.move_to_end(index)
        return self._there[index]


class MadeInChunks(AdapterSource):
    """Adapters that are costly to make (trained, searched): made once, a chunk at a time, and kept on disk.

    Args:
        at_once: adapters of a chunk, which are made together.
        recipe: everything that decides them.
        chunk: makes the adapters of a range of indices.
    """

    def __init__(
        self,
        count: int,
        adapter_bytes: int,
        at_once: int,
        recipe: Mapping[str, Any],
        chunk: Callable[[range], LoraWeights],
    ) -> None:
        super().__init__(count, adapter_bytes)
        self._at_once, self._recipe, self._chunk = at_once, recipe, chunk
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._seen: set[int] = set()

    def recipe(self) -> Mapping[str, Any]:
        """Everything that decides the adapters."""
        return self._recipe

    def make(self, indices: Sequence[int]) -> LoraWeights:
        """The adapters of these indices, in this order."""
        runs = groupby((divmod(index, self._at_once) for index in indices), key=itemgetter(0))
        return stack((self._read(number)[[place for _, place in run]] for number, run in runs), len(indices))

    def _count(self, time_s: float, made: int) -> None:
        """Making is counted chunk by chunk: reading one again is not making."""

    def _read(self, number: int) -> LoraWeights:
        if self._folder is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="t2l-adapters-")
            self._folder = Path(self._temporary.name)
        folder = self._folder / f"{number:04d}-of-{self._at_once}"
        span = range(number * self._at_once, min(self.count, (number + 1) * self._at_once))
        if not folder.is_dir():
            began = time.perf_counter()
            weights = self._chunk(span)
            record = {"time_s": time.perf_counter() - began, "made": len(span)}
            with atomic_folder(folder) as temporary:
                write_tensors(temporary / "adapters.safetensors", _named(weights))
                write_json(temporary / "made.json", record)
        if number not in self._seen:
            self._seen.add(number)
            record = read_json(folder / "made.json")
            super()._count(float(record["time_s"]), int(record["made"]))
        tensors = read_tensors(folder / "adapters.safetensors")
        A, B = ({k[2:]: t for k, t in sorted(tensors.items()) if k.startswith(f"{side}.")} for side in "AB")
        return LoraWeights(A, B)


def _named(weights: LoraWeights) -> dict[str, Tensor]:
    sides = (("A", weights.A), ("B", weights.B))
    return {f"{side}.{name}": tensor for side, tensors in sides for name, tensor in tensors.items()}
