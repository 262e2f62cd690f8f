"""A base that brings Python code of its own: everything that reads its config passes on what the user said of it."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
import torch
from conftest import SIZES, random_adapters
from test_cli import refused
from transformers import LlamaConfig, LlamaForCausalLM

from t2l.base_model import BaseModelConfig, LoraConfig, load_base_model, lora_spec
from t2l.cli import main
from t2l.lora.peft_folder import save_adapter
from t2l.tasks.suites.word_list_tokenizer import build_tokenizer

CODE = """
from transformers import LlamaConfig, LlamaForCausalLM


class OwnConfig(LlamaConfig):
    model_type = "own_of_these_tests"


class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
"""


@pytest.fixture(scope="module")
def own_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Llama whose config names its own classes."""
    folder = tmp_path_factory.mktemp("own base")
    tokenizer = build_tokenizer()
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**{**SIZES, "vocab_size": len(tokenizer)}))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "own_of_these_tests",
        "architectures": ["OwnForCausalLM"],
        "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnForCausalLM"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(CODE)
    return folder


def test_plan_reads_it_when_told_to(own_base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", f"base_model.path={own_base}", "d_embedding=8", "length=16", "response=4", "memory_gb=0.0001"]
    assert "then set base_model.trust_remote_code=true" in refused(capsys, *words)
    main([*words, "base_model.trust_remote_code=true"])
    assert "peak memory" in capsys.readouterr().out


def test_merge_takes_the_flag(own_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = load_base_model(BaseModelConfig(path=str(own_base), trust_remote_code=True, device="cpu"))
    spec = lora_spec(base.model, LoraConfig(rank=2))
    provenance = {"base_model": str(own_base), "base_fingerprint": base.fingerprint}
    save_adapter(tmp_path / "adapter", spec, random_adapters(spec, 1), str(own_base), provenance)
    words = ["merge", str(tmp_path / "adapter"), "--out", str(tmp_path / "merged")]
    assert "trust_remote_code" in refused(capsys, *words)
    assert not (tmp_path / "merged").exists()
    main([*words, "--trust-remote-code"])
    assert (tmp_path / "merged/model.safetensors").is_file()


LOADERS = ("from_pretrained", "from_config", "model_config", "meta_model")
FROM_ADAPTER = ("PeftModel", "PeftConfig")
"""classes of PEFT, whose files hold no code"""


def test_every_call_that_reads_a_config_says_whether_code_may_run() -> None:
    """`source` and `options` hold the flag and the revision; a config that was read before needs the flag alone."""
    calls, silent = 0, []
    for path in (Path(__file__).parent.parent / "t2l").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            owner = ast.unparse(node.func.value) if isinstance(node.func, ast.Attribute) else ""
            if name not in LOADERS or owner in FROM_ADAPTER or (name == "meta_model" and path.name == "geometry.py"):
                continue
            calls += 1
            said = ast.unparse(node)
            if "trust_remote_code" not in said and "**source" not in said and "**options" not in said:
                silent.append(f"{path.name}:{node.lineno}: {said}")
    assert calls >= 8
    assert not silent
