from __future__ import annotations

import json

import pytest
import torch
from conftest import CONFIGS, random_adapters, tiny_model

from t2l.base_model import LoraConfig, lora_spec, lora_spec_from_config
from t2l.lora import LoraSpec, Scaling
from t2l.lora.weights import concatenate, fresh_lora


@pytest.mark.parametrize("name", CONFIGS)
def test_spec_from_config_alone_equals_spec_from_the_model(name: str) -> None:
    config, targets = CONFIGS[name]
    lora = LoraConfig(rank=4, target_modules=targets)
    assert lora_spec_from_config(config, lora) == lora_spec(tiny_model(name), lora)


@pytest.mark.parametrize("name", CONFIGS)
def test_shapes_are_those_of_the_linears(name: str) -> None:
    model = tiny_model(name)
    spec = lora_spec(model, LoraConfig(rank=4, target_modules=CONFIGS[name][1]))
    assert spec.target_modules == tuple(sorted(CONFIGS[name][1]))
    for group in spec.groups:
        assert group.layers == (0, 1, 2)
        for path in group.paths:
            weight = model.get_submodule(path).weight
            assert tuple(weight.shape) == (group.d_out, group.d_in)


def test_order_of_target_modules_does_not_matter() -> None:
    config = CONFIGS["llama"][0]
    one = lora_spec_from_config(config, LoraConfig(target_modules=["v_proj", "q_proj"]))
    two = lora_spec_from_config(config, LoraConfig(target_modules=["q_proj", "v_proj"]))
    assert one == two
    assert one.group_names == ("q_proj", "v_proj")


def test_layers_of_different_shape_form_groups() -> None:
    model = tiny_model("llama")
    model.model.layers[1].mlp.up_proj = torch.nn.Linear(32, 64, bias=False)
    spec = lora_spec(model, LoraConfig(rank=2, target_modules=["up_proj"]))
    assert [(g.name, g.layers) for g in spec.groups] == [("up_proj:32x48", (0, 2)), ("up_proj:32x64", (1,))]


def test_unknown_target_says_what_there_is() -> None:
    with pytest.raises(ValueError, match=r"no linear 'c_attn'.*'q_proj'"):
        lora_spec_from_config(CONFIGS["llama"][0], LoraConfig(target_modules=["c_attn"]))


def test_layer_out_of_range() -> None:
    with pytest.raises(ValueError, match="no layer 7; this base has layers 0 to 2"):
        lora_spec_from_config(CONFIGS["llama"][0], LoraConfig(layers=[7]))


@pytest.mark.parametrize(("rule", "factor"), [(Scaling.standard, 16 / 4), (Scaling.rslora, 16 / 2)])
def test_scaling(rule: Scaling, factor: float) -> None:
    spec = lora_spec_from_config(CONFIGS["llama"][0], LoraConfig(rank=4, alpha=16.0, scaling_rule=rule))
    assert spec.scaling == factor


def test_spec_survives_json() -> None:
    spec = lora_spec_from_config(CONFIGS["phi3"][0], LoraConfig(target_modules=CONFIGS["phi3"][1]))
    assert LoraSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


def test_parameters_per_adapter_counts_values() -> None:
    spec = lora_spec_from_config(CONFIGS["llama"][0], LoraConfig(rank=4))
    assert spec.parameters_per_adapter == sum(t.numel() for t in random_adapters(spec, 1).tensors())


def test_indexing_and_concatenation_are_inverse() -> None:
    spec = lora_spec_from_config(CONFIGS["llama"][0], LoraConfig(rank=4))
    weights = random_adapters(spec, 3)
    again = concatenate([weights[0], weights[1], weights[-1]])
    for one, two in zip(weights.tensors(), again.tensors(), strict=True):
        assert torch.equal(one, two)


def test_fresh_lora_changes_nothing_and_has_peft_scale() -> None:
    spec = lora_spec_from_config(CONFIGS["llama"][0], LoraConfig(rank=4))
    weights = fresh_lora(spec, torch.Generator().manual_seed(0), batch_size=50)
    assert all(not b.any() for b in weights.B.values())
    for g in spec.groups:
        assert weights.A[g.name].abs().max() <= g.d_in**-0.5
        assert weights.A[g.name].std() == pytest.approx((g.d_in * 3) ** -0.5, rel=0.05)


def test_check_refuses_other_shapes() -> None:
    small = lora_spec_from_config(CONFIGS["llama"][0], LoraConfig(rank=2))
    large = lora_spec_from_config(CONFIGS["llama"][0], LoraConfig(rank=4))
    with pytest.raises(ValueError, match="the spec wants"):
        random_adapters(small, 1).check(large)
