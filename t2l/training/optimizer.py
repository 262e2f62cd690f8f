"""The optimiser that a config names."""

from __future__ import annotations

from typing import Any

import torch

from t2l.hypernetwork import Hypernetwork
from t2l.training.config import TrainerConfig


def make_optimizer(config: TrainerConfig, hypernetwork: Hypernetwork) -> torch.optim.Optimizer:
    """The optimiser that a config names, over all of a hypernetwork's parameters."""
    kind: Any = torch.optim.AdamW
    if config.optimizer == "adamw_8bit":
        from bitsandbytes.optim import AdamW8bit

        kind = AdamW8bit
    return kind(hypernetwork.parameters(), lr=config.lr, betas=(0.9, config.beta2), weight_decay=config.weight_decay)
