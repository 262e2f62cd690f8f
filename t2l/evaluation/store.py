"""What an evaluation has answered so far, on disk: the same command goes on from there, to the same report.

A run folder holds `evaluation.json`, what the evaluation is, and under `cells/CONTENDER/` a file for each split and
training seed: `SPLIT.KEY.json` when it is finished, until then `SPLIT.KEY.batches.jsonl`, to which every batch is added
as it is answered. The key is a hash of everything that decides the answers, so that nothing is taken for what it is not.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping
from glob import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from t2l.files import FileProblemError, read_json, write_json, write_text
from t2l.lora.source import digest_of
from t2l.run.record import environment, environments

log = logging.getLogger(__name__)
EVALUATION_FILE = "evaluation.json"
CELLS = "cells"


class Batches:
    """Results of the batches of one cell, each kept as soon as it is there (`scoring.Remember`)."""

    def __init__(self, path: Path | None = None) -> None:
        """Reads what is there; a line that a killed process left half is dropped."""
        self._path, self._there = path, dict[str, tuple[list[Any], float]]()
        self.kept_time_s = 0.0
        """seconds that the batches taken from before took"""
        if path is None or not path.is_file():
            return
        lines = path.read_text().splitlines(keepends=True)
        whole = [line for line in lines if _is_record(line)]
        if whole != lines:
            write_text(path, "".join(whole))
        for line in map(json.loads, whole):
            self._there[line["batch"]] = (line["results"], line["time_s"])

    def __call__(self, batch: str, results: Callable[[], list[Any]]) -> list[Any]:
        """A batch's results, from before or computed now."""
        if batch in self._there:
            found, time_s = self._there[batch]
            self.kept_time_s += time_s
            return found
        began = time.perf_counter()
        found = results()
        if self._path is not None:
            record = {"batch": batch, "results": found, "time_s": time.perf_counter() - began}
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a") as stream:
                stream.write(json.dumps(record) + "\n")
                stream.flush()
                os.fsync(stream.fileno())
        return found

    def within(self, part: str) -> Callable[[str, Callable[[], list[Any]]], list[Any]]:
        """The batches of a part of the cell (its questions under one group of adapters)."""
        return lambda batch, results: self(f"{part} {batch}", results)


def _is_record(line: str) -> bool:
    if not line.endswith("\n"):
        return False
    try:
        return {"batch", "results", "time_s"} <= set(json.loads(line))
    except (json.JSONDecodeError, TypeError):
        return False


class CellStore:
    """The finished and unfinished cells of an evaluation."""

    def __init__(self, folder: Path) -> None:
        """`folder` is the evaluation's run folder."""
        self.folder = folder / CELLS
        self.reused = self.written = 0

    def _path(self, contender: str, split: str, recipe: Mapping[str, Any], kind: str) -> Path:
        name = f"{quote(split, safe='')}.{digest_of(recipe)[:24]}.{kind}"
        return self.folder / quote(contender, safe="") / name

    def finished(self) -> int:
        """Number of finished cells that are there."""
        return sum(1 for _ in self.folder.glob("*/*.json"))

    def read(self, contender: str, split: str, recipe: Mapping[str, Any]) -> dict[str, Any] | None:
        """The record of a finished cell; None if it is not there.

        It may have been finished under another name: what a checkpoint is called depends on the others of its board.

        Raises FileProblemError if it is damaged.
        """
        own = self._path(contender, split, recipe, "json")
        path = next((p for p in (own, *sorted(self.folder.glob(f"*/{escape(own.name)}"))) if p.is_file()), None)
        if path is None:
            return None
        found = read_json(path)
        if found["recipe"] != json.loads(json.dumps(recipe)):
            raise FileProblemError(f"{path} holds another cell than its name says: remove it")
        self.reused += 1
        return found

    def write(self, contender: str, split: str, recipe: Mapping[str, Any], record: Mapping[str, Any]) -> None:
        """Writes a finished cell, and removes what was kept while it was not."""
        whole = {"contender": contender, "split": split, "recipe": recipe, **record}
        write_json(self._path(contender, split, recipe, "json"), whole)
        self._path(contender, split, recipe, "batches.jsonl").unlink(missing_ok=True)
        shutil.rmtree(self.adapters_folder(contender, split, recipe), ignore_errors=True)
        self.written += 1

    def batches(self, contender: str, split: str, recipe: Mapping[str, Any]) -> Batches:
        """The batches of an unfinished cell."""
        return Batches(self._path(contender, split, recipe, "batches.jsonl"))

    def adapters_folder(self, contender: str, split: str, recipe: Mapping[str, Any]) -> Path:
        """Where adapters that were trained or searched for a cell lie until it is finished."""
        return self._path(contender, split, recipe, "adapters")


class Ledger:
    """What an evaluation is, and who worked on it: `evaluation.json` of its run folder."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        """Opens the folder of an evaluation; writes nothing.

        Args:
            settings: everything that decides what is scored and how, as JSON-able data.

        Raises ValueError if the folder holds an evaluation with other settings.
        """
        self._path, self._settings = folder / EVALUATION_FILE, json.loads(json.dumps(settings, default=str))
        self._before = read_json(self._path) if self._path.is_file() else {}
        self._refuse("configuration", self._before.get("settings", self._settings), self._settings)

    def start(self, contents: Mapping[str, str]) -> None:
        """Records that the evaluation begins or goes on.

        Args:
            contents: hashes of what was loaded (base model, suite).

        Raises ValueError if they are not what the folder's cells were answered with.
        """
        self._refuse("data", self._before.get("contents", contents), contents)
        known = environments(self._path)
        now = environment().get("code")
        others = {str(e.get("code", {}).get("commit", "?"))[:12] for e in known if e.get("code") != now}
        if others:
            log.warning(
                "%s holds cells scored by other code (commit %s), which are reused: choose another run_dir to score them "
                "with this code", self._path.parent, ", ".join(sorted(others)),
            )  # fmt: skip
        write_json(self._path, {"settings": self._settings, "contents": contents, "environments": known})

    def _refuse(self, what: str, found: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        different = sorted(k for k in {*found, *now} if found.get(k) != now.get(k))
        if different:
            raise ValueError(
                f"{self._path.parent} holds an evaluation with another {what} (different: {', '.join(different)}): "
                "choose another run_dir, or remove that folder"
            )
