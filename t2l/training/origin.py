"""The checkpoint that a training run starts from (`init_from`), instead of from fresh weights."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from t2l.hypernetwork import Hypernetwork
from t2l.hypernetwork.checkpoint import (
    CheckpointRecord,
    TrainingData,
    check_fits,
    find_checkpoint,
    load_hypernetwork,
    load_record,
    load_training_data,
)
from t2l.lora import LoraSpec
from t2l.tasks.manifest import Manifest

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Origin:
    """A checkpoint whose weights, description statistics and output statistics a run takes over."""

    folder: Path
    record: CheckpointRecord

    @classmethod
    def find(cls, path: str, architecture: Any) -> Origin:
        """The checkpoint of a run or folder (`find_checkpoint`).

        Raises ValueError if there is none, or it is of another architecture.
        """
        folder = find_checkpoint(Path(path))
        record = load_record(folder)
        if record.hypernetwork != architecture:
            raise ValueError(
                f"init_from={path} is a hypernetwork of another architecture ({_settings(record.hypernetwork)}) than "
                f"hypernetwork.* asks for ({_settings(architecture)}): set it to the same"
            )
        return cls(folder, record)

    def check(self, spec: LoraSpec, base_fingerprint: str, encoder_identity: str) -> None:
        """Raises ValueError if the run's adapters, base or encoder are not the checkpoint's."""
        check_fits(self.record, base_fingerprint, encoder_identity, f"init_from={self.folder}")
        if self.record.spec != spec:
            raise ValueError(
                f"init_from={self.folder} generates adapters of another geometry than lora.* asks for: set lora.* as there"
            )

    def load_into(self, hypernetwork: Hypernetwork, is_whitening: bool) -> None:
        """Copies weights and statistics.

        Raises ValueError if descriptions are whitened in one of the two and not in the other.
        """
        found = load_hypernetwork(self.folder, self.record)
        was_whitening = not torch.equal(found.description_map, torch.eye(found.d_embedding))
        if was_whitening != is_whitening:
            told = "with" if was_whitening else "without"
            fix = "a value (the checkpoint's statistics stay)" if was_whitening else "null"
            raise ValueError(
                f"init_from={self.folder} was trained {told} whitened descriptions: set trainer.description_whitening to {fix}"
            )
        hypernetwork.load_state_dict(found.state_dict())

    def to_json(self) -> dict[str, Any]:
        """What the new run's checkpoints say of where they come from."""
        record = self.record
        return {
            "checkpoint": str(self.folder),
            "objective": record.objective,
            "step": record.step,
            "trained_on": record.trained_on,
            "selection": None if record.selection is None else record.selection.to_json(),
        }

    def training_data(self, own: TrainingData) -> TrainingData | None:
        """What the run is trained on and what the checkpoint was; None if the checkpoint does not say."""
        before = load_training_data(self.folder)
        if before is None:
            log.warning(
                "init_from=%s does not say what it was trained on: no evaluation can check what it shares with that",
                self.folder,
            )
            return None
        return TrainingData(Manifest.union([before.manifest, own.manifest]), own.centres)


def _settings(config: Any) -> str:
    return ", ".join(f"{k}={v}" for k, v in asdict(config).items())


def where_from(origin: Origin | None, newest: CheckpointRecord | None) -> dict[str, Any]:
    """What a record's `trained_on` says of the checkpoint that a run started from; nothing if there was none.

    Args:
        newest: the record that the run goes on from; it says it already.
    """
    if origin is not None:
        return {"init_from": origin.to_json()}
    told = None if newest is None else newest.trained_on.get("init_from")
    return {} if told is None else {"init_from": told}
