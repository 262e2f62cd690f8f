"""The word-list suite: procedurally generated tasks over short lists of words, numbers and letters.

A task selects items by an attribute ("the animals", "the even numbers") and does something with them
(keep, count, move to the front...), does something to the whole list (reverse, sort...), or does both
in turn. Every list mixes three groups of items, and each group present could be the one the task is
about, so the input does not give the task away. Everything follows from one integer seed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

from t2l.checks import at_least, one_of
from t2l.registry import register
from t2l.tasks.suites.word_list_phrasings import PHRASINGS, Grammar, grammar, phrase
from t2l.tasks.suites.word_list_vocabulary import ANSWER_WORDS, ATTRIBUTES, GROUPS, MASK, NONE, SPARE_WORDS, VOWELS
from t2l.tasks.task import Example, Split, Task, TaskSuite

Items = list[str]


def _sort_key(item: str) -> tuple[int, int, str]:
    return (0, int(item), "") if item.isdigit() else (1, 0, item)


ATTRIBUTE_STEPS: dict[str, Callable[[Items, frozenset[str]], Items]] = {
    "keep": lambda items, hit: [i for i in items if i in hit],
    "drop": lambda items, hit: [i for i in items if i not in hit],
    "count": lambda items, hit: [str(sum(i in hit for i in items))],
    "first": lambda items, hit: [i for i in items if i in hit][:1],
    "last": lambda items, hit: [i for i in items if i in hit][-1:],
    "any": lambda items, hit: ["yes" if any(i in hit for i in items) else "no"],
    "front": lambda items, hit: [i for i in items if i in hit] + [i for i in items if i not in hit],
    "back": lambda items, hit: [i for i in items if i not in hit] + [i for i in items if i in hit],
    "mask": lambda items, hit: [MASK if i in hit else i for i in items],
    "double": lambda items, hit: [i for item in items for i in ([item] * (2 if item in hit else 1))],
}
LIST_STEPS: dict[str, Callable[[Items], Items]] = {
    "reverse": lambda items: items[::-1],
    "sort": lambda items: sorted(items, key=_sort_key),
    "rotate": lambda items: items[1:] + items[:1],
    "trim_first": lambda items: items[1:],
    "trim_last": lambda items: items[:-1],
}
TWO_STEP_PAIRS: tuple[tuple[str, str], ...] = tuple(
    (first, second)
    for first in ("keep", "drop", "double", "mask", "front")
    for second in LIST_STEPS
    # Sorting forgets what moving to the front did, and a masked item has no place in an order.
    if not (second == "sort" and first in ("mask", "front"))
)
_OP_CODES = {step: f"op{i:02d}" for i, step in enumerate([*ATTRIBUTE_STEPS, *LIST_STEPS])}
_ATTRIBUTE_CODES = {name: f"at{i:02d}" for i, name in enumerate(ATTRIBUTES)}


@dataclass(frozen=True)
class WordListRule:
    """What a word-list task does: one or two steps and, if a step selects, the attribute."""

    steps: tuple[str, ...]
    attribute: str | None

    @property
    def name(self) -> str:
        """Task name, like `keep_animals` or `drop_even_then_reverse`."""
        first = self.steps[0] if self.attribute is None else f"{self.steps[0]}_{self.attribute}"
        return "_then_".join([first, *self.steps[1:]])

    @property
    def formal_code(self) -> str:
        """The code the mini base model was pretrained to follow; opaque on purpose."""
        codes = [_OP_CODES[self.steps[0]]]
        if self.attribute is not None:
            codes.append(_ATTRIBUTE_CODES[self.attribute])
        return " ".join(codes + [_OP_CODES[s] for s in self.steps[1:]])

    def answer(self, items: Sequence[str]) -> str:
        """The right answer for a list, items separated by single spaces; `none` for an empty result."""
        result = list(items)
        for step in self.steps:
            if step in LIST_STEPS:
                result = LIST_STEPS[step](result)
            else:
                assert self.attribute is not None
                result = ATTRIBUTE_STEPS[step](result, ATTRIBUTES[self.attribute].members)
        return " ".join(result) or NONE

    def sample_input(self, rng: random.Random) -> list[str]:
        """A list of 4 to 7 distinct items from three groups, each group present at least once.

        The group of the rule's attribute is one of the three in nine lists out of ten (in one of two
        if the question is whether there is any).
        """
        groups = list(GROUPS)
        if self.attribute is None:
            return _sample_items(rng, rng.sample(groups, 3))
        own = ATTRIBUTES[self.attribute].group
        others = rng.sample([g for g in groups if g != own], 3)
        is_present = rng.random() < (0.5 if self.steps[0] == "any" else 0.9)
        return _sample_items(rng, [own, *others[1:]] if is_present else others)


def _sample_items(rng: random.Random, groups: Sequence[str]) -> list[str]:
    length = rng.randint(4, 7)
    owners = [*groups, *rng.choices(groups, k=length - len(groups))]
    chosen: list[str] = []
    for group in owners:
        pool = VOWELS if group == "letters" and rng.random() < 0.5 else GROUPS[group]
        free = [item for item in pool if item not in chosen]
        chosen.append(rng.choice(free))
    rng.shuffle(chosen)
    return chosen


def all_rules() -> list[WordListRule]:
    """Every rule there is: what the mini base model is pretrained on."""
    single = [WordListRule((step,), name) for step in ATTRIBUTE_STEPS for name in ATTRIBUTES]
    whole = [WordListRule((step,), None) for step in LIST_STEPS]
    double = [WordListRule(pair, name) for pair in TWO_STEP_PAIRS for name in ATTRIBUTES]
    return single + whole + double


def vocabulary() -> list[str]:
    """Every word of inputs, answers and formal codes, in a fixed order (for the mini tokenizer)."""
    items = [item for group in GROUPS.values() for item in group]
    return list(dict.fromkeys([*ANSWER_WORDS, *items, *SPARE_WORDS, *_OP_CODES.values(), *_ATTRIBUTE_CODES.values()]))


@dataclass
class WordListConfig:
    """The embedded word-list suite."""

    name: str = "word_lists"
    """which source of tasks this is; fixed"""
    seed: int = 0
    """decides splits, descriptions and examples"""
    train_examples: int = 256
    """examples per task for training"""
    validation_examples: int = 16
    """examples per task for choosing hyperparameters"""
    test_examples: int = 32
    """examples per task for scores; never trained on"""
    train_descriptions: int = 128
    """descriptions per task in the training phrasing set"""
    test_descriptions: int = 24
    """descriptions per task in the test phrasing set"""
    held_attributes: int = 3
    """attributes that only unseen_category uses"""
    held_combinations: int = 30
    """(operation, attribute) pairs kept out of training"""
    held_step_pairs: int = 5
    """pairs of operations never chained in training"""
    held_compositions: int = 30
    """two-step tasks of the unseen_composition split"""
    train_compositions: int = 60
    """two-step tasks in training"""

    def __post_init__(self) -> None:
        one_of(self, ["word_lists"], "name", under="suite")
        at_least(self, 0, "seed", under="suite")
        at_least(self, 1, *(key for key in vars(self) if key not in ("name", "seed")), under="suite")


def _hold_out_combinations(rules: list[WordListRule], count: int, rng: random.Random) -> list[WordListRule]:
    """Random single-step rules, spread evenly over operations and attributes.

    Each operation loses at most its equal share, each attribute at most one more than its own, and
    neither ever more than half, so that what is unseen is the pairing and not its parts.
    """
    held: list[WordListRule] = []
    steps, attributes = {r.steps for r in rules}, {r.attribute for r in rules}
    most_per_step = min(-(-count // len(steps)), len(attributes) // 2)
    most_per_attribute = min(-(-count // len(attributes)) + 1, len(steps) // 2)
    for rule in rng.sample(rules, len(rules)):
        if len(held) == count:
            break
        same_step = sum(r.steps == rule.steps for r in held)
        same_attribute = sum(r.attribute == rule.attribute for r in held)
        if same_step < most_per_step and same_attribute < most_per_attribute:
            held.append(rule)
    if len(held) < count:
        raise ValueError(
            f"suite.held_combinations={count} is too many: at most {len(held)} of {len(rules)} pairs can be held out"
        )
    return held


def _hold_out_step_pairs(count: int, rng: random.Random) -> set[tuple[str, str]]:
    """Pairs of operations to hold out such that each operation still appears in a trained pair."""
    held: set[tuple[str, str]] = set()
    for pair in rng.sample(TWO_STEP_PAIRS, len(TWO_STEP_PAIRS)):
        if len(held) == count:
            break
        rest = [p for p in TWO_STEP_PAIRS if p not in held | {pair}]
        if any(p[0] == pair[0] for p in rest) and any(p[1] == pair[1] for p in rest):
            held.add(pair)
    return held


def _partition(config: WordListConfig) -> dict[str, list[WordListRule]]:
    """The rules of training and of each split of unseen tasks."""
    rng = random.Random(f"word_lists:splits:{config.seed}")
    held_attributes = set(rng.sample(sorted(ATTRIBUTES), config.held_attributes))
    single = [r for r in all_rules() if len(r.steps) == 1 and r.attribute is not None]
    whole = [r for r in all_rules() if r.attribute is None]
    seen = [r for r in single if r.attribute not in held_attributes]
    combination = _hold_out_combinations(seen, config.held_combinations, rng)
    train_single = [r for r in seen if r not in combination]
    trained_steps = {(r.steps[0], r.attribute) for r in train_single}
    held_pairs = _hold_out_step_pairs(config.held_step_pairs, rng)
    double = [r for r in all_rules() if len(r.steps) == 2 and (r.steps[0], r.attribute) in trained_steps]
    compositions = [r for r in double if r.steps in held_pairs]
    trainable = [r for r in double if r.steps not in held_pairs]
    for pool, key in ((compositions, "held_compositions"), (trainable, "train_compositions")):
        if len(pool) < (wanted := getattr(config, key)):
            raise ValueError(f"suite.{key}={wanted} is too many: this seed leaves {len(pool)} two-step tasks")
    return {
        "train": train_single + whole + rng.sample(trainable, config.train_compositions),
        "unseen_combination": combination,
        "unseen_composition": rng.sample(compositions, config.held_compositions),
        "unseen_category": [r for r in single if r.attribute in held_attributes],
    }


def _examples(rule: WordListRule, config: WordListConfig) -> dict[str, tuple[Example, ...]]:
    rng = random.Random(f"word_lists:examples:{config.seed}:{rule.name}")
    sizes = {"test": config.test_examples, "validation": config.validation_examples, "train": config.train_examples}
    inputs: dict[str, Example] = {}
    while len(inputs) < sum(sizes.values()):
        items = rule.sample_input(rng)
        text = " ".join(items)
        inputs.setdefault(text, Example(text, rule.answer(items)))
    examples = iter(inputs.values())
    return {split: tuple(islice(examples, size)) for split, size in sizes.items()}


def _task(rule: WordListRule, config: WordListConfig, grammars: Sequence[Grammar]) -> Task:
    attribute = ATTRIBUTES[rule.attribute] if rule.attribute is not None else None
    counts = {"train": config.train_descriptions, "test": config.test_descriptions}
    descriptions = {
        g.phrasing: phrase(rule.steps, attribute, g, counts[g.phrasing], f"{config.seed}:{rule.name}") for g in grammars
    }
    for phrasing, wanted in counts.items():
        if len(descriptions[phrasing]) < wanted:
            raise ValueError(
                f"suite.{phrasing}_descriptions={wanted} is too many: the grammar has only "
                f"{len(descriptions[phrasing])} for task {rule.name!r}"
            )
    return Task(
        name=rule.name,
        descriptions=descriptions,
        examples=_examples(rule, config),
        family="+".join(rule.steps),
        formal_code=rule.formal_code,
        attributes={"operation": "+".join(rule.steps), "category": rule.attribute or "(none)"},
    )


@register("suite", "word_lists", WordListConfig)
def build(config: WordListConfig) -> TaskSuite:
    """The suite of a config: the same seed gives the same tasks, splits, descriptions and examples.

    Raises:
        ValueError: if a size asked for is more than the seed's partition or the grammar holds.
    """
    parts = _partition(config)
    grammars = [grammar(phrasing, config.seed) for phrasing in PHRASINGS]
    names = {key: tuple(r.name for r in rules) for key, rules in parts.items()}
    return TaskSuite(
        name=config.name,
        tasks={r.name: _task(r, config, grammars) for rules in parts.values() for r in rules},
        splits={
            "train": Split(names["train"]),
            "unseen_phrasing": Split(names["train"], phrasing="test"),
            "unseen_combination": Split(names["unseen_combination"]),
            "unseen_combination_and_phrasing": Split(names["unseen_combination"], phrasing="test"),
            "unseen_composition": Split(names["unseen_composition"]),
            "unseen_category": Split(names["unseen_category"]),
        },
        provenance={"source": "t2l.tasks.suites.word_lists", "seed": config.seed, "licence": "same as t2l"},
    )
