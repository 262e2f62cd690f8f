"""AdapterLibrary: the trained LoRAs of one base model on disk, with their provenance.

A library's folder, as `t2l train_library` writes it, holds two of them beside `library.json`: `adapters/`, the
oracle adapter of each task, and `static/`, the multi-task LoRA.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from t2l.base_model import BaseModel
from t2l.base_model.files import check_fingerprint, earlier_fingerprint_hint
from t2l.files import FileProblemError, file_sha256, read_json
from t2l.lora import AdapterBatch, LoraSpec, LoraWeights
from t2l.lora.peft_folder import (
    ORACLE_FILES,
    PROVENANCE_FILE,
    WEIGHTS_FILE,
    load_adapter,
    load_provenance,
    made_by,
    save_adapter,
)
from t2l.lora.source import AdapterSource, bytes_per_adapter, stack
from t2l.tasks.manifest import Manifest

LIBRARY_RECORD = "library.json"
MULTI_TASK = "multi_task"
"""name of the multi-task LoRA"""


class AdapterLibrary:
    """A folder of PEFT adapter folders, one per task, all for one base model and one spec."""

    def __init__(self, folder: Path, spec: LoraSpec, base_path: str, base_fingerprint: str) -> None:
        self.folder, self.spec = folder, spec
        self.base_path, self.base_fingerprint = base_path, base_fingerprint
        self._content: dict[str, str] = {}

    def path(self, task: str) -> Path:
        """Where a task's adapter is, or would be."""
        return self.folder / task

    def tasks(self) -> list[str]:
        """Tasks that have an adapter, sorted."""
        return sorted(p.parent.name for p in self.folder.glob(f"[!.]*/{PROVENANCE_FILE}"))

    def folders(self) -> list[str]:
        """Every adapter folder there is, sorted, also such as lack their provenance."""
        return sorted(p.name for p in self.folder.glob("[!.]*") if p.is_dir())

    def holds(self, task: str, recipe: Mapping[str, Any]) -> bool:
        """Whether the task's adapter is there and was made by exactly this recipe on this base.

        Raises ValueError if an adapter is there that was made otherwise: nothing is overwritten.
        """
        return made_by(self.path(task), {**recipe, "base_fingerprint": self.base_fingerprint})

    def save(
        self, task: str, weights: LoraWeights, provenance: Mapping[str, Any], manifest: Manifest | None = None
    ) -> None:
        """Writes one adapter (a batch of one) and what it was trained on, whole or not at all."""
        record = {"task": task, **provenance, "base_fingerprint": self.base_fingerprint}
        rows = None if manifest is None else manifest.tensors()
        self._content.pop(task, None)
        save_adapter(self.path(task), self.spec, weights, self.base_path, record, None, rows, ORACLE_FILES)

    def provenance(self, task: str) -> dict[str, Any]:
        """How a task's adapter came to be."""
        return load_provenance(self.path(task))

    def load(self, tasks: Sequence[str]) -> LoraWeights:
        """Adapters of the given tasks as one batch, in that order.

        Raises:
            FileProblemError: a task has no adapter here, or a file is damaged.
            ValueError: an adapter is for another base model or another geometry.
        """
        return stack((self._load_one(task) for task in tasks), len(tasks))

    def check(self, tasks: Sequence[str]) -> None:
        """Raises what `load` would raise for adapters that are not there or belong to another base model."""
        for task in tasks:
            if not self.path(task).is_dir():
                raise FileProblemError(
                    f"the library {self.folder} has no adapter for task {task!r}; it has {len(self.tasks())}"
                )
            made_for = self.provenance(task).get("base_fingerprint")
            if made_for != self.base_fingerprint:
                raise ValueError(
                    f"{self.path(task)} was trained on another base model (fingerprint {str(made_for)[:12]}, "
                    f"this base has {self.base_fingerprint[:12]})"
                    f"{earlier_fingerprint_hint(str(made_for), self.base_fingerprint)}"
                )

    def _load_one(self, task: str) -> LoraWeights:
        self.check([task])
        return load_adapter(self.path(task), self.spec)

    def source(self, tasks: Sequence[str]) -> LibraryAdapters:
        """The adapters of the given tasks, read when they are asked for. Raises as `check`."""
        self.check(tasks)
        return LibraryAdapters(self, tasks)

    def content_digest(self, task: str) -> str:
        """Sha256 of a task's weights as they are on disk."""
        if task not in self._content:
            self._content[task] = file_sha256(self.path(task) / WEIGHTS_FILE)
        return self._content[task]


class LibraryAdapters(AdapterSource):
    """Adapters of a library, read from disk when they are asked for."""

    def __init__(self, library: AdapterLibrary, tasks: Sequence[str]) -> None:
        super().__init__(len(tasks), bytes_per_adapter(library.spec))
        self.library, self.tasks = library, list(tasks)

    def recipe(self) -> Mapping[str, Any]:
        """What is on disk."""
        return {"library": [self.library.content_digest(task) for task in self.tasks]}

    def make(self, indices: Sequence[int]) -> LoraWeights:
        """The adapters of these indices, in this order."""
        return self.library.load([self.tasks[i] for i in indices])


@dataclass(frozen=True)
class LibraryFolder:
    """A library folder on disk: oracle adapters and the multi-task LoRA, for one base and one spec.

    library = t2l.load_library("runs/quickstart/library")
    library.names                        # ["any_animals", ..., "multi_task"]
    library["keep_animals"]              # LoraWeights, a batch of one
    library.load(["sort", "reverse"])    # a batch of two
    library.provenance("keep_animals")   # steps, losses, seed...
    """

    adapters: AdapterLibrary
    static: AdapterLibrary

    @property
    def spec(self) -> LoraSpec:
        """Geometry of every adapter in the library."""
        return self.adapters.spec

    @property
    def names(self) -> list[str]:
        """Tasks that have an oracle adapter, sorted, and then `multi_task` if there is a multi-task LoRA."""
        return [*self.adapters.tasks(), *self.static.tasks()]

    def _holder(self, name: str) -> AdapterLibrary:
        return self.static if name in self.static.tasks() else self.adapters

    def __getitem__(self, name: str) -> AdapterBatch:
        """One adapter, as a batch of one. Raises as `load`."""
        return self.load([name])

    def load(self, names: Sequence[str]) -> AdapterBatch:
        """Adapters by name as one batch in that order, float32 on the CPU: A [batch, layers, rank, d_in] of each group of
        modules, B [batch, layers, d_out, rank], at raw scale.

        Raises:
            FileProblemError: there is no adapter of that name, or a file is damaged.
            ValueError: an adapter is for another base model or another geometry.
        """
        weights = stack((self._holder(name).load([name]) for name in names), len(names))
        return AdapterBatch(weights.A, weights.B, self.spec, self.adapters.base_fingerprint)

    def provenance(self, name: str) -> dict[str, Any]:
        """How an adapter came to be: task, steps, losses in nats per token, seed, recipe. Raises as `load`."""
        self._holder(name).check([name])
        return self._holder(name).provenance(name)

    @classmethod
    def of(cls, folder: Path, spec: LoraSpec, base: BaseModel) -> LibraryFolder:
        """The library in a folder, whether or not there is one yet."""
        path = str(Path(base.path).resolve()) if Path(base.path).is_dir() else base.path
        return cls(
            AdapterLibrary(folder / "adapters", spec, path, base.fingerprint),
            AdapterLibrary(folder / "static", spec, path, base.fingerprint),
        )

    @classmethod
    def recorded(cls, folder: Path, record: Mapping[str, Any]) -> LibraryFolder:
        """The library in a folder, for the base that its record names."""
        spec, base = LoraSpec.from_json(record["spec"]), (record["base_model"], record["base_fingerprint"])
        return cls(AdapterLibrary(folder / "adapters", spec, *base), AdapterLibrary(folder / "static", spec, *base))


def library_record(folder: Path) -> dict[str, Any]:
    """What is recorded about a library as a whole.

    Raises FileProblemError if the folder is not one of `t2l train_library`.
    """
    if not (folder / LIBRARY_RECORD).is_file():
        raise FileProblemError(f"library={folder}: not a folder of `t2l train_library` (it has no {LIBRARY_RECORD})")
    record = read_json(folder / LIBRARY_RECORD)
    if not isinstance(record, dict) or "spec" not in record:
        raise FileProblemError(f"{folder}: {LIBRARY_RECORD} describes no LoRA library (it has no spec)")
    return record


def training_tasks_in(record: Mapping[str, Any], tasks: Sequence[str], library: str | Path) -> list[str]:
    """Of these training tasks, those that a library is one of: all, unless it is recorded to be one of a sample.

    Args:
        record: of the library as a whole (`library_record`).
        library: its folder, for messages.

    Raises ValueError if it is one of none of them.
    """
    sample = record.get("sample")
    found = [t for t in tasks if sample is None or t in sample]
    if tasks and not found:
        raise ValueError(
            f"library={library} is of a sample of other training tasks than these: take the suite it was trained on"
        )
    return found


def open_library(folder: Path, base: BaseModel) -> LibraryFolder:
    """A library that `t2l train_library` made.

    Raises:
        FileProblemError: there is none.
        ValueError: it was trained on another base model.
    """
    record = library_record(folder)
    check_fingerprint(f"library={folder} was trained on", record["base_fingerprint"], base.fingerprint)
    return LibraryFolder.of(folder, LoraSpec.from_json(record["spec"]), base)


def load_library(folder: str | Path) -> LibraryFolder:
    """A library that `t2l train_library` made, for the base model that it was trained on, which is not loaded.

    Raises FileProblemError if the folder holds none.
    """
    return LibraryFolder.recorded(Path(folder), library_record(Path(folder)))
