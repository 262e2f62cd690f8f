"""Runs generated Python in a process of its own: limited time and memory, an empty folder, no network."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import subprocess
import sys
import tempfile
from functools import partial

TIME_LIMIT_S = 5
MEMORY_LIMIT_BYTES = 512 * 2**20
FILE_LIMIT_BYTES = 2**20
_NEW_USER_AND_NETWORK = 0x10000000 | 0x40000000

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
    """
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
