"""A bar on a terminal; in a file, dated lines that come even while nothing advances."""

from __future__ import annotations

import io
import logging
import re
import time

import pytest
from rich.console import Console

from t2l.run.progress import Progress, duration

DATED = re.compile(r"^\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\] ")


@pytest.fixture
def no_handlers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("t2l.run.progress"), "disabled", True)


def lines_of(stream: io.StringIO) -> list[str]:
    return stream.getvalue().splitlines()


@pytest.mark.usefixtures("no_handlers")
def test_a_file_gets_dated_lines_with_numbers_rate_and_time_left() -> None:
    stream = io.StringIO()
    with Progress("training", 4, console=Console(file=stream, width=20), every_s=0.02) as progress:
        progress.advance(2, loss=0.12345, validation_loss=None)
        deadline = time.monotonic() + 10
        while len(lines_of(stream)) < 2 and time.monotonic() < deadline:  # no unit is finished meanwhile
            time.sleep(0.01)
        progress.advance(2, loss=0.1)
    lines = lines_of(stream)
    assert len(lines) >= 3
    assert all(DATED.match(line) for line in lines)
    assert re.search(r"training: 2 of 4 steps, loss 0\.1234?5?, .*left$", lines[0])
    assert "training: 4 of 4 steps, loss 0.1," in lines[-1]
    assert re.search(r"took \d+ s$", lines[-1])


@pytest.mark.usefixtures("no_handlers")
def test_what_was_done_before_counts_but_makes_no_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    stream, now = io.StringIO(), [50.0]
    monkeypatch.setattr("t2l.run.progress.time.perf_counter", lambda: now[0])
    with Progress("training", 1000, completed=900, console=Console(file=stream), every_s=60) as progress:
        assert progress.line() == "training: 900 of 1000 steps"
        now[0] += 20
        progress.advance(100)
    assert lines_of(stream)[-1].endswith("training: 1000 of 1000 steps, 5 steps/s, took 20 s")


def test_lines_go_through_logging_if_it_is_set_up(caplog: pytest.LogCaptureFixture) -> None:
    stream = io.StringIO()
    with caplog.at_level(logging.INFO), Progress("scoring", 2, "question", console=Console(file=stream)) as progress:
        progress.advance(2)
    assert [r.getMessage() for r in caplog.records if "scoring: 2 of 2 questions" in r.getMessage()]
    assert stream.getvalue() == ""


@pytest.mark.usefixtures("no_handlers")
def test_a_terminal_gets_a_bar_and_other_processes_say_nothing() -> None:
    stream = io.StringIO()
    with Progress("training", 3, console=Console(file=stream, force_terminal=True, width=80)) as progress:
        progress.advance(3, loss=0.5)
    assert "training" in stream.getvalue()
    assert "3/3" in stream.getvalue()
    assert not DATED.search(stream.getvalue())
    silent = io.StringIO()
    with Progress("training", 3, shown=False, console=Console(file=silent), every_s=0.01) as progress:
        progress.advance(3)
    assert silent.getvalue() == ""


@pytest.mark.usefixtures("no_handlers")
def test_a_failure_ends_the_lines_without_a_closing_one() -> None:
    stream = io.StringIO()
    progress = Progress("training", 3, console=Console(file=stream), every_s=60)

    def fail() -> None:
        with progress:
            progress.advance()
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        fail()
    assert stream.getvalue() == ""


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0 s"), (59, "59 s"), (60, "1 min 00 s"), (425, "7 min 05 s"), (12000, "3 h 20 min")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
