"""Pretrains the mini base model from scratch on the skills of the word-list suite.

The model learns every rule of the suite, told which one to follow by an opaque formal code in the
prompt. For a part of the examples the code is dropped, so that the bare prompt is something the model
knows too: it then answers by some rule it cannot know. It never sees a description in English.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from t2l.checks import at_least, in_range
from t2l.objectives.soundness import refuse_wild
from t2l.run.progress import Progress
from t2l.tasks import Example, tokenize_examples
from t2l.tasks.batches import collate
from t2l.tasks.suites.word_list_tokenizer import build_tokenizer
from t2l.tasks.suites.word_lists import all_rules
from t2l.tracking.interface import active, current_stage
from t2l.training.schedule import linear_schedule

log = logging.getLogger(__name__)
BASE_FILES = (
    "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    "chat_template.jinja", "README.md", "scores.json",
)  # fmt: skip
"""what a base model's folder holds"""
LOG_EVERY = 10
"""steps between metrics that a tracker is told"""


@dataclass
class PretrainBaseConfig:
    """Recipe of the mini base model."""

    run_dir: str = "runs/pretrain_base"
    """folder the base model is written to (Hugging Face format)"""
    seed: int = 0
    """decides initial weights and data"""
    steps: int = 2400
    """optimiser steps"""
    batch_size: int = 256
    """sequences per step"""
    hidden_size: int = 128
    """width of the residual stream"""
    layers: int = 4
    """decoder layers"""
    heads: int = 4
    """attention heads"""
    kv_heads: int = 2
    """key and value heads (grouped-query attention)"""
    intermediate_size: int = 384
    """width of the gated MLP"""
    muon_lr: float = 0.01
    """peak learning rate of Muon, which trains the matrices"""
    adamw_lr: float = 0.003
    """peak learning rate of AdamW, which trains embeddings and norms"""
    warmup_fraction: float = 0.05
    """part of the steps over which the learning rates rise; they then fall linearly to zero"""
    code_dropout: float = 0.2
    """probability that an example comes without its formal code"""
    single_step_fraction: float = 0.5
    """probability that an example is of a one-step rule"""
    logger: Any = None
    """where metrics and results go besides the run's own files"""

    def __post_init__(self) -> None:
        at_least(self, 1, "steps", "batch_size", "hidden_size", "layers", "heads", "kv_heads", "intermediate_size")
        in_range(self, "[0, 1)", "code_dropout")
        if self.hidden_size % self.heads or self.heads % self.kv_heads:
            raise ValueError("pretrain_base: heads must divide hidden_size, and kv_heads must divide heads")


def _batches(config: PretrainBaseConfig, tokenizer: Any) -> Iterator[dict[str, Tensor]]:
    rng = random.Random(f"pretrain_base:{config.seed}")
    single, double = ([r for r in all_rules() if len(r.steps) == count] for count in (1, 2))
    while True:
        coded: list[Example] = []
        for _ in range(config.batch_size):
            rule = rng.choice(single if rng.random() < config.single_step_fraction else double)
            items = rule.sample_input(rng)
            code = "" if rng.random() < config.code_dropout else f"{rule.formal_code}\n"
            coded.append(Example(code + " ".join(items), rule.answer(items)))
        yield vars(collate(tokenize_examples(tokenizer, coded), tokenizer.pad_token_id, torch.device("cpu")))


def _new_model(config: PretrainBaseConfig, tokenizer: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(config.seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.kv_heads,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def _optimizers(model: Any, config: PretrainBaseConfig) -> list[torch.optim.Optimizer]:
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    rest = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    return [
        torch.optim.Muon(matrices, lr=config.muon_lr, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=config.adamw_lr, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def pretrain(config: PretrainBaseConfig) -> tuple[Any, Any]:
    """Trains the mini base model. Returns (model, tokenizer); writes nothing.

    Cross-entropy is taken on answers only. Muon (Jordan et al. 2024) updates the matrices inside the
    layers, AdamW the tied embedding and the norms.

    Raises ValueError if training diverges.
    """
    tokenizer = build_tokenizer()
    model = _new_model(config, tokenizer).train()
    optimizers = _optimizers(model, config)
    schedules = [
        LambdaLR(o, lambda step: linear_schedule(step, config.steps, config.warmup_fraction)) for o in optimizers
    ]
    batches = _batches(config, tokenizer)
    running = 0.0
    with Progress("pretraining the base", config.steps) as progress:
        for step in range(config.steps):
            loss = model(**next(batches)).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer, schedule in zip(optimizers, schedules, strict=True):
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                schedule.step()
            running = 0.98 * running + 0.02 * loss.item() if step else loss.item()
            progress.advance(loss=running)
            if (tracker := active()) is not None and (step % LOG_EVERY == 0 or step == config.steps - 1):
                rate = float(schedules[0].get_last_lr()[0])
                tracker.log_metrics(current_stage(), step + 1, {"train/loss": loss.item(), "train/muon_lr": rate})
    refuse_wild(model.parameters(), "muon_lr or adamw_lr")
    return model.eval(), tokenizer
