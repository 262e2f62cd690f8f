"""The scored checkpoints: their hypernetworks, and the contenders made of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from t2l.encoder import TaskEncoder
from t2l.evaluation.checkpoint_names import recipe_names
from t2l.evaluation.config import EvaluateConfig
from t2l.evaluation.contenders.generated import CONDITIONS, Generated
from t2l.evaluation.encoders import Encoders
from t2l.hypernetwork.checkpoint import CheckpointRecord, TrainingData, find_checkpoint, load_record, load_training_data
from t2l.hypernetwork.generator import load_generator


@dataclass(frozen=True)
class ScoredCheckpoint:
    """A checkpoint on the board: seeds of one recipe share a name."""

    path: str
    folder: Path
    record: CheckpointRecord
    training_data: TrainingData | None
    name: str
    encoder: TaskEncoder
    """its own, unless one is asked for"""
    generated: list[Generated]

    @property
    def matched(self) -> Generated:
        """The contender whose adapters come from the tasks' own descriptions."""
        return self.generated[0]


def load_checkpoints(config: EvaluateConfig, encoders: Encoders) -> list[ScoredCheckpoint]:
    """The checkpoints that are asked for, each with its matched contender and the controls.

    Raises ValueError for one of another base model or encoder.
    """
    paths, base = config.checkpoints, encoders.base
    used = [encoders.of(load_record(find_checkpoint(Path(path)))) for path in paths]
    generators = [load_generator(Path(p), e, base.fingerprint) for p, e in zip(paths, used, strict=True)]
    names = recipe_names([(g.record, g.checkpoint) for g in generators])
    made = []
    for path, name, generator in zip(paths, names, generators, strict=True):
        hypernetwork, encoder = generator.hypernetwork.to(base.device), generator.encoder
        bank = encoders.bank(encoder)
        contenders = [
            Generated(f"generated_{name}", c, hypernetwork, encoder, bank, config.seed)
            for c in CONDITIONS
            if c != "random_text" or encoder.reads_any_text
        ]
        folder, record = generator.checkpoint, generator.record
        made.append(ScoredCheckpoint(path, folder, record, load_training_data(folder), name, encoder, contenders))
    return made


def first_of_each(checkpoints: Sequence[ScoredCheckpoint]) -> list[ScoredCheckpoint]:
    """One checkpoint per name."""
    return list({c.name: c for c in reversed(checkpoints)}.values())[::-1]
