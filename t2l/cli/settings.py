"""A command's configuration: composed by Hydra, held against the dataclasses key by key, and turned into them."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from t2l.cli.overrides import quote_paths
from t2l.registry import PACKAGES

SCHEMA = "_schema"
"""the end of names that are no choices"""


class SettingsError(ValueError):
    """A configuration that does not compose: an unknown key, a value of another type, a choice that is not there."""


def _unknown_key(full_key: str, key: str, allowed: Sequence[str] | None) -> str:
    """What is said of a key; `allowed` are those of its dataclass, which may have none, and None if it is a mapping's."""
    if allowed is not None and not allowed:
        group = full_key.rpartition(".")[0]
        return f"unknown config key {full_key}: what is chosen for {group} has no keys; choose another ({group}=NAME)"
    allowed = allowed or ()
    near = difflib.get_close_matches(key, allowed, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    known = f" (it has {', '.join(allowed)})" if allowed else " (a new key of a mapping is added with + before it)"
    return f"unknown config key {full_key}{hint}{known}"


def friendly(error: BaseException) -> str:
    """Hydra's and OmegaConf's composition errors as one line that helps."""
    from hydra.errors import MissingConfigException
    from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        found = re.fullmatch("((?:hydra/)?[^/]+)/(.*)", error.missing_cfg_file)
        group, name = found.groups() if found else ("", error.missing_cfg_file)
        choices = ", ".join(o for o in error.options if not o.endswith(SCHEMA))
        path = f" (a folder or hub id is {group}.path={name})" if "/" in name else ""
        return f"{group}={name}: there is none of that name; choose from {choices}{path}"
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OmegaConfBaseException):
        cause = cause.__cause__ or cause.__context__
    if isinstance(cause, (ConfigKeyError, ConfigAttributeError)):
        kind, file = cause.object_type, re.match(r"In '[^']+': ", str(error))
        allowed = [f.name for f in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else None
        told = _unknown_key(str(cause.full_key or cause.key), str(cause.key), allowed)
        return f"{file[0]}{told}" if file else told
    if isinstance(cause, OmegaConfBaseException):
        key = f"config value for {cause.full_key}: " if cause.full_key else ""
        return f"{key}{str(cause).splitlines()[0]}"
    if found := re.match(r"Multiple values for (\S+)\. To override a value use 'override \S+: (.*)'", str(error)):
        return f"{found[1]} has a value already: write {found[1]}={found[2]}, without +"
    return str(error)


def settings_of(config: Any) -> Any:
    """The dataclasses of a composed configuration.

    `+key=value` opens a config for keys that its dataclass does not have, and OmegaConf then drops them: here every
    key must be a field. New keys are for mappings, such as `suite.row_splits`, alone.

    Raises SettingsError for a key that no dataclass has, ValueError for values that the dataclasses refuse.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        _check_keys(config, "")
        return OmegaConf.to_object(config)
    except OmegaConfBaseException as error:
        raise SettingsError(friendly(error)) from error


def _check_keys(node: Any, path: str) -> None:
    from omegaconf import DictConfig, ListConfig, OmegaConf

    if isinstance(node, ListConfig):
        for i, child in enumerate(node):
            _check_keys(child, f"{path}[{i}]")
    if not isinstance(node, DictConfig):
        return
    kind = OmegaConf.get_type(node)
    is_config = dataclasses.is_dataclass(kind)
    fields = {f.name: f for f in dataclasses.fields(kind)} if kind is not None and is_config else {}
    for key in map(str, node):
        full_key = f"{path}.{key}" if path else key
        if is_config and key not in fields:
            raise SettingsError(_unknown_key(full_key, key, list(fields)))
        if not OmegaConf.is_missing(node, key):
            child = node[key]
            if is_config and fields[key].type in (Any, "Any"):
                _check_choice(child, full_key)
            _check_keys(child, full_key)


def _check_choice(node: Any, path: str) -> None:
    """A field of type Any holds what a config group chose: a dataclass, or nothing."""
    from omegaconf import DictConfig, OmegaConf

    if isinstance(node, DictConfig) and not dataclasses.is_dataclass(OmegaConf.get_type(node)):
        first = f"{path}.{next(map(str, node), '')}".rstrip(".")
        raise SettingsError(
            f"unknown config key {first}: nothing is chosen for {path}, so it has no keys ({path}=NAME)"
        )


def compose_settings(verb: str, overrides: Sequence[str]) -> Any:
    """The config object of a verb.

    Raises SettingsError if it does not compose, ValueError if its values do not fit together.
    """
    return settings_of(compose_with_hydra(verb, overrides)[0])


def groups_of(verb: str) -> list[str]:
    """The config groups of a verb as its YAML names them, like `suite` and `suite@training_suite`."""
    import yaml

    from t2l.config import config_folder

    entries = yaml.safe_load((config_folder() / f"{verb}.yaml").read_text())["defaults"]
    return [group for entry in entries if isinstance(entry, dict) for group in entry]


def _groups_named(verb: str, overrides: Sequence[str]) -> list[str]:
    """Groups of components that can be in a verb's configuration: its own, and what words add from elsewhere."""
    own = {re.split("[@/_]", group)[0] for group in groups_of(verb)}
    return [group for group in PACKAGES if group in own or any(group in word for word in overrides)]


def compose_with_hydra(verb: str, overrides: Sequence[str], folder: str | None = None) -> tuple[Any, Any]:
    """The configuration of a verb as Hydra composes it, and what the same overrides say of Hydra itself.

    Args:
        folder: of more config files, which go before t2l's own.

    Raises SettingsError if it does not compose.
    """
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import open_dict
    from omegaconf.errors import OmegaConfBaseException

    from t2l.cli.sweepers import register_sweepers
    from t2l.config import config_folder, register

    register_sweepers()
    register([verb], _groups_named(verb, overrides) if folder is None else PACKAGES)
    words = quote_paths(overrides)
    if folder is not None:
        words.append(f"hydra.searchpath=['file://{Path(folder).resolve()}']")
    try:
        with initialize_config_dir(str(config_folder()), version_base="1.3"):
            config = compose(verb, overrides=words, return_hydra_config=True)
        with open_dict(config):
            return config, config.pop("hydra")
    except (HydraException, OmegaConfBaseException) as error:
        raise SettingsError(friendly(error)) from error
