"""Texts that are longer than an encoder reads: cut into windows, whose embeddings become one."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

LONG_TEXTS = ("windows", "cut", "refuse")
"""what may be done with a text that is longer than the encoder reads"""


def token_starts(tokenizer: Any, text: str) -> list[int]:
    """At which character each token of a text begins; evenly spread if the tokenizer cannot say."""
    if getattr(tokenizer, "is_fast", False):
        found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return [start for start, _ in found["offset_mapping"]]
    count = max(1, len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]))
    return [len(text) * i // count for i in range(count)]


def windows(text: str, starts: Sequence[int], room: int, count: Callable[[str], int]) -> list[tuple[str, int]]:
    """Consecutive pieces of a text, each of at most `room` tokens, and the number of tokens of each.

    A piece ends between words if it can without losing more than half of the room; one character is the least.

    Args:
        starts: at which character each token of the text begins.
        count: number of tokens of a piece (which may break into other tokens than it did inside the text).
    """
    pieces: list[tuple[str, int]] = []
    begin = 0
    while begin < len(text):
        first, size = bisect_left(starts, begin), room
        end = _end(text, begin, first, starts, size)
        while (tokens := count(text[begin:end].strip())) > room and end > begin + 1:
            size = max(1, size - (tokens - room))
            end = _end(text, begin, first, starts, size) if size > 1 else max(begin + 1, begin + (end - begin) // 2)
        if tokens:
            pieces.append((text[begin:end].strip(), tokens))
        begin = end
    return pieces


def _end(text: str, begin: int, first: int, starts: Sequence[int], size: int) -> int:
    """Where a piece ends that begins with token `first` and has about `size` tokens."""
    if first + size >= len(starts):
        return len(text)
    end = max(starts[first + size], begin + 1)
    middle = max(starts[min(first + size // 2, len(starts) - 1)], begin + 1)
    spaces = [i for i in range(end, middle, -1) if text[i - 1].isspace() or text[i].isspace()]
    return spaces[0] if spaces else end


def weighted_mean(
    values: Float[np.ndarray, "pieces d_embedding"], tokens: Sequence[int], normalized_parts: int
) -> Float[np.ndarray, " d_embedding"]:
    """The mean of a text's pieces, each weighted by its tokens.

    Args:
        normalized_parts: number of equal parts of an embedding that have norm one each, which the mean then has, too;
            0 if embeddings are not normalised.
    """
    mean = np.average(values.astype(np.float64), axis=0, weights=np.asarray(tokens, dtype=np.float64))
    if normalized_parts:
        parts = mean.reshape(normalized_parts, -1)
        norms = np.linalg.norm(parts, axis=1, keepdims=True)
        mean = (parts / np.maximum(norms, np.finfo(np.float64).tiny)).reshape(-1)
    return mean.astype(np.float32)
