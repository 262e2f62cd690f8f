"""Descriptions of tasks in English: a core phrase of the function in a frame, with a word on the format.

There are two phrasing sets, and no core phrase, frame, introduction or way to name a format is in both, so a test
description uses no phrase of a training description. All are written by hand, core phrases in four shapes (see `SHAPES`), and
dealt to the two sets by chance, so that those for testing are no further off than another person's words. One description in
seven is misspelt.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from t2l.tasks.suites.everyday.formats import PLAIN, Format
from t2l.tasks.suites.everyday.tables import Function, frames, intros, table

SCHEDULE = (
    "do",
    "what",
    "ask",
    "do",
    "terse",
    "do",
    "what",
    "ask",
    "do",
    "what",
    "do",
    "ask",
    "terse",
    "do",
    "what",
    "ask",
    "do",
)
"""shapes of successive descriptions"""
MISSPELT_EVERY = 7
"""one description in so many is misspelt"""
SHORTEST_MISSPELT = 6
"""letters of the shortest word that is misspelt"""
NEVER_MISSPELT = ("answer", "answers")
"""words that may have to be copied"""
TRIES = 60
"""draws of one description before other shapes are tried, as all of the first may have been used"""


@dataclass(frozen=True)
class Description:
    """A text that asks for a task, its shape, and whether it has misspelt words."""

    text: str
    shape: str
    is_misspelt: bool


def misspell(text: str, rng: random.Random) -> str:
    """The text with one or two long words misspelt: an inner letter is dropped or doubled, or two are swapped.

    Words that are no plain lower-case words, like addresses and tags, stay; a text of short words is returned as it is.
    """
    words = text.split(" ")
    long = [i for i, word in enumerate(words) if _is_plain(word)]
    for i in rng.sample(long, min(len(long), rng.choice([1, 1, 2]))):
        words[i] = _misspell_word(words[i], rng)
    return " ".join(words)


def _is_plain(word: str) -> bool:
    bare = word.strip(".,;:?!()")
    return re.fullmatch(rf"[a-z]{{{SHORTEST_MISSPELT},}}", bare) is not None and bare not in NEVER_MISSPELT


def _misspell_word(word: str, rng: random.Random) -> str:
    start = next(i for i, c in enumerate(word) if c.isalpha())
    end = len(word) - next(i for i, c in enumerate(reversed(word)) if c.isalpha())
    while True:
        at = rng.randrange(start + 1, end - 2)
        made = {
            "drop": word[:at] + word[at + 1 :],
            "double": word[:at] + word[at] + word[at:],
            "swap": word[:at] + word[at + 1] + word[at] + word[at + 2 :],
        }[rng.choice(["drop", "double", "swap"])]
        if made != word:
            return made


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


@dataclass(frozen=True)
class Phraser:
    """Draws descriptions of one task from one phrasing set."""

    function: Function
    kind: str
    form: Format
    phrasing: str
    rng: random.Random

    def many(self, count: int) -> list[Description]:
        """Up to `count` different descriptions; fewer only if there are no more."""
        found: dict[str, Description] = {}
        for index in range(2 * count):
            if len(found) == count:
                break
            misspelt = index % MISSPELT_EVERY == MISSPELT_EVERY // 2
            for attempt in range(TRIES):
                shape = (
                    SCHEDULE[index % len(SCHEDULE)] if attempt < TRIES // 3 else self.rng.choice(("do", "what", "ask"))
                )
                clean = self._draw(shape)
                text = misspell(clean, self.rng) if misspelt else clean
                if text not in found:
                    found[text] = Description(text, shape, text != clean)
                    break
            else:
                break  # there is hardly anything left to draw
        return list(found.values())

    def _draw(self, shape: str) -> str:
        core = self.rng.choice(self.function.phrases[self.kind][shape][self.phrasing])
        tails, sentences = self.form.tails[self.phrasing], self.form.sentences[self.phrasing]
        wants_format = self.form.name != PLAIN or (shape != "terse" and self.rng.random() < 0.25)
        if tails and (shape == "terse" or (shape in ("do", "what") and self.rng.random() < 0.5)):
            return self._framed(shape, f"{core}, {self.rng.choice(tails)}")
        body = self._framed(shape, core)
        if not wants_format:
            return body
        sentence = self.rng.choice(sentences)
        if shape == "ask" and self.rng.random() < 0.3:
            return f"{sentence} {body}"
        return f"{body if body[-1] in '.?!' else body + '.'} {sentence}"

    def _framed(self, shape: str, core: str) -> str:
        frame = self.rng.choice(frames(shape)[self.phrasing])
        intro = self.rng.choice(intros(self.kind)[self.phrasing])
        letter = shape[0]
        slots = {letter if shape != "do" else "c": core, letter.upper() if shape != "do" else "C": _capital(core)}
        slots |= {"q": core, "i": intro, "n": table(f"kinds/{self.kind}")["noun"]}
        made: str = frame.format(**slots)
        for end in (core, _capital(core)):
            made = made.replace(f"{end}.", end) if core[-1] in "?." else made
        return made
