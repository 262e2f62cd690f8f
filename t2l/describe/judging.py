"""What of a reply is a description: reading lists out of what models write, and rejecting what must not be kept."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from t2l.checks import at_least, in_range
from t2l.tasks import Task

REJECTIONS = ("empty", "too_short", "too_long", "output_leak", "input_leak", "known", "duplicate", "near_duplicate")
"""Why a description is rejected, in the order of the checks."""
LABEL_SHARE = 0.05
"""An output that answers more than this share of a task's examples, and several of them, is a label; naming it tells
no answer."""
_THOUGHT = re.compile(r"<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)|^.*?</think(?:ing)?>", re.DOTALL)
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_LISTED = re.compile(r"^\s*(?:\d+\s*[.):]|[-*•])\s+(.+)$", re.MULTILINE)
_NUMBER = re.compile(r"^\d+\s*[.):]\s+")


@dataclass
class AcceptConfig:
    """Which descriptions are kept."""

    min_words: int = 4
    """fewest words of a description"""
    max_words: int = 120
    """most words of a description"""
    near_duplicate: float = 0.8
    """share of words in common (intersection over union) above which two descriptions are one"""
    leak_words: int = 2
    """fewest words of an example's input or output whose appearance in a description is a leak"""

    def __post_init__(self) -> None:
        at_least(self, 1, "min_words", "leak_words", under="accept")
        if self.max_words < self.min_words:
            raise ValueError(f"accept.max_words={self.max_words} is below accept.min_words={self.min_words}")
        in_range(self, "(0, 1]", "near_duplicate", under="accept")


def words_of(text: str) -> list[str]:
    """The words of a text, without case, whitespace and punctuation."""
    return re.findall(r"\w+", text.casefold())


def _strings(value: Any) -> list[str]:
    """The strings of a decoded JSON list, whose items may be objects of one string; empty for any other value."""
    items = value if isinstance(value, list) else []
    single = [next(iter(i.values())) if isinstance(i, dict) and len(i) == 1 else i for i in items]
    return single if all(isinstance(s, str) for s in single) else []


def _lists(text: str) -> Iterator[list[str]]:
    """Lists of strings in a text, from the strictest reading to the most lenient."""
    decoder = json.JSONDecoder(strict=False)
    starts = [m.start() for m in re.finditer(r"\[", text)]
    for start in starts:
        try:
            yield _strings(decoder.raw_decode(text, start)[0])
        except json.JSONDecodeError:
            continue
    for start in starts[:1]:  # a list that was cut off, or whose commas are wrong
        yield [s for m in _STRING.finditer(text, start) for s in _strings(_decoded(m.group()))]
    yield [line.strip().strip(",").strip("\"'*") for line in _LISTED.findall(text)]


def _decoded(literal: str) -> list[Any]:
    try:
        return [json.loads(literal, strict=False)]
    except json.JSONDecodeError:
        return []


def parse_descriptions(reply: str) -> list[str]:
    """The descriptions that a reply lists; none if it is malformed.

    Reads a JSON list of strings, alone or inside prose, an object or a code fence, also one that was cut off; failing
    that, numbered or bulleted lines. What a model thinks aloud between <think> tags is left out.
    """
    text = _THOUGHT.sub("", reply)
    found = next((items for items in _lists(text) if items), [])
    # Half a surrogate pair is valid JSON and no text.
    whole = [" ".join(item.encode("utf-8", "ignore").decode().split()) for item in found]
    return [_NUMBER.sub("", item) for item in whole]


def _as_words(texts: Iterable[str], least: int) -> Counter[str]:
    """Texts of at least so many words, as their words between spaces, counted."""
    split = (words_of(t) for t in texts)
    return Counter(f" {' '.join(words)} " for words in split if len(words) >= least)


class Judge:
    """Takes the descriptions of one task one after another; keeps some and counts why others are rejected."""

    def __init__(self, config: AcceptConfig, task: Task) -> None:
        self.config = config
        self.accepted: list[str] = []
        self.rejected: Counter[str] = Counter(dict.fromkeys(REJECTIONS, 0))
        self._known = [words_of(d) for group in task.descriptions.values() for d in group]
        self._taken: list[list[str]] = []
        self._examples = [e for group in task.examples.values() for e in group]

    @cached_property
    def _outputs(self) -> list[str]:
        """Outputs whose appearance is a leak, as words between spaces."""
        found = _as_words((o for e in self._examples for o in (e.output, *e.references)), self.config.leak_words)
        return [o for o, count in found.items() if count < 2 or count <= LABEL_SHARE * len(self._examples)]

    @cached_property
    def _inputs(self) -> list[str]:
        """Inputs whose appearance is a leak, as words between spaces."""
        return list(_as_words((e.input for e in self._examples), self.config.leak_words))

    def forget_examples(self) -> None:
        """Frees the words of the task's examples; they are gathered again if they are needed."""
        for key in ("_outputs", "_inputs"):
            self.__dict__.pop(key, None)

    def take(self, description: str) -> str | None:
        """Keeps a description and returns None, or returns the kind of its rejection (see REJECTIONS)."""
        words = words_of(description)
        kind = self._rejection(words)
        if kind is None:
            self.accepted.append(description)
            self._taken.append(words)
        else:
            self.rejected[kind] += 1
        return kind

    def _rejection(self, words: list[str]) -> str | None:
        text = f" {' '.join(words)} "
        checks = {
            "empty": lambda: not words,
            "too_short": lambda: len(words) < self.config.min_words,
            "too_long": lambda: len(words) > self.config.max_words,
            "output_leak": lambda: any(o in text for o in self._outputs),
            "input_leak": lambda: any(i in text for i in self._inputs),
            "known": lambda: any(words == k or self._is_near(words, k) for k in self._known),
            "duplicate": lambda: words in self._taken,
            "near_duplicate": lambda: any(self._is_near(words, t) for t in self._taken),
        }
        return next((kind for kind in REJECTIONS if checks[kind]()), None)

    def _is_near(self, words: list[str], other: list[str]) -> bool:
        """Whether two descriptions share more of their words than allowed (Jaccard index of their sets of words)."""
        a, b = set(words), set(other)
        return len(a & b) > self.config.near_duplicate * len(a | b)
