"""The peak of memory while something runs: of the GPU if there is one, else of the process."""

from __future__ import annotations

import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class PeakMemory:
    """Bytes at the peak since it was made: what PyTorch holds on the current GPU, or what the process has resident.

    Where the system cannot forget an earlier peak (it is no Linux), that of the process counts from its start.
    """

    def __init__(self) -> None:
        torch: Any = sys.modules.get("torch")
        self._cuda = torch.cuda if torch is not None and torch.cuda.is_available() else None
        if self._cuda is not None:
            self._cuda.reset_peak_memory_stats()
        else:
            with suppress(OSError):
                CLEAR.write_text("5")

    def read(self) -> int | None:
        """Bytes; None if the system does not say."""
        if self._cuda is not None:
            return int(self._cuda.max_memory_allocated())
        with suppress(OSError):
            if found := re.search(r"VmHWM:\s*(\d+) kB", STATUS.read_text()):
                return 1024 * int(found[1])
        with suppress(ImportError):
            import resource

            unit = 1 if sys.platform == "darwin" else 1024
            return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return None
