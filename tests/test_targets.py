"""Any architecture: spec, injection, a training step, a saved adapter and PEFT's logits, or a sentence that says why not."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SIZES, random_adapters
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Phi3Config,
    PreTrainedModel,
    Qwen2Config,
    Qwen2MoeConfig,
    Qwen3Config,
    Qwen3MoeConfig,
)

from t2l import hypernetwork as hypernetworks
from t2l.base_model import (
    BaseModel,
    BaseModelConfig,
    LoraConfig,
    Quantization,
    freeze,
    load_base_model,
    lora_spec,
    lora_spec_from_config,
    verify_frozen,
)
from t2l.hypernetwork import ResidualConfig
from t2l.lora import LoraWeights, inject
from t2l.lora.peft_folder import load_adapter, save_adapter
from t2l.objectives import SftConfig, SftObjective, Steps
from t2l.tasks import TokenizedExample
from t2l.training.loop import TrainerConfig
from t2l.training.optimizer import make_optimizer

MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


@dataclass
class Architecture:
    """A tiny config, and what `all` and `attention` mean for it (`all` None where it is refused)."""

    config: Any
    attention: set[str]
    everything: set[str] | None
    groups: list[str] = field(default_factory=list)
    """the spec's group names for `all`, where they are not simply the names"""


QKVO = {"q_proj", "k_proj", "v_proj", "o_proj"}
GATED = {"gate_proj", "up_proj", "down_proj"}
ARCHITECTURES = {
    "mistral": Architecture(MistralConfig(**SIZES, sliding_window=16), QKVO, QKVO | GATED),
    "llama3": Architecture(LlamaConfig(**SIZES, rope_scaling=LLAMA3_ROPE), QKVO, QKVO | GATED),
    "gemma2": Architecture(
        Gemma2Config(**SIZES, head_dim=8, sliding_window=16, query_pre_attn_scalar=8), QKVO, QKVO | GATED
    ),
    "gemma3": Architecture(
        Gemma3TextConfig(**SIZES, head_dim=8, sliding_window=16, query_pre_attn_scalar=8), QKVO, QKVO | GATED
    ),
    "qwen2": Architecture(Qwen2Config(**SIZES), QKVO, QKVO | GATED),
    "qwen3": Architecture(Qwen3Config(**SIZES, head_dim=8, tie_word_embeddings=True), QKVO, QKVO | GATED),
    "phi3": Architecture(
        Phi3Config(**SIZES), {"qkv_proj", "o_proj"}, {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"}
    ),
    "gpt_neox": Architecture(
        GPTNeoXConfig(**{k: v for k, v in SIZES.items() if k != "num_key_value_heads"}),
        {"query_key_value", "dense"},
        {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"},
    ),
    "gpt2": Architecture(
        GPT2Config(n_embd=32, n_layer=3, n_head=4, vocab_size=400, n_positions=128, bos_token_id=1, eos_token_id=2),
        {"c_attn", "c_proj"},
        {"c_attn", "c_proj", "c_fc"},
        ["c_attn", "c_fc", "c_proj:128x32", "c_proj:32x32"],
    ),
    "mixtral": Architecture(MixtralConfig(**SIZES, num_local_experts=4, num_experts_per_tok=2), QKVO, None),
    "qwen2_moe": Architecture(Qwen2MoeConfig(**SIZES, **MOE, shared_expert_intermediate_size=16), QKVO, None),
    "qwen3_moe": Architecture(Qwen3MoeConfig(**SIZES, head_dim=8, **MOE), QKVO, None),
}
NAMES = sorted(ARCHITECTURES)


def model_of(name: str) -> PreTrainedModel:
    torch.manual_seed(0)
    return freeze(AutoModelForCausalLM.from_config(ARCHITECTURES[name].config))  # type: ignore[return-value]


def token_ids() -> torch.Tensor:
    return torch.randint(5, 200, (4, 9), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", NAMES)
def test_presets_mean_what_the_model_has(name: str) -> None:
    known, model = ARCHITECTURES[name], model_of(name)
    spec = lora_spec(model, LoraConfig(target_modules=["attention"]))
    assert set(spec.target_modules) == known.attention
    assert spec.layers == (0, 1, 2)
    if known.everything is None:
        for preset in ("all", "mlp"):
            with pytest.raises(ValueError, match="routed experts of this mixture-of-experts base"):
                lora_spec(model, LoraConfig(target_modules=[preset]))
        return
    spec = lora_spec_from_config(known.config, LoraConfig(target_modules=["all"]))
    assert set(spec.target_modules) == known.everything
    assert list(spec.group_names) == (known.groups or sorted(known.everything))
    both = lora_spec(model, LoraConfig(target_modules=["mlp", "attention"]))
    assert both == spec


def go_the_whole_path(base: BaseModel, targets: list[str], trainer: TrainerConfig, folder: Path) -> float:
    """Spec, a few training steps, a saved adapter; returns how far injection and PEFT are apart in logits."""
    from peft import PeftModel

    spec = lora_spec(base.model, LoraConfig(rank=3, target_modules=targets))
    hypernetwork = hypernetworks.build(ResidualConfig(width=16, description_width=8), spec, 12, seed=0)
    rows = [[TokenizedExample((5, 6 + i, 7), (8, 2)), TokenizedExample((9, 6), (4, 2))] for i in range(3)]
    embeddings = [torch.randn(2, 12, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    steps = Steps(SftObjective(SftConfig(), trainer, base, rows), embeddings, trainer, 0)
    optimizer, losses = make_optimizer(trainer, hypernetwork), []
    with verify_frozen(base.model):
        for _ in range(8):
            losses.append(steps.backward(hypernetwork, 0)["train/loss"])
            optimizer.step()
            optimizer.zero_grad()
    assert losses[-1] < losses[0] - 0.1
    weights = random_adapters(spec, 2)
    save_adapter(folder, spec, weights[1], "base", {})
    loaded = load_adapter(folder, spec)
    assert all(torch.equal(a, b) for a, b in zip(loaded.tensors(), weights[1].tensors(), strict=True))
    ids = token_ids()
    with torch.no_grad():
        bare = base.model(ids).logits
        with inject(base.model, spec, LoraWeights(loaded.A, loaded.B)):
            ours = base.model(ids).logits
        theirs = PeftModel.from_pretrained(base.model, str(folder)).eval()(ids).logits
    assert (ours - bare).abs().max() > 0.05
    return float((ours - theirs).abs().max())


@pytest.mark.parametrize("name", NAMES)
def test_whole_path(name: str, tokenizer: object, tmp_path: Path) -> None:
    preset = "attention" if ARCHITECTURES[name].everything is None else "all"
    base = BaseModel(model_of(name), tokenizer, name, name, "fingerprint")
    trainer = TrainerConfig(tasks_per_step=3, rows_per_task=1, lr=0.003, gradient_checkpointing=name == "mistral")
    assert go_the_whole_path(base, [preset], trainer, tmp_path / "adapter") < 1e-4


@pytest.mark.parametrize(("kind", "tolerance"), [(Quantization.nf4, 1e-3), (Quantization.int8, 0.05)])
def test_whole_path_on_a_quantised_base(kind: Quantization, tolerance: float, tmp_path: Path) -> None:
    """In 8 bits the layers round their inputs, too, so that a difference in the last digit can become one step of them."""
    base = load_base_model(BaseModelConfig(device="cpu", quantization=kind))
    trainer = TrainerConfig(
        tasks_per_step=3, rows_per_task=1, lr=0.003, gradient_checkpointing=True, optimizer="adamw_8bit"
    )
    assert go_the_whole_path(base, ["all"], trainer, tmp_path / "adapter") < tolerance


@pytest.mark.parametrize("name", ["gpt2", "qwen2_moe", "phi3"])
def test_a_mixed_batch_is_its_rows_alone(name: str) -> None:
    model = model_of(name)
    names = ["attention", "down_proj"] if name == "qwen2_moe" else ["all"]  # those of the shared expert
    if name == "qwen2_moe":
        with pytest.raises(ValueError, match="routed experts"):
            lora_spec(model, LoraConfig(target_modules=["gate_up_proj"]))
    spec = lora_spec(model, LoraConfig(rank=2, target_modules=names))
    weights, ids = random_adapters(spec, 4, size=0.2), token_ids()
    with torch.no_grad(), inject(model, spec, weights):
        together = model(ids).logits
    for i in range(4):
        with torch.no_grad(), inject(model, spec, weights[i]):
            torch.testing.assert_close(model(ids[i : i + 1]).logits[0], together[i], rtol=1e-4, atol=1e-4)


def test_layer_subsets_and_what_is_not_there() -> None:
    model = model_of("gpt2")
    spec = lora_spec(model, LoraConfig(target_modules=["c_attn"], layers=[0, 2]))
    assert spec.groups[0].paths == ("transformer.h.0.attn.c_attn", "transformer.h.2.attn.c_attn")
    assert (spec.groups[0].d_in, spec.groups[0].d_out) == (32, 96)
    with pytest.raises(ValueError, match=r"no linear 'q_proj'.*c_attn.*presets are attention, mlp, all"):
        lora_spec(model, LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(ValueError, match="no layer 7; this base has layers 0 to 2"):
        lora_spec(model, LoraConfig(target_modules=["c_attn"], layers=[7]))


def test_layers_outside_the_decoder_are_left_alone() -> None:
    class WithVision(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.text = model_of("mistral")
            self.vision = model_of("llama3")

        def get_decoder(self) -> torch.nn.Module:
            return self.text.get_decoder()

    spec = lora_spec(WithVision(), LoraConfig(target_modules=["q_proj"]))
    assert [p.split(".")[0] for p in spec.groups[0].paths] == ["text"] * 3
