"""Adapters on an output embedding that is the input embedding, too; and that no wrong model is ever left."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import random_adapters
from safetensors.torch import load_file
from test_cli import refused
from test_merge import adapter_for, injected_logits, logits, model_of
from torch import Tensor
from transformers import AutoModelForCausalLM

from t2l.base_model import merge as module
from t2l.base_model.merge import merge
from t2l.files import read_json
from t2l.lora import LoraSpec, ModuleGroup, Scaling
from t2l.lora.peft_folder import load_provenance, save_adapter

TIED = ("llama", "qwen3", "gemma2", "gpt2")


@pytest.fixture
def save_base(tmp_path: Path, tokenizer: Any) -> Callable[[str], Path]:
    """Saves a tiny base with its tokenizer."""

    def save(name: str) -> Path:
        folder = tmp_path / f"base_{name}"
        model_of(name).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return save


def peft_folder(base: Path, folder: Path, targets: list[str], save_embedding_layers: bool = False) -> Tensor:
    """Saves a random adapter of PEFT's own, and returns the logits it gives."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    config = LoraConfig(r=4, target_modules=targets, task_type="CAUSAL_LM", init_lora_weights=False)
    wrapped = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).eval()
    wrapped.save_pretrained(folder, save_embedding_layers=save_embedding_layers)
    return logits(wrapped)


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
@pytest.mark.parametrize("name", TIED)
def test_a_tied_output_embedding_is_untied(
    name: str,
    dtype: str | None,
    save_base: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    """As reported: merging exited 0, and the folder held another model, its logits off by 0.83."""
    base, adapter, out = save_base(name), tmp_path / "adapter", tmp_path / "merged"
    assert AutoModelForCausalLM.from_pretrained(base).config.tie_word_embeddings
    expected = peft_folder(base, adapter, ["lm_head"])
    assert (expected - logits(model_of(name))).abs().max() > 1e-2
    merge(adapter, out, dtype=dtype)
    merged = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    tolerance = 1e-4 if dtype is None else 2e-2 * expected.abs().max().item()
    torch.testing.assert_close(logits(merged), expected, atol=tolerance, rtol=1e-4)
    assert merged.config.tie_word_embeddings is False
    inputs, own = merged.get_input_embeddings().weight, model_of(name).get_input_embeddings().weight
    assert torch.equal(inputs, own.to(getattr(torch, dtype or "float32")).float())
    assert load_provenance(out)["untied"] is True
    assert "so here they are two" in (out / "README.md").read_text()


def test_an_adapter_beside_tied_embeddings_leaves_them_tied(save_base: Callable[[str], Path], tmp_path: Path) -> None:
    base, adapter = save_base("llama"), tmp_path / "adapter"
    adapter_for(adapter, base, "llama")
    merge(adapter, tmp_path / "merged")
    assert read_json(tmp_path / "merged/config.json")["tie_word_embeddings"] is True
    assert "lm_head.weight" not in load_file(tmp_path / "merged/model.safetensors")
    assert load_provenance(tmp_path / "merged")["untied"] is False
    assert load_file(base / "model.safetensors").keys() == load_file(tmp_path / "merged/model.safetensors").keys()


def test_the_copy_of_the_base_that_peft_saves_must_be_a_copy(
    save_base: Callable[[str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from safetensors.torch import save_file

    base, adapter = save_base("llama"), tmp_path / "adapter"
    expected = peft_folder(base, adapter, ["lm_head", "q_proj"], save_embedding_layers=True)
    weights = adapter / "adapter_model.safetensors"
    tensors = load_file(weights)
    assert "base_model.model.lm_head.base_layer.weight" in tensors
    merge(adapter, tmp_path / "merged")
    merged = logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged"))
    torch.testing.assert_close(merged, expected, atol=1e-4, rtol=1e-4)
    save_file({k: v + 1 if "base_layer" in k else v for k, v in tensors.items()}, weights)
    line = refused_merge(capsys, adapter, tmp_path / "other")
    assert "'base_model.model.lm_head.base_layer.weight' is not a LoRA weight" in line


def refused_merge(capsys: pytest.CaptureFixture[str], adapter: Path, out: Path) -> str:
    before = sorted(out.parent.iterdir())
    line = refused(capsys, "merge", str(adapter), "--out", str(out))
    assert sorted(out.parent.iterdir()) == before
    return line


@pytest.mark.parametrize(("target", "says"), [("embed_tokens", "embed_tokens.lora_embedding_A' is not a LoRA weight")])
def test_what_is_no_linear_module_is_refused(
    target: str,
    says: str,
    save_base: Callable[[str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    peft_folder(save_base("llama"), tmp_path / "adapter", [target])
    assert says in refused_merge(capsys, tmp_path / "adapter", tmp_path / "merged")


def test_our_own_folder_for_an_output_embedding_does_what_injection_does(
    save_base: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    """Injection uses outputs only, so it is right on tied weights as it is."""
    from peft import PeftModel

    base, adapter = save_base("llama"), tmp_path / "adapter"
    group = ModuleGroup("lm_head", "lm_head", 32, 400, (0,), ("lm_head",))
    spec = LoraSpec((group,), 4, 8.0, Scaling.standard)
    save_adapter(adapter, spec, random_adapters(spec, 1), str(base), {})
    expected = injected_logits(model_of("llama"), spec, adapter)
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(adapter)).eval()
    torch.testing.assert_close(logits(loaded), expected, atol=1e-4, rtol=1e-4)
    merge(adapter, tmp_path / "merged")
    merged = logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged"))
    torch.testing.assert_close(merged, expected, atol=1e-4, rtol=1e-4)


def test_weights_shared_in_another_way_are_refused() -> None:
    model: Any = model_of("mistral")
    first, second = (model.model.layers[i].self_attn.q_proj for i in (0, 1))
    second.weight = first.weight
    path = "model.layers.1.self_attn.q_proj"
    with pytest.raises(ValueError, match=rf"{path} shares its weights with model.layers.0.self_attn.q_proj.weight"):
        module._untie(model, {path}, Path("adapter"))
    assert not module._untie(model, {"model.layers.2.self_attn.q_proj"}, Path("adapter"))


def test_a_merge_that_goes_wrong_leaves_nothing(
    save_base: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Whatever the cause: here tied weights that are not untied, and a save that loses a weight."""
    base, adapter = save_base("llama"), tmp_path / "adapter"
    peft_folder(base, adapter, ["lm_head"])
    with monkeypatch.context() as patch:
        patch.setattr(module, "_untie", lambda *_: False)
        line = refused_merge(capsys, adapter, tmp_path / "merged")
        assert "merged, the model does not do what the adapter does" in line
    real = type(model_of("llama")).save_pretrained

    def lossy(model: Any, folder: Path, **options: Any) -> None:
        weights = model.state_dict()
        del weights["model.layers.1.mlp.down_proj.weight"]
        real(model, folder, state_dict=weights, **options)

    monkeypatch.setattr(type(model_of("llama")), "save_pretrained", lossy)
    line = refused_merge(capsys, adapter, tmp_path / "merged")
    assert "read again from its files, is another one" in line
