"""`t2l generate`: descriptions to adapter folders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from t2l import encoder as encoders
from t2l.base_model import BaseModelConfig
from t2l.encoder import (
    TaskEncoder,
)
from t2l.hypernetwork.checkpoint import (
    CheckpointRecord,
    find_checkpoint,
    load_record,
    own_encoder,
)
from t2l.hypernetwork.generator import (
    Confidence,
    base_for,
    folders_for,
    load_generator,
    read_descriptions,
    write_adapters,
)


@dataclass
class GenerateConfig:
    """`t2l generate`: descriptions to adapter folders."""

    encoder: Any = None
    """what embeds the descriptions; None, like encoder=own, means the checkpoint's own"""
    checkpoint: str = ""
    """run or checkpoint folder of `t2l train`, or RUN:best or RUN:last"""
    out: str = ""
    """folder to write; several descriptions get numbered folders inside it"""
    base_model: str | None = None
    """base the adapters are for; None means the checkpoint's own"""
    warn_below: float = 0.5
    """expected score below which `t2l generate` warns about a description"""
    licence: str | None = None
    """licence of the adapters, as the hub spells it (apache-2.0, mit...), for their cards; None states none"""

    def __post_init__(self) -> None:
        if self.licence is not None and not self.licence.strip():
            raise ValueError("licence is empty: name one, like apache-2.0, or leave it out")
        if not 0 <= self.warn_below <= 1:
            raise ValueError(f"warn_below must be in [0, 1], not {self.warn_below}")


def _encoder_for(config: GenerateConfig, record: CheckpointRecord, base_name: str) -> TaskEncoder:
    """The encoder asked for, else the checkpoint's own; where that is its base model, the base of that name."""
    chosen = config.encoder
    if chosen is None or isinstance(chosen, encoders.OwnEncoderConfig):
        chosen = own_encoder(record, chosen)
    names = (record.base_name, str(Path(record.base_name).resolve()))
    if isinstance(chosen, encoders.CausalLMEncoderConfig) and chosen.model.path in names:
        chosen = replace(chosen, model=replace(chosen.model, path=base_name))
    return TaskEncoder(chosen, base_config=BaseModelConfig(path=base_name))


def generate(
    config: GenerateConfig, descriptions: Sequence[str], file: Path | None
) -> list[tuple[Path, Confidence | None]]:
    """Writes an adapter folder for each description. Returns the folders, and how sure each adapter is.

    Raises ValueError for an empty description, an unfit checkpoint, or nothing to describe.
    """
    if not config.checkpoint or not config.out:
        raise ValueError("generate needs --checkpoint DIR (a run of `t2l train`) and --out DIR")
    texts = [*descriptions, *(read_descriptions(file) if file is not None else [])]
    if not texts:
        raise ValueError("nothing to generate from: give a description, or --file with one per line")
    if any(not t.strip() for t in texts):
        raise ValueError("a description is empty: write at least a word about the task")
    folders_for(Path(config.out), len(texts))  # said before anything loads
    record = load_record(find_checkpoint(Path(config.checkpoint)))
    base_name, fingerprint = base_for(record.base_name, config.base_model)
    generator = load_generator(Path(config.checkpoint), _encoder_for(config, record, base_name), fingerprint)
    return write_adapters(generator, texts, Path(config.out), base_name, config.licence)
