"""`t2l try`: answers of base and adapter side by side."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import random_adapters
from small_run import DESCRIPTION, ONE
from test_cli import refused

from t2l.base_model import BaseModel, LoraConfig, lora_spec
from t2l.cli import main
from t2l.evaluation.scoring import Answer, Question, greedy_answers
from t2l.files import read_json, write_json
from t2l.lora.peft_folder import load_adapter, save_adapter
from t2l.verbs import try_

INPUTS = ["dog cat pear", "hammer dog"]


@pytest.fixture
def strong(tmp_path: Path, mini_base: BaseModel) -> Path:
    """A foreign PEFT folder on the mini base that changes what it says."""
    spec = lora_spec(mini_base.model, LoraConfig(rank=4, target_modules=["o_proj", "v_proj"]))
    save_adapter(tmp_path / "strong", spec, random_adapters(spec, 1, size=0.5), mini_base.path, {})
    (tmp_path / "strong/t2l.json").unlink()
    return tmp_path / "strong"


def said(capsys: pytest.CaptureFixture[str], *words: str) -> list[dict[str, str]]:
    capsys.readouterr()
    main(["try", *words, "--json"])
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_answers_are_those_of_the_board(strong: Path, mini_base: BaseModel, capsys: pytest.CaptureFixture[str]) -> None:
    """A PEFT folder that t2l did not write: the bare base, and the base under the adapter as injection runs it."""
    spec = lora_spec(mini_base.model, LoraConfig(rank=4, target_modules=["o_proj", "v_proj"]))
    asked = [Question("", text, text, "") for text in INPUTS]
    bare = greedy_answers(mini_base, asked, None, None, 48, 8)
    adapted = greedy_answers(mini_base, asked, spec, load_adapter(strong, spec), 48, 8)
    found = said(capsys, str(strong), *INPUTS)
    assert [t["input"] for t in found] == INPUTS
    assert [t["base"] for t in found] == [a.answer for a in bare]
    assert [t["adapter"] for t in found] == [a.answer for a in adapted] != [a.answer for a in bare]
    assert not any("base, told" in t for t in found)


def test_a_generated_adapter_is_tried_beside_its_description(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["try", str(root / ONE), *INPUTS, "--max-new-tokens", "4"])
    blocks = [b.splitlines() for b in capsys.readouterr().out.strip().split("\n\n")]
    assert [b[0] for b in blocks] == [f"input       {text}" for text in INPUTS]
    assert [[line[:12].strip() for line in b] for b in blocks] == [["input", "base", "base, told", "adapter"]] * 2


def test_the_base_is_prompted_as_in_training(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The chat template that the adapter was trained with decides what the base reads."""
    folder = shutil.copytree(root / ONE, tmp_path / "one")
    record = read_json(folder / "t2l.json")
    assert record["description"] == DESCRIPTION
    record["conditions"]["chat_template"] = "dog {{ messages[0].content }}"
    write_json(folder / "t2l.json", record)
    other, plain = said(capsys, str(folder), INPUTS[0]), said(capsys, str(root / ONE), INPUTS[0])
    assert other[0]["base"] != plain[0]["base"]


def test_an_adapter_trained_with_the_description_shown_is_shown_it(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(root / ONE, tmp_path / "one")
    write_json(folder / "t2l.json", {**read_json(folder / "t2l.json"), "definition": "shown"})
    asked: list[str] = []

    def answered(_base: object, questions: list[Question], *_: object, **__: object) -> list[Any]:
        asked.extend(q.content for q in questions)
        return [Answer(q, "", 0.0) for q in questions]

    monkeypatch.setattr(try_, "greedy_answers", answered)
    try_.try_adapter(try_.TryConfig(str(folder), ["dog"]))
    try_.try_adapter(try_.TryConfig(str(root / ONE), ["dog"]))
    told = f"{DESCRIPTION}\ndog"
    assert asked == ["dog", told, told, "dog", told, "dog"]


def test_long_answers_fit_into_eighty_columns() -> None:
    lines = try_._lines("base, told", f"{'word ' * 40}\n\nend")
    assert max(map(len, lines)) <= 80
    assert [line[:12].strip() for line in lines] == ["base, told", *[""] * (len(lines) - 1)]
    assert lines[-2:] == ["", f"{'':<12}end"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "try needs an adapter and something to ask"),
        (["ADAPTER"], "try needs an adapter and something to ask"),
        (["nowhere", "dog"], "no such adapter folder: nowhere"),
        (["ADAPTER", "dog", "--max-new-tokens", "0"], "max_new_tokens must be at least 1"),
        (["ADAPTER", "dog", "--max-new-tokens", "99999"], "max_new_tokens=99999 leaves no room for an input"),
    ],
)
def test_bad_words_are_refused(
    words: list[str], message: str, strong: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(capsys, "try", *[str(strong) if w == "ADAPTER" else w for w in words])


def test_an_adapter_that_does_not_fit_is_refused(strong: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A key that PEFT would only warn about."""
    from safetensors.torch import load_file, save_file

    tensors: dict[str, Any] = load_file(strong / "adapter_model.safetensors")
    moved = {k.replace("layers.0.", "layers.9."): t.clone() for k, t in tensors.items()}
    save_file(moved, strong / "adapter_model.safetensors")
    assert "does not fit the base" in refused(capsys, "try", str(strong), "dog")


def test_another_base_is_refused(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shutil.copytree(root / ONE, tmp_path / "one")
    record = read_json(folder / "t2l.json")
    write_json(folder / "t2l.json", {**record, "base_fingerprint": "0" * 64})
    assert "was made for another base model" in refused(capsys, "try", str(folder), "dog")
    assert torch.is_grad_enabled()


def test_a_folder_that_holds_one_adapter_is_that(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (INPUTS[0], "--max-new-tokens", "4")
    assert said(capsys, str(root / "one"), *words) == said(capsys, str(root / ONE), *words)
    for name in ("a", "b"):
        shutil.copytree(root / ONE, tmp_path / "two" / name)
    assert f"holds 2 adapters: name one of them, like {tmp_path}/two/a" in refused(
        capsys, "try", f"{tmp_path}/two", "x"
    )
    assert "no such adapter folder" in refused(capsys, "try", str(tmp_path / "none"), "x")
    assert "no adapter in" in refused(capsys, "try", str(tmp_path), "x")
