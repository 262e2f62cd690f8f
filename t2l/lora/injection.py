"""Runs each row of a batch through the frozen base model under its own adapter.

    with inject(model, spec, weights):
        loss = model(**batch).loss
        loss.backward()          # inside the block: gradient checkpointing recomputes with the adapters on

Adapters are applied by forward hooks on the target linears: y += scaling * (x A^T) B^T in two batched
matmuls per module (LoRA, Hu et al. 2021, eq. 3), or y += delta * y, x += delta * x ((IA)3, Liu et al. 2022,
section 3.3). Only the linear's input and output are used, so 4-bit and 8-bit linears work the same way, and
nothing is copied per token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from t2l.lora.weights import AdapterKind, LoraSpec, LoraWeights, ModuleGroup


def add_lora(
    output: Float[Tensor, "rows ... d_out"],
    x: Float[Tensor, "rows ... d_in"],
    A: Float[Tensor, "batch rank d_in"],
    B: Float[Tensor, "batch d_out rank"],
    scaling: float,
) -> Float[Tensor, "rows ... d_out"]:
    """output + scaling * B A x, where consecutive groups of rows / batch rows share an adapter.

    Row i runs under adapter i // (rows / batch). Two batched matmuls, the second of which adds and
    scales as it goes; computed in the adapter's dtype, returned in the output's.
    Raises ValueError unless batch divides rows.
    """
    batch = A.shape[0]
    _check_shared(x.shape[0], batch)
    down = torch.bmm(x.reshape(batch, -1, x.shape[-1]).to(A.dtype), A.transpose(1, 2))
    base = output.reshape(batch, -1, output.shape[-1]).to(A.dtype)
    added = torch.baddbmm(base, down, B.transpose(1, 2), alpha=scaling)
    return added.reshape(output.shape).to(output.dtype)


def scale(x: Float[Tensor, "rows ... width"], delta: Float[Tensor, "batch width"]) -> Float[Tensor, "rows ... width"]:
    """(1 + delta) * x element by element, where consecutive groups of rows / batch rows share a vector.

    Row i is scaled by vector i // (rows / batch). Computed as x + delta * x in the wider of the two dtypes, since
    1 + delta in bfloat16 would lose a small delta; returned in that of x.
    Raises ValueError unless batch divides rows.
    """
    _check_shared(x.shape[0], len(delta))
    dtype = torch.promote_types(x.dtype, delta.dtype)
    shared = x.reshape(len(delta), -1, x.shape[-1]).to(dtype)
    return torch.addcmul(shared, shared, delta[:, None].to(dtype)).reshape(x.shape).to(x.dtype)


def _check_shared(rows: int, batch: int) -> None:
    if rows % batch:
        raise ValueError(f"{batch} adapters cannot share {rows} rows evenly: rows must be a multiple of adapters")


def _hook(module: nn.Module, spec: LoraSpec, group: ModuleGroup, tensors: Sequence[Tensor]) -> Any:
    """Hooks one layer's adapters into a module: A and B, or a delta. Returns what removes them."""

    def add(_module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        A, B = tensors
        return add_lora(output, args[0], A, B, spec.scaling)

    def scale_input(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (scale(args[0], *tensors), *args[1:])

    def scale_output(_module: nn.Module, _args: tuple[Any, ...], output: Tensor) -> Tensor:
        return scale(output, *tensors)

    if spec.kind is AdapterKind.lora:
        return module.register_forward_hook(add)
    if group.scales_input:
        return module.register_forward_pre_hook(scale_input)
    return module.register_forward_hook(scale_output)


@contextmanager
def inject(
    model: nn.Module, spec: LoraSpec, weights: LoraWeights, adapter_index: Tensor | None = None
) -> Iterator[None]:
    """Within the block, row i of every batch runs under its adapter; afterwards the base is bare again.

    Args:
        model: the base model; its target modules are found by the spec's paths.
        weights: a batch of adapters. Without `adapter_index` the rows of the batch fall into as many
            equal consecutive groups as there are adapters; one adapter serves every row.
        adapter_index: [rows], which adapter each row uses, if groups are uneven.

    Raises:
        ValueError: the weights do not have the spec's shapes, or the model lacks a target module.

    Call backward inside the block. Hooks are removed however the block ends.
    """
    weights.check(spec)
    if adapter_index is not None:
        weights = weights[adapter_index]
    handles = []
    try:
        for g in spec.groups:
            # Unbound, not indexed: the gradient of each A[:, i] would be as large as A, once a layer.
            sides = [side[g.name].unbind(1) for side in (weights.A, weights.B) if g.name in side]
            for path, tensors in zip(g.paths, zip(*sides, strict=True), strict=True):
                try:
                    module = model.get_submodule(path)
                except AttributeError:
                    raise ValueError(
                        f"the base model has no module {path!r}: the spec was made for another model"
                    ) from None
                handles.append(_hook(module, spec, g, tensors))
        yield
    finally:
        for handle in handles:
            handle.remove()
