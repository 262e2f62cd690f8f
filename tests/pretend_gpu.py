"""A GPU for machines that have none: a device of its own, whose tensors lie in the CPU's memory.

    with pretend_gpu():
        x = torch.zeros(3, device="gpu")       # computes as ever, also backward
        x + torch.zeros(3)                     # raises, as it would on CUDA
        x.numpy()                              # likewise

`FakeTensorMode` cannot do this in a build without CUDA: indexing, `.to` and autograd ask for CUDA's own device guard.
Here PyTorch's key for devices of other makers gets a guard in Python, and every operation is checked, run on the CPU,
and its results are put back onto the device. What may be mixed is what CUDA allows: a CPU tensor without dimensions
in element-wise arithmetic, indices on the CPU, and copies.

The device cannot be taken out of a process again: use it in one of its own (`test_devices.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

NAME = "gpu"
aten = torch.ops.aten
COPIES = {aten.copy_.default, aten._to_copy.default}
INDEXED = {aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default}
"""operations whose indices may lie on the CPU"""


class DeviceMismatchError(RuntimeError):
    """An operation got tensors of several devices."""


class OnGpu(Tensor):
    """A tensor of the device; `held` is where its values lie."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor, requires_grad: bool = False) -> OnGpu:
        made = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            device=torch.device(NAME, 0), requires_grad=requires_grad,
        )  # fmt: skip
        made.held = held.detach()
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"{self.held!r} on {NAME}"

    def __format__(self, how: str) -> str:
        return format(self.held, how)

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        new: Any = OnGpu(self.held.clone(), self.requires_grad)
        new = nn.Parameter(new, self.requires_grad) if isinstance(self, nn.Parameter) else new
        memo[id(self)] = new
        return new

    def tolist(self) -> Any:
        """As on CUDA, by way of the CPU."""
        return self.held.tolist()

    def numpy(self, *, force: bool = False) -> Any:
        """Refused, as on CUDA."""
        raise TypeError(f"can't convert {NAME} tensor to numpy: use Tensor.cpu() first")

    def untyped_storage(self) -> Any:
        """Where the values lie."""
        return self.held.untyped_storage()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Mode(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Checks an operation's devices, runs it on what the tensors hold, and puts results onto the device."""
    tensors: list[Tensor] = []
    held_args = _held(args, tensors)
    held_kwargs = {k: _held(v, tensors) for k, v in kwargs.items()}
    ours = [t for t in tensors if isinstance(t, OnGpu)]
    device = kwargs.get("device")
    is_made_here = device is not None and torch.device(device).type == NAME
    if ours and len(ours) < len(tensors) and func not in COPIES:
        _check(func, args, ours, [t for t in tensors if not isinstance(t, OnGpu)])
    generator = kwargs.get("generator")
    if generator is not None and (is_made_here or ours) and generator.device.type != NAME:
        raise DeviceMismatchError(f"{func}: a generator on {generator.device} cannot draw for {NAME}")
    if is_made_here:
        held_kwargs["device"] = torch.device("cpu")
    found = func(*held_args, **held_kwargs)
    if func._schema.is_mutable and func._schema.name.endswith("_") and isinstance(args[0], Tensor):
        return args[0]  # in place
    return _placed(found) if is_made_here or (ours and device is None) else found


def _held(value: Any, tensors: list[Tensor]) -> Any:
    """An argument with what its tensors hold, which are put into a list."""
    if isinstance(value, Tensor):
        tensors.append(value)
        return value.held if isinstance(value, OnGpu) else value
    if isinstance(value, list | tuple):
        return type(value)([_held(v, tensors) for v in value])
    return value


def _placed(found: Any) -> Any:
    if isinstance(found, Tensor):
        return OnGpu(found)
    return type(found)([_placed(v) for v in found]) if isinstance(found, list | tuple) else found


def _check(func: Any, args: Any, ours: list[OnGpu], theirs: list[Tensor]) -> None:
    """Raises DeviceMismatchError for tensors that CUDA would not take together."""
    if func in INDEXED and isinstance(args[0], OnGpu):
        theirs = [v for v in args[2:3] if isinstance(v, Tensor) and not isinstance(v, OnGpu) and v.ndim]
    elif torch.Tag.pointwise in func.tags and any(t.ndim for t in ours):
        theirs = [t for t in theirs if t.ndim]
    if theirs:
        shapes = [(t.device.type, tuple(t.shape)) for t in (*ours, *theirs)]
        raise DeviceMismatchError(f"{func} got tensors of several devices: {shapes}")


class _Backend(_DummyBackendModule):
    """What gradient checkpointing asks of a device's module."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    def get_rng_state(self, device: Any = None) -> Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: Tensor, device: Any = None) -> None:
        torch.set_rng_state(state)


@contextmanager
def pretend_gpu() -> Iterator[torch.device]:
    """Within the block, `gpu` is a device; yields it."""
    if torch._C._get_privateuse1_backend_name() != NAME:
        _setup_privateuseone_for_python_backend(NAME, backend_module=_Backend())
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=...) makes a CPU tensor and moves it
    try:
        with _Mode():
            yield torch.device(NAME, 0)
    finally:
        torch._C._set_only_lift_cpu_tensors(False)


def onto_gpu(module: Any) -> Any:
    """Moves a module's parameters and buffers onto the device, in place; tied ones stay tied. Returns it."""
    moved: dict[int, Any] = {}
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                new = nn.Parameter(OnGpu(parameter.detach()), requires_grad=parameter.requires_grad)
                part._parameters[name] = moved.setdefault(id(parameter), new)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = moved.setdefault(id(buffer), OnGpu(buffer))
    return module
