"""Seeded sampling of tasks, descriptions and rows, and collation into padded batches.

Sampling is a function of (seed, step): the sampler has no state to save, and a resumed run draws what
an uninterrupted one would have drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from t2l.seeding import generator_for
from t2l.tasks.prompting import IGNORE_INDEX, TokenizedExample


@dataclass(frozen=True)
class TokenBatch:
    """Right-padded sequences; labels are IGNORE_INDEX except on responses."""

    input_ids: Int[Tensor, "rows length"]
    attention_mask: Int[Tensor, "rows length"]
    labels: Int[Tensor, "rows length"]


def collate(rows: Sequence[TokenizedExample], pad_id: int, device: torch.device) -> TokenBatch:
    """Pads examples on the right to the longest of them."""
    width = max(r.length for r in rows)
    ids = np.full((len(rows), width), pad_id, dtype=np.int64)
    labels = np.full((len(rows), width), IGNORE_INDEX, dtype=np.int64)
    mask = np.zeros((len(rows), width), dtype=np.int64)
    for i, row in enumerate(rows):
        start, stop = len(row.prompt_ids), len(row.prompt_ids) + len(row.response_ids)
        ids[i, :start], ids[i, start:stop] = row.prompt_ids, row.response_ids
        labels[i, start:stop] = row.response_ids
        mask[i, :stop] = 1
    return TokenBatch(*(torch.from_numpy(x).to(device) for x in (ids, mask, labels)))


def cheapest_passes(widths: Sequence[int], cost: float, most: int | None = None) -> list[list[int]]:
    """Splits items into passes so that the sum over passes of (items * widest + cost) is least.

    Dynamic programming over the distinct widths, in ascending order; a pass takes consecutive ones. A
    pass of more than `most` items is then cut into parts.
    """
    order = sorted(range(len(widths)), key=lambda i: widths[i])
    ends = [i + 1 for i in range(len(order)) if i + 1 == len(order) or widths[order[i]] < widths[order[i + 1]]]
    # For each number of ends taken: least cost, and where its last pass begins.
    best: list[tuple[float, int]] = [(0.0, 0)]
    for k, end in enumerate(ends, start=1):
        width = widths[order[end - 1]]
        begins = [0, *ends[: k - 1]]
        best.append(min((best[j][0] + (end - begins[j]) * width + cost, j) for j in range(k)))
    passes: list[list[int]] = []
    k = len(ends)
    while k:
        begin = best[k][1]
        whole = order[ends[begin - 1] if begin else 0 : ends[k - 1]]
        size = most or len(whole)
        passes.extend(sorted(whole[i : i + size]) for i in range(0, len(whole), size))
        k = begin
    return passes[::-1]


def batches_within(lengths: Sequence[int], items: int, tokens: int | None) -> list[list[int]]:
    """Batches of indices, in order of length: each of at most `items`, and at most `tokens` with padding.

    A batch is as wide as its longest item; an item that is longer than `tokens` is a batch of its own.
    """
    batches: list[list[int]] = [[]]
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        size = len(batches[-1]) + 1
        if size > items or (tokens is not None and size > 1 and size * lengths[i] > tokens):
            batches.append([])
        batches[-1].append(i)
    return batches if lengths else []


def collate_prompts(
    prompts: Sequence[Sequence[int]], pad_id: int, device: torch.device
) -> tuple[Int[Tensor, "rows length"], Int[Tensor, "rows length"]]:
    """Prompts padded on the left, for decoding: (input ids, attention mask)."""
    width = max(len(p) for p in prompts)
    ids = np.full((len(prompts), width), pad_id, dtype=np.int64)
    mask = np.zeros((len(prompts), width), dtype=np.int64)
    for i, prompt in enumerate(prompts):
        ids[i, width - len(prompt) :] = prompt
        mask[i, width - len(prompt) :] = 1
    return torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)


class RowCycle:
    """Draws rows of one dataset, every row once per epoch, in an order fixed by (seed, name).

    Args:
        size: number of rows.
        count: rows per step.
        lengths: with the rows' lengths, each step's rows are of like length; what is left of an epoch
            after its last full step is then skipped (other rows each time).
    """

    def __init__(self, size: int, seed: int, name: str, count: int = 1, lengths: Sequence[int] | None = None) -> None:
        if size < 1:
            raise ValueError(f"task {name!r} has no training examples")
        self._size, self._key, self._count = size, (seed, name), count
        self._lengths = np.asarray(lengths) if lengths is not None and size > count else None
        self._per_epoch = size if self._lengths is None else size // count * count
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)

    def _permutation(self, epoch: int) -> np.ndarray:
        rng = generator_for("rows", *self._key, epoch)
        order = rng.permutation(self._size)
        if self._lengths is None:
            return order
        order = order[: self._per_epoch]
        steps = order[np.argsort(self._lengths[order], kind="stable")].reshape(-1, self._count)
        return rng.permutation(steps).reshape(-1)

    def take(self, step: int, count: int | None = None) -> list[int]:
        """Row indices of a step."""
        count = self._count if count is None else count
        indices = []
        for position in range(step * count, (step + 1) * count):
            epoch, offset = divmod(position, self._per_epoch)
            if epoch != self._epoch:
                self._epoch, self._order = epoch, self._permutation(epoch)
            indices.append(int(self._order[offset]))
        return indices


@dataclass(frozen=True)
class TaskDraw:
    """What one hypernetwork step looks at: tasks, one description each, and rows per task."""

    tasks: list[int]
    descriptions: list[int]
    rows: list[list[int]]

    def part(self, share: slice) -> TaskDraw:
        """The draw's tasks in a slice, for one of several processes."""
        return TaskDraw(self.tasks[share], self.descriptions[share], self.rows[share])


def draw_noise(seed: int, step: int, count: int, width: int) -> Float[Tensor, "count width"]:
    """Standard normal noise for a step's descriptions."""
    values = generator_for("noise", seed, step).standard_normal((count, width), dtype=np.float32)
    return torch.from_numpy(values)


def draw_tasks(
    seed: int, step: int, tasks: int, tasks_per_step: int, descriptions: Sequence[int], rows: Sequence[int], count: int
) -> TaskDraw:
    """Tasks without replacement, then a description and `count` distinct rows for each.

    Args:
        descriptions: number of descriptions of each task.
        rows: number of training rows of each task.
    """
    rng = generator_for("draw", seed, step)
    chosen = rng.permutation(tasks)[:tasks_per_step].tolist()
    return TaskDraw(
        chosen,
        [int(rng.integers(descriptions[t])) for t in chosen],
        [rng.permutation(rows[t])[:count].tolist() for t in chosen],
    )


def gather_embeddings(
    bank: Sequence[Float[Tensor, "descriptions d_embedding"]], draw: TaskDraw, device: torch.device
) -> Float[Tensor, "batch d_embedding"]:
    """The drawn descriptions' embeddings, one per drawn task."""
    return torch.stack([bank[t][d] for t, d in zip(draw.tasks, draw.descriptions, strict=True)]).to(device)
