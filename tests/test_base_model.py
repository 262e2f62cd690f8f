from __future__ import annotations

import copy
import hashlib
import shutil
from pathlib import Path

import pytest
import torch
from conftest import random_adapters, tiny_model

from t2l.base_model import (
    BaseModelConfig,
    LoraConfig,
    Quantization,
    hash_parameters,
    load_base_model,
    lora_spec,
    verify_frozen,
)
from t2l.base_model.files import file_fingerprint, mini_base_model_path
from t2l.evaluation.config import EvaluateConfig
from t2l.evaluation.settings import decisive_settings
from t2l.lora import inject
from t2l.run.continuation import without
from t2l.tasks import render_prompts


def test_loaded_base_is_frozen_and_in_eval_mode() -> None:
    base = load_base_model(BaseModelConfig(device="cpu"))
    assert not base.model.training
    assert not any(p.requires_grad for p in base.model.parameters())
    assert base.tokenizer.chat_template


@pytest.mark.parametrize("kind", [Quantization.nf4, Quantization.int8])
def test_quantised_base_trains_adapters(kind: Quantization) -> None:
    plain = load_base_model(BaseModelConfig(device="cpu"))
    base = load_base_model(BaseModelConfig(device="cpu", quantization=kind))
    assert base.fingerprint == plain.fingerprint
    expected = "Linear4bit" if kind is Quantization.nf4 else "Linear8bitLt"
    assert type(base.model.model.layers[0].self_attn.v_proj).__name__ == expected
    spec = lora_spec(base.model, LoraConfig())
    assert spec == lora_spec(plain.model, LoraConfig())
    weights = random_adapters(spec, 2, size=0.1).map(lambda t: t.requires_grad_())
    ids = torch.randint(5, 200, (4, 8), generator=torch.Generator().manual_seed(0))
    with verify_frozen(base.model), inject(base.model, spec, weights):
        base.model(ids).logits.float().square().mean().backward()
    assert all(t.grad is not None and t.grad.abs().sum() > 0 for t in weights.tensors())


def test_fingerprint_is_the_weights_own(tmp_path: Path) -> None:
    first = load_base_model(BaseModelConfig(device="cpu"))
    same = load_base_model(BaseModelConfig(device="cpu", dtype="bfloat16"))
    copy = shutil.copytree(mini_base_model_path(), tmp_path / "copy")
    assert (
        first.fingerprint == same.fingerprint == load_base_model(BaseModelConfig(str(copy), device="cpu")).fingerprint
    )


def test_fingerprint_of_the_hubs_cache_is_that_of_a_copy(tmp_path: Path) -> None:
    weights = mini_base_model_path() / "model.safetensors"
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots/main"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    blob = blobs / hashlib.sha256(weights.read_bytes()).hexdigest()
    shutil.copy(weights, blob)
    (snapshot / "model.safetensors").symlink_to(blob)
    assert file_fingerprint(str(snapshot)) == file_fingerprint(str(mini_base_model_path()))


def test_template_values_reach_every_prompt(tmp_path: Path) -> None:
    folder = shutil.copytree(mini_base_model_path(), tmp_path / "copy")
    template = (
        "{% if enable_thinking is not defined or enable_thinking %}thinking: {% endif %}{{ messages[0].content }}"
    )
    (folder / "chat_template.jinja").write_text(template)
    plain = load_base_model(BaseModelConfig(str(folder), device="cpu"))
    quick = load_base_model(BaseModelConfig(str(folder), device="cpu", template_values={"enable_thinking": False}))
    assert render_prompts(plain.tokenizer, ["dog"]) == ["thinking: dog"]
    assert render_prompts(quick.tokenizer, ["dog"]) == ["dog"]


TURNS = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"


def test_another_chat_template_reaches_every_prompt() -> None:
    base = load_base_model(BaseModelConfig(device="cpu", chat_template=TURNS))
    assert render_prompts(base.tokenizer, ["dog"], [[("cat", "no")]]) == ["<user>cat<assistant>no<user>dog"]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for m in messages %}", "base_model.chat_template cannot be read as Jinja"),
        ("{{ bos_token }}", "does not show what the user says"),
    ],
)
def test_a_chat_template_that_says_nothing_is_refused(template: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_base_model(BaseModelConfig(device="cpu", chat_template=template))


def test_what_was_run_before_there_were_chat_templates_goes_on() -> None:
    """A setting that came later and is not set is as one that is not there."""
    for settings in ({"base_model": {"dtype": "float32"}}, {"encoder": {"model": {"dtype": "float32"}}}):
        now = copy.deepcopy(settings)
        part = now["base_model"] if "base_model" in now else now["encoder"]["model"]
        part["chat_template"] = None  # type: ignore[index]
        assert without(now, ()) == without(settings, ())
        part["chat_template"] = TURNS  # type: ignore[index]
        assert without(now, ()) != without(settings, ())
    assert "chat_template" not in decisive_settings(EvaluateConfig(contenders=["base"]))["base_model"]


def test_missing_attention_implementation_says_so() -> None:
    with pytest.raises(ValueError, match="could not be loaded: FlashAttention2"):
        load_base_model(BaseModelConfig(device="cpu", attention="flash_attention_2"))


def test_verify_frozen_notices_a_change() -> None:
    model = tiny_model("llama")
    before = hash_parameters(model)
    with verify_frozen(model) as found:
        pass
    assert found == before
    with pytest.raises(RuntimeError, match="changed during training"), verify_frozen(model), torch.no_grad():
        model.model.layers[0].self_attn.q_proj.weight[0, 0] += 1e-3


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"path": ""}, "is empty"),
        ({"dtype": "fp8"}, "must be float32, bfloat16 or float16"),
    ],
)
def test_bad_configs(config: dict[str, str], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        BaseModelConfig(**config)  # type: ignore[arg-type]


def test_damaged_weights_say_so(tmp_path: Path) -> None:
    folder = shutil.copytree(mini_base_model_path(), tmp_path / "copy")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"damaged|could not be loaded"):
        load_base_model(BaseModelConfig(str(folder), device="cpu"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_absent_device_says_so() -> None:
    with pytest.raises(ValueError, match="torch sees no CUDA device"):
        load_base_model(BaseModelConfig(device="cuda"))


def test_folder_without_a_model_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no config\.json"):
        load_base_model(BaseModelConfig(str(tmp_path), device="cpu"))


def test_answers_end_where_the_model_or_the_tokenizer_says() -> None:
    base = load_base_model(BaseModelConfig(device="cpu"))
    own = base.tokenizer.eos_token_id
    assert base.end_ids == [own]
    base.model.generation_config.eos_token_id = [own, 7]
    assert base.end_ids == [own, 7]
    base.model.generation_config.eos_token_id = None
    assert base.end_ids == [own]
