"""Descriptions to adapter folders: one forward pass of a trained hypernetwork, saved for PEFT."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from t2l.base_model.files import file_fingerprint, resolve_path
from t2l.encoder import TaskEncoder
from t2l.files import FileProblemError, check_finite, check_replaceable
from t2l.hypernetwork import Hypernetwork
from t2l.hypernetwork.checkpoint import (
    CheckpointRecord,
    check_fits,
    find_checkpoint,
    load_hypernetwork,
    load_record,
    load_training_data,
)
from t2l.hypernetwork.confidence import distances
from t2l.hypernetwork.kept_calibration import kept_calibration
from t2l.lora import LoraWeights
from t2l.lora.card import adapter_card
from t2l.lora.peft_folder import adapter_tensors, peft_config, save_adapter
from t2l.lora.serving import problems_of
from t2l.lora.source import bytes_per_adapter

GENERATED_AT_ONCE = 2**27
"""bytes of adapters that are generated together"""


@dataclass(frozen=True)
class Confidence:
    """How far a description lies from training, and the score to expect of its adapter."""

    distance: float
    nearest_task: str
    expected_score: float | None
    """None where the checkpoint was not calibrated by `t2l evaluate keep_calibration=true`"""

    def warning(self, threshold: float) -> str | None:
        """One line where the expected score is below a threshold."""
        if self.expected_score is None or self.expected_score >= threshold:
            return None
        return (
            f"the adapter may not do what is described: expected score {self.expected_score:.2f} at distance "
            f"{self.distance:.2f} from the nearest training task ({self.nearest_task}); describe the task in other "
            "words, or train one"
        )


@dataclass(frozen=True)
class Generator:
    """A trained hypernetwork with its encoder, ready to turn descriptions into adapters."""

    hypernetwork: Hypernetwork
    encoder: TaskEncoder
    record: CheckpointRecord
    checkpoint: Path

    @torch.no_grad()
    def __call__(self, descriptions: Sequence[str]) -> LoraWeights:
        """One adapter per description. Raises ValueError for an empty description, or if a value is not finite."""
        device = next(self.hypernetwork.parameters()).device
        weights = self.hypernetwork(self.encoder.encode(descriptions).to(device)).to("cpu")
        for side, tensors in (("A", weights.A), ("B", weights.B)):
            check_finite({f"{side} of {k}": t for k, t in tensors.items()}, f"adapters of checkpoint {self.checkpoint}")
        return weights


def confidences(generator: Generator, descriptions: Sequence[str]) -> list[Confidence | None]:
    """The confidence of each description's adapter; None where the checkpoint does not say what it was trained on."""
    data = load_training_data(generator.checkpoint)
    if data is None:
        return [None] * len(descriptions)
    apart, nearest = distances(generator.hypernetwork, data.centres, generator.encoder.encode(descriptions))
    calibration = kept_calibration(generator.checkpoint, generator.record.step)
    expected = calibration(apart) if calibration is not None else [None] * len(descriptions)
    tasks = generator.record.trained_on["tasks"]
    return [Confidence(float(d), tasks[i], e) for d, i, e in zip(apart, nearest, expected, strict=True)]


def load_generator(checkpoint: Path, encoder: TaskEncoder, base_fingerprint: str | None) -> Generator:
    """Loads a checkpoint (or the newest of a run folder) and checks that everything fits.

    Args:
        base_fingerprint: of the base model the adapters are for; None where it cannot be told without
            loading the model.

    Raises:
        FileProblemError: no checkpoint there, or a file is damaged.
        ValueError: the checkpoint was made for another base model or encoder.
    """
    folder = find_checkpoint(checkpoint)
    record = load_record(folder)
    check_fits(record, base_fingerprint or record.base_fingerprint, encoder.identity, f"checkpoint {folder}")
    return Generator(load_hypernetwork(folder, record), encoder, record, folder)


def read_descriptions(path: Path) -> list[str]:
    """Descriptions from a text file, one per line; blank lines are skipped.

    Raises FileProblemError where the file is missing or holds none.
    """
    if not path.is_file():
        raise FileProblemError(f"no such file of descriptions: {path}")
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    found = [line for line in lines if line]
    if not found:
        raise FileProblemError(f"{path} holds no description: write one per line")
    return found


def folders_for(out: Path, count: int) -> list[Path]:
    """The folders that `count` descriptions' adapters go to.

    Raises FileProblemError where one holds what t2l did not write, or what was changed since.
    """
    folders = [out / f"{i:03d}" if count > 1 else out for i in range(count)]
    if count == 1 and (out / "000").is_dir():
        raise FileProblemError(
            f"{out} holds adapters of several descriptions ({out / '000'}...), and one description's goes to the folder "
            "itself: choose another"
        )
    for folder in folders:
        check_replaceable(folder)
    return folders


def write_adapters(
    generator: Generator, descriptions: Sequence[str], out: Path, base_name: str, licence: str | None = None
) -> list[tuple[Path, Confidence | None]]:
    """Generates and saves adapters, each with its card; returns their folders, and how sure each adapter is.

    One description goes to `out` itself, several to `out/000`, `out/001`...

    Raises FileProblemError where such a folder holds what t2l did not write, or what was changed since.
    """
    folders = folders_for(out, len(descriptions))
    sure = confidences(generator, descriptions)
    path = resolve_path(base_name)
    base_path = str(Path(path).resolve()) if Path(path).is_dir() else path
    spec = generator.hypernetwork.spec
    at_once = max(1, GENERATED_AT_ONCE // bytes_per_adapter(spec))
    for i, (folder, description, confidence) in enumerate(zip(folders, descriptions, sure, strict=True)):
        provenance = {
            "description": description,
            **_origin(generator),
            "base_model": base_name,
            "confidence": None if confidence is None else asdict(confidence),
            "licence": licence,
        }
        if i % at_once == 0:
            weights = generator(descriptions[i : i + at_once])
        weight = weights[i % at_once]
        shapes = {key: tuple(t.shape) for key, t in adapter_tensors(spec, weight).items()}
        card = adapter_card(spec, provenance, folder, problems_of(peft_config(spec, base_path), shapes))
        save_adapter(folder, spec, weight, base_path, provenance, card)
    return list(zip(folders, sure, strict=True))


def _origin(generator: Generator) -> dict[str, Any]:
    record = generator.record
    return {
        "generated_by": record.objective,
        "definition": record.trained_on.get("definition", "hidden"),
        "conditions": record.conditions,
        "checkpoint": str(generator.checkpoint),
        "step": record.step,
        "seed": record.trained_on.get("seed"),
        "suite": record.trained_on.get("suite"),
        "base_fingerprint": record.base_fingerprint,
        "encoder_identity": record.encoder_identity,
    }


def base_for(record_base: str, asked: str | None) -> tuple[str, str | None]:
    """Name and fingerprint of the base to generate for: the one asked for, else the checkpoint's own."""
    name = asked or record_base
    return name, file_fingerprint(resolve_path(name))
