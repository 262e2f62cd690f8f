"""What t2l is measured against: the bare base model and PEFT; and the bases and batches they all share."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from t2l.base_model import BaseModel, BaseModelConfig, freeze, load_base_model
from t2l.lora import LoraSpec, Scaling
from t2l.objectives.losses import response_loss
from t2l.tasks import TaskSuite, TokenizedExample, tokenize_examples
from t2l.tasks.batches import TokenBatch
from t2l.tasks.prompting import IGNORE_INDEX
from t2l.tasks.suites import WordListConfig, build


@dataclass(frozen=True)
class RandomBase:
    """Sizes of a Mistral with random weights."""

    hidden: int
    layers: int
    intermediate: int
    heads: int
    kv_heads: int
    vocabulary: int = 363
    dtype: str = "float32"


MISTRAL_7B = RandomBase(4096, 32, 14336, 32, 8, 32000, "bfloat16")
SMOLLM2_135M = RandomBase(576, 30, 1536, 9, 3, 49152)
WIDE = RandomBase(512, 8, 1536, 8, 4)
TOY = RandomBase(32, 2, 48, 4, 2)


def mini_base(device: torch.device) -> BaseModel:
    """The mini base model."""
    return load_base_model(BaseModelConfig(device=str(device)))


def random_base(sizes: RandomBase, device: torch.device) -> BaseModel:
    """A frozen base with random weights and the mini base's tokenizer."""
    from transformers import AutoModelForCausalLM, MistralConfig

    tokenizer = mini_base(torch.device("cpu")).tokenizer
    config = MistralConfig(
        hidden_size=sizes.hidden, num_hidden_layers=sizes.layers, intermediate_size=sizes.intermediate,
        num_attention_heads=sizes.heads, num_key_value_heads=sizes.kv_heads, vocab_size=sizes.vocabulary,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    torch.manual_seed(0)
    with device:
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, sizes.dtype))
    return BaseModel(freeze(model), tokenizer, "random", "random", "random")


def copy_of(base: BaseModel) -> nn.Module:
    """A second model on the same parameters, for contenders that change modules."""
    tensors = [*base.model.parameters(), *base.model.buffers()]
    return copy.deepcopy(base.model, {id(t): t for t in tensors})


@cache
def suite() -> TaskSuite:
    """The embedded suite, with few examples per task."""
    return build(WordListConfig(train_examples=16, validation_examples=1, test_examples=16))


def suite_rows(base: BaseModel, tasks: int, rows: int, like_length: bool = False) -> list[list[TokenizedExample]]:
    """The first training examples of training tasks of the embedded suite, tokenized.

    Args:
        like_length: tasks of like length, from the middle of all (library training puts such tasks into
            one pass); otherwise the first tasks of the suite.
    """
    names = suite().split("train").tasks
    chosen = suite().select(names if like_length else names[:tasks])
    tokenized = [tokenize_examples(base.tokenizer, t.examples["train"][:rows]) for t in chosen]
    if like_length:
        tokenized.sort(key=lambda task: max(len(r.prompt_ids) + len(r.response_ids) for r in task))
        start = max(0, len(tokenized) - tasks) // 2
        tokenized = tokenized[start : start + tasks]
    return tokenized


def random_rows(base: BaseModel, tasks: int, rows: int, length: int) -> list[list[TokenizedExample]]:
    """Random tokens, a quarter of each row being the response."""
    generator = torch.Generator().manual_seed(0)
    vocabulary, prompt = base.model.config.vocab_size, length - length // 4
    ids = torch.randint(3, vocabulary, (tasks, rows, length), generator=generator).tolist()
    return [[TokenizedExample(tuple(r[:prompt]), tuple(r[prompt:])) for r in task] for task in ids]


def bare_step(model: nn.Module, batch: TokenBatch, only_labels: bool = False) -> Callable[[], None]:
    """Forward and backward of the frozen base alone: gradients reach the input embeddings, no further.

    Args:
        only_labels: compute logits where there are labels, as t2l does; with a vocabulary of tens of thousands, logits
            of every token are a large part of a small model's work.
    """
    embed: Any = model.get_input_embeddings()  # type: ignore[operator]
    head: Any = model.get_output_embeddings()  # type: ignore[operator]

    def step() -> None:
        inputs = embed(batch.input_ids).detach().requires_grad_(True)
        if only_labels:
            decoder: Any = model.get_decoder()  # type: ignore[operator]
            hidden = decoder(inputs_embeds=inputs, attention_mask=batch.attention_mask, use_cache=False)[0]
            at = batch.labels[:, 1:] != IGNORE_INDEX
            logits = head(hidden[:, :-1][at])
            cross_entropy(logits.float(), batch.labels[:, 1:][at]).backward()
            return
        logits = model(inputs_embeds=inputs, attention_mask=batch.attention_mask, use_cache=False).logits
        response_loss(logits, batch.labels).mean().backward()

    return step


def peft_config(spec: LoraSpec) -> Any:
    """PEFT's config of adapters with a spec's geometry, without dropout."""
    from peft import LoraConfig

    return LoraConfig(
        task_type="CAUSAL_LM",
        r=spec.rank,
        lora_alpha=spec.alpha,
        use_rslora=spec.scaling_rule is Scaling.rslora,
        target_modules=[path for g in spec.groups for path in g.paths],
        lora_dropout=0.0,
    )


def peft_model(base: BaseModel, spec: LoraSpec) -> Any:
    """A PEFT model of its own on the base's parameters, with one adapter, `default`."""
    from peft import get_peft_model

    model: Any = copy_of(base)
    return get_peft_model(model, peft_config(spec))


def adamw(parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
    """PEFT's optimiser, in PyTorch's quickest form."""
    return torch.optim.AdamW(parameters, lr=1e-4, fused=True)


def peft_step(model: Any, optimizer: torch.optim.Optimizer, batch: TokenBatch, clip: float) -> None:
    """One training step of a PEFT model's active adapter: forward, backward, clipping, update."""
    logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False).logits
    response_loss(logits, batch.labels).mean().backward()
    parameters = optimizer.param_groups[0]["params"]
    torch.nn.utils.clip_grad_norm_(parameters, clip)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """Parameters that ask for gradients."""
    return [p for p in model.parameters() if p.requires_grad]
