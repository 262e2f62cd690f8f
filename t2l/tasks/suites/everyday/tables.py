"""The YAML files of the suite: facts, functions and their phrases of each kind of input, formats, and frames."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
SHARED = "shared"
"""name of the file with functions that several kinds of single words have"""
KINDS = (
    "country", "animal", "element", "noun", "verb", "adjective", "compound", "number", "number_word", "pair", "date",
    "time", "quantity", "name", "sentence", "saying", "phrase", "message", "list",
)  # fmt: skip
SHAPES = ("do", "what", "ask", "terse")
"""imperative verb phrase, noun phrase, question, and a few words that stand alone"""
PHRASINGS = ("train", "test")
TEST_PHRASES = 1 / 3
"""share of a function's phrases that are kept for testing"""


@dataclass(frozen=True)
class Item:
    """One input, and the right answer to it under each function of its kind."""

    text: str
    answers: Mapping[str, str]


Phrases = Mapping[str, Mapping[str, tuple[str, ...]]]
"""by shape and phrasing set, ways to say something"""


@dataclass(frozen=True)
class Function:
    """What a task computes, before any format.

    `phrases` holds by kind of input the ways to ask for it; its keys are the kinds that have the function. `not_with`
    names formats whose wording would contradict that of the function.
    """

    name: str
    family: str
    phrases: Mapping[str, Phrases]
    not_with: tuple[str, ...] = ()

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of input that have this function."""
        return tuple(self.phrases)


@cache
def table(name: str) -> dict[str, Any]:
    """A YAML file of the package, like `kinds/country` or `formats`."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    found: dict[str, Any] = yaml.load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"), Loader=loader)
    return found


def alternatives(text: str) -> tuple[str, ...]:
    """Ways to say something, from "one | another | a third"."""
    return tuple(text.split(" | "))


def dealt(pool: Sequence[str], key: str) -> dict[str, tuple[str, ...]]:
    """Alternatives by phrasing set: a third of them for testing, drawn by a key and by nothing else.

    So both sets are of one kind: what tells them apart is chance, not who wrote them.
    """
    order = random.Random(f"everyday:phrases:{key}").sample(range(len(pool)), len(pool))
    test = {*order[: max(1, round(TEST_PHRASES * len(pool)))]} if pool else set()
    return {p: tuple(c for i, c in enumerate(pool) if (i in test) == (p == "test")) for p in PHRASINGS}


@cache
def frames(shape: str) -> dict[str, tuple[str, ...]]:
    """Sentences around a core phrase of a shape, by phrasing set."""
    return dealt(table("frames")[shape], f"frames:{shape}")


@cache
def intros(kind: str) -> dict[str, tuple[str, ...]]:
    """Sentences that say what kind of input there will be, by phrasing set."""
    return dealt(alternatives(table(f"kinds/{kind}")["intro"]), f"intro:{kind}")


def _phrases(name: str, entry: Mapping[str, Any], noun: str) -> Phrases:
    return {shape: dealt(alternatives(entry[shape].replace("{x}", noun)), f"{name}:{shape}") for shape in SHAPES}


@cache
def functions() -> dict[str, Function]:
    """Every function by its name. Kinds come in the order of KINDS, functions that several share last."""
    found: dict[str, Function] = {}
    for kind in (*KINDS, SHARED):
        for name, entry in table(f"kinds/{kind}")["functions"].items():
            assert name not in found, name
            nouns = {k: str(table(f"kinds/{k}")["noun"]) for k in entry.get("kinds", [kind])}
            phrases = {k: _phrases(name, entry, noun) for k, noun in nouns.items()}
            found[name] = Function(name, entry["family"], phrases, tuple(entry.get("not_with", ())))
    return found
