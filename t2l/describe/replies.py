"""Replies on disk: one JSON line each, durable as soon as it arrives, read back when a run goes on."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from t2l.files import FileProblemError


def sha256(text: str) -> str:
    """Sha256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Request:
    """What a reply answers: a round of a task, asked of a model with a prompt, a seed and settings."""

    round: int
    model: str
    prompt_sha256: str
    seed: int
    settings: dict[str, Any]

    def difference(self, other: Request) -> str | None:
        """What makes another request of the same round a different one, in words."""
        words = {
            "model": "another model",
            "prompt_sha256": "another prompt",
            "seed": "another seed",
            "settings": "other settings",
        }
        return next((what for key, what in words.items() if getattr(self, key) != getattr(other, key)), None)


@dataclass(frozen=True)
class Reply:
    """The raw text that answered a request, where from, and when (UTC)."""

    request: Request
    origin: str
    date: str
    text: str

    def line(self) -> str:
        """As a line of the file."""
        rest = {"origin": self.origin, "date": self.date, "text": self.text}
        return json.dumps({**asdict(self.request), **rest}) + "\n"

    @classmethod
    def of_line(cls, line: bytes) -> Reply | None:
        """The reply of a line; None if the line is none."""
        try:
            row = json.loads(line)
            request = Request(int(row["round"]), row["model"], row["prompt_sha256"], row["seed"], row["settings"])
            return cls(request, row["origin"], row["date"], row["text"])
        except (ValueError, KeyError, TypeError):
            return None


class ReplyFile:
    """The replies of one task by round, and the file that they are in. Threads may add replies at once."""

    def __init__(self, path: Path) -> None:
        """Reads what there is; a last line that was torn by a kill is dropped.

        Raises FileProblemError for another line that is no reply, or two replies of one round.
        """
        self.path = path
        self._lock = threading.Lock()
        self.by_round: dict[int, Reply] = {}
        for number, line in enumerate(self._mended(), start=1):
            reply = Reply.of_line(line)
            if reply is None:
                raise FileProblemError(f"{path}:{number} is not a reply of `t2l describe`: remove that line")
            if reply.request.round in self.by_round:
                raise FileProblemError(f"{path}:{number} is a second reply of round {reply.request.round}: remove it")
            self.by_round[reply.request.round] = reply

    def _mended(self) -> list[bytes]:
        """The file's whole lines; after this call the file ends with the last of them."""
        content = self.path.read_bytes() if self.path.is_file() else b""
        lines = content.splitlines(keepends=True)
        if lines and Reply.of_line(lines[-1]) is None:
            os.truncate(self.path, len(content) - len(lines[-1]))
            lines.pop()
        elif lines and not lines[-1].endswith(b"\n"):
            self._append(b"\n")
        return lines

    def _append(self, data: bytes) -> None:
        with self.path.open("ab") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())

    def add(self, reply: Reply) -> None:
        """Appends a reply; it is on the disk when this returns.

        Raises ValueError for a round that has one.
        """
        with self._lock:
            if reply.request.round in self.by_round:
                raise ValueError(f"{self.path} has a reply of round {reply.request.round} already")
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._mended()  # a write that failed (a full disk) may have left half a line
            self._append(reply.line().encode())
            self.by_round[reply.request.round] = reply

    def check(self, request: Request) -> None:
        """Raises ValueError if the round's reply is there and answers another request than this."""
        there = self.by_round.get(request.round)
        if there is not None and (what := there.request.difference(request)):
            raise ValueError(
                f"{self.path} holds replies to {what} than this command has (round {request.round}): "
                "choose another run_dir, or the settings and suite that it was made with"
            )
