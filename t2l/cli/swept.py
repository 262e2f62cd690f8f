"""What a command sweeps over: the values of each key, as Hydra's override grammar has them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from t2l.cli.settings import SCHEMA, SettingsError, friendly

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override


def parsed(overrides: Sequence[str]) -> list[Override]:
    """Overrides as Hydra reads them. Raises SettingsError for one that it cannot read."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    from t2l.config import config_folder, register

    try:
        if not any("glob(" in override for override in overrides):
            return OverridesParser.create().parse_overrides(list(overrides))
        register()
        with initialize_config_dir(str(config_folder()), version_base="1.3"):
            loader = GlobalHydra.instance().config_loader()
            return OverridesParser.create(config_loader=loader).parse_overrides(list(overrides))
    except HydraException as error:
        raise SettingsError(friendly(error)) from error


def values_of(override: Override) -> list[str]:
    """The values that a key is swept over, as they are typed; of a key that is not swept, its one.

    Raises SettingsError for an interval, which has no list of values, and a pattern that no choice is called like.
    """
    key = override.get_key_element()
    if not override.is_sweep_override():
        return [str(override.get_value_element_as_str())]
    if not override.is_discrete_sweep():
        raise SettingsError(
            f"{key}: an interval has no list of values to sweep over: write choice(...) or range(...), or search it with "
            "hydra/sweeper=optuna"
        )
    found = [value for value in override.sweep_string_iterator() if not value.endswith(SCHEMA)]
    if not found:
        raise SettingsError(f"{key}: there is nothing of that name to sweep over")
    return found


def grid(overrides: Sequence[str]) -> list[list[str]]:
    """The overrides of each job of a sweep, which are all combinations; without a sweep it is one job.

    Raises SettingsError for what has no list of values.
    """
    choices = {o.get_key_element(): _words(o, values_of(o)) for o in parsed(overrides)}
    return [list(job) for job in itertools.product(*choices.values())]


def first_job(overrides: Sequence[str]) -> list[str]:
    """One job of a sweep of any kind. Raises SettingsError for an override that cannot be read."""
    return first_values(overrides)[0]


def first_values(overrides: Sequence[str]) -> list[list[str]]:
    """Jobs that a sweep of any kind may begin with: the first value of each key, and every other value of one key beside
    the first of others. Of an interval these are its ends.

    Raises SettingsError for an override that cannot be read.
    """
    choices = {o.get_key_element(): _words(o, _known_values(o)) for o in parsed(overrides)}
    first = {key: words[0] for key, words in choices.items()}
    others = [{**first, key: word} for key, words in choices.items() for word in words[1:]]
    return [list(job.values()) for job in (first, *others)]


def _words(override: Override, values: Sequence[str]) -> list[str]:
    key = override.get_key_element()
    return [f"{key}={value}" if override.value_type is not None else key for value in values]


def _known_values(override: Override) -> list[str]:
    if override.is_interval_sweep():
        found: Any = override.value()
        return [repr(found.start), repr(found.end)]
    return values_of(override)


def differing(jobs: Sequence[Sequence[str]]) -> list[list[str]]:
    """The overrides of each job in which it differs from others."""
    common = set.intersection(*(set(job) for job in jobs)) if jobs else set()
    return [[o for o in job if o not in common] for job in jobs]
