"""How the scored checkpoints were chosen, and which splits had a say in it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from t2l.hypernetwork.checkpoint import find_checkpoint, how_chosen, load_record
from t2l.tasks import TaskSuite

log = logging.getLogger(__name__)


def selection_text(checkpoints: Mapping[str, Path], validation_split: str | None) -> str:
    """Model selection in words, checkpoint by checkpoint.

    Args:
        checkpoints: what was asked for, and the checkpoint folder that it means.
        validation_split: split that settings were chosen on, if the user says so.
    """
    found = [f"{path}: {how_chosen(folder)}" for path, folder in checkpoints.items()]
    if validation_split is not None:
        found.append(f"by the user on the split {validation_split}, which is not scored")
    return "; ".join(found) or "none (no checkpoint is scored)"


def _choices(trained_on: Mapping[str, Any], selection: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    """What a checkpoint was validated on, and the one that it started from, and so on."""
    if selection:
        yield selection.get("on", {})
    origin = trained_on.get("init_from")
    if origin:
        yield from _choices(origin["trained_on"], origin.get("selection"))


def splits_to_score(suite: TaskSuite, asked: Sequence[str] | None, checkpoints: Sequence[str]) -> list[str]:
    """Names of the splits to score: those asked for, else all that have tasks and had no say in choosing a checkpoint.

    Raises ValueError for a split asked for whose tasks a checkpoint was validated on.
    """
    names = list(asked) if asked is not None else [n for n, s in suite.splits.items() if s.tasks]
    used: dict[str, str] = {}
    for path in checkpoints:
        record = load_record(find_checkpoint(Path(path)))
        chosen = None if record.selection is None else record.selection.to_json()
        for on in _choices(record.trained_on, chosen):
            used |= dict.fromkeys(on.get("unseen_tasks", {}).get("names", ()), path)
    touched = {
        n: next(used[t] for t in suite.split(n).tasks if t in used) for n in names if {*suite.split(n).tasks} & {*used}
    }
    for name, path in touched.items():
        if asked is not None:
            raise ValueError(
                f"split {name!r} cannot be scored: checkpoint {path} was chosen by its tasks; leave it out of splits=[...]"
            )
        log.info("split %s is not scored: checkpoint %s was chosen by its tasks", name, path)
    return [n for n in names if n not in touched]
