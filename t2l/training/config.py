"""The settings of a hypernetwork's training loop: steps, schedule, memory, validation."""

from __future__ import annotations

from dataclasses import dataclass

from t2l.checks import at_least, in_range, one_of, positive
from t2l.hypernetwork.selection import SELECT_BY
from t2l.training.schedule import linear_schedule

OPTIMIZERS = ("adamw", "adamw_8bit")
ADAPTER_DTYPES = ("float32", "bfloat16", "float16")
SCHEDULES = ("linear", "constant")


@dataclass
class TrainerConfig:
    """The training loop of a hypernetwork."""

    steps: int = 1000
    """optimiser steps"""
    lr: float = 0.001
    """peak learning rate of AdamW"""
    weight_decay: float = 0.01
    """decoupled weight decay"""
    beta2: float = 0.999
    """decay of AdamW's second moment"""
    warmup_fraction: float = 0.1
    """part of the steps over which the learning rate rises"""
    warmup_steps: int | None = None
    """steps over which the learning rate rises, instead of warmup_fraction of them"""
    schedule: str = "linear"
    """after the rise, linear: it falls linearly to zero at the last step; constant: it stays. A finished run can go on
    to more steps, exactly, if these leave the learning rate of the steps already done as it was (constant, with
    warmup_steps)"""
    clip: float = 1.0
    """largest gradient norm"""
    tasks_per_step: int = 48
    """tasks per step, one description each"""
    rows_per_task: int = 3
    """examples per task and step (SFT)"""
    description_whitening: float | None = None
    """shrinkage in (0, 1] of the within-task covariance that descriptions are whitened by; None leaves them"""
    description_noise: float = 0.0
    """norm of the Gaussian noise added to a (whitened) description in training, relative to its own"""
    optimizer: str = "adamw"
    """adamw, or adamw_8bit: moments in 8 bits by bitsandbytes (Dettmers et al. 2022, arXiv:2110.02861)"""
    max_length: int = 512
    """longest sequence in tokens; user turns lose their beginning (SFT)"""
    gradient_checkpointing: bool = False
    """recompute each decoder layer of the base in the backward pass instead of keeping its activations (SFT)"""
    rows_per_pass: int | None = None
    """most rows that go through the base at once; a step's gradients are summed over its passes, so that this changes
    memory alone; None: no limit (SFT)"""
    adapter_dtype: str = "float32"
    """precision in which generated adapters are multiplied; the hypernetwork itself stays in float32 (SFT)"""
    pass_cost: int = 512
    """what a pass through the base costs beside its tokens, in tokens; tasks share passes so that tokens with
    padding + passes is least (SFT)"""
    checkpoint_every: int = 100
    """steps between checkpoints"""
    log_every: int = 10
    """steps between lines of metrics.jsonl"""
    validate_every: int | None = None
    """steps between validations, the last step always among them; None: never. Validation draws nothing at random and
    changes no weight"""
    validation_tasks: int = 64
    """most tasks of each part of the validation set (`validation.parts_of`)"""
    validation_rows: int = 4
    """rows of each of these tasks"""
    validate_score: bool = False
    """whether validation also decodes answers to its rows and scores them by each task's metric"""
    select_by: str = "validation/loss"
    """what the best checkpoint is chosen by: validation/loss (of the responses under generated adapters, in nats per
    token), validation/score (needs validate_score) or validation/distance (to library adapters of validation tasks)"""
    patience: int | None = None
    """validations without a better one after which training ends; None: it goes on to the last step"""

    def __post_init__(self) -> None:
        self._check_validation()
        counts = "steps tasks_per_step rows_per_task checkpoint_every log_every pass_cost max_length validation_tasks"
        at_least(self, 1, *counts.split(), "validation_rows", "warmup_steps", under="trainer")
        at_least(self, 0, "description_noise", under="trainer")
        positive(self, "lr", "clip", under="trainer")
        in_range(self, "(0, 1]", "description_whitening", under="trainer")
        in_range(self, "(0, 1)", "beta2", under="trainer")
        in_range(self, "[0, 1)", "warmup_fraction", under="trainer")
        one_of(self, OPTIMIZERS, "optimizer", under="trainer")
        one_of(self, ADAPTER_DTYPES, "adapter_dtype", under="trainer")
        one_of(self, SCHEDULES, "schedule", under="trainer")
        if self.rows_per_pass is not None and self.rows_per_pass < self.rows_per_task:
            raise ValueError(
                f"trainer.rows_per_pass={self.rows_per_pass} is less than rows_per_task={self.rows_per_task}, and the "
                "rows of a task share a pass"
            )

    def _check_validation(self) -> None:
        at_least(self, 1, "validate_every", "patience", under="trainer")
        one_of(self, SELECT_BY, "select_by", under="trainer")
        if self.patience is not None and self.validate_every is None:
            raise ValueError("trainer.patience counts validations, and there are none: set trainer.validate_every")
        if self.select_by == "validation/score" and not self.validate_score:
            raise ValueError("trainer.select_by=validation/score needs trainer.validate_score=true")

    def learning_rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        falls = self.schedule == "linear"
        return self.lr * linear_schedule(step, self.steps, self.warmup_fraction, self.warmup_steps, falls)

    def out_of_memory(self, needs_base: bool) -> str:
        """What to turn if a step does not fit into memory."""
        rows, free = self.tasks_per_step * self.rows_per_task, []
        at_once = min(rows, self.rows_per_pass or rows)
        fewer = max(self.rows_per_task, at_once // 2 // self.rows_per_task * self.rows_per_task)
        if needs_base and fewer < at_once:
            free.append(f"trainer.rows_per_pass={fewer}")
        if needs_base and not self.gradient_checkpointing:
            free.append("trainer.gradient_checkpointing=true")
        other = ["trainer.adapter_dtype=bfloat16"] if needs_base and self.adapter_dtype == "float32" else []
        other += ["trainer.optimizer=adamw_8bit"] if self.optimizer == "adamw" else []
        other.append(f"trainer.tasks_per_step below {self.tasks_per_step}")
        told = (
            f"{' and '.join(free)} change no result, so the run goes on from its last checkpoint with them; "
            if free
            else ""
        )
        return f"{told}{', '.join(other)} need another run_dir; `t2l plan ... memory_gb=SIZE` says what fits"
