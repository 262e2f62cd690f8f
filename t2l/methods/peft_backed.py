"""What all methods that `peft` implements have in common: wrapping and unwrapping the base, saving, strict restoring.

PEFT puts its layers into the base in place; every block here takes them out again. PEFT only warns about
keys that do not match when it loads; here what was loaded must be, bit for bit, what the file holds.
"""

from __future__ import annotations

import copy
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from t2l.base_model import BaseModel
from t2l.files import FileProblemError, read_tensors, write_tensors
from t2l.lora.peft_folder import CONFIG_FILE, WEIGHTS_FILE, check_keys
from t2l.methods.interface import Attached, C, Method, seeded

NOT_GEOMETRY = frozenset({"inference_mode", "base_model_name_or_path", "rank_pattern", "peft_version", "auto_mapping"})
"""Keys of PEFT's config that may differ between a fresh adapter and a saved one."""
LEFT_BEHIND = ("prepare_inputs_for_generation", "generation_config", "peft_config")
"""Instance attributes that PEFT sets on a model and leaves there."""


@contextmanager
def wrapped_by(make: Callable[[nn.Module], Any], model: nn.Module) -> Iterator[Any]:
    """What `make` puts around the base, a PeftModel, in eval mode as the base is; the base is bare again afterwards."""
    parts = [model, *model.children()]
    left = [(vars(part), name) for part in parts for name in LEFT_BEHIND if name not in vars(part)]
    with warnings.catch_warnings(action="ignore"):
        wrapped: Any = make(model)
    try:
        yield wrapped.eval()
    finally:
        if not wrapped.active_peft_config.is_prompt_learning:
            wrapped.unload()
        for attributes, name in left:
            attributes.pop(name, None)


def wrap(model: nn.Module, config: Any) -> AbstractContextManager[Any]:
    """A PeftModel of a config around the base, for the length of a block."""
    from peft import get_peft_model

    return wrapped_by(lambda base: get_peft_model(base, config), model)


def _state(wrapped: Any) -> dict[str, torch.Tensor]:
    from peft import get_peft_model_state_dict

    with warnings.catch_warnings(action="ignore"):  # AdaLoRA may leave a module no rank at all
        return get_peft_model_state_dict(wrapped, save_embedding_layers=False)


def load_strictly(wrapped: Any, folder: Path) -> None:
    """Fills a PeftModel from a folder's weight file.

    Raises:
        FileProblemError: the file is missing or damaged.
        ValueError: a key too few or too many, or another shape.
    """
    from peft import set_peft_model_state_dict

    tensors = read_tensors(folder / WEIGHTS_FILE)
    try:
        with warnings.catch_warnings(action="ignore"):  # what does not match is an error below
            set_peft_model_state_dict(wrapped, dict(tensors))
    except (RuntimeError, KeyError, ValueError) as error:
        raise ValueError(f"{folder}: the adapter does not fit this base: {str(error).splitlines()[0]}") from error
    loaded = _state(wrapped)
    check_keys(folder, tensors, loaded)
    for key, tensor in tensors.items():
        if not torch.equal(loaded[key].cpu().to(tensor.dtype), tensor):
            raise ValueError(f"{folder}: {key!r} did not load as it was saved")


def _check_config(folder: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    for key, value in wanted.items():
        if value is None or key in NOT_GEOMETRY:
            continue
        there, here = (sorted(v) if isinstance(v, set) else v for v in (found.get(key), value))
        if there != here:
            raise ValueError(f"{folder} holds an adapter with {key}={there!r}, the method's settings say {here!r}")


class PeftMethod(Method[C]):
    """A method of the `peft` package; a saved folder is PEFT's own format."""

    weights_file = WEIGHTS_FILE

    @abstractmethod
    def peft_config(self, model: nn.Module) -> Any:
        """PEFT's config for this base."""

    def prepare(self, wrapped: Any, base: BaseModel) -> None:
        """What is done to a wrapped model before it trains or answers."""

    def initialise(self, wrapped: Any, base: BaseModel) -> None:
        """Initial values beyond PEFT's own, drawn from torch's (seeded) global generator."""

    @contextmanager
    def attach(self, base: BaseModel, seed: int) -> Iterator[Attached]:
        """A fresh one, initialised by PEFT under the seed."""
        config = self.peft_config(base.model)
        with ExitStack() as stack:
            with seeded(seed, base.device):
                wrapped = stack.enter_context(wrap(base.model, config))
                self.initialise(wrapped, base)
            self.prepare(wrapped, base)
            yield Attached(wrapped, {n: p for n, p in wrapped.named_parameters() if p.requires_grad})

    @contextmanager
    def restore(self, base: BaseModel, folder: Path) -> Iterator[Attached]:
        """A saved one, from PEFT's folder, strictly."""
        from peft import PeftConfig

        if not (folder / CONFIG_FILE).is_file():
            raise FileProblemError(f"{folder} holds no adapter: it has no {CONFIG_FILE}")
        with warnings.catch_warnings(action="ignore"):
            config = PeftConfig.from_pretrained(str(folder))
        _check_config(folder, config.to_dict(), self.peft_config(base.model).to_dict())
        config.inference_mode = True
        with wrap(base.model, config) as wrapped:
            load_strictly(wrapped, folder)
            self.prepare(wrapped, base)
            yield Attached(wrapped, {})

    def save(self, attached: Attached, folder: Path) -> None:
        """PEFT's `adapter_config.json` and `adapter_model.safetensors`."""
        # Before the config, whose pattern of ranks AdaLoRA writes on the way.
        write_tensors(folder / WEIGHTS_FILE, _state(attached.model))
        config = copy.copy(attached.model.peft_config["default"])
        config.inference_mode = True
        config.save_pretrained(str(folder))
