"""Which tasks are trained on, and which of the others show what: dealt out evenly by the seed."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from t2l.tasks.suites.everyday.formats import PLAIN
from t2l.tasks.suites.everyday.tables import Function

if TYPE_CHECKING:
    from t2l.tasks.suites.everyday.suite import EverydayConfig

FEWEST_PER_KIND = 4
"""trained functions that every kind of input keeps"""
FEWEST_OF_HELD = 0.6
"""held families have at least this share of the tasks that their split is to have; the rest are further formats"""
FORMATS_PER_SHARED = 3
"""most formats that a function of several kinds is trained in"""
TRIES = 2000

Usable = Mapping[tuple[str, str], Sequence[str]]
"""by (kind, function), the formats that go with it"""


@dataclass(frozen=True, order=True)
class Rule:
    """A task: a function on a kind of input, with its answer in a format."""

    kind: str
    function: str
    format: str

    @property
    def name(self) -> str:
        """Name of the task, like country_capital_json."""
        return f"{self.kind}_{self.function}_{self.format}"


@dataclass
class Partition:
    """The tasks of each split."""

    train: list[Rule] = field(default_factory=list)
    unseen_combination: list[Rule] = field(default_factory=list)
    unseen_task: list[Rule] = field(default_factory=list)
    unseen_family: list[Rule] = field(default_factory=list)
    validation: list[Rule] = field(default_factory=list)


def _least(options: Iterable[str], used: Counter[str], rng: random.Random) -> str:
    """The option used least so far, counted at once; ties are broken by chance."""
    options = list(options)
    fewest = min(used[o] for o in options)
    chosen = rng.choice([o for o in options if used[o] == fewest])
    used[chosen] += 1
    return chosen


def _kind_sizes(functions: Iterable[Function]) -> Counter[str]:
    return Counter(kind for f in functions for kind in f.kinds)


@dataclass
class _Dealer:
    config: EverydayConfig
    functions: Mapping[str, Function]
    usable: Usable
    rng: random.Random

    def families(self) -> list[str]:
        """Families to hold out whole: their functions fit the split and leave every kind enough others."""
        sizes = Counter(f.family for f in self.functions.values())
        most = self.config.unseen_family_tasks
        all_kinds = set(_kind_sizes(self.functions.values()))
        for _ in range(TRIES):
            held = self.rng.sample(sorted(sizes), min(self.config.held_families, len(sizes)))
            rest = _kind_sizes(f for f in self.functions.values() if f.family not in held)
            if FEWEST_OF_HELD * most <= sum(sizes[f] for f in held) <= most and all(
                rest[kind] >= FEWEST_PER_KIND + 1 for kind in all_kinds
            ):
                return held
        raise ValueError(
            f"suite.held_families={self.config.held_families} does not go with suite.unseen_family_tasks={most}: "
            f"the {len(sizes)} families have {min(sizes.values())} to {max(sizes.values())} functions each, and "
            f"together the held ones need {FEWEST_OF_HELD:.0%} to 100% as many functions as tasks"
        )

    def hold_functions(self, names: Sequence[str], count: int) -> list[str]:
        """Functions that are never trained, by turns from every family, at most half of one."""
        held: list[str] = []
        by_family: dict[str, list[str]] = {}
        for name in names:
            by_family.setdefault(self.functions[name].family, []).append(name)
        order = self.rng.sample(sorted(by_family), len(by_family))
        totals = _kind_sizes(self.functions[n] for n in names)
        while len(held) < count:
            before = len(held)
            for family in order:
                mine = by_family[family]
                gone = _kind_sizes(self.functions[n] for n in held)
                free = [
                    n for n in self.rng.sample(mine, len(mine))
                    if n not in held and all(totals[k] - gone[k] > FEWEST_PER_KIND for k in self.functions[n].kinds)
                ]  # fmt: skip
                if len(held) < count and free and sum(n in held for n in mine) < len(mine) // 2:
                    held.append(min(free, key=lambda n: max(gone[k] / totals[k] for k in self.functions[n].kinds)))
            if len(held) == before:
                raise ValueError(
                    f"suite.unseen_tasks={self.config.unseen_tasks} and suite.validation_tasks="
                    f"{self.config.validation_tasks} are too many: at most {before} functions can be held out"
                )
        return held

    def _sizes(self, names: Sequence[str]) -> dict[str, int]:
        """Training tasks of each function: as many as asked for, less one for some if that is more than allowed."""
        config, sizes = self.config, {}
        for name in names:
            kinds = len(self.functions[name].kinds)
            sizes[name] = config.formats_per_function if kinds == 1 else min(config.kinds_per_shared_function, kinds)
        for name in self.rng.sample(list(names), len(names)):
            if sum(sizes.values()) > config.train_tasks and sizes[name] > 1:
                sizes[name] -= 1
        return sizes

    def train(self, names: Sequence[str]) -> list[Rule]:
        """Tasks of each function: half of the functions plainly, and every format about equally often."""
        used: Counter[str] = Counter()
        sizes, rules = self._sizes(names), []
        kinds = Counter(self.functions[n].kinds[0] for n in names if len(self.functions[n].kinds) == 1)
        for index, name in enumerate(self.rng.sample(list(names), len(names))):
            function = self.functions[name]
            on: list[str] = []
            while len(on) < (1 if len(function.kinds) == 1 else sizes[name]):
                on.append(_least([k for k in function.kinds if k not in on], kinds, self.rng))
            fitting = [f for f in self.usable[on[0], name] if all(f in self.usable[k, name] for k in on)]
            chosen = self._formats(
                fitting, min(FORMATS_PER_SHARED, sizes[name]) if len(on) > 1 else sizes[name], index, used
            )
            rules += [Rule(on[i % len(on)], name, chosen[i % len(chosen)]) for i in range(max(len(on), len(chosen)))]
        return rules

    def _formats(self, fitting: Sequence[str], count: int, index: int, used: Counter[str]) -> list[str]:
        """Formats to train a function in: plain for every second one, and those used least so far."""
        chosen = [PLAIN] if index % 2 == 0 else []
        while len(chosen) < count and set(fitting) - {PLAIN, *chosen}:
            chosen.append(_least([f for f in fitting if f not in (PLAIN, *chosen)], used, self.rng))
        return chosen or [PLAIN]

    def combinations(self, train: Sequence[Rule], count: int) -> list[Rule]:
        """Trained functions in trained formats that they were not trained in, each function at most once."""
        trained = {f: {r.format for r in train if r.function == f} for f in sorted({r.function for r in train})}
        formats, kinds = {r.format for r in train}, Counter[str]()
        used: Counter[str] = Counter()
        free = {f: [r.kind for r in train if r.function == f] for f in trained}
        held: list[Rule] = []
        while len(held) < count:
            options: dict[str, list[str]] = {}
            for name, on in free.items():
                if any((formats & set(self.usable[k, name])) - trained[name] for k in on):
                    options.setdefault(min(on, key=lambda k: kinds[k]), []).append(name)
            if not options:
                raise ValueError(
                    f"suite.unseen_combinations={self.config.unseen_combinations} and suite.validation_tasks="
                    f"{self.config.validation_tasks} are too many: at most {len(held)} combinations can be held out"
                )
            kind = _least(sorted(options), kinds, self.rng)
            name = self.rng.choice(options[kind])
            new = sorted((formats & set(self.usable[kind, name])) - trained[name])
            if new:
                held.append(Rule(kind, name, _least(new, used, self.rng)))
            del free[name]
        return held

    def alone(self, names: Sequence[str], formats: set[str]) -> list[Rule]:
        """One task of each function, by turns plain and in a trained format."""
        used: Counter[str] = Counter()
        kinds: Counter[str] = Counter()
        rules = []
        for index, name in enumerate(names):
            kind = _least(self.functions[name].kinds, kinds, self.rng)
            others = sorted((formats & set(self.usable[kind, name])) - {PLAIN})
            rules.append(Rule(kind, name, _least(others, used, self.rng) if index % 2 and others else PLAIN))
        return rules

    def more(self, rules: Sequence[Rule], formats: set[str], count: int) -> list[Rule]:
        """The same functions in further formats, up to `count` tasks in all."""
        found = list(rules)
        used = Counter(r.format for r in rules)
        for rule in self.rng.sample(list(rules), len(rules)):
            others = sorted((formats & set(self.usable[rule.kind, rule.function])) - {rule.format})
            if len(found) < count and others:
                found.append(Rule(rule.kind, rule.function, _least(others, used, self.rng)))
        return found


def partition(config: EverydayConfig, functions: Mapping[str, Function], usable: Usable) -> Partition:
    """The splits of a seed. Raises ValueError if more is to be held out than there is."""
    dealer = _Dealer(config, functions, usable, random.Random(f"everyday:splits:{config.seed}"))
    families = dealer.families()
    names = [n for n, f in functions.items() if f.family not in families]
    for_validation = config.validation_tasks // 2
    held = dealer.hold_functions(names, config.unseen_tasks + for_validation)
    validated = set(dealer.rng.sample(held, for_validation))
    train = dealer.train([n for n in names if n not in held])
    formats = {r.format for r in train}
    combinations = dealer.combinations(train, config.unseen_combinations + config.validation_tasks - for_validation)
    in_validation = set(dealer.rng.sample(combinations, config.validation_tasks - for_validation))
    held_whole = [n for n, f in functions.items() if f.family in families]
    alone = dealer.alone(dealer.rng.sample(held_whole, len(held_whole)), formats)
    return Partition(
        train=sorted(train),
        unseen_combination=sorted(r for r in combinations if r not in in_validation),
        unseen_task=sorted(dealer.alone([n for n in held if n not in validated], formats)),
        unseen_family=sorted(dealer.more(alone, formats, config.unseen_family_tasks)),
        validation=sorted([*in_validation, *dealer.alone([n for n in held if n in validated], formats)]),
    )
