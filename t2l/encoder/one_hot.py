"""The paper's one-hot control: an embedding that says which training task it is, and nothing about it."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from t2l.checks import one_of
from t2l.encoder.interface import Embedder
from t2l.registry import register
from t2l.tasks import Task


@dataclass
class OneHotConfig:
    """The indicator of the training task that a text belongs to (Charakorn et al. 2025, reconstruction)."""

    kind: str = "one_hot"
    """fixed"""
    tasks: list[str] | None = None
    """names of tasks, in the order of the embedding's dimensions; None means the suite's training tasks"""

    def __post_init__(self) -> None:
        one_of(self, ["one_hot"], "kind", under="encoder")
        if self.tasks is not None and (not self.tasks or len(set(self.tasks)) < len(self.tasks)):
            raise ValueError("encoder.tasks must name at least one task and none twice, or be null")


def _plain(text: str) -> str:
    return " ".join(text.split())


@register("encoder", "one_hot", OneHotConfig)
class OneHotEmbedder(Embedder):
    """Knows each task by its name and, if the task itself is at hand, by its descriptions of every phrasing set."""

    reads_any_text = False
    can_be_whitened = False

    def __init__(self, config: OneHotConfig, tasks: Sequence[Task] = (), **_: Any) -> None:
        """Leaves out tasks that the config does not name. Raises ValueError if no task is named."""
        names = config.tasks if config.tasks is not None else [t.name for t in tasks]
        if not names:
            raise ValueError("encoder=one_hot needs the training tasks: name them in encoder.tasks=[...]")
        super().__init__(replace(config, tasks=list(names)))
        self._names = list(names)
        self._of_text: dict[str, set[int]] = defaultdict(set)
        descriptions = {t.name: [d for ds in t.descriptions.values() for d in ds] for t in tasks}
        for i, name in enumerate(names):
            for text in (name, *descriptions.get(name, ())):
                self._of_text[_plain(text)].add(i)

    @property
    def identity(self) -> str:
        """Of the tasks' names and their order."""
        return hashlib.sha256(f"one_hot:{json.dumps(self._names)}".encode()).hexdigest()

    @classmethod
    def width(cls, config: OneHotConfig, base_config: Any) -> int:
        """As many as there are tasks. Raises ValueError if the config does not name them."""
        if config.tasks is None:
            raise ValueError("encoder=one_hot is as wide as there are training tasks: give d_embedding=NUMBER")
        return len(config.tasks)

    def embed(self, texts: Sequence[str], progress: bool) -> Float[np.ndarray, "texts tasks"]:
        """Indicators of texts. Raises ValueError for a text of no known task, or of several."""
        del progress  # there is nothing to wait for
        return np.eye(len(self._names), dtype=np.float32)[[self.reads(text) for text in texts]]

    def reads(self, text: str) -> int:
        """The task that a text belongs to, by its number. Raises ValueError for a text of no known task, or of several."""
        found = sorted(self._of_text.get(_plain(text), ()))
        if not found:
            raise ValueError(
                f"encoder=one_hot: {text!r} is neither the name nor a known description of one of its {len(self._names)} "
                f"training tasks, and it knows nothing else: give a task's name, like {self._names[0]!r}"
            )
        if len(found) > 1:
            names = " and ".join(repr(self._names[i]) for i in found[:2])
            raise ValueError(f"encoder=one_hot: {text!r} describes {names} alike: it cannot tell which is meant")
        return found[0]
