"""Going on with a run: which settings may differ from those it was begun with, and what is told of the rest.

Settings are named by their dotted path in a run's config (`trainer.rows_per_pass`). All that is said here about which of
them matter is said in this one place.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from typing import Any

WHERE = (
    "run_dir", "logger", "base_model.device", "base_model.shard", "encoder.device", "encoder.batch_size", "encoder.cache",
    "encoder.model.device", "encoder.model.shard",
)  # fmt: skip
"""settings that say where and how a machine does the work, and never what comes out"""
MEMORY_AND_PACE = (
    "trainer.gradient_checkpointing", "trainer.rows_per_pass", "trainer.pass_cost", "trainer.log_every",
    "trainer.checkpoint_every",
)  # fmt: skip
"""settings of memory, speed and records: they change no weight beyond rounding"""
CHOICE = ("trainer.validate_every", "trainer.patience")
"""settings that decide which step is chosen and when to stop, and leave the weights of every step as they are"""
FREE = (*WHERE, *MEMORY_AND_PACE, *CHOICE)
"""what may differ when a run goes on; every difference is recorded"""
NOT_SET = "(not set)"
SINCE = {"base_model.chat_template": None, "encoder.model.chat_template": None, "lora.kind": "lora"}
"""settings that came after runs and reports which are still about, with the value that these had without saying so; a config
that leaves them at it counts as one that lacks them"""


@dataclass(frozen=True)
class Change:
    """A setting that differs from the one a run was begun with."""

    key: str
    before: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.key}={self.now} (before: {self.before})"


def is_free(key: str, free: Sequence[str] = FREE) -> bool:
    """Whether a dotted path is one of these settings, or lies inside one."""
    return any(key == f or key.startswith(f"{f}.") for f in free)


def flat(settings: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted path; an empty mapping counts as a value."""
    if not isinstance(settings, Mapping) or not settings:
        return {prefix: settings}
    found: dict[str, Any] = {}
    for key, value in settings.items():
        found |= flat(value, f"{prefix}.{key}" if prefix else str(key))
    return found


def short_keys(keys: Sequence[str]) -> dict[str, str]:
    """The end of each dotted path, as much of it as no other of these paths ends in."""

    def short(key: str) -> str:
        parts = key.split(".")
        ends = (".".join(parts[-n:]) for n in range(1, len(parts)))
        return next((end for end in ends if not any(k != key and f".{k}".endswith(f".{end}") for k in keys)), key)

    return {key: short(key) for key in keys}


def plain(settings: Any) -> Any:
    """Settings as JSON gives them back."""
    return json.loads(json.dumps(settings))


def defaults_of(config: Any) -> dict[str, Any]:
    """The defaults of every setting of a config and of its parts, by dotted path.

    A run that was begun before there was a setting counts as begun with its default.
    """
    found: dict[str, Any] = {}
    for f in fields(config):
        value = getattr(config, f.name)
        if is_dataclass(value) and not isinstance(value, type):
            found |= {f"{f.name}.{key}": v for key, v in defaults_of(value).items()}
        elif isinstance(value, Mapping) and value and all(map(is_dataclass, value.values())):
            named = {name: defaults_of(part) for name, part in value.items()}
            found |= {f"{f.name}.{name}.{key}": v for name, part in named.items() for key, v in part.items()}
        elif f.default is not MISSING:
            found[f.name] = f.default
        elif f.default_factory is not MISSING:
            found |= flat(plain(f.default_factory()), f.name) if not is_dataclass(f.default_factory) else {}
    return found


def changes(
    found: Mapping[str, Any], config: Mapping[str, Any], defaults: Mapping[str, Any] | None = None
) -> list[Change]:
    """What differs between the settings that a run was begun with and those it is given now."""
    before, now, known = flat(found), flat(plain(config)), defaults or {}
    keys = sorted({*before, *now})
    pairs = [(k, before.get(k, known.get(k, NOT_SET)), now.get(k, known.get(k, NOT_SET))) for k in keys]
    return [Change(k, b, n) for k, b, n in pairs if b != n]


def changes_the_result(change: Change) -> str:
    """The reason against any change of a setting that is not free."""
    return "it changes the result"


def without(settings: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """Settings by dotted path, less those named, and those that came later and are as they were before."""
    kept = {key: value for key, value in flat(settings).items() if not is_free(key, keys)}
    return {key: value for key, value in kept.items() if key not in SINCE or value != SINCE[key]}


def settings_of(config: Any) -> dict[str, Any]:
    """A config as a run records it, without where the run is and where its metrics go."""
    return {k: v for k, v in asdict(config).items() if k not in ("run_dir", "logger")}
