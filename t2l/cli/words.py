"""The words of a command, sorted: what changes the configuration, what a verb takes by its place, what is for Hydra.

    key=value, +key=value, ~key      an override
    --some-key VALUE, --some-flag    the same as some_key=VALUE and some_flag=true, VALUE taken as it stands
    -m, --cfg job...                 an option of Hydra's
    anything else, or after --       for the verb itself, like a description or a folder

If a verb takes words by their place, only a word that begins like one of its keys or groups is an override: a description
may look like `x=5`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, get_type_hints

from t2l.cli.overrides import quoted

ALIASES = {"out": "run_dir", "base_model": "base"}
"""other names of keys, in verbs that have no key of that name"""
HYDRA_OPTIONS = {
    "-m": False, "--multirun": False, "-r": False, "--run": False, "--resolve": False, "-c": True, "--cfg": True,
    "-p": True, "--package": True, "-cd": True, "--config-dir": True, "-i": True, "--info": True, "--hydra-help": False,
    "-sc": False, "--shell-completion": False,
}  # fmt: skip
"""Hydra's own options, and whether a value follows"""
SWEEP, SHOW_CONFIG, INFO = {"-m", "--multirun"}, {"-c", "--cfg"}, {"-i", "--info"}
SHOW_ELSE = {*INFO, "--hydra-help", "-sc", "--shell-completion"}


@dataclass
class Words:
    """The words of a command."""

    overrides: list[str] = field(default_factory=list)
    """key=value, of t2l's configuration and of Hydra's"""
    positional: list[str] = field(default_factory=list)
    options: list[str] = field(default_factory=list)
    """Hydra's own, each followed by its value"""
    config_folder: str | None = None
    """the folder of more config files (--config-dir), if one is given"""
    asks_for_help: bool = False

    def has(self, options: set[str]) -> bool:
        """Whether one of these options of Hydra's is among the words."""
        return any(word.partition("=")[0] in options for word in self.options)


def read_words(arguments: Sequence[str], config: type, groups: Sequence[str], places: Sequence[str]) -> Words:
    """Sorts the words of a command.

    Args:
        config: the verb's root config.
        groups: its config groups.
        places: the keys that take words by their place.

    Raises ValueError for an option that there is not, one without its value, or a word that the verb does not take.
    """
    kinds = get_type_hints(config)
    keys = {*kinds, *(re.split("[@/.]", g)[0] for g in groups)}
    found, rest = Words(), list(arguments)
    while rest:
        word = rest.pop(0)
        name, given, value = word.partition("=")
        if word == "--":
            found.positional += rest
            rest = []
        elif word in ("-h", "--help"):
            found.asks_for_help = True
        elif name in HYDRA_OPTIONS:
            found.options.append(word)
            if HYDRA_OPTIONS[name] and not given and (name not in INFO or (rest and rest[0].isalpha())):
                found.options.append(_value_of(name, rest))
            if name in ("-cd", "--config-dir"):
                found.config_folder = value if given else found.options[-1]
        elif word.startswith("--"):
            found.overrides.append(_listed(_override(word, rest, kinds, keys), kinds))
        elif not places or _is_override(word, keys):
            found.overrides.append(_listed(_renamed(word, keys), kinds))
        else:
            found.positional.append(word)
    if found.positional and not places:
        raise ValueError(f"only key=value is taken here, not {found.positional[0]!r}")
    if places and all(kinds[key] is str for key in places) and len(found.positional) > len(places):
        raise ValueError(f"one {places[-1]} is taken here, not {len(found.positional)}: {', '.join(found.positional)}")
    return found


def _value_of(option: str, rest: list[str]) -> str:
    if not rest:
        raise ValueError(f"{option} needs a value after it")
    return rest.pop(0)


def _key_of(name: str, keys: set[str]) -> str:
    return ALIASES[name] if name not in keys and ALIASES.get(name) in keys else name


def _override(option: str, rest: list[str], kinds: dict[str, Any], keys: set[str]) -> str:
    """`--some-key VALUE`, `--some-key=VALUE` or `--some-flag` as an override."""
    name, given, value = option.partition("=")
    key = _key_of(name[2:].replace("-", "_"), keys)
    if re.split("[@/.]", key)[0] not in keys:
        known = [f"--{k.replace('_', '-')}" for k in (*keys, *ALIASES)]
        near = difflib.get_close_matches(name, known, n=1)
        raise ValueError(f"unknown option {name}{f'; did you mean {near[0]}?' if near else ''} (--help lists the keys)")
    if not given:
        value = "true" if kinds.get(key) is bool else _value_of(name, rest)
    is_text = kinds.get(key) in (str, str | None) and value != "null"
    return f"{key}={quoted(value) if is_text else value}"


def _is_override(word: str, keys: set[str]) -> bool:
    """Whether a word is `key=value` or `~key`, with a key of the verb's, of Hydra's, or added by + or ~."""
    found = re.fullmatch(r"(\+{0,2}|~)([\w./@]+)(=.*)?", word, re.DOTALL)
    if found is None or (found[3] is None and found[1] != "~"):
        return False
    return bool(found[1]) or _key_of(re.split("[@/.]", found[2])[0], keys) in {*keys, "hydra"}


def _renamed(word: str, keys: set[str]) -> str:
    found = re.match(r"([+~]*)(\w+)(?==)", word)
    return f"{found[1]}{_key_of(found[2], keys)}{word[found.end() :]}" if found else word


def _listed(word: str, kinds: dict[str, Any]) -> str:
    """`contenders=base` as a list of one; a function, an interpolation, and values with a comma, which may be a sweep's, stay."""
    key, given, value = word.partition("=")
    is_one = bool(value) and value != "null" and not re.search(r"^\[|,|^\w+\(|^\$\{", value)
    return f"{key}=[{value}]" if given and is_one and kinds.get(key) in (list[str], list[str] | None) else word
