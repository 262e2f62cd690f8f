"""The suite itself: its settings, the inputs of each kind, and the tasks made of functions and formats."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from t2l.checks import at_least, one_of
from t2l.registry import register
from t2l.tasks.suites.everyday import numbers, texts, times
from t2l.tasks.suites.everyday.formats import Format, formats, usable_formats
from t2l.tasks.suites.everyday.phrasing import Phraser
from t2l.tasks.suites.everyday.splits import Rule, partition
from t2l.tasks.suites.everyday.tables import KINDS, PHRASINGS, Function, Item, functions
from t2l.tasks.suites.everyday.words import WORDS
from t2l.tasks.task import Example, Split, Task, TaskSuite

GENERATED: dict[str, Callable[[random.Random, int], list[Item]]] = {
    "number": numbers.numbers,
    "number_word": numbers.number_words,
    "pair": numbers.pairs,
    "quantity": numbers.quantities,
    "date": times.dates,
    "time": times.times,
    "name": texts.names,
    "sentence": texts.sentences,
    "saying": texts.sayings,
    "phrase": texts.phrases,
    "message": texts.messages,
    "list": texts.lists,
}
"""what draws inputs of the kinds that are not single words"""
TEST_SHARE, VALIDATION_SHARE = 0.35, 0.1
"""most of a small pool that goes to test and to validation examples"""
DRAWN = 400
"""inputs drawn of a kind, so that what is in a split does not depend on how many of them are used"""
Deal = Mapping[str, tuple[Item, ...]]
"""inputs by example split"""


@dataclass
class EverydayConfig:
    """Everyday tasks over words, names, numbers and sentences, made without any download."""

    name: str = "everyday"
    """which source of tasks this is; fixed"""
    seed: int = 0
    """decides splits, descriptions and examples"""
    train_examples: int = 128
    """most examples per task for training; kinds with few inputs have fewer"""
    validation_examples: int = 12
    """most examples per task for choosing hyperparameters"""
    test_examples: int = 24
    """most examples per task for scores; never trained on"""
    train_descriptions: int = 40
    """descriptions per task in the training phrasing set"""
    test_descriptions: int = 16
    """descriptions per task in the test phrasing set"""
    train_tasks: int = 256
    """most training tasks; if the next two give more, some functions have one fewer"""
    formats_per_function: int = 2
    """training tasks per function, each with another format"""
    kinds_per_shared_function: int = 3
    """training tasks per function that several kinds of words have, each on another kind"""
    unseen_combinations: int = 30
    """tasks whose function and format are both trained, but never together"""
    unseen_tasks: int = 24
    """tasks whose function is never trained, though others of its family are"""
    held_families: int = 2
    """families of functions that are never trained"""
    unseen_family_tasks: int = 20
    """tasks of the families that are never trained"""
    validation_tasks: int = 20
    """tasks for choosing checkpoints: half with an unseen function, half with an unseen combination"""

    def __post_init__(self) -> None:
        one_of(self, ("everyday",), "name", under="suite")
        at_least(self, 0, "seed", under="suite")
        counts = [k for k in vars(self) if k not in ("name", "seed")]
        at_least(self, 1, *counts, under="suite")


def pool(kind: str, config: EverydayConfig) -> list[Item]:
    """The inputs of a kind in the order they are dealt: every word, or `DRAWN` inputs (or as many as are wanted)."""
    rng = random.Random(f"everyday:inputs:{config.seed}:{kind}")
    wanted = config.train_examples + config.validation_examples + config.test_examples
    items = WORDS[kind]() if kind in WORDS else GENERATED[kind](rng, max(wanted, DRAWN))
    rng.shuffle(items)
    return items


def deal(items: Sequence[Item], config: EverydayConfig) -> Deal:
    """The inputs of a kind by example split, the same for all tasks of the kind; no input is in two."""
    test = min(config.test_examples, round(TEST_SHARE * len(items)))
    validation = min(config.validation_examples, round(VALIDATION_SHARE * len(items)))
    cut = test + validation
    return {
        "train": tuple(items[cut : cut + config.train_examples]),
        "validation": tuple(items[test:cut]),
        "test": tuple(items[:test]),
    }


def _descriptions(rule: Rule, function: Function, config: EverydayConfig) -> dict[str, tuple[str, ...]]:
    found = {}
    for phrasing in PHRASINGS:
        wanted = getattr(config, f"{phrasing}_descriptions")
        rng = random.Random(f"everyday:descriptions:{config.seed}:{rule.name}:{phrasing}")
        made = Phraser(function, rule.kind, formats()[rule.format], phrasing, rng).many(wanted)
        if len(made) < wanted:
            raise ValueError(
                f"suite.{phrasing}_descriptions={wanted} is too many: the phrases give only {len(made)} for task "
                f"{rule.name!r}"
            )
        found[phrasing] = tuple(d.text for d in made)
    return found


def _example(item: Item, function: str, form: Format) -> Example:
    answer = item.answers[function]
    return Example(item.text, form.write(item.text, answer), core=answer)


def make_task(rule: Rule, inputs: Deal, config: EverydayConfig) -> Task:
    """A task on the inputs of its kind.

    Its longest answer in tokens is bounded by that in bytes, and an end; the next power of two from 8, so that questions of
    different tasks are answered together.
    """
    function, form = functions()[rule.function], formats()[rule.format]
    examples = {split: tuple(_example(i, rule.function, form) for i in items) for split, items in inputs.items()}
    longest = max(len(e.output.encode()) for rows in examples.values() for e in rows)
    return Task(
        name=rule.name,
        descriptions=_descriptions(rule, function, config),
        examples=examples,
        family=function.family,
        attributes={
            "kind": rule.kind,
            "function": rule.function,
            "format": rule.format,
            "family": function.family,
        },
        max_new_tokens=max(8, 1 << (longest + 1).bit_length()),
    )


@register("suite", "everyday", EverydayConfig)
def build(config: EverydayConfig) -> TaskSuite:
    """The suite of a config: the same seed gives the same tasks, splits, descriptions and examples.

    Raises:
        ValueError: if a size asked for is more than the functions, formats or phrases give.
    """
    pools = {kind: pool(kind, config) for kind in KINDS}
    dealt = {kind: deal(items, config) for kind, items in pools.items()}
    usable = {
        (kind, name): usable_formats(function, pools[kind])
        for name, function in functions().items()
        for kind in function.kinds
    }
    parts = partition(config, functions(), usable)
    names = {split: tuple(r.name for r in rules) for split, rules in vars(parts).items()}
    return TaskSuite(
        name=config.name,
        tasks={r.name: make_task(r, dealt[r.kind], config) for rules in vars(parts).values() for r in rules},
        splits={
            "train": Split(names["train"]),
            "unseen_phrasing": Split(names["train"], phrasing="test"),
            "unseen_combination": Split(names["unseen_combination"]),
            "unseen_combination_and_phrasing": Split(names["unseen_combination"], phrasing="test"),
            "unseen_task": Split(names["unseen_task"]),
            "unseen_family": Split(names["unseen_family"]),
            "validation": Split(names["validation"]),
        },
        provenance={"source": "t2l.tasks.suites.everyday", "seed": config.seed, "licence": "same as t2l"},
    )
