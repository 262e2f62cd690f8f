"""The one training loop: schedule, validation, checkpoints, exact resume."""

from __future__ import annotations

from t2l.training.config import TrainerConfig
from t2l.training.loop import Validation, is_trained, train

__all__ = ["TrainerConfig", "Validation", "is_trained", "train"]
