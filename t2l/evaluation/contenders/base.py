"""The base model without an adapter: told nothing, the task's description, or its formal code."""

from __future__ import annotations

from t2l.evaluation.contenders.interface import Contender, Entry, Needs, SplitView
from t2l.evaluation.scoring import questions_for
from t2l.registry import register


@register("contender", "base")
class Base(Contender):
    """The frozen base model, told nothing about the task."""

    name, place = "base", 10
    is_harness_default = True

    def enter(self, view: SplitView) -> Entry:
        """Bare inputs, no adapter."""
        return Entry(questions_for(view.tasks, view.examples))


@register("contender", "prompted")
class Prompted(Contender):
    """The base model with the description in its prompt."""

    name, place = "prompted", 20
    needs = Needs(descriptions=True)

    def enter(self, view: SplitView) -> Entry:
        """The description before every input, no adapter."""
        return Entry(questions_for(view.tasks, view.examples, prefix_of=view.description))


@register("contender", "formal_code")
class FormalCode(Contender):
    """The mini base told its own formal code: the ceiling of its skill."""

    name, place = "formal_code", 50
    needs = Needs(formal_code=True)

    def enter(self, view: SplitView) -> Entry:
        """The formal code before every input, no adapter. Raises ValueError for suites without codes."""
        codes = [task.formal_code for task in view.tasks]
        if None in codes:
            raise ValueError("contender formal_code needs a suite with formal codes: take it out of `contenders`")
        return Entry(questions_for(view.tasks, view.examples, prefix_of=lambda t, e: codes[t] or ""))
