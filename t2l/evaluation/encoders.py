"""The encoders of an evaluation: each checkpoint's own, each made once, and where training descriptions lie in it."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from t2l.base_model import BaseModel, BaseModelConfig
from t2l.encoder import TaskEncoder, config_from_json, is_own
from t2l.evaluation.contenders.generated import DescriptionBank
from t2l.hypernetwork.checkpoint import CheckpointRecord, own_encoder, with_base_at
from t2l.tasks import Task

log = logging.getLogger(__name__)
WITHOUT_CHECKPOINT = {"kind": "sentence", "layers": [0, 2, 4, 6]}
"""conf/encoder/minilm_layers.yaml: what compares descriptions if there is no checkpoint"""


class Encoders:
    """Task encoders by checkpoint; checkpoints of one encoder share it."""

    def __init__(
        self,
        asked: Any,
        base: BaseModel,
        base_config: BaseModelConfig,
        training_tasks: Sequence[Task],
        descriptions_per_task: int,
    ) -> None:
        """Args:
        asked: the encoder for all; None, like encoder=own, for each checkpoint's own.
        base_config: what the base was loaded by.
        training_tasks: whose descriptions the banks hold.
        """
        self.base = base
        self._asked, self._base_config = asked, base_config
        self._tasks, self._count = training_tasks, descriptions_per_task
        self._made: dict[str, TaskEncoder] = {}
        self._banks: dict[str, DescriptionBank] = {}

    def of(self, record: CheckpointRecord | None) -> TaskEncoder:
        """The encoder of a checkpoint, or, for None, of contenders without one.

        Raises ValueError for an encoder that is not there.
        """
        config = self._config(record)
        key = json.dumps(asdict(config), sort_keys=True, default=str)
        if key not in self._made:
            self._made[key] = TaskEncoder(config, self.base, self._base_config, self._tasks)
        return self._made[key]

    def bank(self, encoder: TaskEncoder) -> DescriptionBank:
        """Training descriptions of the training tasks, in an encoder's space."""
        if encoder.identity not in self._banks:
            self._banks[encoder.identity] = DescriptionBank.of(encoder, self._tasks, self._count)
        return self._banks[encoder.identity]

    def _config(self, record: CheckpointRecord | None) -> Any:
        if not is_own(self._asked):
            return self._asked
        if record is None:
            log.info("no checkpoint whose encoder it could be: descriptions are compared by encoder=minilm_layers")
            return config_from_json(WITHOUT_CHECKPOINT, self._asked)
        # the run's base under the name that it has here, so that it is not loaded a second time
        return with_base_at(own_encoder(record, self._asked), record, self._base_config.path)
