"""Methods that scale activations or put trained vectors before the input: IA3, prefix tuning, prompt tuning, through `peft`."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from t2l.base_model import BaseModel
from t2l.checks import at_least, one_of
from t2l.methods.interface import MethodConfig, check_targets, linear_paths
from t2l.methods.peft_backed import PeftMethod
from t2l.registry import register

INITIAL_VALUES = ("random", "vocabulary")


@dataclass
class Ia3Config(MethodConfig):
    """IA3: keys, values and the inner activations of the feed-forward layer, rescaled."""

    target_modules: list[str] = field(default_factory=lambda: ["k_proj", "v_proj"])
    """names of the linear modules whose output is rescaled, in every layer"""
    feedforward_modules: list[str] = field(default_factory=lambda: ["down_proj"])
    """names of the linear modules whose input is rescaled, in every layer"""

    def __post_init__(self) -> None:
        check_targets([*self.target_modules, *self.feedforward_modules])
        both = sorted(set(self.target_modules) & set(self.feedforward_modules))
        if both:
            raise ValueError(f"method: {both[0]!r} is in target_modules and in feedforward_modules, choose one")


@dataclass
class PrefixTuningConfig(MethodConfig):
    """Prefix tuning: trained keys and values before the input, in every layer."""

    virtual_tokens: int = 16
    """length of the prefix"""
    projection_size: int | None = None
    """hidden size of the MLP that makes the prefix while it is trained; None trains it directly"""
    initial_values: str = "vocabulary"
    """vocabulary: the keys and values of random words, without an MLP; random: standard normal, before the MLP"""

    def __post_init__(self) -> None:
        at_least(self, 1, "virtual_tokens", "projection_size", under="method")
        one_of(self, INITIAL_VALUES, "initial_values", under="method")
        if self.projection_size is not None and self.initial_values != "random":
            raise ValueError("method.projection_size: an MLP cannot start from words, set initial_values=random")


@dataclass
class PromptTuningConfig(MethodConfig):
    """Prompt tuning: trained embeddings before the input."""

    virtual_tokens: int = 16
    """number of trained embeddings"""
    initial_values: str = "vocabulary"
    """vocabulary: the embeddings of random words; random: standard normal"""

    def __post_init__(self) -> None:
        at_least(self, 1, "virtual_tokens", under="method")
        one_of(self, INITIAL_VALUES, "initial_values", under="method")


@register("method", "ia3", Ia3Config)
class Ia3(PeftMethod[Ia3Config]):
    """k -> l_k * k, v -> l_v * v, and (l_ff * inner) W_2 (Liu et al. 2022, arXiv:2205.05638, section 3.3).

    The vectors are one at first, which leaves the base as it is. Trains d_out values per rescaled output and
    d_in per rescaled input.
    """

    def peft_config(self, model: nn.Module) -> Any:
        """PEFT's IA3."""
        from peft import IA3Config

        feedforward = linear_paths(model, self.config.feedforward_modules, "feedforward_modules")
        outputs = linear_paths(model, self.config.target_modules)
        return IA3Config(
            task_type="CAUSAL_LM", target_modules=[*outputs, *feedforward], feedforward_modules=feedforward
        )


@register("method", "prefix_tuning", PrefixTuningConfig)
class PrefixTuning(PeftMethod[PrefixTuningConfig]):
    """Attention over [P_K; K] and [P_V; V] with trained P_K, P_V in every layer (Li & Liang 2021, arXiv:2101.00190, eq. 3).

    Trains 2 virtual_tokens layers d_kv values, where d_kv is the width of a layer's keys; with the paper's
    reparametrisation the MLP's instead, of which only the prefix is kept. The paper found the activations of
    real words to be the better start (section 7.4). The base's function is changed from the start. Where
    attention has a sliding window, the padding of a decoded batch counts towards it.
    """

    def peft_config(self, model: nn.Module) -> Any:
        """PEFT's prefix tuning."""
        from peft import PrefixTuningConfig as PeftPrefixTuningConfig

        return PeftPrefixTuningConfig(
            task_type="CAUSAL_LM",
            num_virtual_tokens=self.config.virtual_tokens,
            prefix_projection=self.config.projection_size is not None,
            encoder_hidden_size=self.config.projection_size,
        )

    def initialise(self, wrapped: Any, base: BaseModel) -> None:
        """The base's own keys and values of random words, if they are wanted."""
        if self.config.initial_values == "random":
            return
        words = torch.randint(0, base.model.config.vocab_size, (1, self.config.virtual_tokens))
        with torch.no_grad():
            cache = base.model(input_ids=words.to(base.device), use_cache=True).past_key_values
            states = torch.stack([state[0] for layer in cache.layers for state in (layer.keys, layer.values)])
            # [2 layers, heads, tokens, d_head] as PEFT stores it: a row for each token, layers and heads in it.
            wrapped.prompt_encoder["default"].embedding.weight.copy_(states.permute(2, 0, 1, 3).flatten(1))


@register("method", "prompt_tuning", PromptTuningConfig)
class PromptTuning(PeftMethod[PromptTuningConfig]):
    """[P; E(x)] with trained embeddings P before the input's own (Lester et al. 2021, arXiv:2104.08691, section 2).

    Trains virtual_tokens d_model values. The base's function is changed from the start.
    """

    def peft_config(self, model: nn.Module) -> Any:
        """PEFT's prompt tuning."""
        from peft import PromptTuningConfig as PeftPromptTuningConfig

        initial = "SAMPLE_VOCAB" if self.config.initial_values == "vocabulary" else "RANDOM"
        return PeftPromptTuningConfig(
            task_type="CAUSAL_LM", num_virtual_tokens=self.config.virtual_tokens, prompt_tuning_init=initial
        )

    def prepare(self, wrapped: Any, base: BaseModel) -> None:
        """Replaces PEFT's generate, which ignores padding: it would count the padding of a batch as positions."""
        wrapped.generate = partial(_generate_with_prompt, wrapped)


def _generate_with_prompt(wrapped: Any, input_ids: Tensor, attention_mask: Tensor, **options: Any) -> Tensor:
    """Token ids of prompt and answer, like `generate` of a causal LM given ids.

    It generates from [P; E(x)] with a mask, so that positions are counted over real tokens only.
    """
    if "max_length" in options:  # counts the input, which `generate` does not see as ids
        options["max_new_tokens"] = options.pop("max_length") - input_ids.shape[1]
    prompt = wrapped.get_prompt(batch_size=len(input_ids))
    embedded = wrapped.word_embeddings(input_ids)
    inputs = torch.cat([prompt.to(embedded.dtype), embedded], dim=1)
    mask = torch.cat([attention_mask.new_ones(prompt.shape[:2]), attention_mask], dim=1)
    answers = wrapped.base_model.generate(inputs_embeds=inputs, attention_mask=mask, **options)
    return torch.cat([input_ids, answers], dim=1)
