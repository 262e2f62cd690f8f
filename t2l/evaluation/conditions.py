"""The conditions of training that scoring restores: how the base is loaded, and what stands in its prompt.

Checkpoints (`checkpoint.json`), libraries (`library.json`) and method libraries (`method.json`) record them as one JSON
dict, `conditions`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from t2l.base_model import BaseModelConfig, Quantization
from t2l.checks import one_of
from t2l.files import read_json
from t2l.hypernetwork.checkpoint import CheckpointRecord, find_checkpoint, load_record
from t2l.library import library_record
from t2l.methods.folder import MethodLibrary

log = logging.getLogger(__name__)
HIDDEN = "hidden"
OF_BASE = ("chat_template", "template_values", "dtype", "quantization", "date")
"""keys of `base_model` that change what the base computes from a question, and are restored"""
RECORDED_ONLY = ("attention",)
"""what the machine at hand decides; a difference is said, not undone"""
RULES = ("trained", "given")


@dataclass
class ScoredPromptConfig:
    """What the base model reads beside a question when something trained is scored."""

    definition: str | None = None
    """hidden, shown, or null: as it was in training. Shown: a description of the task stands before the input"""

    def __post_init__(self) -> None:
        one_of(self, (HIDDEN, "shown"), "definition", under="prompt")

    @property
    def is_shown(self) -> bool:
        """Whether the definition stands in the prompt."""
        return self.definition == "shown"


def conditions_of(base: BaseModelConfig, definition: str) -> dict[str, Any]:
    """What is recorded of a training run: a JSON-able dict."""
    values = {key: getattr(base, key) for key in (*OF_BASE, *RECORDED_ONLY)}
    plain: dict[str, Any] = json.loads(json.dumps({**values, "definition": definition}))
    return plain


def _name(key: str) -> str:
    """What a key is called in a configuration."""
    return "prompt.definition" if key == "definition" else f"base_model.{key}"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


@dataclass(frozen=True)
class Trained:
    """Something trained, as a message names it, and the conditions it recorded."""

    what: str
    values: Mapping[str, Any]
    is_complete: bool = True
    """whether all conditions were recorded, not the definition alone"""

    @classmethod
    def of_checkpoint(cls, record: CheckpointRecord, path: str | Path) -> Trained:
        """Of a checkpoint; one made before conditions were recorded may say how the definition stood."""
        return cls._of(f"checkpoint {path}", record.conditions, record.trained_on)

    @classmethod
    def of_record(cls, record: Mapping[str, Any], folder: str | Path) -> Trained:
        """Of a library, from its `library.json` or `method.json`."""
        return cls._of(f"library {folder}", record.get("conditions"), record)

    @classmethod
    def _of(cls, what: str, conditions: Mapping[str, Any] | None, record: Mapping[str, Any]) -> Trained:
        if conditions is not None:
            return cls(what, conditions)
        return cls(what, {k: v for k, v in record.items() if k == "definition"}, is_complete=False)


def trained_in(
    checkpoints: Sequence[str], library: str | None = None, method_libraries: Sequence[str] = ()
) -> list[Trained]:
    """The conditions of everything that an evaluation is given. Reads records alone.

    Raises FileProblemError if a folder is not what it should be.
    """
    found = [Trained.of_checkpoint(load_record(find_checkpoint(Path(path))), path) for path in checkpoints]
    if library:
        found.append(Trained.of_record(library_record(Path(library)), library))
    return found + [Trained.of_record(MethodLibrary.open(Path(m)).record(), m) for m in method_libraries]


@dataclass(frozen=True)
class Conditions:
    """What an evaluation is scored under, and how that was decided."""

    rule: str
    base_model: BaseModelConfig
    definition: str
    taken: tuple[str, ...] = ()
    """what training decided against the configuration"""
    deviations: tuple[str, ...] = ()
    """what is scored otherwise than it was trained"""
    unrecorded: tuple[str, ...] = ()
    """what did not record its conditions"""

    is_as_trained: bool = True
    """whether nothing that is restored is otherwise than in any training"""

    def to_json(self) -> dict[str, Any]:
        """For report.json."""
        return {
            "rule": self.rule,
            "values": conditions_of(self.base_model, self.definition),
            "taken": list(self.taken),
            "deviations": list(self.deviations),
            "unrecorded": list(self.unrecorded),
        }


def conditions_for(
    rule: str, base_model: BaseModelConfig, definition: str | None, trained: Sequence[Trained]
) -> Conditions:
    """What to score under, and says so in the log.

    Args:
        rule: `trained`: as it was trained, whatever `base_model` says; `given`: as configured.
        definition: hidden or shown; None: as it was in training, under both rules.

    Raises ValueError if things trained under different conditions should be scored as trained, and for a definition
    that contradicts training.
    """
    own = _agreed(trained, (*OF_BASE, "definition") if rule == "trained" else ("definition",) if not definition else ())
    asked = conditions_of(base_model, definition or own.get("definition", HIDDEN))
    if rule == "trained" and definition and own.get("definition", definition) != definition:
        raise ValueError(
            f"prompt.definition={definition}, but {trained[0].what} was trained with it {own['definition']}: leave "
            "prompt.definition out, or pass conditions=given to score it otherwise than it was trained"
        )
    taken = [key for key in OF_BASE if key in own and own[key] != asked[key]]
    changes: dict[str, Any] = {key: Quantization(own[key]) if key == "quantization" else own[key] for key in taken}
    restored = replace(base_model, **changes)
    scored = conditions_of(restored, asked["definition"])
    made = Conditions(
        rule,
        restored,
        asked["definition"],
        tuple(f"{_name(k)}={_text(own[k])} as trained, not {_text(asked[k])} as configured" for k in taken),
        tuple(_deviations(trained, scored)),
        tuple(t.what for t in trained if not t.is_complete),
        not _deviations(trained, {k: v for k, v in scored.items() if k not in RECORDED_ONLY}),
    )
    defaults = conditions_of(BaseModelConfig(), HIDDEN)
    _say(made, [asked[key] != defaults[key] for key in taken])
    return made


def _agreed(trained: Sequence[Trained], keys: Sequence[str]) -> dict[str, Any]:
    """What all that recorded a key say of it. Raises ValueError if they differ."""
    found: dict[str, tuple[str, Any]] = {}
    for one in trained:
        for key in (k for k in keys if k in one.values):
            other, value = found.setdefault(key, (one.what, one.values[key]))
            if value != one.values[key]:
                raise ValueError(
                    f"{other} was trained with {_name(key)}={_text(value)}, {one.what} with {_text(one.values[key])}: score "
                    f"them in two runs, or pass conditions=given and {_name(key)}=... to score both alike"
                )
    return {key: value for key, (_, value) in found.items()}


def _deviations(trained: Sequence[Trained], scored: Mapping[str, Any]) -> list[str]:
    return [
        f"{one.what} was trained with {_name(key)}={_text(value)}, and is scored with {_text(scored[key])}"
        for one in trained
        for key, value in one.values.items()
        if key in scored and scored[key] != value
    ]


def _say(made: Conditions, deliberate: Sequence[bool]) -> None:
    """Logs what was decided.

    Args:
        deliberate: whether each value in `made.taken` was set aside for one that is no default; then it is a warning.
    """
    for line, is_deliberate in zip(made.taken, deliberate, strict=True):
        log.log(logging.WARNING if is_deliberate else logging.INFO, "%s; conditions=given scores as configured", line)
    for line in (*made.deviations, *map(_unrecorded, made.unrecorded)):
        log.warning("%s", line)


def _unrecorded(what: str) -> str:
    return f"{what} did not record the conditions of its training: scored as configured"


def conditions_text(conditions: Mapping[str, Any] | None) -> list[str]:
    """How the base was loaded and prompted, and what of it is otherwise than in training: lines of Markdown."""
    if not conditions:
        return []
    values = ", ".join(f"{k} {json.dumps(v)}" for k, v in conditions["values"].items())
    how = {"trained": "as recorded in training", "given": "as configured (conditions=given)"}[conditions["rule"]]
    lines = [f"Conditions, {how}: {values}.", ""]
    notes = [*conditions["taken"], *conditions["deviations"], *map(_unrecorded, conditions["unrecorded"])]
    lines += [f"- {line}" for line in notes]
    return [*lines, ""] if lines[-1] else lines


def conditions_to_record(record_file: Path, base: BaseModelConfig, definition: str) -> dict[str, Any] | None:
    """The conditions that a library's record says, new or continued; None for one begun before they were recorded.

    Raises ValueError if the library was begun under others: its adapters would not be comparable.
    """
    now = conditions_of(base, definition)
    if not record_file.is_file():
        return now
    begun: Mapping[str, Any] = read_json(record_file)
    before = Trained.of_record(begun, record_file.parent)
    for key in (*OF_BASE, "definition"):
        if key in before.values and before.values[key] != now[key]:
            raise ValueError(
                f"{record_file.parent} was begun with {_name(key)}={_text(before.values[key])}, now it is {_text(now[key])}: "
                "choose another run_dir, or remove that folder"
            )
    return dict(before.values) if before.is_complete else None
