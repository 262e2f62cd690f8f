"""Which checkpoints on a board are training seeds of one recipe, and what each recipe is called there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from t2l.files import read_json
from t2l.hypernetwork.checkpoint import CheckpointRecord
from t2l.lora.source import digest_of
from t2l.run.continuation import CHOICE, MEMORY_AND_PACE, SINCE, WHERE, flat, short_keys, without

NOT_THE_RECIPE = (
    *WHERE, *MEMORY_AND_PACE, "seed", "library", "init_from", "base_model.path", "base_model.gguf_file", "encoder.path",
)  # fmt: skip
"""settings of a run in which seeds of one recipe may differ; what was loaded is told by fingerprint and identity, wherever
it was"""
SELECTING = (
    *CHOICE, "trainer.validate_score", "trainer.validation_tasks", "trainer.validation_rows", "trainer.select_by",
)  # fmt: skip
"""settings that decide which step is kept, and leave the weights of every step as they are"""
CHOSEN_BY = ("architecture", "kind", "name")
"""what the setting is called by which a component is chosen: its value says enough"""
LONGEST = 24
"""characters of a value in a name; a longer one is told by its hash"""


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


def _readings(record: CheckpointRecord, checkpoint: Path) -> list[dict[str, Any]]:
    """The recipes that a checkpoint may be a seed of: the best by validation, if it is that, or so many steps of training,
    whatever would have been chosen."""
    own = recipe_of(record, checkpoint)
    settings = own["settings"]
    fixed = {**own, "step": record.step, "selection": None}
    fixed["settings"] = None if settings is None else {k: v for k, v in settings.items() if k not in SELECTING}
    return [own, fixed] if own["step"] == "best" else [fixed]


def recipe_names(checkpoints: Sequence[tuple[CheckpointRecord, Path]]) -> list[str]:
    """A name for each checkpoint (its record, its folder), the same for seeds of one recipe.

    It is the objective; of several recipes of one objective, with what they differ in: `sft[m]` beside
    `sft[residual, lr=0.003]`. A seed that comes again makes a contender of its own, with the name of its run.
    """
    entries: list[_Entry] = []
    found = []
    for record, folder in checkpoints:
        readings, seed = _readings(record, folder), int(record.trained_on.get("seed", 0))
        entry = next((e for e in entries if seed not in e.seeds and any(r in readings for r in e.readings)), None)
        if entry is None:
            entries.append(entry := _Entry(record.objective, folder, readings))
        entry.readings = [r for r in entry.readings if r in readings]
        entry.seeds.add(seed)
        found.append(entry)
    by_objective: dict[str, list[_Entry]] = {}
    for entry in entries:
        by_objective.setdefault(entry.objective, []).append(entry)
    names = {}
    for objective, alike in by_objective.items():
        for entry, label in zip(alike, _labels(alike), strict=True):
            names[id(entry)] = f"{objective}[{label}]" if label else objective
    return [names[id(entry)] for entry in found]


@dataclass(eq=False)
class _Entry:
    """A recipe on the board, and the seeds of it."""

    objective: str
    folder: Path
    readings: list[dict[str, Any]]
    """the recipes that all its seeds can be of"""
    seeds: set[int] = field(default_factory=set)

    @property
    def recipe(self) -> dict[str, Any]:
        """What it is told from others by."""
        return self.readings[0]

    @property
    def run(self) -> str:
        """Name of the run that the first checkpoint is of, or of the folder that it is alone in."""
        return (self.folder.parent.parent if self.folder.parent.name == "checkpoints" else self.folder).name

    def settings(self) -> dict[str, str]:
        """Of its run, as text by dotted path."""
        origin = self.recipe["trained_on"].get("init_from")
        unsaid = {key: value for key, value in SINCE.items() if value is not None}
        told = {**unsaid, **(self.recipe["settings"] or {}), **({"init_from": origin["objective"]} if origin else {})}
        return {key: _short(value) for key, value in told.items()}

    def record(self) -> dict[str, str]:
        """What its record says, as text by dotted path."""
        told = flat({k: v for k, v in self.recipe.items() if k not in ("settings", "objective")})
        return {key: _short(value) for key, value in told.items()}


def _labels(entries: Sequence[_Entry]) -> list[str]:
    """What tells each of these recipes from the others; nothing if there is one."""
    if len(entries) == 1:
        return [""]
    have_settings = all(e.recipe["settings"] is not None for e in entries)
    hidden = () if all(e.recipe["step"] == "best" for e in entries) else SELECTING
    told = [{k: v for k, v in e.settings().items() if k not in hidden} for e in entries]
    labels = _differences(told) if have_settings else [""] * len(entries)
    if len(set(labels)) < len(entries):
        rest = _fewest([e.record() for e in entries], labels)
        labels = [", ".join(filter(None, pair)) for pair in zip(labels, rest, strict=True)]
    return _unique([(label, entry.run) for label, entry in zip(labels, entries, strict=True)])


def _unique(pairs: Sequence[tuple[str, str]]) -> list[str]:
    """Labels; one that comes again, with its run, and that with a number if it comes again."""
    labels, again = [label for label, _ in pairs], Counter[tuple[str, str]]()
    found = []
    for label, run in pairs:
        again[label, run] += 1
        number = f" {again[label, run]}" if pairs.count((label, run)) > 1 else ""
        found.append(label if labels.count(label) == 1 else ", ".join(filter(None, (label, run + number))))
    return found


def _differences(told: Sequence[Mapping[str, str]]) -> list[str]:
    """Every setting whose values differ. Of what is chosen by name (an architecture), the name; its own settings only where
    others of that name have others."""
    found = [k for k in dict.fromkeys(k for t in told for k in t) if len({t.get(k) for t in told}) > 1]
    groups = list(dict.fromkeys(key.split(".")[0] for key in found))
    keys = sorted(found, key=lambda key: groups.index(key.split(".")[0]))
    names = short_keys(keys)
    choices = [k for k in keys if k.rpartition(".")[2] in CHOSEN_BY]
    labels = []
    for own in told:
        shown = []
        for key in keys:
            choice = next((c for c in choices if key.startswith(c.rpartition(".")[0] + ".")), None)
            rivals = told if choice in (None, key) else [t for t in told if t.get(choice) == own.get(choice)]
            if key in own and len({t.get(key) for t in rivals}) > 1:
                shown.append(own[key] if choice == key else f"{names[key]}={own[key]}")
        labels.append(", ".join(shown))
    return labels


def _fewest(told: Sequence[Mapping[str, str]], labels: Sequence[str]) -> list[str]:
    """For recipes of which some have one label: settings that tell them apart, no more than it takes."""
    keys = list(dict.fromkeys(k for t in told for k in t))
    parts: list[dict[str, str]] = [{} for _ in told]
    for key in keys:
        before = {(label, *p.values()) for label, p in zip(labels, parts, strict=True)}
        more = [p | ({key: t[key]} if key in t else {}) for p, t in zip(parts, told, strict=True)]
        if len({(label, *p.values()) for label, p in zip(labels, more, strict=True)}) > len(before):
            parts = more
    names = short_keys([k for k in keys if any(k in p for p in parts)])
    return [", ".join(f"{names[key]}={value}" for key, value in p.items()) for p in parts]


def _short(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= LONGEST else f"#{digest_of(value)[:6]}"
