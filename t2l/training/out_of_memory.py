"""An error for memory that ran out which says what to turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

OF_THE_CPU = ("can't allocate memory", "not enough memory")
"""what torch's CPU allocator says, in an error of no class of its own"""


class OutOfMemoryError(ValueError):
    """Memory ran out; the message says what needs less."""


@contextmanager
def explained(advice: Callable[[], str]) -> Iterator[None]:
    """Turns an out-of-memory error of the block into one line.

    Args:
        advice: what to do about it, asked for when it happens.

    Raises OutOfMemoryError.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
        is_plain = not isinstance(error, (MemoryError, torch.OutOfMemoryError))
        if is_plain and not any(sign in str(error) for sign in OF_THE_CPU):
            raise
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise OutOfMemoryError(f"out of memory: {advice()} ({first_line})") from error
