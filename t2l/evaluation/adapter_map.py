"""Where adapters lie: generated and oracle ones on the principal components of their products."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from t2l.lora import LoraWeights, concatenate
from t2l.objectives import inner_product

COMPONENTS = 2


def gram_matrix(weights: LoraWeights) -> Tensor:
    """<B_i A_i, B_j A_j> between all adapters of a batch, summed over modules; no product is formed."""
    count = weights.batch_size
    left = torch.arange(count).repeat_interleave(count)
    right = torch.arange(count).repeat(count)
    total = torch.zeros(count * count, device=weights.tensors()[0].device)
    for begin in range(0, count * count, 4096):
        i, j = left[begin : begin + 4096], right[begin : begin + 4096]
        total[begin : begin + 4096] = inner_product(weights[i], weights[j])
    return total.view(count, count)


def adapter_map(generated: LoraWeights, oracles: LoraWeights, groups: Sequence[str]) -> dict[str, Any]:
    """Kernel principal components (Schölkopf et al. 1998) of generated and oracle adapters, pairwise.

    Args:
        groups: per pair, what it is coloured by (the task's operation, say).
    """
    gram = gram_matrix(concatenate([generated, oracles])).double().cpu()
    norms = gram.diagonal().clamp_min(1e-12).sqrt()
    gram = gram / norms[:, None] / norms  # directions: a generated adapter may be shorter than its oracle
    centred = gram - gram.mean(dim=0) - gram.mean(dim=1, keepdim=True) + gram.mean()
    values, vectors = torch.linalg.eigh(centred)
    order = values.argsort(descending=True)[:COMPONENTS]
    points = (vectors[:, order] * values[order].clamp_min(0).sqrt()).tolist()
    count = len(groups)
    return {
        "explained": (values[order] / values.clamp_min(0).sum()).tolist(),
        "points": [{"group": g, "generated": points[i], "oracle": points[count + i]} for i, g in enumerate(groups)],
    }
