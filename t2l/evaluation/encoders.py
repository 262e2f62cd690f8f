"""The encoders of an evaluation: each checkpoint's own, each made once, and where training descriptions lie in it."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from t2l.base_model import BaseModel
from t2l.encoder import TaskEncoder, config_from_json, is_own
from t2l.evaluation.config import EvaluateConfig
from t2l.evaluation.contenders.generated import DescriptionBank
from t2l.hypernetwork.checkpoint import CheckpointRecord, own_encoder, with_base_at
from t2l.tasks import Task

log = logging.getLogger(__name__)
WITHOUT_CHECKPOINT = {"kind": "sentence", "layers": [0, 2, 4, 6]}
"""conf/encoder/minilm_layers.yaml: what compares descriptions if there is no checkpoint"""


class Encoders:
    """Task encoders by checkpoint; checkpoints of one encoder share it."""

    def __init__(self, config: EvaluateConfig, base: BaseModel, training_tasks: Sequence[Task]) -> None:
        """Args:
        config: `encoder` is the one for all; None, like encoder=own, for each checkpoint's own.
        base: the loaded `config.base_model`.
        training_tasks: whose descriptions the banks hold.
        """
        self.base = base
        self._config, self._tasks = config, training_tasks
        self._made: dict[str, TaskEncoder] = {}
        self._banks: dict[str, DescriptionBank] = {}

    def of(self, record: CheckpointRecord | None) -> TaskEncoder:
        """The encoder of a checkpoint, or, for None, of contenders without one.

        Raises ValueError for an encoder that is not there.
        """
        config = self._encoder_config(record)
        key = json.dumps(asdict(config), sort_keys=True, default=str)
        if key not in self._made:
            self._made[key] = TaskEncoder(config, self.base, self._config.base_model, self._tasks)
        return self._made[key]

    def bank(self, encoder: TaskEncoder) -> DescriptionBank:
        """Training descriptions of the training tasks, in an encoder's space."""
        if encoder.identity not in self._banks:
            count = self._config.descriptions_per_task
            self._banks[encoder.identity] = DescriptionBank.of(encoder, self._tasks, count)
        return self._banks[encoder.identity]

    def _encoder_config(self, record: CheckpointRecord | None) -> Any:
        asked = self._config.encoder
        if not is_own(asked):
            return asked
        if record is None:
            log.info("no checkpoint whose encoder it could be: descriptions are compared by encoder=minilm_layers")
            return config_from_json(WITHOUT_CHECKPOINT, asked)
        # the run's base under the name that it has here, so that it is not loaded a second time
        return with_base_at(own_encoder(record, asked), record, self._config.base_model.path)
