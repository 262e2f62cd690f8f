"""Checkpoints of hypernetworks: safetensors and JSON, written whole or not at all, loaded strictly.

A run keeps `checkpoints/step-000200/` with `hypernetwork.safetensors`, `trainer.safetensors` (optimiser
moments and the state of torch's generator) and `checkpoint.json` (architecture, spec, what it was
trained on). A step's folder appears under its name only when it is complete.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from t2l import encoder as encoders
from t2l import hypernetwork as hypernetworks
from t2l.files import FileProblemError, atomic_folder, read_json, read_tensors, remove_folder, write_json, write_tensors
from t2l.hypernetwork import Hypernetwork, HypernetworkConfig
from t2l.lora import LoraSpec
from t2l.manifest import Manifest
from t2l.model_files import earlier_fingerprint_hint
from t2l.soundness import refuse_wild

RECORD, WEIGHTS, TRAINER = "checkpoint.json", "hypernetwork.safetensors", "trainer.safetensors"
TRAINING_DATA = "training_data.safetensors"
"""hashes of what was trained on, and where each training task's descriptions lie"""
OWN_FILES = (RECORD, WEIGHTS, TRAINER, TRAINING_DATA)
"""what a checkpoint's folder holds"""


@dataclass(frozen=True)
class CheckpointRecord:
    """What a checkpoint says about itself; `load` refuses what does not fit."""

    step: int
    objective: str
    hypernetwork: HypernetworkConfig
    spec: LoraSpec
    d_embedding: int
    encoder_identity: str
    base_fingerprint: str
    base_name: str
    trained_on: dict[str, Any]
    """suite, its content hash, tasks and phrasing set that training used"""
    encoder: dict[str, Any] | None = None
    """config of the encoder (`TaskEncoder.to_json`); None in checkpoints made before it was recorded"""
    conditions: dict[str, Any] | None = None
    """how the base was loaded and prompted (`conditions.conditions_of`); None in checkpoints made before it was recorded"""

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dict."""
        return {
            **vars(self),
            "hypernetwork": hypernetworks.config_to_json(self.hypernetwork),
            "spec": self.spec.to_json(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> CheckpointRecord:
        """The record that `to_json` described."""
        return cls(
            **{
                **data,
                "hypernetwork": hypernetworks.config_from_json(data["hypernetwork"]),
                "spec": LoraSpec.from_json(data["spec"]),
            }
        )


@dataclass(frozen=True)
class TrainingData:
    """What a hypernetwork was trained on, for judging it later."""

    manifest: Manifest
    centres: Float[Tensor, "tasks d_embedding"]
    """of each training task, in the order of the record's `trained_on` (`confidence.task_centres`)"""


def load_training_data(folder: Path) -> TrainingData | None:
    """What a checkpoint was trained on; None for one that does not say."""
    if not (folder / TRAINING_DATA).is_file():
        return None
    tensors = read_tensors(folder / TRAINING_DATA)
    centres = tensors.pop("centres")
    return TrainingData(Manifest.from_tensors(tensors), centres)


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The state of every parameter; counts that are plain integers become integer tensors without dimensions."""
    # Not state_dict(): bitsandbytes nests its 8-bit moments there. Their code books (qmap) are shared, a file's tensors not.
    return {
        f"optimizer.{i}.{name}": value.clone() if name.startswith("qmap") else torch.as_tensor(value)
        for i, p in enumerate(_parameters(optimizer))
        for name, value in optimizer.state[p].items()
    }


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    parameters = _parameters(optimizer)
    for key, value in tensors.items():
        kind, index, name = key.split(".", 2)
        if kind != "optimizer":
            continue
        p = parameters[int(index)]
        is_count = value.ndim == 0 and not value.is_floating_point()
        on_device = value if name == "step" else value.to(p.device)
        optimizer.state[p][name] = int(value) if is_count else on_device


def save_checkpoint(
    run_folder: Path,
    record: CheckpointRecord,
    hypernetwork: Hypernetwork,
    optimizer: torch.optim.Optimizer,
    training_data: TrainingData | None = None,
) -> Path:
    """Writes the checkpoint of a step and removes earlier ones. Returns its folder.

    Raises ValueError if the weights have exploded; what was written before stays.
    """
    refuse_wild(hypernetwork.parameters(), "trainer.lr")
    folder = run_folder / "checkpoints" / f"step-{record.step:06d}"
    with atomic_folder(folder, OWN_FILES) as temporary:
        write_tensors(temporary / WEIGHTS, hypernetwork.state_dict())
        trainer = {"torch_generator": torch.get_rng_state(), **_optimizer_tensors(optimizer)}
        write_tensors(temporary / TRAINER, trainer)
        if training_data is not None:
            tensors = {**training_data.manifest.tensors(), "centres": training_data.centres}
            write_tensors(temporary / TRAINING_DATA, tensors)
        write_json(temporary / RECORD, record.to_json())
    for older in _complete(run_folder):
        if older != folder:
            remove_folder(older, OWN_FILES)
    return folder


def _complete(run_folder: Path) -> list[Path]:
    return sorted(p.parent for p in (run_folder / "checkpoints").glob(f"step-*/{RECORD}"))


def latest_checkpoint(run_folder: Path) -> Path | None:
    """The newest complete checkpoint of a run, or None."""
    return max(_complete(run_folder), default=None)


def find_checkpoint(folder: Path) -> Path:
    """A checkpoint folder from itself or from its run's folder.

    Raises FileProblemError where there is neither.
    """
    if (folder / RECORD).is_file():
        return folder
    found = latest_checkpoint(folder)
    if found is None:
        reason = "holds no checkpoint" if folder.is_dir() else "does not exist"
        raise FileProblemError(
            f"checkpoint {folder} {reason}: give a run folder of `t2l train` or its checkpoint folder"
        )
    return found


def load_record(folder: Path) -> CheckpointRecord:
    """The record of a checkpoint folder. Raises FileProblemError where it is damaged."""
    data = read_json(folder / RECORD)
    try:
        return CheckpointRecord.from_json(data)
    except (KeyError, TypeError) as error:
        raise FileProblemError(f"{folder / RECORD} is not a checkpoint record of this version ({error})") from None


def load_hypernetwork(folder: Path, record: CheckpointRecord) -> Hypernetwork:
    """The hypernetwork of a checkpoint, in eval mode; every key must match.

    Raises FileProblemError where the weights are missing, damaged or for another architecture.
    """
    model = hypernetworks.build(record.hypernetwork, record.spec, record.d_embedding, seed=0)
    _load_strictly(model, folder)
    return model.eval()


def _load_strictly(model: Hypernetwork, folder: Path) -> None:
    try:
        model.load_state_dict(read_tensors(folder / WEIGHTS), strict=True)
    except RuntimeError as error:
        raise FileProblemError(f"{folder / WEIGHTS} does not fit its record: {str(error).splitlines()[0]}") from None


def resume(folder: Path, hypernetwork: Hypernetwork, optimizer: torch.optim.Optimizer) -> int:
    """Restores hypernetwork, optimiser and generator state. Returns the number of steps already done."""
    record = load_record(folder)
    _load_strictly(hypernetwork, folder)
    trainer = read_tensors(folder / TRAINER)
    torch.set_rng_state(trainer.pop("torch_generator"))
    _restore_optimizer(optimizer, trainer)
    return record.step


def check_fits(record: CheckpointRecord, base_fingerprint: str, encoder_identity: str, where: str) -> None:
    """Raises ValueError unless a checkpoint was made for this base model and this encoder."""
    if record.base_fingerprint != base_fingerprint:
        raise ValueError(
            f"{where} was trained for another base model ({record.base_name}, fingerprint "
            f"{record.base_fingerprint[:12]}); this base has fingerprint {base_fingerprint[:12]}"
            f"{earlier_fingerprint_hint(record.base_fingerprint, base_fingerprint)}"
        )
    if record.encoder_identity != encoder_identity:
        how = "it does not say which: pass the encoder=... it was trained with"
        if record.encoder is not None:
            how = f"for its own pass {encoders.as_overrides(record.encoder)}, or encoder=own"
        raise ValueError(
            f"{where} was trained with another sentence encoder (identity {record.encoder_identity[:12]}); "
            f"this encoder has {encoder_identity[:12]}; {how}"
        )


def own_encoder(record: CheckpointRecord, here: encoders.OwnEncoderConfig | None = None) -> encoders.AnyEncoderConfig:
    """The config of the encoder that a checkpoint was trained with, with what this machine decides.

    Checkpoints that do not say were trained with conf/encoder/minilm_layers.yaml, unless told otherwise.
    Raises ValueError for a config that this version does not have.
    """
    return encoders.config_from_json(record.encoder or {"kind": "sentence", "layers": [0, 2, 4, 6]}, here)
