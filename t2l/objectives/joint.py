"""Joint: a sum of other objectives, each by a weight and during its own span of the steps."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, fields, make_dataclass
from functools import cache
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor

from t2l.checks import in_range
from t2l.hypernetwork import Hypernetwork
from t2l.lora import LoraWeights
from t2l.objectives.interface import Batch, Materials, Needs, Objective, StepSettings, Term
from t2l.registry import component_of, components, register
from t2l.tasks import PromptConfig

GROUP = "objective_part"
"""the config group of parts: every objective by its name, with the settings of `Part` beside its own"""


@dataclass
class Part:
    """How much an objective counts in a sum, and when.

    A span is given in fractions of trainer.steps (numbers up to 1) or in steps (whole numbers above 1).
    """

    weight: float = 1.0
    """what its losses are multiplied by, in whatever unit they are; at 0 it needs nothing and costs nothing"""
    start: float = 0.0
    """when it begins to count: up to 1 a fraction of trainer.steps, above 1 a number of steps"""
    until: float = 1.0
    """when it ceases to count; a fraction or steps, like start"""
    rise: float = 0.0
    """over how much time from start its weight rises linearly from 0; a fraction or steps, like start"""
    fall: float = 0.0
    """over how much time before until its weight falls linearly to 0; a fraction or steps, like start"""

    def check(self, under: str) -> None:
        """Raises ValueError for a value out of range; `under` is what the part is called on the command line."""
        in_range(self, "[0, inf)", "weight", under=under)
        for key in ("start", "until", "rise", "fall"):
            value = getattr(self, key)
            if not (0 <= value <= 1 or (value > 1 and float(value).is_integer())):
                raise ValueError(
                    f"{under}.{key} must be a fraction of trainer.steps in [0, 1] or a whole number of steps above 1, not {value!r}"
                )

    def span(self, steps: int) -> range:
        """The steps, of so many, in which it counts; empty if its weight is 0."""
        return range(_steps(self.start, steps), min(_steps(self.until, steps), steps) if self.weight else 0)

    def weight_at(self, step: int, steps: int) -> float:
        """Its weight in a step, counted from 0, of so many.

        Of a rise or fall over n steps, step i has the value of the line at its middle, (i + 1/2) / n: a part that falls
        while another rises over the same steps and the sum of both is one part's weight.
        """
        if step not in self.span(steps):
            return 0.0
        start, until = _steps(self.start, steps), _steps(self.until, steps)
        rise, fall = _steps(self.rise, steps), _steps(self.fall, steps)
        up = (step - start + 0.5) / rise if rise else 1.0
        down = (until - step - 0.5) / fall if fall else 1.0
        return self.weight * min(1.0, up, down)


def _steps(value: float, steps: int) -> int:
    return round(value * steps) if value <= 1 else int(value)


@cache
def part_config(config: Any) -> type[Any] | None:
    """The dataclass of an objective's settings together with those of `Part`.

    None if there is none: of the joint objective itself, and of a config with a setting that `Part` has as well.
    """
    if config is JointConfig or {f.name for f in fields(config)} & {f.name for f in fields(Part)}:
        return None
    # Nothing is checked as it is made: only the joint config knows what the part is called.
    own = {"_of": config, "__doc__": config.__doc__, "__post_init__": lambda self: None}
    made = make_dataclass(f"{config.__name__}Part", [], bases=(Part, config), namespace=own)
    made.__module__ = __name__
    return made


def part_of(config: Any, **settings: float) -> Any:
    """A part of a joint objective: an objective's config, and settings of `Part`.

    Raises ValueError for a config that cannot be a part.
    """
    own: Any = type(config)
    kind = part_config(own)
    if kind is None:
        raise ValueError(
            f"an objective of {own.__name__} cannot be a part of another: it is joint itself, or has a setting of "
            f"its own called {', '.join(f.name for f in fields(Part))}"
        )
    return kind(**{f.name: getattr(config, f.name) for f in fields(config) if f.init}, **settings)


def _own_config(part: Any) -> Any:
    """The config of a part's objective. Raises ValueError for values that it refuses."""
    return part._of(**{f.name: getattr(part, f.name) for f in fields(part._of) if f.init})


@contextmanager
def _called(name: str) -> Iterator[None]:
    """A block in which errors about `objective.KEY` say that of a part."""
    try:
        yield
    except ValueError as error:
        told = re.sub(r"\bobjective(?=[.=](?!parts\.))", f"objective.parts.{name}", str(error))
        raise ValueError(told) from error


@dataclass
class JointConfig:
    """A sum of other objectives, each by a weight and a schedule."""

    name: str = "joint"
    """what checkpoints and reports call it"""
    parts: dict[str, Any] = field(default_factory=dict)
    """the objectives by a name of your own, each with its settings, weight, start, until, rise and fall; one more with
    +objective_part@objective.parts.NAME=OBJECTIVE"""

    def __post_init__(self) -> None:
        others = set(components("objective")) - {"joint"}
        if not re.fullmatch(r"[A-Za-z]\w*", self.name, re.ASCII) or self.name in others:
            raise ValueError(f"objective.name must be one word that no other objective is called, not {self.name!r}")
        for name, part in self.parts.items():
            self._check(name, part)
        if not any(part.weight for part in self.parts.values()):
            raise ValueError(
                "objective.parts has none with a weight above 0: add one, like "
                f"+{GROUP}@objective.parts.sft=sft, or raise a weight"
            )

    def _check(self, name: str, part: Any) -> None:
        if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
            raise ValueError(f"objective.parts: a part is called by one word of letters, digits and _, not {name!r}")
        if not isinstance(part, Part) or type(part) is Part:
            known = ", ".join(n for n, c in components("objective").items() if c.config and part_config(c.config))
            raise ValueError(
                f"objective.parts.{name} is no objective: choose one, like +{GROUP}@objective.parts.{name}=NAME, from {known}"
            )
        part.check(f"objective.parts.{name}")
        with _called(name):
            _own_config(part)

    def counting(self) -> dict[str, Any]:
        """The parts whose weight is not 0."""
        return {name: part for name, part in self.parts.items() if part.weight}

    def configs(self) -> dict[str, Any]:
        """The objectives' own configs, of the parts whose weight is not 0."""
        return {name: _own_config(part) for name, part in self.counting().items()}


@register("objective", "joint", JointConfig)
class JointObjective(Objective):
    """The sum over parts p of w_p(step) L_p, where w_p(step) is `Part.weight_at` and L_p the part's whole loss.

    Parts share a step's generated adapters, its rows, and the one backward pass through the hypernetwork. Weights multiply
    losses as they are: those of `sft` and `distillation` are nats per token, that of `reconstruction` is a mean absolute
    difference in units of the library's standard deviations (l1), or a squared distance relative to the target's squared
    norm (frobenius); with standardise=false in the adapters' own units. Equal weights are no equal shares.
    """

    def __init__(self, config: JointConfig, objectives: Mapping[str, Objective], steps: int) -> None:
        """Raises ValueError if two parts count other training examples.

        Args:
            objectives: of the config's parts, by their names; those with weight 0 may be left out.
            steps: of the whole training.
        """
        self.config, self.objectives, self.steps = config, objectives, steps
        self.needs_base = any(o.needs_base for o in objectives.values())
        self.needs_library = any(o.needs_library for o in objectives.values())
        found = {name: counts for name, o in objectives.items() if (counts := o.row_counts()) is not None}
        self._rows = next(iter(found.values()), None)
        other = next((name for name, counts in found.items() if counts != self._rows), None)
        if other is not None:
            raise ValueError(
                f"objective.parts.{other} counts other training examples of the tasks than objective.parts.{next(iter(found))}: "
                "parts look at the same rows in a step, so their numbers must agree"
            )

    @classmethod
    def needs_of(cls, config: JointConfig) -> Needs:
        """What any of its parts needs."""
        found = [component_of("objective", c).make.needs_of(c) for c in config.configs().values()]
        return Needs(any(n.base for n in found), any(n.library for n in found))

    @classmethod
    def check_settings(cls, config: JointConfig, trainer: StepSettings, prompt: PromptConfig) -> None:
        """Raises ValueError if a part never counts, or no part counts in some step, or one refuses the settings."""
        steps, counting = trainer.steps, config.counting()
        spans = {name: part.span(steps) for name, part in counting.items()}
        for name, own in config.configs().items():
            with _called(name):
                component_of("objective", own).make.check_settings(own, trainer, prompt)
            if not spans[name]:
                part = counting[name]
                raise ValueError(
                    f"objective.parts.{name} counts in no step: start={part.start:g} is not before until={part.until:g} within "
                    f"trainer.steps={steps} (set its weight to 0 to leave it out)"
                )
        ends = sorted({0, *(span.stop for span in spans.values())} - {steps})
        gap = next((step for step in ends if not any(step in span for span in spans.values())), None)
        if gap is not None:
            raise ValueError(
                f"objective.parts: none counts in step {gap + 1} of trainer.steps={steps}: begin one there by its start, or let "
                "one go on by its until"
            )

    @classmethod
    def schedule_of(cls, config: JointConfig, steps: int, first: int) -> Any:
        """The weights of its parts, and what of each depends on the step."""
        own = {n: component_of("objective", c).make.schedule_of(c, steps, first) for n, c in config.configs().items()}
        parts = config.counting().items()
        return {name: ([part.weight_at(i, steps) for i in range(first)], own[name]) for name, part in parts}

    @classmethod
    def make(cls, config: JointConfig, materials: Materials) -> Self:
        """Makes the parts whose weight is not 0."""
        made = {}
        for name, own in config.configs().items():
            with _called(name):
                made[name] = component_of("objective", own).make.make(own, materials)
        return cls(config, made, materials.trainer.steps)

    def prepare(self, hypernetwork: Hypernetwork) -> None:
        """Lets every part prepare, in their order."""
        for objective in self.objectives.values():
            objective.prepare(hypernetwork)

    def row_counts(self) -> list[int] | None:
        """Those of its parts."""
        return self._rows

    def losses(self, hypernetwork: Hypernetwork, batch: Batch, weights: LoraWeights) -> Generator[Term, None, None]:
        """`PART/NAME` for each term of the parts that count, `PART/weight`, and `loss`, the sum of weight times `loss`."""
        total = torch.zeros((), device=weights.tensors()[0].device)
        for name, objective in self.objectives.items():
            weight = self.config.parts[name].weight_at(batch.step, self.steps)
            if not weight:
                continue
            with closing(objective.losses(hypernetwork, batch, weights)) as terms:
                for term in terms:
                    yield Term(f"{name}/{term.name}", term.value, weight * term.factor)
                    if term.name == "loss":
                        total = total + weight * term.value.detach()
            yield Term(f"{name}/weight", torch.tensor(weight), 0.0)
        yield Term("loss", total, 0.0)

    def distance(self, hypernetwork: Hypernetwork, predicted: LoraWeights, target: LoraWeights) -> Float[Tensor, ""]:
        """That of the first part which needs a library."""
        own = next((o for o in self.objectives.values() if o.needs_library), None)
        return (own.distance if own is not None else super().distance)(hypernetwork, predicted, target)
