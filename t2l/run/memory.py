"""The peak of memory while something runs: of the GPU if there is one, else of the process."""

from __future__ import annotations

import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class PeakMemory:
    """Bytes at the peak since it was made: what PyTorch holds on the GPU that holds most or, if nothing is on a GPU, what the
    process has resident.

    Where the system cannot forget an earlier peak (it is no Linux), that of the process counts from its start.
    """

    def __init__(self) -> None:
        for cuda, device in _gpus():
            cuda.reset_peak_memory_stats(device)
        with suppress(OSError):
            CLEAR.write_text("5")

    def read(self) -> int | None:
        """Bytes; None if the system does not say."""
        if on_gpu := max((int(cuda.max_memory_allocated(device)) for cuda, device in _gpus()), default=0):
            return on_gpu
        with suppress(OSError):
            if found := re.search(r"VmHWM:\s*(\d+) kB", STATUS.read_text()):
                return 1024 * int(found[1])
        with suppress(ImportError):
            import resource

            unit = 1 if sys.platform == "darwin" else 1024
            return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return None


def _gpus() -> list[tuple[Any, int]]:
    """PyTorch's CUDA and each of its devices, if something is on one; asking must not occupy a GPU that nothing runs on."""
    torch: Any = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return []
    return [(torch.cuda, device) for device in range(torch.cuda.device_count())]
