"""What commands say on the terminal."""

from __future__ import annotations

import os
import re
import sys
import textwrap
from collections.abc import Sequence
from typing import Any, NoReturn


def is_main_process() -> bool:
    """Whether this is the one process of torchrun's that speaks and writes; alone, it is."""
    return os.environ.get("RANK", "0") == "0"


def is_single_process() -> bool:
    """Whether torchrun started this process alone, or did not start it."""
    return int(os.environ.get("WORLD_SIZE", "1")) == 1


def fail(message: str) -> NoReturn:
    """Prints one line on standard error and exits with code 2."""
    line = " ".join(str(message).split())
    if is_main_process():  # of several processes, which fail alike, one speaks
        print(f"t2l: error: {line}", file=sys.stderr)
    raise SystemExit(2)


WIDTH = 80
"""characters of a line of every table, on a terminal or in a file"""


def broken_name(name: str, width: int) -> list[str]:
    """A name in lines of at most `width` characters, broken at a space or before a bracket, else after an underscore."""
    lines = [""]
    for part in re.findall(r"\[?[^\[ ]+ ?", name):
        for word in [part] if len(part.rstrip()) < width else re.findall(r"[^_]*_|[^_]+", part):
            if lines[-1].strip() and len((lines[-1] + word).rstrip()) > width:
                lines.append(" ")
            lines[-1] += word
            while len(lines[-1].rstrip()) > width:
                lines[-1:] = [lines[-1][:width], f" {lines[-1][width:]}"]
    return [line.rstrip() for line in lines]


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]], title: str | None = None) -> None:
    """Prints a table that no terminal of 80 columns cuts: numbers stay whole, long words break where a line ends.

    A table that has too many columns of numbers for a line is printed in parts, each with the first column.
    """
    from rich.console import Console

    console = Console()
    room = max(WIDTH, console.width) if console.is_terminal else WIDTH
    for number, part in enumerate(_parts(header, rows, room)):
        console.print(_table(header, rows, part, title if not number else None, room), width=room)


def print_wrapped(line: str, indent: int = 2) -> None:
    """Prints a line in as many as it needs; those after the first are indented. Long words, such as paths, stay whole."""
    after = " " * indent
    print(textwrap.fill(line, WIDTH, subsequent_indent=after, break_long_words=False, break_on_hyphens=False))


def _is_number(text: str) -> bool:
    words = [word.strip("[],").lstrip("+-") for word in text.split()]
    return all(re.fullmatch(r"[\d.]+(e[+-]?\d+)?|±|", word) for word in words)


def _needs(header: Sequence[str], rows: Sequence[Sequence[str]], i: int) -> int:
    """Characters that a column cannot do without: whole numbers, the longest word of a text up to 16."""
    cells = [row[i] for row in rows]
    words = [w for text in (header[i], *cells) for w in text.split()]
    longest = max(map(len, words), default=1)
    numbers = max((len(c) for c in cells), default=0) if all(map(_is_number, cells)) else 0
    return max(min(longest, 16), numbers) + 3


def _parts(header: Sequence[str], rows: Sequence[Sequence[str]], room: int) -> list[list[int]]:
    widths = [_needs(header, rows, i) for i in range(len(header))]
    parts, used = [[0]], widths[0] + 1
    for i in range(1, len(header)):
        if len(parts[-1]) > 1 and used + widths[i] > room:
            parts.append([0])
            used = widths[0] + 1
        parts[-1].append(i)
        used += widths[i]
    return parts


def _table(
    header: Sequence[str], rows: Sequence[Sequence[str]], columns: Sequence[int], title: str | None, room: int
) -> Any:
    """Columns of numbers get what they need if there is no room for all; rich shares out the rest, and cuts what is over."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title)
    wanted = 1 + sum(3 + max(len(text) for text in (header[i], *(row[i] for row in rows))) for i in columns)
    for i in columns:
        is_number = all(_is_number(row[i]) for row in rows)
        width = _needs(header, rows, i) - 3 if is_number and wanted > room else None
        table.add_column(Text(header[i]), overflow="fold", width=width, justify="right" if is_number else "left")
    for row in rows:
        table.add_row(*(Text(row[i]) for i in columns))
    return table
