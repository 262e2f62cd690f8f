"""Which rows of report.json belong together; imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any


def in_order(rows: Sequence[Mapping[str, Any]], key: str) -> list[str]:
    """What rows of report.json name under a key, each once."""
    return list(dict.fromkeys(row[key] for row in rows))


def recipes_in(data: Mapping[str, Any]) -> list[str]:
    """The recipes of a report: generated contenders that have controls.

    Args:
        data: what report.json holds; likewise below.
    """
    return in_order(data.get("controls") or (), "contender")


def pairs_of_recipes(data: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Rows of `against` in which both are recipes: each pair once, the earlier minus the later."""
    place = {name: i for i, name in enumerate(recipes_in(data))}
    rows = (r for r in data.get("against") or () if r["other"] in place)
    return [r for r in rows if place.get(r["contender"], len(place)) < place[r["other"]]]


def unpaired_recipes(data: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Pairs of recipes that `differences` left out; none of a report that was made before there were such rows."""
    paired = {frozenset((r["contender"], r["other"])) for r in data.get("against") or ()}
    return [pair for pair in combinations(recipes_in(data), 2) if frozenset(pair) not in paired] if paired else []
