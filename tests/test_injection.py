from __future__ import annotations

import pytest
import torch
from conftest import CONFIGS, random_adapters, tiny_model
from torch import nn

from t2l.base_model import LoraConfig, hash_parameters, lora_spec
from t2l.lora import LoraSpec, LoraWeights, inject
from t2l.lora.injection import add_lora

IDS = torch.randint(3, 400, (6, 9), generator=torch.Generator().manual_seed(1))


def spec_of(name: str, model: nn.Module) -> LoraSpec:
    return lora_spec(model, LoraConfig(rank=4, target_modules=CONFIGS[name][1]))


def merged_logits(model: nn.Module, spec: LoraSpec, weights: LoraWeights, ids: torch.Tensor) -> torch.Tensor:
    """Logits after adding scaling * B A to the weights themselves; the weights are put back."""
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with torch.no_grad():
        for g in spec.groups:
            for i, path in enumerate(g.paths):
                delta = spec.scaling * weights.B[g.name][0, i] @ weights.A[g.name][0, i]
                model.get_submodule(path).weight.add_(delta)
        logits = model(ids).logits
        model.load_state_dict(before)
    return logits


@pytest.mark.parametrize("name", CONFIGS)
def test_injected_equals_merged_row_by_row(name: str) -> None:
    model = tiny_model(name)
    spec = spec_of(name, model)
    weights = random_adapters(spec, 3)
    with torch.no_grad(), inject(model, spec, weights):
        mixed = model(IDS).logits
    for adapter in range(3):
        rows = slice(2 * adapter, 2 * adapter + 2)
        torch.testing.assert_close(
            mixed[rows], merged_logits(model, spec, weights[adapter], IDS[rows]), atol=1e-4, rtol=1e-4
        )
    assert not torch.allclose(mixed, model(IDS).logits, atol=1e-3)


def test_adapter_index_maps_rows_freely() -> None:
    model = tiny_model("llama")
    spec = spec_of("llama", model)
    weights = random_adapters(spec, 3)
    index = torch.tensor([2, 0, 2, 1, 1, 2])
    with torch.no_grad():
        with inject(model, spec, weights, index):
            mixed = model(IDS).logits
        for row, adapter in enumerate(index.tolist()):
            with inject(model, spec, weights[adapter]):
                torch.testing.assert_close(mixed[row : row + 1], model(IDS[row : row + 1]).logits, atol=1e-5, rtol=1e-4)


def test_zero_b_is_the_base() -> None:
    model = tiny_model("llama")
    spec = spec_of("llama", model)
    weights = random_adapters(spec, 2)
    zero = LoraWeights(weights.A, {k: torch.zeros_like(v) for k, v in weights.B.items()})
    with torch.no_grad(), inject(model, spec, zero):
        assert torch.equal(model(IDS).logits, tiny_model("llama")(IDS).logits)


def test_gradients_reach_adapters_and_not_the_base() -> None:
    model = tiny_model("llama")
    before = hash_parameters(model)
    spec = spec_of("llama", model)
    weights = random_adapters(spec, 2).map(lambda t: t.requires_grad_())
    with inject(model, spec, weights):
        model(IDS).logits.square().mean().backward()
    assert all(t.grad is not None and t.grad.abs().sum() > 0 for t in weights.tensors())
    assert all(p.grad is None for p in model.parameters())
    assert hash_parameters(model) == before


def _gradients(model: nn.Module, spec: LoraSpec) -> list[torch.Tensor]:
    weights = random_adapters(spec, 2).map(lambda t: t.requires_grad_())
    with inject(model, spec, weights):
        model(IDS, use_cache=False).logits.square().mean().backward()
    return [t.grad for t in weights.tensors()]  # type: ignore[misc]


def test_gradient_checkpointing_gives_the_same_gradients() -> None:
    model = tiny_model("llama")
    spec = spec_of("llama", model)
    plain = _gradients(model, spec)
    model.gradient_checkpointing_enable()
    model.train()
    for one, two in zip(plain, _gradients(model, spec), strict=True):
        torch.testing.assert_close(one, two)


def test_backward_after_the_block_with_checkpointing_is_loud() -> None:
    model = tiny_model("llama")
    spec = spec_of("llama", model)
    model.gradient_checkpointing_enable()
    model.train()
    weights = random_adapters(spec, 2).map(lambda t: t.requires_grad_())
    with inject(model, spec, weights):
        loss = model(IDS, use_cache=False).logits.square().mean()
    with pytest.raises(torch.utils.checkpoint.CheckpointError):
        loss.backward()


def test_hooks_are_removed_even_after_an_error() -> None:
    model = tiny_model("llama")
    spec = spec_of("llama", model)
    bare = model(IDS).logits
    with pytest.raises(RuntimeError, match="on purpose"), inject(model, spec, random_adapters(spec, 1)):
        raise RuntimeError("on purpose")
    assert torch.equal(model(IDS).logits, bare)


def test_foreign_model_is_refused_and_left_bare() -> None:
    spec = spec_of("phi3", tiny_model("phi3"))
    model = tiny_model("llama")
    with (
        pytest.raises(ValueError, match="the spec was made for another model"),
        inject(model, spec, random_adapters(spec, 1)),
    ):
        pass
    assert not any(m._forward_hooks for m in model.modules())


def test_add_lora_is_the_papers_equation() -> None:
    """y + scaling * B A x, row by row, whatever the dtypes; gradients reach x, A, B and y."""
    generator = torch.Generator().manual_seed(0)
    y, x, A, B = (torch.randn(*s, generator=generator) for s in ((6, 3, 5), (6, 3, 4), (2, 2, 4), (2, 5, 2)))
    tensors = [t.double().requires_grad_() for t in (y, x, A, B)]
    assert torch.autograd.gradcheck(lambda *t: add_lora(*t, 0.7), tensors)
    expected = torch.stack([y[i] + 0.7 * x[i] @ A[i // 3].T @ B[i // 3].T for i in range(6)])
    torch.testing.assert_close(add_lora(y, x, A, B, 0.7), expected)
    mixed = add_lora(y.bfloat16(), x.bfloat16(), A, B, 0.7)
    assert mixed.dtype == torch.bfloat16
    torch.testing.assert_close(mixed.float(), expected, atol=0.1, rtol=0.05)


def test_rows_must_divide() -> None:
    with pytest.raises(ValueError, match="rows must be a multiple of adapters"):
        add_lora(torch.zeros(5, 2, 8), torch.zeros(5, 2, 8), torch.zeros(2, 4, 8), torch.zeros(2, 8, 4), 1.0)


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_quantised_linears(kind: str) -> None:
    """Injection on bitsandbytes linears adds exactly what it adds to any linear."""
    import bitsandbytes as bnb

    model = tiny_model("llama")
    for layer in model.model.layers:
        for name in ("q_proj", "v_proj"):
            old = getattr(layer.self_attn, name)
            if kind == "nf4":
                new = bnb.nn.Linear4bit(old.in_features, old.out_features, bias=False, quant_type="nf4")
            else:
                new = bnb.nn.Linear8bitLt(old.in_features, old.out_features, bias=False, has_fp16_weights=False)
            new.load_state_dict({"weight": old.weight.data})
            setattr(layer.self_attn, name, new.to("cpu").requires_grad_(False))
    spec = spec_of("llama", model)
    weights = random_adapters(spec, 2).map(lambda t: t.requires_grad_())
    module = model.get_submodule(spec.groups[0].paths[0])
    x = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(2))
    bare = module(x)
    with inject(model, spec, weights):
        injected = module(x)
        model(IDS).logits.square().mean().backward()
    name = spec.groups[0].name
    expected = add_lora(bare, x, weights.A[name][:, 0], weights.B[name][:, 0], spec.scaling)
    torch.testing.assert_close(injected, expected)
    assert all(t.grad is not None and t.grad.abs().sum() > 0 for t in weights.tensors())
