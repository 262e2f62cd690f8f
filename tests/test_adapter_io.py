from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import CONFIGS, random_adapters, tiny_model
from safetensors.torch import load_file, save_file

from t2l.base_model import LoraConfig, lora_spec
from t2l.files import FileProblemError
from t2l.lora import LoraSpec, Scaling, inject
from t2l.lora.peft_folder import load_adapter, save_adapter

IDS = torch.randint(3, 400, (2, 9), generator=torch.Generator().manual_seed(1))


def llama_spec(rank: int = 4) -> LoraSpec:
    return lora_spec(tiny_model("llama"), LoraConfig(rank=rank))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_adapter(tmp_path / "adapter", llama_spec(), random_adapters(llama_spec(), 1), "base", {"task": "x"})
    return tmp_path / "adapter"


@pytest.mark.parametrize("rule", list(Scaling))
@pytest.mark.parametrize("name", CONFIGS)
def test_peft_gives_the_logits_of_injection(name: str, rule: Scaling, tmp_path: Path) -> None:
    from peft import PeftModel

    model = tiny_model(name)
    spec = lora_spec(model, LoraConfig(rank=4, target_modules=CONFIGS[name][1], scaling_rule=rule))
    weights = random_adapters(spec, 1)
    with torch.no_grad(), inject(model, spec, weights):
        injected = model(IDS).logits
    save_adapter(tmp_path / "adapter", spec, weights, "base", {})
    with torch.no_grad():
        peft_model = PeftModel.from_pretrained(tiny_model(name), str(tmp_path / "adapter"))
        loaded = {k for k, _ in peft_model.named_parameters() if "lora_" in k}
        torch.testing.assert_close(peft_model(IDS).logits, injected, atol=1e-5, rtol=1e-4)
    assert len(loaded) == 2 * sum(len(g.paths) for g in spec.groups)


def test_layer_subset_reaches_only_its_layers(tmp_path: Path) -> None:
    from peft import PeftModel

    model = tiny_model("llama")
    spec = lora_spec(model, LoraConfig(rank=4, layers=[0, 2]))
    weights = random_adapters(spec, 1)
    with torch.no_grad(), inject(model, spec, weights):
        injected = model(IDS).logits
    save_adapter(tmp_path / "adapter", spec, weights, "base", {})
    with torch.no_grad():
        peft_model = PeftModel.from_pretrained(tiny_model("llama"), str(tmp_path / "adapter"))
        torch.testing.assert_close(peft_model(IDS).logits, injected, atol=1e-5, rtol=1e-4)


def test_a_peft_trained_adapter_loads(tmp_path: Path) -> None:
    from peft import LoraConfig as PeftLoraConfig
    from peft import get_peft_model

    peft_config = PeftLoraConfig(r=4, lora_alpha=16, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    peft_model = get_peft_model(tiny_model("llama"), peft_config)
    with torch.no_grad():
        expected = peft_model(IDS).logits
    peft_model.save_pretrained(tmp_path)
    model, spec = tiny_model("llama"), llama_spec()
    with torch.no_grad(), inject(model, spec, load_adapter(tmp_path, spec)):
        torch.testing.assert_close(model(IDS).logits, expected, atol=1e-5, rtol=1e-4)


def test_round_trip_is_exact(folder: Path) -> None:
    for one, two in zip(
        random_adapters(llama_spec(), 1).tensors(), load_adapter(folder, llama_spec()).tensors(), strict=True
    ):
        assert torch.equal(one, two)


def _edit(folder: Path, remove: str | None = None, add: str | None = None) -> None:
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    if remove:
        del tensors[next(k for k in tensors if remove in k)]
    if add:
        tensors[add] = torch.zeros(1)
    save_file(tensors, path)


def test_missing_key_is_an_error(folder: Path) -> None:
    _edit(folder, remove="layers.1.self_attn.q_proj.lora_B")
    with pytest.raises(ValueError, match=r"lacks 1 keys.*layers\.1.*q_proj\.lora_B"):
        load_adapter(folder, llama_spec())


def test_foreign_key_is_an_error(folder: Path) -> None:
    _edit(folder, add="base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight")
    with pytest.raises(ValueError, match=r"has 1 keys that the spec does not.*layers\.9"):
        load_adapter(folder, llama_spec())


def test_other_rank_is_an_error(folder: Path) -> None:
    with pytest.raises(ValueError, match="the spec wants"):
        load_adapter(folder, llama_spec(rank=2))


def test_dora_is_not_read_as_lora(folder: Path) -> None:
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "use_dora": True}))
    with pytest.raises(ValueError, match="use_dora"):
        load_adapter(folder, llama_spec())


def test_truncated_file_is_one_clear_error(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(FileProblemError, match=r"adapter_model\.safetensors is damaged"):
        load_adapter(folder, llama_spec())


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(FileProblemError, match="no such adapter folder"):
        load_adapter(tmp_path / "nothing", llama_spec())


def test_nothing_is_left_behind_by_a_failed_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_args: object, **_kwargs: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("t2l.lora.peft_folder.write_json", broken)
    with pytest.raises(OSError, match="disk full"):
        save_adapter(tmp_path / "adapter", llama_spec(), random_adapters(llama_spec(), 1), "base", {})
    assert list(tmp_path.iterdir()) == []


def test_a_batch_of_several_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds one adapter, not 2"):
        save_adapter(tmp_path / "adapter", llama_spec(), random_adapters(llama_spec(), 2), "base", {})
