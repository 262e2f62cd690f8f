"""One task folder out of several: the short rows of their tasks, families kept, so that whole families can be held out.

python -m experiments.smollm2.collect FOLDER... --out runs/others

Reads and writes the format of `suite=folder`. Rows stay in the ranges that a task declares.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from t2l.files import FileProblemError, atomic_folder, read_json, write_json, write_text


@dataclass(frozen=True)
class Limits:
    """What of a task is taken."""

    characters: int = 320
    """longest input, output and description"""
    rows: int = 400
    """most rows of each range"""
    descriptions: int = 60
    fewest: int = 40
    """rows that must be left of a task"""


def is_short(row: Mapping[str, Any], limits: Limits) -> bool:
    """Whether a row's input and its outputs are no longer than allowed."""
    texts = [row["input"], row["output"], *row.get("references", ())]
    return all(len(text) <= limits.characters for text in texts)


def short_task(
    record: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], limits: Limits
) -> tuple[dict[str, Any], list[Mapping[str, Any]]] | None:
    """A task's record and rows within the limits; None if too little is left.

    Too little is fewer rows than `limits.fewest`, or less than half of them: what is left would be another task.
    """
    ranges = record.get("splits") or {"all": [0, len(rows)]}
    kept: list[Mapping[str, Any]] = []
    splits = {}
    for name, (start, stop) in ranges.items():
        found = [row for row in rows[start:stop] if is_short(row, limits)][: limits.rows]
        splits[name] = [len(kept), len(kept) + len(found)]
        kept += found
    texts = [t for t in record["descriptions"] if len(t) <= limits.characters][: limits.descriptions]
    short = sum(is_short(row, limits) for row in rows)
    if len(kept) < limits.fewest or 2 * short < len(rows) or not texts:
        return None
    data = {key: value for key, value in record.items() if key not in ("splits", "n", "definition")}
    data |= {"descriptions": texts, "n": len(kept)}
    return data | ({"splits": splits} if record.get("splits") else {}), kept


def read_task(folder: Path, name: str, record: Any) -> list[Mapping[str, Any]]:
    """A task's rows. Raises FileProblemError, with file and line, for what is no task."""
    texts = record.get("descriptions") if isinstance(record, dict) else None
    if not isinstance(texts, list) or not all(isinstance(t, str) for t in texts):
        raise FileProblemError(f"{folder / 'tasks.json'}: task {name!r} must be an object with a list of descriptions")
    path = folder / f"{name}.jsonl"
    rows: list[Mapping[str, Any]] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise FileProblemError(f"{path}:{number} is not valid JSON: {error.msg}") from None
        if not isinstance(row, dict) or not all(isinstance(row.get(k), str) for k in ("input", "output")):
            raise FileProblemError(f"{path}:{number} must be an object with the texts input and output")
        rows.append(row)
    return rows


def collect(folders: Sequence[Path], out: Path, limits: Limits) -> tuple[int, int]:
    """Writes the folder. Returns how many tasks it has and how many were left out.

    A name that two folders have is preceded by the folder's in the later one.

    Raises FileProblemError for a folder or file that is not there or damaged, or if no task is left.
    """
    tasks: dict[str, Any] = {}
    left_out = 0
    with atomic_folder(out) as temporary:
        for folder in folders:
            records = read_json(folder / "tasks.json")
            if not isinstance(records, dict):
                raise FileProblemError(f"{folder / 'tasks.json'} must be an object of tasks")
            for name, record in records.items():
                found = short_task(record, read_task(folder, name, record), limits)
                if found is None:
                    left_out += 1
                    continue
                own = name if name not in tasks else f"{folder.name}_{name}"
                tasks[own], rows = found
                write_text(temporary / f"{own}.jsonl", "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows))
        if not tasks:
            raise FileProblemError(f"none of the {left_out} tasks is short enough: raise --characters")
        write_json(temporary / "tasks.json", tasks)
    return len(tasks), left_out


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the folder, and says how many tasks it has; exits with 2 for folders that cannot be read."""
    parser = argparse.ArgumentParser(prog="python -m experiments.smollm2.collect")
    parser.add_argument("folders", type=Path, nargs="+", help="task folders, as of suite=folder")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--characters", type=int, default=Limits.characters, help="longest input, output, description")
    parser.add_argument("--rows", type=int, default=Limits.rows, help="most rows of a range")
    parsed = parser.parse_args(arguments)
    if parsed.characters < 1 or parsed.rows < 1:
        parser.error("--characters and --rows must be at least 1")
    try:
        count, left_out = collect(parsed.folders, parsed.out, Limits(parsed.characters, parsed.rows))
    except (FileProblemError, OSError, UnicodeDecodeError) as error:
        print(f"collect: {error}", file=sys.stderr)
        sys.exit(2)
    print(
        f"{count} tasks in {parsed.out}, {left_out} left out (longer than {parsed.characters} characters, or few rows)"
    )


if __name__ == "__main__":
    main()
