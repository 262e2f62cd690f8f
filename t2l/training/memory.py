"""What a training step of a hypernetwork keeps in memory, from configs alone.

The architecture runs on fake tensors (shapes, types and autograd, no values), and what autograd keeps for the backward
pass is counted as it is kept. So the count holds for any architecture, and needs neither weights nor a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2l import hypernetwork as hypernetworks
from t2l.base_model import BaseModelConfig, Quantization, checkpointing, freeze, label_logits
from t2l.base_model.targets import all_targets, linear_shape
from t2l.files import CHECKSUM
from t2l.lora import LoraSpec, LoraWeights, inject
from t2l.lora.peft_folder import adapter_tensors
from t2l.tasks import IGNORE_INDEX

NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""bytes per weight: 4 bits, an 8-bit scale per block of 64, a 32-bit one per 256 blocks (Dettmers et al. 2023, section 3)"""
EIGHT_BIT_MOMENTS = 2 * (1 + 4 / 256)
"""bytes per weight of both moments: 8 bits each, and a 32-bit scale per block of 256 (Dettmers et al. 2022)"""
SMALLEST_EIGHT_BIT = 4096
"""bitsandbytes keeps the moments of smaller tensors in 32 bits"""


@dataclass(frozen=True)
class StepMemory:
    """Bytes at the peak of a training step, by what holds them. An estimate: allocators take some more."""

    base_model: float
    """parameters of the frozen base, as stored"""
    hypernetwork: float
    """parameters, gradients and buffers, in float32"""
    optimizer: float
    """moments"""
    adapters: float
    """generated adapters and their gradients, and what the hypernetwork keeps for its backward pass"""
    activations: float
    """what the base keeps for the backward pass of one pass through it"""
    workspace: float
    """the largest things that live for a moment: gradients of logits, dequantised weights"""

    @property
    def total(self) -> float:
        """All of them together."""
        return sum(getattr(self, f.name) for f in fields(self))


@dataclass(frozen=True)
class StepShape:
    """How much one step puts through the base, and how."""

    adapters: int
    """adapters generated per step"""
    rows: int
    """rows that go through the base at once"""
    length: int
    """tokens per row"""
    response: int
    """tokens of a row that are predicted"""
    gradient_checkpointing: bool = False
    adapter_dtype: str = "float32"
    optimizer: str = "adamw"


def _fake() -> AbstractContextManager[Any]:
    from torch._subclasses.fake_tensor import FakeTensorMode

    return FakeTensorMode(allow_non_fake_inputs=True)


def bytes_kept(run: Callable[[], Tensor], leave_out: list[Tensor]) -> int:
    """Bytes that autograd keeps for the backward pass of what `run` returns, each storage once.

    Args:
        leave_out: tensors that are there anyway (parameters), whose storages do not count.
    """
    ours, kept = {t.untyped_storage()._cdata for t in leave_out}, {}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage  # held, so that no other storage takes its place
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda t: t):
        result = run()
    del result
    return sum(s.nbytes() for key, s in kept.items() if key not in ours)


def _zero_adapters(spec: LoraSpec, batch: int, dtype: torch.dtype) -> LoraWeights:
    A, B = ({k: torch.zeros(batch, *s, dtype=dtype) for k, s in spec.shapes[side].items()} for side in "AB")
    return LoraWeights(A, B).map(lambda t: t.requires_grad_())


def activation_bytes(model_config: Any, config: BaseModelConfig, spec: LoraSpec, step: StepShape) -> tuple[int, int]:
    """Bytes that one pass through the base keeps, and those of a layer's input for all its rows.

    With gradient checkpointing: every layer's input, what lies outside of layers, and all of one layer, which is
    recomputed.
    """
    from transformers import AutoModelForCausalLM

    with _fake():
        options: dict[str, Any] = {"trust_remote_code": config.trust_remote_code}
        if config.attention is not None:
            options["attn_implementation"] = config.attention
        model = freeze(AutoModelForCausalLM.from_config(model_config, dtype=getattr(torch, config.dtype), **options))
        weights = _zero_adapters(spec, step.rows, getattr(torch, step.adapter_dtype))
        ids = torch.ones(step.rows, step.length, dtype=torch.long)
        labels = torch.full_like(ids, IGNORE_INDEX)
        labels[:, step.length - step.response :] = 1
        # label_logits looks for labels by value, which fake tensors do not have.
        rows = torch.arange(step.rows).repeat_interleave(step.response)
        positions = torch.arange(step.response).repeat(step.rows) + step.length - step.response - 1
        there = [*model.parameters(), *model.buffers(), *weights.tensors()]
        inputs: list[int] = []

        def run() -> Tensor:
            with inject(model, spec, weights):
                found = label_logits(model, ids, torch.ones_like(ids), labels, at=(rows, positions))
                return F.cross_entropy(found.logits.float(), found.targets)

        layer = model.get_submodule(_first_layer(model))
        handle = layer.register_forward_pre_hook(
            lambda _m, args, kwargs: inputs.append((args[0] if args else kwargs["hidden_states"]).nbytes),
            with_kwargs=True,
        )
        whole = bytes_kept(run, there)
        handle.remove()
        if not step.gradient_checkpointing:
            return whole, inputs[0]
        layers = len({t.layer for t in all_targets(model)})
        with checkpointing(model):
            outside = bytes_kept(run, there)  # every layer's input among it
        return outside + (whole - outside) // layers, inputs[0]


def _first_layer(model: nn.Module) -> str:
    """Path of the first decoder layer: up to the first number of a target's path."""
    parts = all_targets(model)[0].path.split(".")
    return ".".join(parts[: next(i for i, p in enumerate(parts) if p.isdigit()) + 1])


def base_bytes(meta: nn.Module, config: BaseModelConfig) -> tuple[float, float]:
    """Bytes of a base's parameters as stored, and of its largest linear layer's weight when dequantised.

    bitsandbytes quantises every linear layer but the output head.
    """
    size, head = getattr(torch, config.dtype).itemsize, meta.get_output_embeddings()  # type: ignore[operator]
    linears = [m for m in meta.modules() if linear_shape(m) is not None and m is not head]
    total = size * sum(p.numel() for p in meta.parameters())
    if config.quantization is Quantization.none:
        return total, 0.0
    weights = [m.get_parameter("weight") for m in linears]
    each = NF4_BYTES if config.quantization is Quantization.nf4 else 1.0
    scales = 0 if config.quantization is Quantization.nf4 else 4 * sum(w.shape[0] for w in weights)
    stored = total - sum((size - each) * w.numel() for w in weights) + scales
    return stored, float(size * max(w.numel() for w in weights))


def meta_hypernetwork(config: Any, spec: LoraSpec, d_embedding: int) -> nn.Module:
    """A hypernetwork's shapes without values."""
    with torch.device("meta"):
        return hypernetworks.build(config, spec, d_embedding, seed=0)


def hypernetwork_bytes(model: nn.Module, optimizer: str) -> tuple[float, float]:
    """Bytes of parameters, gradients and buffers; and of the optimiser's moments."""
    parameters = [p.numel() for p in model.parameters()]
    buffers = sum(b.nbytes for b in model.buffers())
    moments = sum(
        n * (EIGHT_BIT_MOMENTS if optimizer == "adamw_8bit" and n >= SMALLEST_EIGHT_BIT else 8) for n in parameters
    )
    return 8 * sum(parameters) + buffers, moments


def generation_bytes(config: Any, spec: LoraSpec, d_embedding: int, step: StepShape) -> int:
    """Bytes of a step's adapters, of their gradients, and of what the hypernetwork keeps."""
    with _fake():
        model = hypernetworks.build(config, spec, d_embedding, seed=0).train()
        embeddings = torch.ones(step.adapters, d_embedding)
        there = [*model.parameters(), *model.buffers()]
        kept = bytes_kept(lambda: torch.stack([t.sum() for t in model.emit(embeddings).tensors()]).sum(), there)
    adapters = 4 * step.adapters * spec.parameters_per_adapter
    copies = 0 if step.adapter_dtype == "float32" else adapters // 2
    return kept + 2 * adapters + copies


class StepMemories:
    """Memory of steps of one base model and geometry of adapters; what several have in common is counted once."""

    def __init__(self, model_config: Any, spec: LoraSpec, d_embedding: int, meta_base: nn.Module) -> None:
        """Shapes alone: of the base its config, and itself on the meta device."""
        self._model_config, self._spec, self._width, self._meta = model_config, spec, d_embedding, meta_base
        self._counted: dict[tuple[Any, ...], Any] = {}

    def _once(self, count: Callable[[], Any], *decided_by: Any) -> Any:
        """What `count` returns, from before if the same things decided it."""
        key = tuple(map(repr, decided_by))
        if key not in self._counted:
            self._counted[key] = count()
        return self._counted[key]

    def of(self, base: BaseModelConfig, hypernetwork: Any, step: StepShape, needs_base: bool = True) -> StepMemory:
        """Memory at the peak of a step, in bytes.

        Args:
            needs_base: whether the loss goes through the base (SFT); a reconstruction step does not.
        """
        spec, width = self._spec, self._width
        stored, dequantised = base_bytes(self._meta, base)
        model = self._once(lambda: meta_hypernetwork(hypernetwork, spec, width), "hypernetwork", hypernetwork)
        own, moments = hypernetwork_bytes(model, step.optimizer)
        shape = (step.adapters, step.adapter_dtype)
        adapters = self._once(
            lambda: generation_bytes(hypernetwork, spec, width, step), "adapters", hypernetwork, shape
        )
        activations, workspace = 0, 0.0
        if needs_base:
            through = replace(step, optimizer="adamw", adapters=0)  # neither decides what a pass through the base keeps
            activations, layer_input = self._once(
                lambda: activation_bytes(self._model_config, base, spec, step),
                replace(base, quantization=Quantization.none),
                through,
            )
            logits = 4 * step.rows * step.response * int(self._meta.get_output_embeddings().weight.shape[0])  # type: ignore[operator]
            workspace = 2 * logits + 4 * layer_input + dequantised
        return StepMemory(stored, own, moments, adapters, activations, workspace)


def adapter_file_bytes(spec: LoraSpec) -> int:
    """Size of the weights file of one saved adapter: the tensors in float32 and the header that names them."""
    from safetensors.torch import save

    return len(
        save(adapter_tensors(spec, _zero_adapters(spec, 1, torch.float32)), {"format": "pt", CHECKSUM: 32 * "0"})
    )
