"""The optimiser that a config names."""

from __future__ import annotations

from typing import Any

import torch

from t2l.hypernetwork import Hypernetwork
from t2l.training.config import TrainerConfig


def make_optimizer(config: TrainerConfig, hypernetwork: Hypernetwork) -> torch.optim.Optimizer:
    """The optimiser that a config names, over all of a hypernetwork's parameters."""
    options: dict[str, Any] = {
        "lr": config.lr,
        "betas": (0.9, config.beta2),
        "weight_decay": config.weight_decay,
    }
    if config.optimizer == "adamw":
        return torch.optim.AdamW(hypernetwork.parameters(), **options)
    if config.optimizer != "adamw_8bit":
        raise ValueError(f"trainer.optimizer: there is no {config.optimizer!r}")
    from bitsandbytes.optim import AdamW8bit

    return AdamW8bit(hypernetwork.parameters(), **options)
