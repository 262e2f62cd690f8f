"""What each contender of a report is: what was trained, by which recipe, under which seed.

Two reports are compared by this, not by names and places: `generated_sft` is whatever checkpoint was given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from t2l.evaluation.checkpoint_names import recipe_of
from t2l.hypernetwork.checkpoint import CheckpointRecord
from t2l.library import AdapterLibrary
from t2l.lora.source import digest_of
from t2l.methods.folder import MethodLibrary

RECIPE = ("data_sha256", "seed", "training", "tasks")
"""of an adapter's provenance: what was trained on, and how"""


def identity(
    what: Mapping[str, Any], about: str, seed: int | None = None, weights: str | None = None
) -> dict[str, Any]:
    """One run of a contender, as a report records it.

    Args:
        what: everything that decides it but the training seed.
        about: the same in a few words, for people.
        weights: sha256 of the trained parameters, if they are few.
    """
    return {"what": digest_of(what), "seed": seed, "weights": weights, "about": about}


def of_checkpoint(
    record: CheckpointRecord, folder: Path, weights: str, role: str, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """A contender made from a checkpoint.

    Args:
        role: what is done with it (a condition, refinement).
        settings: of that.
    """
    what = {"role": role, "recipe": recipe_of(record, folder), "settings": dict(settings)}
    about = f"{record.objective}, step {record.step}, of {folder}"
    return identity(what, about, int(record.trained_on.get("seed", 0)), weights)


def library_recipe(library: AdapterLibrary, tasks: Sequence[str]) -> dict[str, Any]:
    """What the adapters of these tasks were trained on, and how; tasks that are not there are left out."""
    return {"base": library.base_fingerprint, "spec": library.spec.to_json(), "trained": _trained(library, tasks)}


def method_recipe(library: MethodLibrary, tasks: Sequence[str]) -> dict[str, Any]:
    """Likewise, of another method than LoRA."""
    method = {"method": library.method.name, "settings": library.method.settings()}
    return {"base": library.base_fingerprint, **method, "trained": _trained(library, tasks)}


def _trained(library: AdapterLibrary | MethodLibrary, tasks: Sequence[str]) -> str:
    found = {task: library.provenance(task) for task in tasks if library.path(task).is_dir()}
    return digest_of({task: {k: p.get(k) for k in RECIPE} for task, p in found.items()})
