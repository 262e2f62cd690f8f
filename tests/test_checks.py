"""Range checks of config values say the key, what is allowed and the value, and let null be where it may be."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from t2l.checks import at_least, in_range, one_of, positive


@dataclass
class Config:
    count: int = 1
    most: int | None = None
    part: float = 0.5
    kind: str = "l1"


@pytest.mark.parametrize(
    ("config", "check", "says"),
    [
        (Config(count=0), lambda c: at_least(c, 1, "most", "count"), "count must be at least 1, not 0"),
        (Config(most=0), lambda c: at_least(c, 1, "count", "most", under="a"), "a.most must be at least 1, or null, not 0"),
        (Config(part=0.0), lambda c: positive(c, "count", "part"), "part must be positive, not 0.0"),
        (Config(part=1.0), lambda c: in_range(c, "[0, 1)", "part"), "part must be in [0, 1), not 1.0"),
        (Config(part=-1.0), lambda c: in_range(c, "[0, 1)", "part"), "part must be in [0, 1), not -1.0"),
        (Config(part=0.0), lambda c: in_range(c, "(0, 1]", "part"), "part must be in (0, 1], not 0.0"),
        (Config(part=1.5), lambda c: in_range(c, "(0, 1]", "part"), "part must be in (0, 1], not 1.5"),
        (Config(part=float("nan")), lambda c: in_range(c, "[0, 1]", "part"), "part must be in [0, 1], not nan"),
        (Config(part=float("nan")), lambda c: positive(c, "part"), "part must be positive, not nan"),
        (Config(kind="l3"), lambda c: one_of(c, ("l1", "l2"), "kind"), "kind must be l1 or l2, not 'l3'"),
        (Config(kind=""), lambda c: one_of(c, ("l0", "l1", "l2"), "kind"), "kind must be l0, l1 or l2, not ''"),
    ],
)  # fmt: skip
def test_what_is_not_allowed_is_said(config: Config, check: Callable[[Config], None], says: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(says)}$"):
        check(config)


def test_what_is_allowed_passes() -> None:
    config = Config(count=1, part=0.0)
    at_least(config, 1, "count", "most")
    positive(config, "count", "most")
    in_range(config, "[0, 1)", "part", "most")
    one_of(config, ("l1", "l2"), "kind", "most")
