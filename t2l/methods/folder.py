"""MethodLibrary: what one method learned for many tasks, on disk, with provenance and costs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from t2l.base_model import BaseModel
from t2l.base_model.files import check_fingerprint
from t2l.files import FileProblemError, atomic_folder, file_sha256, read_json, write_json, write_tensors
from t2l.lora.peft_folder import PROVENANCE_FILE, TRAINING_DATA_FILE, load_provenance, made_by
from t2l.methods import Attached, Method, from_settings
from t2l.tasks.manifest import Manifest

RECORD_FILE = "method.json"


class MethodLibrary:
    """A folder with `method.json` and, in `adapters/`, one saved folder per task, all of one method on one base."""

    def __init__(self, folder: Path, method: Method[Any], base_fingerprint: str) -> None:
        self.folder, self.method, self.base_fingerprint = folder, method, base_fingerprint
        self._content: dict[str, str] = {}

    @classmethod
    def open(cls, folder: Path) -> MethodLibrary:
        """A library on disk.

        Raises:
            FileProblemError: there is none.
            ValueError: of a method, or with settings, that this version does not know.
        """
        if not (folder / RECORD_FILE).is_file():
            raise FileProblemError(
                f"{folder} is not a folder of `t2l train_library method=...` (it has no {RECORD_FILE})"
            )
        record = read_json(folder / RECORD_FILE)
        if not isinstance(record, dict) or not {"method", "settings", "base_fingerprint"} <= record.keys():
            raise FileProblemError(f"{folder / RECORD_FILE} is no record of `t2l train_library method=...`")
        return cls(folder, from_settings(record["method"], record["settings"]), record["base_fingerprint"])

    def path(self, task: str) -> Path:
        """Where a task's folder is, or would be."""
        return self.folder / "adapters" / task

    def tasks(self) -> list[str]:
        """Tasks that are there, sorted."""
        return sorted(p.parent.name for p in self.folder.glob(f"adapters/[!.]*/{PROVENANCE_FILE}"))

    def check_base(self, base: BaseModel) -> None:
        """Raises ValueError unless the library was trained on this base."""
        check_fingerprint(f"{self.folder} was trained on", self.base_fingerprint, base.fingerprint)

    def record(self) -> dict[str, Any]:
        """What is recorded about the library as a whole."""
        return read_json(self.folder / RECORD_FILE)

    def write_record(self, entries: Mapping[str, Any]) -> None:
        """Records the method, its settings and the base, with more entries."""
        mine = {"method": self.method.name, "settings": self.method.settings()}
        write_json(self.folder / RECORD_FILE, {**mine, "base_fingerprint": self.base_fingerprint, **entries})

    def recipe(self, data_sha256: str, seed: int) -> dict[str, Any]:
        """Everything that decides what a task's folder holds."""
        return {
            "method": self.method.name,
            "settings": self.method.settings(),
            "data_sha256": data_sha256,
            "seed": seed,
            "base_fingerprint": self.base_fingerprint,
        }

    def holds(self, task: str, recipe: Mapping[str, Any]) -> bool:
        """Whether the task is there and was made by exactly this recipe.

        Raises ValueError if it was made otherwise: nothing is overwritten.
        """
        return made_by(self.path(task), recipe)

    def save(
        self, task: str, attached: Attached, provenance: Mapping[str, Any], manifest: Manifest | None = None
    ) -> dict[str, Any]:
        """Writes one task's folder, whole or not at all, and returns its provenance with its size."""
        with atomic_folder(self.path(task)) as temporary:
            self.method.save(attached, temporary)
            size = (temporary / self.method.weights_file).stat().st_size
            record = {"task": task, **provenance, "adapter_bytes": size}
            write_json(temporary / PROVENANCE_FILE, record)
            if manifest is not None:
                write_tensors(temporary / TRAINING_DATA_FILE, manifest.tensors())
        return record

    def provenance(self, task: str) -> dict[str, Any]:
        """How a task's folder came to be, and what it cost. Raises FileProblemError if there is none."""
        if not self.path(task).is_dir():
            raise FileProblemError(f"{self.folder} has nothing for task {task!r}; it has {len(self.tasks())} tasks")
        return load_provenance(self.path(task))

    def content_digest(self, task: str) -> str:
        """Sha256 of the method, its settings, and a task's weights as they are on disk."""
        if task not in self._content:
            weights = file_sha256(self.path(task) / self.method.weights_file)
            settings = json.dumps(self.method.settings(), sort_keys=True, default=str)
            self._content[task] = hashlib.sha256(f"{self.method.name} {settings} {weights}".encode()).hexdigest()
        return self._content[task]

    @contextmanager
    def restore(self, base: BaseModel, task: str) -> Iterator[BaseModel]:
        """The base model with what was learned for a task attached.

        Raises:
            FileProblemError: there is nothing for the task, or a file is damaged.
            ValueError: it is for another base model or geometry.
        """
        self.check_base(base)
        self.provenance(task)
        with self.method.restore(base, self.path(task)) as attached:
            yield replace(base, model=attached.model)
