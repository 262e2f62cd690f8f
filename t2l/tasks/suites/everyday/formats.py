"""How an answer is written: plainly, in brackets, as JSON and so on, and which of these goes with which function."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from t2l.tasks.suites.everyday.tables import Function, Item, dealt, table

PLAIN = "plain"
LONGEST_ANSWER = 40
"""characters of the longest answer, whatever its format"""
MOST_UNCHANGED = 0.1
"""a format that leaves more than this share of a function's answers as they are is not combined with it"""
NOT_AFTER_MARK = ("told", "exclaim")
"""formats that add a mark to an answer, which may then not end in one"""


@dataclass(frozen=True)
class Format:
    """A way to write answers, and the ways to ask for it.

    `tails` follow a request after a comma, `sentences` stand before or after it; both by phrasing set.
    """

    name: str
    pattern: str
    tails: dict[str, tuple[str, ...]]
    sentences: dict[str, tuple[str, ...]]

    def write(self, text: str, answer: str) -> str:
        """The answer to an input in this format."""
        if self.name == "upper":
            return answer.upper()
        if self.name == "json":
            return json.dumps({"answer": answer}, ensure_ascii=False)
        return self.pattern.format(x=text, y=answer)


@cache
def formats() -> dict[str, Format]:
    """Every format by its name; the first is plain."""
    found = {}
    for name, entry in table("formats").items():
        ways = {key: dealt(entry.get(key, ()), f"format:{name}:{key}") for key in ("tails", "sentences")}
        found[name] = Format(name, entry["pattern"], **ways)
    return found


def usable_formats(function: Function, items: Sequence[Item]) -> tuple[str, ...]:
    """The formats that go with a function on these inputs, plain first.

    Left out are those that would change (almost) nothing, make an answer too long, put a mark behind a mark, or
    contradict the function's own wording.
    """
    return tuple(name for name, form in formats().items() if name == PLAIN or _fits(form, function, items))


def _fits(form: Format, function: Function, items: Sequence[Item]) -> bool:
    if form.name in function.not_with:
        return False
    answers = [item.answers[function.name] for item in items]
    if form.name in NOT_AFTER_MARK and any(a[-1] in ".?!," for a in answers):
        return False
    if form.name == "twice" and any("," in a or a.count(" ") > 1 for a in answers):
        return False
    written = [form.write(item.text, a) for item, a in zip(items, answers, strict=True)]
    unchanged = sum(w == a for w, a in zip(written, answers, strict=True))
    return max(map(len, written)) <= LONGEST_ANSWER and unchanged <= MOST_UNCHANGED * len(items)
