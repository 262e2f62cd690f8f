"""Runs generated Python in a process of its own: limited time and memory, an empty folder, no network.

Only if a verb's `allow_code_execution` says so; everywhere else `passes` refuses.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial, wraps
from typing import Any, TypeVar

TIME_LIMIT_S = 5
MEMORY_LIMIT_BYTES = 512 * 2**20
FILE_LIMIT_BYTES = 2**20
_NEW_USER_AND_NETWORK = 0x10000000 | 0x40000000
_allowed = False
Result = TypeVar("Result")


class CodeExecutionError(ValueError):
    """Code that a model wrote would run, and nobody has allowed it."""


def is_allowed() -> bool:
    """Whether code that a model wrote may run now."""
    return _allowed


@contextlib.contextmanager
def code_execution(allowed: bool) -> Iterator[None]:
    """Within the block, code that a model wrote may run, or may not; in this process, with all its threads."""
    global _allowed
    before, _allowed = _allowed, allowed
    try:
        yield
    finally:
        _allowed = before


def as_configured(verb: Callable[[Any], Result]) -> Callable[[Any], Result]:
    """A verb that runs generated code if its config's `allow_code_execution` says so, and not otherwise."""

    @wraps(verb)
    def run(config: Any) -> Result:
        with code_execution(config.allow_code_execution):
            return verb(config)

    return run


def check_allowed(what: str) -> None:
    """Raises CodeExecutionError unless code that a model wrote may run."""
    if not _allowed:
        raise CodeExecutionError(
            f"{what} runs the code that the model writes: allow it with allow_code_execution=true, in a sandbox, or "
            "leave it out (suite.leave_out=[TASK], or other tasks=[...])"
        )


# Where the system gives no network namespace, sockets are refused in the child before the code is compiled.
_HARNESS = """
import socket, sys
def _refused(*_a, **_k):
    raise OSError("no network here")
socket.socket = socket.create_connection = socket.getaddrinfo = _refused
import _socket
_socket.socket = _refused
source = sys.stdin.read()
exec(compile(source, "answer", "exec"), {"__name__": "answer"})
sys.stdout.write("\\n" + sys.argv[1])
"""


def _confine(time_limit_s: int) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (time_limit_s, time_limit_s))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_LIMIT_BYTES, FILE_LIMIT_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).unshare(_NEW_USER_AND_NETWORK)


def passes(code: str, assertions: str, time_limit_s: int = TIME_LIMIT_S) -> bool:
    """Whether the code runs and every assertion after it holds, within the limits.

    `time_limit_s` are seconds of processor time; code that waits is stopped after twice as many.

    The child says so with a word drawn for this run, so that code which ends early, or prints, does not pass.
    This keeps accidents in; it is no sandbox for code that means harm.

    Raises CodeExecutionError outside a block of `code_execution(True)`.
    """
    check_allowed("this metric")
    word = os.urandom(16).hex()
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = subprocess.run(
                [sys.executable, "-I", "-c", _HARNESS, word],
                input=f"{code}\n{assertions}\n",
                capture_output=True,
                text=True,
                timeout=2 * time_limit_s,
                cwd=folder,
                env={"PATH": os.defpath},
                preexec_fn=partial(_confine, time_limit_s),
                start_new_session=True,
            )
        except subprocess.TimeoutExpired:
            return False
    return done.returncode == 0 and done.stdout.endswith(word)
