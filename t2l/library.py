"""AdapterLibrary: the trained LoRAs of one base model on disk, with their provenance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from t2l.adapter_io import PROVENANCE_FILE, load_adapter, load_provenance, save_adapter
from t2l.files import FileProblemError
from t2l.lora import LoraSpec, LoraWeights, concatenate


class AdapterLibrary:
    """A folder of PEFT adapter folders, one per task, all for one base model and one spec."""

    def __init__(self, folder: Path, spec: LoraSpec, base_path: str, base_fingerprint: str) -> None:
        self.folder, self.spec = folder, spec
        self.base_path, self.base_fingerprint = base_path, base_fingerprint

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

        Raises ValueError where an adapter is there that was made otherwise: nothing is overwritten.
        """
        if not (self.path(task) / PROVENANCE_FILE).is_file():
            return False
        found = load_provenance(self.path(task))
        wanted = {**recipe, "base_fingerprint": self.base_fingerprint}
        for key, value in wanted.items():
            if found.get(key) != value:
                raise ValueError(
                    f"{self.path(task)} was made with {key}={found.get(key)!r}, now it is {value!r}: "
                    "choose another library folder, or remove this one"
                )
        return True

    def save(self, task: str, weights: LoraWeights, provenance: Mapping[str, Any]) -> None:
        """Writes one adapter (a batch of one), whole or not at all."""
        record = {"task": task, **provenance, "base_fingerprint": self.base_fingerprint}
        save_adapter(self.path(task), self.spec, weights, self.base_path, record)

    def provenance(self, task: str) -> dict[str, Any]:
        """How a task's adapter came to be."""
        return load_provenance(self.path(task))

    def load(self, tasks: Sequence[str]) -> LoraWeights:
        """Adapters of the given tasks as one batch, in that order.

        Raises:
            FileProblemError: a task has no adapter here, or a file is damaged.
            ValueError: an adapter is for another base model or another geometry.
        """
        loaded = []
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
                )
            loaded.append(load_adapter(self.path(task), self.spec))
        return concatenate(loaded)
