"""Forward passes of the base model in training: logits where there are labels, and recomputation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn


@contextmanager
def checkpointing(model: nn.Module) -> Iterator[None]:
    """Within the block, decoder layers recompute their activations in the backward pass (Chen et al. 2016).

    Only the layers' own training flag is set, so dropout inside a frozen base stays off.
    """
    # transformers 5 renames the two on its way to version 6.
    enable: Any = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    disable: Any = getattr(model, "activation_checkpointing_disable", None) or model.gradient_checkpointing_disable
    enable({"use_reentrant": False})
    layers = [m for m in model.modules() if getattr(m, "gradient_checkpointing", False) and not m.training]
    for layer in layers:
        layer.training = True
    try:
        yield
    finally:
        for layer in layers:
            layer.training = False
        disable()


@dataclass(frozen=True)
class LabelLogits:
    """Logits of the positions that predict a label, in row order."""

    logits: Float[Tensor, "labels vocabulary"]
    targets: Int[Tensor, " labels"]
    """the token each position should predict"""
    rows: Int[Tensor, " labels"]
    """which row of the batch each label belongs to"""


def label_logits(
    model: nn.Module,
    input_ids: Int[Tensor, "rows length"],
    attention_mask: Int[Tensor, "rows length"],
    labels: Int[Tensor, "rows length"],
    ignore_index: int = -100,
    at: tuple[Int[Tensor, " labels"], Int[Tensor, " labels"]] | None = None,
) -> LabelLogits:
    """A causal LM's logits where there are labels, and nowhere else.

    Hidden states are picked just before the output embedding, so the largest tensor of a step is
    [labels, vocabulary] instead of [rows, length, vocabulary]; whatever the model does to its logits
    afterwards (soft-capping, scaling) applies as always. Labels are aligned with the input ids: the
    position before a label predicts it; `at` gives (row, position) of those before labels, if that is known.
    Hidden states of virtual tokens before the input (prompt tuning) are not counted.

    Raises ValueError if the model hands on fewer positions than it was given.
    """
    rows, positions = at if at is not None else (labels[:, 1:] != ignore_index).nonzero(as_tuple=True)

    def pick(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        offset = args[0].shape[1] - input_ids.shape[1]
        if offset < 0:
            raise ValueError(
                f"{type(model).__name__} gives its output embedding {args[0].shape[1]} positions of {input_ids.shape[1]}: "
                "there is no telling which they are"
            )
        return (args[0][rows, positions + offset].unsqueeze(0), *args[1:])

    with model.get_output_embeddings().register_forward_pre_hook(pick):  # type: ignore[operator]
        logits = model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits
    return LabelLogits(logits[0], labels[:, 1:][rows, positions], rows)
