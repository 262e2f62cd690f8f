"""Where adapters lie: generated and oracle ones on the principal components of their products."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from t2l.evaluation.checkpoints import first_of_each
from t2l.evaluation.context import Context
from t2l.lora import LoraWeights
from t2l.lora.source import ADAPTER_MEMORY, AdapterSource, Joined, as_source

COMPONENTS = 2
BLOCK = 2**24
"""most entries of the rank-by-rank products of a block of pairs"""


def _block(one: LoraWeights, other: LoraWeights) -> Float[Tensor, "ours theirs"]:
    """<B_i A_i, B_j A_j> = sum((B_i^T B_j) * (A_i A_j^T)) for every i of one batch and j of another.

    Layer by layer; no product BA is formed, and no factor is copied for a pair.
    """
    ours, theirs = one.batch_size, other.batch_size
    rank = max(a.shape[2] for a in one.A.values())
    rows = max(1, BLOCK // (rank * rank * theirs))
    if rows < ours:
        return torch.cat([_block(one[slice(i, i + rows)], other) for i in range(0, ours, rows)])
    total = torch.zeros(ours, theirs, dtype=torch.float64, device=one.tensors()[0].device)
    for name in one.A:
        rank = one.A[name].shape[2]
        for layer in range(one.A[name].shape[1]):
            a = one.A[name][:, layer].flatten(0, 1) @ other.A[name][:, layer].flatten(0, 1).T
            b = one.B[name][:, layer].mT.flatten(0, 1) @ other.B[name][:, layer].mT.flatten(0, 1).T
            total += a.mul_(b).view(ours, rank, theirs, rank).sum(dim=(1, 3))
    return total


def gram_matrix(
    adapters: LoraWeights | AdapterSource, memory: int = ADAPTER_MEMORY
) -> Float[Tensor, "adapters adapters"]:
    """<B_i A_i, B_j A_j> between all adapters, summed over modules and layers in float64.

    Args:
        memory: bytes of adapters that are held at once; pairs are gone through block by block.
    """
    source = as_source(adapters)
    groups = source.groups(memory)
    if len(groups) > 1:
        groups = source.groups(memory // 2)  # two are compared
    gram = torch.zeros(source.count, source.count, dtype=torch.float64)
    for i, ours in enumerate(groups):
        mine = source.take(ours)
        for theirs in groups[i:]:
            rows, columns = slice(ours[0], ours[-1] + 1), slice(theirs[0], theirs[-1] + 1)
            block = _block(mine, source.take(theirs)).cpu()
            gram[columns, rows] = block.T
            gram[rows, columns] = block
    return gram.float()


def norms_by_layer(
    adapters: LoraWeights | AdapterSource, scaling: float, memory: int = ADAPTER_MEMORY
) -> dict[str, list[float]]:
    """Per module, the mean over adapters of the Frobenius norm of scaling * BA in each layer."""
    source = as_source(adapters)
    sums: dict[str, Tensor] = {}
    for group in source.groups(memory):
        weights = source.take(group)
        for name, a in weights.A.items():
            b = weights.B[name]
            norms = ((b.mT @ b) * (a @ a.mT)).sum(dim=(-2, -1)).clamp_min(0).sqrt()  # [adapters, layers]
            sums[name] = sums.get(name, 0) + norms.double().sum(dim=0)
    return {name: (scaling * total / source.count).tolist() for name, total in sums.items()}


def adapter_map(
    generated: LoraWeights | AdapterSource,
    oracles: LoraWeights | AdapterSource,
    labels: Mapping[str, Sequence[str]],
    scaling: float = 1.0,
    memory: int = ADAPTER_MEMORY,
) -> dict[str, Any]:
    """Kernel principal components (Schölkopf et al. 1998) of generated and oracle adapters, pairwise.

    Args:
        labels: per kind of colour (operation, category), each pair's label.
        scaling: the spec's.
        memory: bytes of adapters that are held at once.
    """
    made, trained = as_source(generated), as_source(oracles)
    gram = gram_matrix(Joined([made, trained]), memory).double()
    norms = gram.diagonal().clamp_min(1e-12).sqrt()
    gram = gram / norms[:, None] / norms  # directions: a generated adapter may be shorter than its oracle
    centred = gram - gram.mean(dim=0) - gram.mean(dim=1, keepdim=True) + gram.mean()
    values, vectors = torch.linalg.eigh(centred)
    order = values.argsort(descending=True)[:COMPONENTS]
    points = (vectors[:, order] * values[order].clamp_min(0).sqrt()).tolist()
    count = made.count
    return {
        "explained": (values[order] / values.clamp_min(0).sum()).tolist(),
        "labels": list(labels),
        "norms": {
            "generated": norms_by_layer(made, scaling, memory),
            "oracle": norms_by_layer(trained, scaling, memory),
        },
        "points": [
            {**{k: v[i] for k, v in labels.items()}, "generated": points[i], "oracle": points[count + i]}
            for i in range(count)
        ],
    }


def adapter_maps(context: Context) -> dict[str, Any]:
    """Where each checkpoint's adapters lie beside the oracles of the same training tasks, by contender.

    Empty without a library that has the oracle of every scored training task.
    """
    views, library = context.scope.views, context.opened
    view = next((v for v in views if v.name == "train"), views[0])
    names = [t.name for t in view.tasks]
    if library is None or not set(names) <= set(library.adapters.tasks()):
        return {}
    oracles, texts = library.adapters.source(names), [[ds[0]] for ds in view.descriptions]
    labels = {
        "operation": [t.attributes.get("operation", t.family) or "(none)" for t in view.tasks],
        "category": [t.attributes.get("category", "(none)") for t in view.tasks],
    }
    memory = context.config.evaluation.adapter_memory
    made = [c.matched for c in first_of_each(context.checkpoints) if c.matched.spec == library.spec]
    return {g.name: adapter_map(g.adapters(texts), oracles, labels, g.spec.scaling, memory) for g in made}
