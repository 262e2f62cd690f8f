"""`t2l VERB --help`: a verb's words, groups and keys, each with its meaning and the value it has now.

Meanings are read from the source: the line under each field of the config dataclasses. Values are those that the rest of
the command composes, so `t2l train hypernetwork=l --help` shows the keys of that architecture.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

from t2l.cli.settings import compose_with_hydra
from t2l.config import choices
from t2l.run.console import WIDTH
from t2l.verbs import VERBS, verb_named

COLUMN = 28
"""where meanings begin"""
EXPERIMENT = "values for several groups and keys at once, from conf/experiment/NAME.yaml"


def meanings(config: type) -> dict[str, str]:
    """What the line under each field of a dataclass says, in its source or that of a class it inherits from."""
    found: dict[str, str] = {}
    for kind in reversed(config.__mro__):
        with suppress(OSError, TypeError, SyntaxError):  # there is no source of builtins, and of what was typed in
            body: Any = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
            for field, line in itertools.pairwise(body.body):
                if isinstance(field, ast.AnnAssign) and isinstance(line, ast.Expr):
                    found[ast.unparse(field.target)] = " ".join(str(ast.literal_eval(line.value)).split())
    return found


def summary(config: type) -> str:
    """The first paragraph of a dataclass's docstring, less the name of the verb before it."""
    text = " ".join((inspect.getdoc(config) or "").split("\n\n")[0].split())
    return text.partition(": ")[2] if text.startswith("`t2l ") else text


def verb_help(name: str, overrides: Sequence[str], folder: str | None = None) -> str:
    """The page of `t2l NAME --help`, 80 columns wide.

    Raises SettingsError if the overrides do not compose.
    """
    config, hydra = compose_with_hydra(name, overrides, folder)
    chosen = {g: c for g, c in reversed(hydra.runtime.choices.items()) if not g.startswith("hydra/")}
    lines = [*_usage(name), ""]
    if chosen:
        lines += ["groups, a choice for each; the keys below that begin with its name come with it:", ""]
        lines += [*_groups(name, config, chosen, folder), ""]
    lines += ["keys:", "", *_keys(config, chosen)]
    return "\n".join(line.rstrip() for line in lines)


def _usage(name: str) -> Iterator[str]:
    verb = verb_named(name)
    words = ""
    for key in verb.words:
        many = "list" in str(next(f.type for f in fields(verb.config) if f.name == key))
        words += f" {key.removesuffix('s').upper()}{' ...' if many else ''}"
    sweeps = " [-m]" if verb.keeps_records else ""
    usage = f"usage: t2l {name}{words} [key=value ...] [--some-key VALUE ...]{sweeps} [--cfg job]"
    yield from textwrap.wrap(usage, WIDTH, subsequent_indent=" " * len(f"usage: t2l {name} "), break_on_hyphens=False)
    yield ""
    told = [f"{VERBS[name][0].upper()}{VERBS[name][1:]}."]
    told += [" ".join(p.split()) for p in (inspect.getdoc(verb.config) or "").split("\n\n")[1:]]
    told.append(
        "--some-key VALUE is the same as some_key=VALUE, --some-flag as some_flag=true; `--cfg job` prints what the "
        "command composes and runs nothing."
    )
    if verb.words:
        told.append("Words after -- are taken as they are, whatever they look like.")
    if verb.keeps_records:
        told.append("-m sweeps over values with commas between them.")
    if verb.is_parallel:
        told.append(f"`torchrun --nproc-per-node N -m t2l {name} ...` runs it in N processes.")
    for paragraph in told:
        yield from textwrap.wrap(paragraph, WIDTH, break_long_words=False, break_on_hyphens=False)


def _entry(left: str, meaning: str) -> Iterator[str]:
    """A key and its value, and what it means beside or below."""
    left = f"  {left if len(left) <= WIDTH - 2 else f'{left[: WIDTH - 5]}...'}"
    told = textwrap.wrap(re.sub(r"\bNone\b", "null", meaning), WIDTH - COLUMN, break_on_hyphens=False)
    if len(left) < COLUMN and told:
        yield f"{left:<{COLUMN}}{told.pop(0)}"
    else:
        yield left
    yield from (f"{'':<{COLUMN}}{line}" for line in told)


def _groups(name: str, config: Any, chosen: Mapping[str, str | None], folder: str | None) -> Iterator[str]:
    from omegaconf import OmegaConf

    told, shown = meanings(verb_named(name).config), set()
    for key, choice in chosen.items():
        group, _, place = key.partition("@")
        top, _, below = (place or group).partition(".")
        many = f"{group}@{place.rpartition('.')[0]}.NAME=CHOICE"
        label = many if below else f"{key}={'null' if choice is None else choice}"
        if (group, top if below else key) in shown:
            continue
        shown.add((group, top if below else key))
        kind = None if below else OmegaConf.get_type(config, top) if top in config else None
        meaning = told.get(top) or (summary(kind) if is_dataclass(kind) else EXPERIMENT if top == "experiment" else "")
        yield from _entry(label, meaning)
        yield from _entry("", f"one of {', '.join(choices(group, folder))}")


def _keys(config: Any, chosen: Mapping[str, str | None]) -> Iterator[str]:
    """Keys that are values, then each part of the config with its own."""
    from omegaconf import OmegaConf

    values: Any = OmegaConf.to_container(config, resolve=False)
    parts = {key: kind for key in values if is_dataclass(kind := OmegaConf.get_type(config, key))}
    groups = {(place or group).split(".")[0] for group, _, place in (key.partition("@") for key in chosen)}
    root: Any = OmegaConf.get_type(config)
    told = meanings(root)
    for key, value in values.items():
        if key not in parts and key not in groups:
            yield from _entry(f"{key}={_text(value)}", told.get(key, ""))
    for part, kind in parts.items():
        yield ""
        yield from textwrap.wrap(f"{part}: {summary(kind)}", WIDTH)
        told = meanings(kind)
        for key, value in values[part].items():
            yield from _entry(f"{part}.{key}={_text(value)}", told.get(key, ""))
            if isinstance(value, Mapping):
                yield from _keys_within(config[part][key], f"{part}.{key}")


def _keys_within(node: Any, path: str) -> Iterator[str]:
    """The keys of each config in a mapping of configs by name; nothing of another mapping."""
    from omegaconf import OmegaConf

    kinds: dict[str, Any] = {name: OmegaConf.get_type(node, name) for name in node}
    if is_dataclass(OmegaConf.get_type(node)) or not all(map(is_dataclass, kinds.values())):
        return
    for name, kind in kinds.items():
        told = meanings(kind)
        values: Any = OmegaConf.to_container(node[name], resolve=False)
        for key, value in values.items():
            yield from _entry(f"{path}.{name}.{key}={_text(value)}", told.get(key, ""))


def _text(value: Any) -> str:
    """A value as it would be typed; of a mapping in a mapping the names alone."""
    if isinstance(value, Mapping):
        inner = (str(k) if isinstance(v, Mapping) else f"{k}: {_text(v)}" for k, v in value.items())
        return f"{{{', '.join(inner)}}}"
    if isinstance(value, list):
        return f"[{','.join(map(_text, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return " ".join(str(value.name if isinstance(value, Enum) else value).split())
