"""The seeded grammar that describes word-list tasks in English, in two disjoint phrasing sets.

A description is a clause (what to do), set in a frame (how one person addresses another); two clauses
are joined by a connector. The seed deals clauses, frames and connectors out to the training and the
test phrasing set: a test phrasing's clause, frame and connector never occur in a training phrasing. One
test phrasing in five also names its attribute in a way that the vocabulary keeps for testing. Placeholders in clauses:
{s} singular, {p} plural, {a} singular with article, {o} what a list-wide step works on.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from t2l.tasks.suites.word_list_clauses import (
    ATTRIBUTE_CLAUSES,
    CONNECTORS,
    FRAMES,
    LIST_CLAUSES,
    SECOND_OBJECTS,
    SINGLE_OBJECTS,
    VERB_PATTERNS,
    WHOLE_SENTENCES,
)
from t2l.tasks.suites.word_list_vocabulary import Attribute, Noun

PHRASINGS = ("train", "test")
TEST_FRACTION = 0.2
"""Part of every list of clauses, frames and connectors that only test phrasings use."""


def clause_pool(step: str) -> tuple[str, ...]:
    """Every clause there is for an operation, each once."""
    written = {**ATTRIBUTE_CLAUSES, **LIST_CLAUSES}[step]
    made = [f"{verb} {tail}" for verbs, tails in VERB_PATTERNS[step] for verb in verbs.split("|") for tail in tails]
    return tuple(dict.fromkeys([*written, *made]))


@dataclass(frozen=True)
class Grammar:
    """One phrasing set: the clauses, whole sentences, frames and connectors it may use."""

    phrasing: str
    clauses: dict[str, tuple[str, ...]]
    whole: dict[str, tuple[str, ...]]
    frames: tuple[str, ...]
    connectors: tuple[str, ...]


def _deal(items: Sequence[str], phrasing: str, seed: int, key: str) -> tuple[str, ...]:
    """The items of one phrasing set: a seeded fifth (at least one) is for testing, the others for training."""
    order = random.Random(f"word_lists:phrasings:{seed}:{key}").sample(list(items), len(items))
    cut = max(1, round(TEST_FRACTION * len(items)))
    return tuple(order[:cut] if phrasing == "test" else order[cut:])


def grammar(phrasing: str, seed: int) -> Grammar:
    """The grammar of a phrasing set. Raises ValueError for a set that there is not."""
    if phrasing not in PHRASINGS:
        raise ValueError(f"unknown phrasing set {phrasing!r}: choose from {', '.join(PHRASINGS)}")
    return Grammar(
        phrasing,
        clauses={step: _deal(clause_pool(step), phrasing, seed, f"clauses:{step}") for step in VERB_PATTERNS},
        whole={step: _deal(pool, phrasing, seed, f"whole:{step}") for step, pool in WHOLE_SENTENCES.items()},
        frames=_deal(FRAMES, phrasing, seed, "frames"),
        connectors=_deal(CONNECTORS, phrasing, seed, "connectors"),
    )


def _capitalise(text: str) -> str:
    return text[0].upper() + text[1:]


@dataclass(frozen=True)
class _Phraser:
    """Draws descriptions of one task from one grammar."""

    steps: Sequence[str]
    attribute: Attribute | None
    grammar: Grammar
    rng: random.Random

    def _noun(self) -> Noun:
        assert self.attribute is not None
        unseen = self.grammar.phrasing == "test" and self.rng.random() < TEST_FRACTION
        return self.rng.choice(self.attribute.test_nouns if unseen else self.attribute.train_nouns)

    def _fill(self, clause: str) -> str:
        if self.attribute is None:
            return clause
        noun = self._noun()
        return clause.format(s=noun.singular, p=noun.plural, a=noun.with_article)

    def _clause(self, step: str, objects: Sequence[str]) -> str:
        clause = self.rng.choice(self.grammar.clauses[step])
        return clause.format(o=self.rng.choice(objects)) if step in LIST_CLAUSES else self._fill(clause)

    def draw(self) -> str:
        """One description."""
        if len(self.steps) == 1:
            if self.steps[0] in WHOLE_SENTENCES and self.rng.random() < 0.1:
                return self._fill(self.rng.choice(self.grammar.whole[self.steps[0]]))
            clause = self._clause(self.steps[0], SINGLE_OBJECTS)
        else:
            one = self._clause(self.steps[0], SINGLE_OBJECTS)
            two = self._clause(self.steps[1], SECOND_OBJECTS)
            clause = self.rng.choice(self.grammar.connectors).format(one=one, two=two)
        return self.rng.choice(self.grammar.frames).format(c=clause, C=_capitalise(clause))


def phrase(
    steps: Sequence[str], attribute: Attribute | None, grammar: Grammar, count: int, seed: str
) -> tuple[str, ...]:
    """Up to `count` distinct descriptions of the task made of `steps`, reproducible from `seed`.

    Fewer come back only if the grammar has fewer (the caller decides whether that is enough).
    """
    rng = random.Random(f"{seed}:{grammar.phrasing}:{'+'.join(steps)}")
    phraser = _Phraser(steps, attribute, grammar, rng)
    found: dict[str, None] = {}
    for _ in range(40 * count):
        if len(found) == count:
            break
        found[phraser.draw()] = None
    return tuple(found)
