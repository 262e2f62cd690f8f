"""What a word of a command can be completed to: `t2l --complete LINE`, which the shells' scripts ask (`t2l.cli.shells`).

Nothing is composed for it: keys come from the dataclasses, those of a group from what is chosen for it, here or by default.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from t2l.cli.help import EXPERIMENT, meanings
from t2l.cli.overrides import names_a_path
from t2l.cli.settings import groups_of
from t2l.cli.words import ALIASES, HYDRA_OPTIONS
from t2l.verbs import VERBS, Verb, verb_named

MAIN_OPTIONS = {
    "--help": "what verbs there are",
    "--version": "the version",
    "--install-completion": "completion by the tab key for this shell, or bash, zsh or fish",
    "--show-completion": "the script of bash, zsh or fish",
}
OPTIONS = {
    "--help": "words, groups and keys with their meanings and values",
    "--cfg": "print the configuration, and run nothing",
    "--multirun": "a run for each combination of values with commas between them",
    "--config-dir": "folder of more config files",
}
"""those of every verb; Hydra's others are found in its documentation"""
Found = dict[str, str]
"""what a word can become, and what that means"""


def complete(line: str) -> Found:
    """What the last word of a line, as typed up to the cursor, can become."""
    words = _words(line)
    before, word = words[1:-1], words[-1]
    if not before:
        return _begins({**VERBS, **MAIN_OPTIONS}, word)
    if before[0] not in VERBS:
        shells = before[0] in ("--install-completion", "--show-completion")
        return _begins(dict.fromkeys(("bash", "zsh", "fish"), ""), word) if shells else {}
    return _Line(before[0], verb_named(before[0]), before[1:]).complete(word)


def _words(line: str) -> list[str]:
    """The words of a line as the shell reads them; the last is the unfinished one, which may be empty."""
    for end in ("", "'", '"', "\\"):
        try:
            words = shlex.split(f"{line}{end}")
        except ValueError:
            continue
        is_done = not end and (not line or (line[-1].isspace() and not line.endswith("\\ ")))
        return [*words, ""] if is_done else words
    return [""]


def _begins(found: Mapping[str, str], word: str) -> Found:
    return {text: meaning for text, meaning in found.items() if text.startswith(word)}


def _files(typed: str) -> Iterator[str]:
    """Files and folders that begin as typed; a folder ends with a slash."""
    head, _, begin = typed.rpartition("/")
    head = f"{head}/" if "/" in typed else ""
    try:
        there = sorted(Path(os.path.expanduser(head or ".")).iterdir())
    except OSError:
        return
    for path in there:
        if path.name.startswith(begin) and (begin.startswith(".") or not path.name.startswith(".")):
            yield f"{head}{path.name}{'/' if path.is_dir() else ''}"


@dataclass(frozen=True)
class _Line:
    """A verb's command up to the word that is completed."""

    name: str
    verb: Verb
    before: Sequence[str]

    def complete(self, word: str) -> Found:
        """What a word can become."""
        previous = self.before[-1] if self.before else ""
        key, separator, value = word.partition("=")
        if previous in ("-c", "--cfg"):
            return _begins(dict.fromkeys(("job", "hydra", "all"), ""), word)
        if previous in ("-cd", "--config-dir"):
            return dict.fromkeys(_files(word), "")
        if separator:
            return self._values(key.lstrip("+"), f"{key}=", value) if not key.startswith("~") else {}
        if previous.startswith("--") and "=" not in previous and previous not in HYDRA_OPTIONS:
            kind = self._kind(_key_of(previous))
            if kind is not None and kind is not bool:
                return self._values(previous, "", word)
        if word.startswith("-"):
            return _begins({**OPTIONS, **self._as_options()}, word)
        found = _begins(self._keys(), word) if "." not in word else self._keys_within(word)
        if any(names_a_path(place) for place in self.verb.words):
            found |= dict.fromkeys(_files(word), "")
        return found

    @property
    def _groups(self) -> list[str]:
        return groups_of(self.name)

    def _as_options(self) -> Found:
        found = {f"--{key.replace('_', '-')}": told for key, told in self._told(self.verb.config).items()}
        return {
            **found,
            **{f"--{a}": found[f"--{k.replace('_', '-')}"] for a, k in ALIASES.items() if self._renames(a)},
        }

    def _renames(self, alias: str) -> bool:
        keys = {f.name for f in fields(self.verb.config)}
        return alias not in keys and ALIASES[alias] in keys

    def _told(self, config: Any) -> Found:
        told = meanings(config)
        return {f.name: told.get(f.name, "") for f in fields(config)}

    def _keys(self) -> Found:
        """Groups and keys of the verb, and its parts, whose keys come after a point."""
        told = self._told(self.verb.config)
        told.setdefault("experiment", EXPERIMENT)
        found = {f"{group}=": told.get(_place(group), "") for group in self._groups if "." not in group}
        for key, meaning in self._told(self.verb.config).items():
            if _config_in(self._kind(key)) is not None or self._chosen(key) is not None:
                found[f"{key}."] = meaning
            elif not any(_place(group) == key for group in self._groups):
                found[f"{key}="] = meaning
        return found

    def _keys_within(self, word: str) -> Found:
        """Keys of the part that a word names before its last point."""
        path = word.rpartition(".")[0]
        config = self._config_at(path.lstrip("+~"))
        if config is None:
            return {}
        hints = get_type_hints(config)
        ends = {key: "=" if _config_in(hints[key]) is None else "." for key in self._told(config)}
        return _begins({f"{path}.{key}{ends[key]}": told for key, told in self._told(config).items()}, word)

    def _values(self, key: str, begin: str, value: str) -> Found:
        """What a value can become; of a list or a sweep its last one."""
        key = _key_of(key)
        head = value[: max(value.rfind(c) for c in "[,") + 1]
        typed = value[len(head) :]
        group, kind = key.partition("@")[0], self._kind(key)
        if group in {"objective_part", *(g.partition("@")[0] for g in self._groups)} or group.startswith("hydra/"):
            from t2l.config import choices

            found: Sequence[str] = [c for c in choices(group) if c.startswith(typed)]
        elif names_a_path(key):
            found = list(_files(typed))
        elif kind is bool:
            found = [text for text in ("true", "false") if text.startswith(typed)]
        elif isinstance(kind, type) and issubclass(kind, Enum):
            found = [member.name for member in kind if member.name.startswith(typed)]
        else:
            found = []
        return {f"{begin}{head}{text}": "" for text in found}

    def _kind(self, path: str) -> Any:
        """The type of a key; None for one that there is not."""
        parent, _, key = path.rpartition(".")
        config = self._config_at(parent)
        return get_type_hints(config).get(key) if config is not None else None

    def _config_at(self, path: str) -> Any:
        """The dataclass of a part of the configuration; None if there is none."""
        config: Any = self.verb.config
        for i, key in enumerate(path.split(".") if path else ()):
            kind = get_type_hints(config).get(key)
            config = _config_in(kind) or (self._chosen(key) if i == 0 else None)
            if config is None:
                return None
        return config

    def _chosen(self, place: str) -> Any:
        """The dataclass of what is chosen for a group of components; None if it is of none."""
        from t2l.registry import PACKAGES, components

        group = next((g for g in self._groups if _place(g) == place), None)
        if group is None or (kind := group.partition("@")[0]) not in PACKAGES:
            return None
        names = {name: found.config for name, found in components(kind).items()}
        return next((names[name] for name in _ancestry(kind, self._choice(group)) if name in names), None)

    def _choice(self, group: str) -> str | None:
        """What the words before choose for a group, else an experiment that they name, else the verb's own default."""
        said = [word.lstrip("+").partition("=")[::2] for word in self.before]
        of_experiments = [
            (entry.removeprefix("override /"), value)
            for key, name in said if key == "experiment"
            for entry, value in _defaults(f"experiment/{name}")
        ]  # fmt: skip
        choices = [*_defaults(self.name), *of_experiments, *said]
        return next((value for key, value in reversed(choices) if key == group), None)


def _place(group: str) -> str:
    """The key that a group fills: `suite`, `training_suite` of `suite@training_suite`."""
    return group.partition("@")[2] or group


def _key_of(word: str) -> str:
    return word[2:].replace("-", "_") if word.startswith("--") else word


def _config_in(kind: Any) -> Any:
    """The dataclass that a type is, or is beside None; None if it is of none."""
    if get_origin(kind) is UnionType:
        return next((k for k in get_args(kind) if is_dataclass(k)), None)
    return kind if is_dataclass(kind) else None


def _defaults(name: str) -> list[tuple[str, Any]]:
    """The defaults list of a config file by group and choice; empty if there is no such file."""
    import yaml

    from t2l.config import config_folder

    path = config_folder() / f"{name}.yaml"
    entries = (yaml.safe_load(path.read_text()) or {}).get("defaults", []) if path.is_file() else []
    return [pair for entry in entries for pair in (entry.items() if isinstance(entry, dict) else [(entry, None)])]


def _ancestry(group: str, choice: str | None) -> Iterator[str]:
    """A choice, and what its config file is based on, by the names of their components."""
    if choice is None:
        return
    yield choice
    for name, value in _defaults(f"{group}/{choice}"):
        if value is None and name != "_self_":
            yield from [name.removesuffix("_schema")] if name.endswith("_schema") else _ancestry(group, name)
