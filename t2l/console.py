"""What commands say on the terminal."""

from __future__ import annotations

import os
import sys
from typing import NoReturn


def is_main_process() -> bool:
    """Whether this is the one process of torchrun's that speaks and writes; alone, it is."""
    return os.environ.get("RANK", "0") == "0"


def fail(message: str) -> NoReturn:
    """Prints one line on standard error and exits with code 2."""
    line = " ".join(str(message).split())
    if is_main_process():  # of several processes, which fail alike, one speaks
        print(f"t2l: error: {line}", file=sys.stderr)
    raise SystemExit(2)
