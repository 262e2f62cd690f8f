"""Decoding as it is asked for, and not as a base's `generation_config.json` would have it.

`generate` of transformers takes what a call leaves open from the model's own generation config: a repetition penalty,
beams, forced or forbidden tokens would turn greedy decoding into something else, of one base and not of the next.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

from torch import nn

log = logging.getLogger(__name__)
KEPT = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
"""Which tokens begin, end and pad: of a model's generation config these stay."""
HARMLESS = (
    "max_length", "max_new_tokens", "use_cache", "cache_implementation", "cache_config", "max_cache_len", "compile_config",
    "disable_compile", "output_attentions", "output_hidden_states", "output_scores", "output_logits",
    "return_dict_in_generate", "transformers_version",
)  # fmt: skip
"""Settings that change no answer, or that every call gives itself; dropped without a word."""


def overridden_decoding(model: nn.Module) -> dict[str, Any]:
    """What a model's generation config says beside its special tokens, and is not used: penalties, beams, sampling..."""
    found = getattr(model, "generation_config", None)
    if found is None:
        return {}
    plain = found._get_default_generation_params()
    given = {k: v for k, v in found.to_dict().items() if not k.startswith("_") and k not in (*KEPT, *HARMLESS)}
    return {k: v for k, v in given.items() if v is not None and v != plain.get(k) and v not in ([], {}, False)}


def describe_decoding(overridden: Mapping[str, Any]) -> str:
    """How answers were written, for a report."""
    if not overridden:
        return "greedy"
    return f"greedy; not used of the base's generation_config.json: {_listed(overridden)}"


def _listed(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{k}={str(v)[:60]}" for k, v in sorted(settings.items()))


@cache
def say_overridden(name: str, settings: str) -> None:
    """Says once per base that settings of its generation config are not used."""
    log.warning("base model %s: answers are decoded greedily, without its generation_config.json (%s)", name, settings)


def note_overridden_decoding(model: nn.Module, name: str) -> dict[str, Any]:
    """What `overridden_decoding` finds, said once per base."""
    overridden = overridden_decoding(model)
    if overridden:
        say_overridden(name, _listed(overridden))
    return overridden


@contextmanager
def plain_decoding(model: Any) -> Iterator[None]:
    """Within the block, `model.generate` reads nothing from generation configs but the special tokens.

    That of a model which an adaptation method wraps is as much another object's as the wrapper's own.
    """
    from transformers import GenerationConfig

    parts = [model, *(m for m in model.modules() if m is not model)]
    holders = [part for part in parts if vars(part).get("generation_config") is not None]
    before = [part.generation_config for part in holders]
    for part, config in zip(holders, before, strict=True):
        part.generation_config = GenerationConfig(**{key: getattr(config, key, None) for key in KEPT})
    try:
        yield
    finally:
        for part, config in zip(holders, before, strict=True):
            part.generation_config = config
