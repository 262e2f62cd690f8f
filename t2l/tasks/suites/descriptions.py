"""Descriptions from a folder, and descriptions held out of training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from t2l.files import FileProblemError
from t2l.seeding import generator_for

METADATA_FILE = "metadata.yaml"


def check_descriptions(texts: object) -> tuple[str, ...]:
    """Descriptions as they are. Raises ValueError if that is no list of non-empty texts."""
    if not isinstance(texts, list) or not texts:
        raise ValueError(f"descriptions must be a list with at least one text, not {str(texts)[:60]!r}")
    for number, text in enumerate(texts, start=1):
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"description {number} of {len(texts)} is empty or no text: {text!r}")
    return tuple(texts)


def read_descriptions(folder: Path, task: str) -> tuple[str, ...]:
    """The `descriptions` of `<folder>/<task>/metadata.yaml`.

    Raises FileProblemError if the file is missing, is not YAML, or has no list of non-empty texts there.
    """
    import yaml

    path = folder / task / METADATA_FILE
    if not path.is_file():
        raise FileProblemError(f"task {task!r} has no {METADATA_FILE}: {path} does not exist")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        data: Any = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise FileProblemError(f"{path} is not valid YAML: {error}") from None
    try:
        return check_descriptions(data.get("descriptions") if isinstance(data, Mapping) else None)
    except ValueError as error:
        raise FileProblemError(f"{path}: task {task!r}: {error}") from None


def combined(own: Sequence[str], read: Sequence[str], mode: str) -> tuple[str, ...]:
    """A task's own descriptions replaced or extended by those of a folder, each text once."""
    return tuple(dict.fromkeys(read if mode == "replace" else (*own, *read)))


def _wording(text: str) -> str:
    return " ".join(text.lower().split())


def hold_out(descriptions: Mapping[str, Sequence[str]], count: int, seed: int) -> dict[str, dict[str, tuple[str, ...]]]:
    """Phrasing sets of each task: `count` of its descriptions, drawn by seed, as "test", the rest as "train".

    Only wordings that no other task has are held out, so that none of them is trained on under another name. A task
    without `count` of those, or with nothing left for training, keeps all for training.

    Raises ValueError if no task can spare as many.
    """
    if not count:
        return {name: {"train": tuple(texts)} for name, texts in descriptions.items()}
    owners = Counter(w for texts in descriptions.values() for w in {_wording(t) for t in texts})
    sets: dict[str, dict[str, tuple[str, ...]]] = {}
    for name, texts in descriptions.items():
        own = list(dict.fromkeys(w for t in texts if owners[w := _wording(t)] == 1))
        held = {own[i] for i in generator_for("phrasings", seed, name).permutation(len(own))[:count]}
        kept = tuple(t for t in texts if _wording(t) not in held)
        if len(held) < count or not kept:
            sets[name] = {"train": tuple(texts)}
        else:
            test = {_wording(t): t for t in reversed(texts) if _wording(t) in held}
            sets[name] = {"train": kept, "test": tuple(reversed(test.values()))}
    if not any("test" in s for s in sets.values()):
        raise ValueError(
            f"suite.test_descriptions={count}: no task has more than {count} descriptions that are its own; lower it, "
            "or bring more with suite.descriptions_folder"
        )
    return sets
