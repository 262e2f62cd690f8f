"""From the states of a text's tokens to its embedding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

POOLINGS = {"mean": "mean", "cls": "cls", "last_token": "lasttoken"}
"""our names of poolings, and those of sentence-transformers"""


class LayerPooling(nn.Module):
    """The pooled token states of each of several hidden layers, scaled to norm one each and concatenated.

    A sentence encoder's last layer is trained to bring sentences about one topic together, which presses out
    what else they say; earlier layers still hold it (Su et al. 2021, arXiv:2103.15316, pool the first and the
    last layer for that reason).
    """

    def __init__(self, layers: Sequence[int], pooling: nn.Module, normalize: bool = True) -> None:
        """`pooling` is sentence-transformers' own, of token states to `sentence_embedding`."""
        super().__init__()
        self.layers, self.pooling, self.normalize = list(layers), pooling, normalize

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        """Adds `sentence_embedding` [batch, layers * d_hidden] to a sentence-transformers feature dict."""
        states = features["all_layer_embeddings"]
        parts = [self.pooling({**features, "token_embeddings": states[i]})["sentence_embedding"] for i in self.layers]
        parts = [F.normalize(part, dim=-1) for part in parts] if self.normalize else parts
        return {**features, "sentence_embedding": torch.cat(parts, dim=-1)}


def arrange(whole: Any, path: str, pooling: str, layers: Sequence[int] | None, normalize: str) -> list[nn.Module]:
    """The modules of a loaded encoder, with the pooling and scaling that a config asks for (`EncoderConfig`).

    Raises ValueError if there are no token states to pool, or not the layers asked for.
    """
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

    modules = list(whole)
    own: Any = next((m for m in modules if isinstance(m, Pooling)), None)
    if own is None and (pooling != "auto" or layers is not None):
        raise ValueError(f"encoder.path={path} has no token states to pool: leave pooling and layers out")
    if pooling != "auto" or layers is not None:
        mode: Any = POOLINGS["mean" if pooling == "auto" else pooling]
        chosen = Pooling(own.embedding_dimension, mode, own.include_prompt)
        modules = [chosen if m is own else m for m in modules]
    if layers is not None:
        last = whole[0].model.config.get_text_config().num_hidden_layers
        if beyond := [i for i in layers if i > last]:
            raise ValueError(
                f"encoder.layers: {path} has no hidden layer {beyond[0]}; it has 0 (the token embeddings) to {last}"
            )
        return [modules[0], LayerPooling(layers, chosen, normalize=normalize != "false")]
    if normalize == "false":
        return [m for m in modules if not isinstance(m, Normalize)]
    if normalize == "true" and not isinstance(modules[-1], Normalize):
        return [*modules, Normalize()]
    return modules


def normalized_parts(model: Any) -> int:
    """How many equal parts of an embedding have norm one each; 0 if none has."""
    from sentence_transformers.sentence_transformer.modules import Normalize

    last: Any = list(model)[-1]
    if isinstance(last, LayerPooling):
        return len(last.layers) if last.normalize else 0
    return int(isinstance(last, Normalize) and model.truncate_dim is None)
