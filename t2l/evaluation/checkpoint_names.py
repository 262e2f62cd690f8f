"""Which checkpoints on a board are training seeds of one recipe, and what each recipe is called there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from t2l.files import read_json
from t2l.hypernetwork.checkpoint import CheckpointRecord
from t2l.run.continuation import MEMORY_AND_PACE, WHERE, without

NOT_THE_RECIPE = (
    *WHERE, *MEMORY_AND_PACE, "seed", "library", "init_from", "base_model.path", "base_model.gguf_file", "encoder.path",
)  # fmt: skip
"""settings of a run in which seeds of one recipe may differ; what was loaded is told by fingerprint and identity, wherever
it was"""


def _settings_of(checkpoint: Path) -> Mapping[str, Any] | None:
    """What the run of a checkpoint folder was trained with, less what may differ; None if the run does not say."""
    run = checkpoint.parent.parent / "run.json"
    if checkpoint.parent.name != "checkpoints" or not run.is_file():
        return None
    return without(read_json(run)["config"], NOT_THE_RECIPE)


def _without_seed(trained_on: Mapping[str, Any]) -> dict[str, Any]:
    """What was trained on, and of a checkpoint that a run started from its objective and the same.

    Seeds of one recipe may each have learnt a library of its own.
    """
    kept = {key: value for key, value in trained_on.items() if key not in ("seed", "library_sha256")}
    if "unchecked" in kept:  # the path of a library
        kept["unchecked"] = True
    if kept.get("init_from"):
        origin = kept["init_from"]
        kept["init_from"] = {"objective": origin["objective"], "trained_on": _without_seed(origin["trained_on"])}
    return kept


def recipe_of(record: CheckpointRecord, checkpoint: Path) -> dict[str, Any]:
    """What checkpoints that differ in their training seed alone have in common: the record, and the run's settings.

    The step counts, unless validation chose it: seeds are best at different steps.
    """
    kept = {key: value for key, value in record.to_json().items() if key != "encoder"}  # its identity says which
    chosen = record.selection
    if chosen is not None and chosen.best_step == record.step:
        kept["step"] = "best"
    kept["selection"] = None if chosen is None else {"by": chosen.by, "on": chosen.on}
    return {**kept, "trained_on": _without_seed(record.trained_on), "settings": _settings_of(checkpoint)}


def recipe_names(checkpoints: Sequence[tuple[CheckpointRecord, Path]]) -> list[str]:
    """A name for each checkpoint (its record, its folder): the objective, the same for seeds of one recipe.

    Another recipe of the same objective, or the same seed again, gets a number.
    """
    taken: dict[str, tuple[dict[str, Any], set[int]]] = {}
    names = []
    for record, folder in checkpoints:
        recipe, seed, number = recipe_of(record, folder), int(record.trained_on.get("seed", 0)), 1
        while True:
            name = record.objective if number == 1 else f"{record.objective}_{number}"
            known, seeds = taken.setdefault(name, (recipe, set()))
            if known == recipe and seed not in seeds:
                break
            number += 1
        seeds.add(seed)
        names.append(name)
    return names
