"""The folder of a command that names none: dated, short, and found again by the same command.

    runs/train/2026-11-25_170405_mini_sft_seed1/                          one run
    runs/train/2026-11-25_170405_sweep_hypernetwork_seed/0_hypernetwork-l_seed1/    a job of a sweep

The command is recorded inside, in `command.json`, with a digest of verb and overrides in any order. The same command
finds its folder by that digest, so it goes on there instead of starting anew.
"""

from __future__ import annotations

import datetime
import hashlib
import itertools
import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from t2l.files import FileProblemError, read_json, write_json

COMMAND, LOCK = "command.json", ".t2l.lock"
LONGEST_NAME, LONGEST_WORD = 60, 24
_WAY = re.compile(r"(?<=[=\[,])(?:~|\.{1,2}|)/(?:[^/,=\[\]]+/)*(?=[^/,\]])")
"""the folders before the last name of a path, in an override; a hub id has none"""
FOLDERS = ("checkpoints", "library", "report", "method_libraries")
"""keys whose values are folders, however they are written"""
_WAY_OF_FOLDERS = re.compile(r"(?<=[=\[,])[^,=\[\]]*/(?=[^/,\]])")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")


@dataclass(frozen=True)
class RunFolder:
    """A default folder, and whether an earlier start of the same command made it."""

    path: Path
    is_taken_up: bool


def _key_and_value(override: str) -> tuple[str, str]:
    key, _, value = override.partition("=")
    return key.lstrip("+~").split("@")[-1].split(".")[-1].split("/")[-1], value.strip("'\"")


def word_of(override: str) -> str:
    """An override as a few characters of [A-Za-z0-9_.-]: seed1, hypernetwork-l, mini_sft (of experiment=mini_sft)."""
    key, value = _key_and_value(override)
    if value[:1] in "[{" or "," in value:
        value = ""  # a list or a sweep: the key says what it is about
    value = re.sub(r"[^A-Za-z0-9_.-]+", "-", Path(value).name if "/" in value else value).strip("-.")
    if key == "experiment" and value:
        word = value
    else:
        joint = "" if not value or _NUMBER.fullmatch(value) else "-"
        word = re.sub(r"[^A-Za-z0-9_.-]+", "-", f"{key}{joint}{value}")
    return word[:LONGEST_WORD].rstrip("-_.")


def words_of(overrides: Sequence[str], room: int) -> str:
    """As many of the overrides' words as fit into `room` characters: the experiment first, then what is swept.

    `default` if there are none.
    """
    ordered = sorted(overrides, key=lambda o: (_key_and_value(o)[0] != "experiment", "," not in o or "=[" in o))
    text = ""
    for word in filter(None, map(word_of, ordered)):
        longer = f"{text}_{word}" if text else word
        if len(longer) > room:
            break
        text = longer
    return text or "default"


def job_name(number: int, swept: Sequence[str]) -> str:
    """Name of a sweep's job from the overrides in which it differs from the other jobs."""
    return f"{number}_{words_of(swept, LONGEST_NAME - len(f'{number}_'))}"


def identity(verb: str, overrides: Sequence[str], is_sweep: bool) -> str:
    """Sha256 of a command: verb and overrides in any order, of one key the last."""
    last = dict(o.partition("=")[::2] for o in overrides)
    text = json.dumps([verb, is_sweep, sorted(last.items())])
    return hashlib.sha256(text.encode()).hexdigest()


def default_folder(parent: Path, verb: str, overrides: Sequence[str], is_sweep: bool = False) -> RunFolder:
    """The folder that the same command made in `parent` before, the newest of several, else a new one.

    Commands that start at the same moment agree: looking and making are one step, under a lock.
    """
    from filelock import FileLock

    parent.mkdir(parents=True, exist_ok=True)
    wanted = identity(verb, overrides, is_sweep)
    with FileLock(parent / LOCK):
        earlier = [p.parent for p in parent.glob(f"[!.]*/{COMMAND}") if _identity_in(p) == wanted]
        if earlier:
            return RunFolder(max(earlier), True)
        now = datetime.datetime.now().astimezone()
        folder = _free_name(parent, f"{now:%Y-%m-%d_%H%M%S}{'_sweep' if is_sweep else ''}", overrides)
        about = {"verb": verb, "overrides": list(overrides), "is_sweep": is_sweep}
        write_json(folder / COMMAND, {**about, "begun": now.isoformat("T", "seconds"), "identity": wanted})
    return RunFolder(folder, False)


def _identity_in(record: Path) -> str | None:
    try:
        found = read_json(record)
    except FileProblemError:
        return None
    return found.get("identity") if isinstance(found, dict) else None


def _free_name(parent: Path, start: str, overrides: Sequence[str]) -> Path:
    name = f"{start}_{words_of(overrides, LONGEST_NAME - len(start) - 1)}"
    names = itertools.chain([name], (f"{name}_{number}" for number in itertools.count(2)))
    return next(parent / n for n in names if not (parent / n).exists())


def command_of(folder: Path, verb: str) -> str | None:
    """The command that a run was started with, to print for others; None if it is not recorded.

    Without the run's own folder, and of other folders the last name alone: how this machine lays them out says nothing.
    """
    made: Any = read_json(folder / "run.json") if (folder / "run.json").is_file() else {}
    typed = made.get("typed", typed_in(folder))
    if typed is None:
        return None
    told = [
        (_WAY_OF_FOLDERS if key in FOLDERS else _WAY).sub("", word)
        for word in typed
        if (key := word.partition("=")[0]) != "run_dir"
    ]
    return shlex.join(["t2l", verb, *told])


def whole_command(folder: Path) -> str | None:
    """The last command that was started in a folder, as it was typed; None if Hydra noted none."""
    typed, record = typed_in(folder), folder / ".hydra/hydra.yaml"
    if typed is None or not record.is_file():
        return None
    made: Any = yaml.safe_load(record.read_text(encoding="utf-8"))
    return shlex.join(["t2l", str(made["hydra"]["job"]["config_name"]), *typed])


def typed_in(folder: Path) -> list[str] | None:
    """The overrides of the last command that was started in a folder, as Hydra notes them; None if it noted none.

    It may have been refused: a run's own are in its `run.json`.
    """
    record = folder / ".hydra/overrides.yaml"
    if not record.is_file():
        return None
    return [str(word) for word in yaml.safe_load(record.read_text(encoding="utf-8")) or []]


def overrides_of(folder: Path) -> list[str] | None:
    """The overrides recorded in a default folder; None if there is no such record."""
    record: Any = read_json(folder / COMMAND) if (folder / COMMAND).is_file() else {}
    return record.get("overrides")
