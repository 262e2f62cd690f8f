"""How far a long piece of work is: a bar on a terminal, dated lines in a file.

    with Progress("training (sft)", total=1000, unit="step") as progress:
        for _ in range(1000):
            ...
            progress.advance(loss=0.12)

With the output in a file, as on a cluster, a line tells every half minute how far the work is, the newest numbers, the
rate and the time left, also while one step takes longer than that.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

from rich.console import Console

log = logging.getLogger(__name__)
EVERY_S = 30.0
"""seconds between lines; a log file should say something at least every minute"""


def duration(seconds: float) -> str:
    """A span of time as people say it: 42 s, 7 min 05 s, 3 h 20 min."""
    whole = round(max(0.0, seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class Progress:
    """Shows how far a piece of work is, for as long as its block lasts.

    Args:
        label: what is being done.
        total: units of work in all; None if that is not known.
        unit: what one of them is called (`step`, `adapter`, `question`).
        completed: units that were done before, which no rate is computed from.
        shown: false in processes that leave the screen to the main one.
        console: where the bar goes, or lines go if it is no terminal; None for standard output.
        every_s: seconds between lines.
    """

    def __init__(
        self,
        label: str,
        total: int | None,
        unit: str = "step",
        completed: int = 0,
        shown: bool = True,
        console: Console | None = None,
        every_s: float = EVERY_S,
    ) -> None:
        self.label, self.total, self.unit, self.shown = label, total, unit, shown
        self._done = self._before = completed
        self._numbers: dict[str, Any] = {}
        self._console, self._every_s = console or Console(), every_s
        self._bar: Any = None
        self._task: Any = None
        self._stop, self._ticker = threading.Event(), threading.Thread(target=self._tick, daemon=True)
        self._began = time.perf_counter()

    def __enter__(self) -> Progress:
        self._began = time.perf_counter()
        if not self.shown:
            return self
        if self._console.is_terminal:
            self._bar = self._make_bar()
            self._bar.start()
            self._task = self._bar.add_task(self.label, total=self.total, completed=self._done, numbers="")
        else:
            self._ticker.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stop.set()
        if self._bar is not None:
            self._bar.stop()
        elif self._ticker.is_alive():
            self._ticker.join()
        if self.shown and self._bar is None and kind is None:
            self._say(self.line(is_finished=True))

    def _make_bar(self) -> Any:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        columns = (TextColumn("{task.description}"), BarColumn(bar_width=None), MofNCompleteColumn())
        return Bars(*columns, TimeRemainingColumn(), TextColumn("{task.fields[numbers]}"), console=self._console)

    def advance(self, count: int = 1, **numbers: float | None) -> None:
        """Counts units as done, and keeps numbers to show beside them until newer ones come.

        Args:
            numbers: the newest values by name, like `loss`; None leaves the name out.
        """
        self._done += count
        # A new dict, since the thread that writes lines may be reading the old one.
        self._numbers = {k: v for k, v in {**self._numbers, **numbers}.items() if v is not None}
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, numbers=self._number_text(" "))

    def _number_text(self, between: str) -> str:
        return between.join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in self._numbers.items())

    def line(self, is_finished: bool = False) -> str:
        """What a line of a log says: how far, the newest numbers, the rate, and the time left or taken."""
        elapsed = time.perf_counter() - self._began
        fresh = self._done - self._before
        rate = fresh / elapsed if elapsed > 0 else 0.0
        of = "" if self.total is None else f" of {self.total}"
        parts = [f"{self.label}: {self._done}{of} {self.unit}s"]
        if self._numbers:
            parts.append(self._number_text(", "))
        if rate > 0:
            parts.append(f"{rate:.3g} {self.unit}s/s" if rate >= 1 else f"{1 / rate:.3g} s/{self.unit}")
        if is_finished:
            parts.append(f"took {duration(elapsed)}")
        elif rate > 0 and self.total is not None:
            parts.append(f"{duration((self.total - self._done) / rate)} left")
        return ", ".join(parts)

    def _tick(self) -> None:
        while not self._stop.wait(self._every_s):
            self._say(self.line())

    def _say(self, line: str) -> None:
        """Through logging if it is set up, which dates the line and keeps it with the run; else to the console."""
        if logging.getLogger().handlers and log.isEnabledFor(logging.INFO):
            log.info(line)
        else:
            self._console.print(f"[{time.strftime('%Y-%m-%d %H:%M:%S')}] {line}", markup=False, soft_wrap=True)
