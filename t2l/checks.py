"""Range checks of config values, in one wording: KEY must be ..., not VALUE.

    def __post_init__(self) -> None:
        at_least(self, 1, "steps", "rows_per_task", under="trainer")
        in_range(self, "(0, 1]", "dropout", under="trainer")

Each takes a config, what is allowed, and the names of its fields, and raises ValueError for the first value that is not
allowed. `under` is what the config is called on the command line. A field that may be None is not checked if it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import Any


def at_least(config: Any, least: float, *keys: str, under: str = "") -> None:
    """Numbers that must not be below `least`."""
    _check(config, keys, under, lambda value: value >= least, f"at least {least}")


def positive(config: Any, *keys: str, under: str = "") -> None:
    """Numbers that must be above zero."""
    _check(config, keys, under, lambda value: value > 0, "positive")


def in_range(config: Any, interval: str, *keys: str, under: str = "") -> None:
    """Numbers that must lie in an interval, which is written like "[0, 1)"."""
    found = re.fullmatch(r"([\[(])(\S+), (\S+)([\])])", interval)
    assert found is not None, interval
    low, high = float(found[2]), float(found[3])

    def lies_in(value: float) -> bool:
        above = value >= low if found[1] == "[" else value > low
        return above and (value <= high if found[4] == "]" else value < high)

    _check(config, keys, under, lies_in, f"in {interval}")


def one_of(config: Any, choices: Collection[str], *keys: str, under: str = "") -> None:
    """Texts that must be one of a few; or, given one choice, a text that is fixed."""
    *others, last = choices
    allowed = f"{', '.join(others)} or {last}" if others else last
    _check(config, keys, under, lambda value: value in choices, allowed)


def _check(config: Any, keys: Collection[str], under: str, is_allowed: Callable[[Any], bool], allowed: str) -> None:
    for key in keys:
        value = getattr(config, key)
        if value is not None and not is_allowed(value):
            or_null = ", or null" if "None" in str(type(config).__dataclass_fields__[key].type) else ""
            name = f"{under}.{key}" if under else key
            raise ValueError(f"{name} must be {allowed}{or_null}, not {value!r}")
