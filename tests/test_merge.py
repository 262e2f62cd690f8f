from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CONFIGS, random_adapters, tiny_gpt2, tiny_model
from safetensors.torch import load_file, save_file
from test_cli import refused
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from t2l.base_model import BaseModelConfig, LoraConfig, Quantization, freeze, load_base_model, lora_spec
from t2l.base_model.files import file_fingerprint
from t2l.base_model.merge import merge
from t2l.cli import main
from t2l.lora import LoraSpec, Scaling, inject
from t2l.lora.peft_folder import load_adapter, save_adapter

IDS = torch.randint(3, 400, (2, 9), generator=torch.Generator().manual_seed(1))
TARGETS = {**{name: targets for name, (_, targets) in CONFIGS.items()}, "gpt2": ["c_attn", "c_fc"]}


def model_of(name: str) -> PreTrainedModel:
    return freeze(tiny_gpt2()) if name == "gpt2" else tiny_model(name)  # type: ignore[return-value]


@pytest.fixture
def base_folder(tmp_path: Path, tokenizer: Any) -> Callable[..., Path]:
    """Saves a tiny base with its tokenizer."""

    def save(name: str, dtype: torch.dtype = torch.float32) -> Path:
        folder = tmp_path / f"base_{name}"
        model_of(name).to(dtype).save_pretrained(folder)  # type: ignore[arg-type]
        tokenizer.save_pretrained(folder)
        return folder

    return save


def adapter_for(folder: Path, base: Path, name: str, **options: Any) -> LoraSpec:
    """Saves an adapter as `t2l generate` does, with the fingerprint of its base."""
    spec = lora_spec(model_of(name), LoraConfig(rank=4, target_modules=TARGETS[name], **options))
    record = {"base_fingerprint": file_fingerprint(str(base)), "base_model": str(base)}
    save_adapter(folder, spec, random_adapters(spec, 1), str(base), record)
    return spec


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model(IDS).logits


def injected_logits(model: Any, spec: LoraSpec, adapter: Path) -> Tensor:
    with inject(model, spec, load_adapter(adapter, spec)):
        return logits(model)


@pytest.fixture
def llama(base_folder: Callable[..., Path], tmp_path: Path) -> tuple[Path, Path, LoraSpec]:
    """(base, adapter, spec)"""
    base = base_folder("llama")
    return base, tmp_path / "adapter", adapter_for(tmp_path / "adapter", base, "llama")


@pytest.mark.parametrize("rule", list(Scaling))
@pytest.mark.parametrize("name", TARGETS)
def test_merged_gives_the_logits_of_injection(
    name: str, rule: Scaling, base_folder: Callable[..., Path], tmp_path: Path
) -> None:
    base, adapter = base_folder(name), tmp_path / "adapter"
    spec = adapter_for(adapter, base, name, scaling_rule=rule, layers=[0, 2])
    expected = injected_logits(model_of(name), spec, adapter)
    assert not torch.allclose(logits(model_of(name)), expected, atol=1e-2)
    merge(adapter, tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(merged), expected, atol=1e-4, rtol=1e-4)


def test_only_the_targets_change(llama: tuple[Path, Path, LoraSpec], tmp_path: Path) -> None:
    base, adapter, spec = llama
    merge(adapter, tmp_path / "merged")
    before, after = (load_file(folder / "model.safetensors") for folder in (base, tmp_path / "merged"))
    assert before.keys() == after.keys()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed == {f"{path}.weight" for g in spec.groups for path in g.paths}


def test_the_sum_is_made_in_float32_and_rounded_once(base_folder: Callable[..., Path], tmp_path: Path) -> None:
    base, adapter = base_folder("llama", torch.bfloat16), tmp_path / "adapter"
    spec = adapter_for(adapter, base, "llama")
    weights, before = load_adapter(adapter, spec), load_file(base / "model.safetensors")
    merge(adapter, tmp_path / "merged")
    merge(adapter, tmp_path / "precise", dtype="float32")
    after, precise = (load_file(tmp_path / f / "model.safetensors") for f in ("merged", "precise"))
    for g in spec.groups:
        for i, path in enumerate(g.paths):
            W, A, B = before[f"{path}.weight"], weights.A[g.name][0, i], weights.B[g.name][0, i]
            exact = W.double() + spec.scaling * (B.double() @ A.double())
            torch.testing.assert_close(precise[f"{path}.weight"].double(), exact, atol=1e-5, rtol=1e-5)
            assert torch.equal(after[f"{path}.weight"], precise[f"{path}.weight"].bfloat16())
    assert {t.dtype for t in after.values()} == {torch.bfloat16}
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "merged").dtype is torch.bfloat16


def test_the_folder_is_a_model_of_its_own(
    llama: tuple[Path, Path, LoraSpec], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from huggingface_hub import ModelCard

    base, adapter, _ = llama
    stored = AutoTokenizer.from_pretrained(base)
    stored.pad_token = None  # which t2l gives it when it loads a base to train on
    stored.save_pretrained(base)
    out = tmp_path / "new/merged"
    main(["merge", str(adapter), "--out", str(out), "--dtype", "float16"])
    assert capsys.readouterr().out == f"{out}\n"
    assert {t.dtype for t in load_file(out / "model.safetensors").values()} == {torch.float16}
    saved = AutoTokenizer.from_pretrained(out)
    assert saved("dog cat") == stored("dog cat")
    assert saved.chat_template == stored.chat_template
    assert saved.special_tokens_map == stored.special_tokens_map
    assert saved.pad_token is None
    card = ModelCard.load(out / "README.md")
    assert (card.data.base_model, card.data.library_name) == ("base_llama", "transformers")
    assert "Merged in float32, stored in float16" in card.text
    assert str(tmp_path) not in str(card)
    assert [p.name for p in out.parent.iterdir()] == ["merged"]


def test_adapters_of_peft_merge(base_folder: Callable[..., Path], tmp_path: Path) -> None:
    """Without provenance, with ranks of their own per module, and a base that is found by its name."""
    from peft import LoraConfig as PeftLoraConfig
    from peft import get_peft_model

    base = base_folder("llama")
    config = PeftLoraConfig(
        r=4,
        lora_alpha=16,
        target_modules=["q_proj", "down_proj"],
        rank_pattern={"down_proj": 2},
        init_lora_weights=False,
    )
    peft_model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    expected = logits(peft_model.eval())
    peft_model.save_pretrained(tmp_path / "adapter")
    merge(tmp_path / "adapter", tmp_path / "merged")
    torch.testing.assert_close(
        logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged")), expected, atol=1e-4, rtol=1e-4
    )


def test_a_base_is_found_where_it_is_now(llama: tuple[Path, Path, LoraSpec], tmp_path: Path) -> None:
    base, adapter, _ = llama
    base.rename(tmp_path / "moved")
    with pytest.raises(ValueError, match="the base it names is not on this machine: give it with --base-model"):
        merge(adapter, tmp_path / "merged")
    merge(adapter, tmp_path / "merged", str(tmp_path / "moved"))
    assert (tmp_path / "merged/model.safetensors").is_file()


@pytest.mark.parametrize("quantization", [Quantization.nf4, Quantization.int8])
def test_files_that_are_quantised_are_dequantised(
    quantization: Quantization, base_folder: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = base_folder("llama")
    quantised = load_base_model(BaseModelConfig(path=str(plain), quantization=quantization, device="cpu"))
    quantised.model.save_pretrained(tmp_path / "quantised")
    AutoTokenizer.from_pretrained(plain).save_pretrained(tmp_path / "quantised")
    adapter, out = tmp_path / "adapter", tmp_path / "merged"
    spec = adapter_for(adapter, tmp_path / "quantised", "llama")
    main(["merge", str(adapter), "--out", str(out)])
    assert "were dequantised" in capsys.readouterr().err
    assert "its weights were dequantised" in (out / "README.md").read_text()
    assert "quantization_config" not in json.loads((out / "config.json").read_text())
    merged = logits(AutoModelForCausalLM.from_pretrained(out))
    expected = injected_logits(quantised.model, spec, adapter)
    # int8 rounds activations as well, which no merged model does
    tolerance = 1e-4 if quantization is Quantization.nf4 else 2e-2
    torch.testing.assert_close(merged, expected, atol=tolerance, rtol=1e-3)
    distance = (merged - injected_logits(tiny_model("llama"), spec, adapter)).abs().max()
    assert distance > 1e-3  # the base's rounding is kept


def test_a_base_quantised_only_for_training_merges_unquantised(
    llama: tuple[Path, Path, LoraSpec], tmp_path: Path
) -> None:
    """The fingerprint is of the files, so an adapter trained on an NF4 base merges into the weights NF4 was made from."""
    base, adapter, spec = llama
    trained_on = load_base_model(BaseModelConfig(path=str(base), quantization=Quantization.nf4, device="cpu"))
    record = {"base_fingerprint": trained_on.fingerprint, "base_model": str(base)}
    save_adapter(adapter, spec, random_adapters(spec, 1), str(base), record)
    assert not merge(adapter, tmp_path / "merged").was_quantised
    merged = logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged"))
    torch.testing.assert_close(merged, injected_logits(tiny_model("llama"), spec, adapter), atol=1e-4, rtol=1e-4)


def _config(**changes: Any) -> Callable[[Path, Path], None]:
    def change(_base: Path, adapter: Path) -> None:
        path = adapter / "adapter_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


def _tensor(key: str, value: Tensor | None) -> Callable[[Path, Path], None]:
    def change(_base: Path, adapter: Path) -> None:
        path = adapter / "adapter_model.safetensors"
        tensors = {**load_file(path), key: value}
        save_file({k: v for k, v in tensors.items() if v is not None}, path)

    return change


def _gptq(base: Path, _adapter: Path) -> None:
    path = base / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "quantization_config": {"quant_method": "gptq"}}))


def _other_weights(base: Path, _adapter: Path) -> None:
    save_file({k: v + 1 for k, v in load_file(base / "model.safetensors").items()}, base / "model.safetensors")


def _truncated(base: Path, adapter: Path) -> None:
    path = adapter / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


KEY = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda _base, adapter: shutil.rmtree(adapter), "no such adapter folder"),
        (lambda _base, adapter: (adapter / "adapter_config.json").unlink(), "it has no adapter_config.json"),
        (_truncated, "is damaged"),
        (_other_weights, "was made for another base model"),
        (_gptq, "quantised by gptq"),
        (_config(peft_type="LOHA"), "'LOHA' adapter"),
        (_config(use_dora=True), "uses use_dora: only plain LoRA"),
        (_config(modules_to_save=["lm_head"], bias="all"), "uses bias, modules_to_save"),
        (_config(init_lora_weights="pissa"), "uses init_lora_weights"),
        (_config(something_new={"a": 1}), "uses something_new"),
        (_config(r=2), "does not fit the base"),
        (_config(target_modules=["c_attn"]), "not found in the base model"),
        (
            _tensor(KEY, None),
            "1 keys, first 'base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight' (the adapter",
        ),
        (
            _tensor(KEY.replace(".1.", ".9."), torch.zeros(4, 32)),
            "layers.9.self_attn.q_proj.lora_A.weight' (the base has no",
        ),
        (_tensor("base_model.model.lm_head.weight", torch.zeros(4)), "not a LoRA weight of a linear module"),
        (_tensor(KEY, torch.full((4, 32), torch.nan)), "1 tensors hold values that are not finite"),
    ],
)
def test_what_cannot_be_merged_is_one_line_and_leaves_nothing(
    change: Callable[[Path, Path], None],
    says: str,
    llama: tuple[Path, Path, LoraSpec],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    base, adapter, _ = llama
    change(base, adapter)
    before = {p.name for p in tmp_path.iterdir()}
    line = refused(capsys, "merge", str(adapter), "--out", str(tmp_path / "merged"))
    assert says in line
    assert {p.name for p in tmp_path.iterdir()} == before


def test_a_folder_that_is_taken_stays_as_it_is(
    llama: tuple[Path, Path, LoraSpec], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, adapter, _ = llama
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/notes.txt").write_text("mine")
    line = refused(capsys, "merge", str(adapter), "--out", str(tmp_path / "taken"))
    assert "exists and is not empty" in line
    assert [p.name for p in (tmp_path / "taken").iterdir()] == ["notes.txt"]
    assert "dtype must be one of" in refused(
        capsys, "merge", str(adapter), "--out", str(tmp_path / "m"), "--dtype", "int4"
    )


def test_nothing_is_left_by_a_failed_save(
    llama: tuple[Path, Path, LoraSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_args: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("t2l.base_model.merge.write_json", broken)
    before = {p.name for p in tmp_path.iterdir()}
    with pytest.raises(OSError, match="disk full"):
        merge(llama[1], tmp_path / "merged")
    assert {p.name for p in tmp_path.iterdir()} == before


def test_what_float16_cannot_hold_is_refused(llama: tuple[Path, Path, LoraSpec], tmp_path: Path) -> None:
    _, adapter, _ = llama
    _tensor(KEY, torch.full((4, 32), 1e6))(tmp_path, adapter)
    with pytest.raises(ValueError, match="not finite in float16"):
        merge(adapter, tmp_path / "merged", dtype="float16")
    merge(adapter, tmp_path / "merged", dtype="bfloat16")
