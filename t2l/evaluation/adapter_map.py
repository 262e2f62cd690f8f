"""Where adapters lie: generated and oracle ones on the principal components of their products."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


def norms_by_layer(weights: LoraWeights, scaling: float) -> dict[str, list[float]]:
    """Per module, the mean over adapters of the Frobenius norm of scaling * BA in each layer."""
    norms = {}
    for name, a in weights.A.items():
        b = weights.B[name]
        square = ((b.mT @ b) * (a @ a.mT)).sum(dim=(-2, -1)).clamp_min(0)
        norms[name] = (scaling * square.sqrt()).mean(dim=0).tolist()
    return norms


def adapter_map(
    generated: LoraWeights, oracles: LoraWeights, labels: Mapping[str, Sequence[str]], scaling: float = 1.0
) -> dict[str, Any]:
    """Kernel principal components (Schölkopf et al. 1998) of generated and oracle adapters, pairwise.

    Args:
        labels: per kind of colour (operation, category), each pair's label.
        scaling: the spec's.
    """
    gram = gram_matrix(concatenate([generated, oracles])).double().cpu()
    norms = gram.diagonal().clamp_min(1e-12).sqrt()
    gram = gram / norms[:, None] / norms  # directions: a generated adapter may be shorter than its oracle
    centred = gram - gram.mean(dim=0) - gram.mean(dim=1, keepdim=True) + gram.mean()
    values, vectors = torch.linalg.eigh(centred)
    order = values.argsort(descending=True)[:COMPONENTS]
    points = (vectors[:, order] * values[order].clamp_min(0).sqrt()).tolist()
    count = generated.batch_size
    return {
        "explained": (values[order] / values.clamp_min(0).sum()).tolist(),
        "labels": list(labels),
        "norms": {"generated": norms_by_layer(generated, scaling), "oracle": norms_by_layer(oracles, scaling)},
        "points": [
            {**{k: v[i] for k, v in labels.items()}, "generated": points[i], "oracle": points[count + i]}
            for i in range(count)
        ],
    }
