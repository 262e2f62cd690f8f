"""Descriptions as other people would write them, and adapters at other scales.

Every style is a seeded rewriting of a description, of any suite, by rules; what is answered stays the same.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from t2l.evaluation.board import Board
from t2l.evaluation.checkpoints import first_of_each
from t2l.evaluation.contenders.generated import Generated
from t2l.evaluation.contenders.interface import Contender, Entry, SplitView
from t2l.evaluation.context import Context
from t2l.lora import LoraSpec
from t2l.lora.source import Scaled

SCALES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
"""factors on the adapter's own scaling; at 0 the base is bare"""
_FILLER = frozenset(
    "a an the of in on to for from that which who is are be it its this these those and then so just please i you me my "
    "your we us our would could can will should want like need have has with as at by any all each every".split()
)
_PREAMBLES = (
    "Thanks for helping me out here, I have been at this for most of the afternoon. What I am after is the following.",
    "I am not sure how best to put this, and there may well be a neater way to say it, so bear with me.",
    "Hello! As part of a larger clean-up that a colleague started last week I need one small thing done.",
)
_POSTSCRIPTS = (
    "That is really all there is to it; take whatever time it needs.",
    "I hope that makes sense, and thank you very much in advance.",
    "Nothing else about it matters to me at this point.",
)
_FRAMES = (
    "Requirement: upon receipt of its input, the component shall behave as follows. {}",
    "Dear assistant, kindly observe the instruction set out hereafter: {}",
    "TODO(reviewer): implement what the ticket says -> {}",
)


def terse(text: str, rng: random.Random) -> str:
    """Content words alone, as typed into a search box."""
    words = [w for w in re.findall(r"[\w'-]+", text.lower()) if w not in _FILLER]
    return " ".join(words) or text


def verbose(text: str, rng: random.Random) -> str:
    """The description between sentences that say nothing about the task."""
    return f"{rng.choice(_PREAMBLES)} {text} {rng.choice(_POSTSCRIPTS)}"


def misspelt(text: str, rng: random.Random) -> str:
    """One slip of the finger in every third word of four letters or more: a letter swapped, lost or doubled."""
    words = text.split(" ")
    long = [i for i, w in enumerate(words) if sum(c.isalpha() for c in w) >= 4]
    for i in rng.sample(long, -(-len(long) // 3)):
        word = words[i]
        at = rng.randrange(1, len(word) - 1)
        slip = rng.choice(("swap", "lose", "double"))
        if slip == "swap":
            words[i] = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
        else:
            words[i] = word[:at] + (word[at + 1 :] if slip == "lose" else word[at] * 2 + word[at + 1 :])
    return " ".join(words)


def formal(text: str, rng: random.Random) -> str:
    """The description inside the phrases of a specification, a letter or a ticket."""
    return rng.choice(_FRAMES).format(text)


def vague(text: str, rng: random.Random) -> str:
    """The first half of the words, as of someone interrupted."""
    words = text.rstrip(".!?").split(" ")
    return " ".join(words[: max(1, len(words) // 2)]) + "..."


STYLES: dict[str, Callable[[str, random.Random], str]] = {
    style.__name__: style for style in (terse, verbose, misspelt, formal, vague)
}


def rewrite(view: SplitView, style: str, seed: int) -> list[list[str]]:
    """Every description of a view in a style.

    `wrong` gives a task the next task's descriptions, `several` both its own and the next task's, in turn.
    Raises ValueError for an unknown style.
    """
    others = [*view.descriptions[1:], *view.descriptions[:1]]
    if style == "as_written":
        return [list(ds) for ds in view.descriptions]
    if style == "wrong":
        return [list(ds) for ds in others]
    if style == "several":
        return [
            [f"{mine} {theirs}" for mine, theirs in zip(ds, other, strict=False)]
            for ds, other in zip(view.descriptions, others, strict=True)
        ]
    if style not in STYLES:
        raise ValueError(f"unknown style {style!r}: choose from as_written, {', '.join(STYLES)}, wrong, several")
    return [
        [STYLES[style](d, random.Random(f"{style}:{seed}:{task.name}:{i}")) for i, d in enumerate(ds)]
        for task, ds in zip(view.tasks, view.descriptions, strict=True)
    ]


class _Variant(Contender):
    """A generated contender under a style or a scale."""

    def __init__(self, generated: Generated, name: str, enter: Callable[[SplitView], Entry]) -> None:
        self.name, self._generated, self._enter = name, generated, enter

    @property
    def spec(self) -> LoraSpec:
        """That of the generated contender."""
        return self._generated.spec

    def enter(self, view: SplitView) -> Entry:
        """The generated contender's questions, its adapters in another style or scale."""
        return self._enter(view)


def _styled(generated: Generated, style: str, seed: int, view: SplitView) -> Entry:
    return generated.entry_for(view, rewrite(view, style, seed))


def _scaled(generated: Generated, factor: float, view: SplitView) -> Entry:
    entry = generated.enter(view)
    assert entry.adapters is not None
    return replace(entry, adapters=Scaled(entry.adapters, factor))


def _variants(generated: Generated, seed: int, tasks: int) -> Iterator[tuple[str, Any, _Variant]]:
    of_others = ("wrong", "several") if tasks > 1 else ()
    for style in ("as_written", *STYLES, *of_others):
        name = f"{generated.name}:{style}"
        yield "style", style, _Variant(generated, name, partial(_styled, generated, style, seed))
    for factor in SCALES:
        name = f"{generated.name}:x{factor:g}"
        yield "scale", factor, _Variant(generated, name, partial(_scaled, generated, factor))


def robustness(board: Board, context: Context) -> dict[str, list[dict[str, Any]]]:
    """Scores under every style and scale on the configured split, as rows of report.json.

    Of the matched contender of one checkpoint per name, if its encoder reads any text.
    """
    view = next((v for v in context.scope.views if v.name == context.config.robustness_split), None)
    readers = [c.matched for c in first_of_each(context.checkpoints) if c.encoder.reads_any_text]
    if view is None or not readers:
        return {}
    rows: dict[str, list[dict[str, Any]]] = {"style": [], "scale": []}
    for contender in readers:
        for kind, value, variant in _variants(contender, board.seed, len(view.tasks)):
            cell = board.cell(variant.name, view.name, [board.run(variant, view, is_variant=True)])
            found = cell.estimate.row("mean")
            kept = {key: found[key] for key in ("mean", "ci95", "n_tasks")}
            rows[kind].append({"contender": contender.name, "split": view.name, kind: value, **kept})
    return rows
