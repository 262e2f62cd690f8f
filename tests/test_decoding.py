"""Greedy is greedy: nothing of a base's generation config reaches an answer, and what is left out is said."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny_model
from transformers import GenerationConfig

from t2l.base_model import BaseModel, BaseModelConfig, LoraConfig, load_base_model, lora_spec
from t2l.base_model.decoding import describe_decoding, overridden_decoding, plain_decoding, say_overridden
from t2l.base_model.files import mini_base_model_path
from t2l.describe import LocalModelConfig
from t2l.describe.describers import LocalModel
from t2l.evaluation.board import Board, BoardConfig
from t2l.evaluation.report.findings import Findings
from t2l.evaluation.report.report import report_data
from t2l.evaluation.report.text import report_text
from t2l.evaluation.scoring import Question, greedy_answers
from t2l.methods import build
from t2l.methods.scaling_and_prompts import PromptTuningConfig
from t2l.tasks import tokenize_prompts

LEAKS: dict[str, Any] = {
    "repetition_penalty": 5.0,
    "num_beams": 3,
    "forced_bos_token_id": 9,
    "forced_eos_token_id": 2,
    "bad_words_ids": [[i] for i in range(3, 200)],
    "suppress_tokens": list(range(3, 200)),
    "begin_suppress_tokens": list(range(3, 200)),
    "min_length": 60,
    "min_new_tokens": 8,
    "no_repeat_ngram_size": 1,
    "sequence_bias": [[[7], 1e4]],
    "exponential_decay_length_penalty": [1, 99.0],
    "num_return_sequences": 1,
    "do_sample": True,
    "temperature": 9.0,
    "top_k": 3,
    "penalty_alpha": 0.6,
    "guidance_scale": 3.0,
    "stop_strings": ["a", "e", "o"],
    "max_time": 1e-9,
    "max_length": 2,
}
TEXTS = ["dog cat lion", "cow", "hammer seven dog 7"]


def questions() -> list[Question]:
    return [Question("t", text, text, "dog") for text in TEXTS]


def by_hand(base: BaseModel, text: str, tokens: int) -> str:
    """The argmax of one unpadded forward pass after another."""
    (prompt,) = tokenize_prompts(base.tokenizer, [text])
    ids = list(prompt)
    while len(ids) < len(prompt) + tokens:
        with torch.no_grad():
            ids.append(int(base.model(torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] in base.end_ids:
            break
    return base.tokenizer.decode(ids[len(prompt) :], skip_special_tokens=True).strip()


@pytest.mark.parametrize("setting", LEAKS)
def test_nothing_of_a_generation_config_reaches_an_answer(setting: str, tiny_base: BaseModel) -> None:
    own = tiny_base.model.generation_config = GenerationConfig(
        **{setting: LEAKS[setting]}, pad_token_id=0, bos_token_id=1, eos_token_id=2
    )
    answers = greedy_answers(tiny_base, questions(), None, None, 6, 3)
    assert [a.answer for a in answers] == [by_hand(tiny_base, text, 6) for text in TEXTS]
    assert tiny_base.model.generation_config is own


def test_the_settings_of_the_table_would_have_changed_answers(tiny_base: BaseModel) -> None:
    """Else the test above would show nothing."""
    ids = torch.tensor([tokenize_prompts(tiny_base.tokenizer, TEXTS[:1])[0]])
    bare = tiny_base.model.generate(ids, max_new_tokens=6, do_sample=False)
    for setting in ("repetition_penalty", "suppress_tokens", "forced_eos_token_id", "no_repeat_ngram_size"):
        tiny_base.model.generation_config = GenerationConfig(
            **{setting: LEAKS[setting]}, eos_token_id=2, pad_token_id=0
        )
        assert not torch.equal(tiny_base.model.generate(ids, max_new_tokens=6, do_sample=False), bare), setting


def folder_with(tmp_path: Path, **settings: Any) -> Path:
    folder = shutil.copytree(mini_base_model_path(), tmp_path / "base")
    GenerationConfig(**settings, bos_token_id=1, eos_token_id=2, pad_token_id=0).save_pretrained(folder)
    return folder


def test_what_is_not_used_is_said_once_and_recorded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = folder_with(tmp_path, repetition_penalty=1.3, num_beams=4, max_length=99)
    say_overridden.cache_clear()
    with caplog.at_level(logging.WARNING):
        base, _ = (load_base_model(BaseModelConfig(str(folder), device="cpu")) for _ in range(2))
    assert base.overridden_decoding == {"repetition_penalty": 1.3, "num_beams": 4}
    (said,) = [m for m in caplog.messages if "generation_config" in m]
    assert said.endswith("without its generation_config.json (num_beams=4, repetition_penalty=1.3)")
    assert describe_decoding(base.overridden_decoding).startswith("greedy; not used of the base's generation_config")
    assert [a.answer for a in greedy_answers(base, questions(), None, None, 6, 3)] == [
        by_hand(base, text, 6) for text in TEXTS
    ]


def test_a_report_says_what_was_not_used(tiny_base: BaseModel) -> None:
    cells = Board(tiny_base, lora_spec(tiny_base.model, LoraConfig(rank=2)), BoardConfig(bootstrap_samples=9), 0).score(
        [], []
    )
    said = describe_decoding({"repetition_penalty": 1.3})
    for decoding in (said, "greedy"):
        found = Findings(cells, "exact_match", 9, 0, provenance={"decoding": decoding})
        text = report_text(report_data(found))
        assert (f"Decoding: {said}." in text) == (decoding == said)


def test_a_length_that_counts_the_input_means_the_same_with_virtual_tokens(tiny_base: BaseModel) -> None:
    """The harness gives `max_length`; prompt tuning generates from embeddings, whose ids `generate` does not see."""
    ids = torch.tensor([tokenize_prompts(tiny_base.tokenizer, TEXTS[:1])[0]])
    with build(PromptTuningConfig(virtual_tokens=5)).attach(tiny_base, 0) as attached, torch.no_grad():
        common = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "do_sample": False, "eos_token_id": 399}
        new = attached.model.generate(**common, max_new_tokens=7)
        counted = attached.model.generate(**common, max_length=ids.shape[1] + 7)
    assert new.shape[1] == ids.shape[1] + 7
    assert torch.equal(new, counted)


def test_a_plain_generation_config_is_nothing_to_speak_of() -> None:
    base = load_base_model(BaseModelConfig(device="cpu"))
    assert base.overridden_decoding == overridden_decoding(tiny_model("llama")) == {}
    assert describe_decoding({}) == "greedy"


def test_a_describer_samples_as_its_config_says_and_no_further(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, repetition_penalty=9.0, min_new_tokens=12, no_repeat_ngram_size=1)
    plain, odd = (
        LocalModel(LocalModelConfig(base_model=BaseModelConfig(path, device="cpu"), max_new_tokens=12, temperature=t))
        for path, t in ((str(mini_base_model_path()), 0.7), (str(folder), 0.7))
    )
    assert plain.reply("dog cat lion", 3) == odd.reply("dog cat lion", 3)


def test_the_harness_decodes_as_the_task_says_and_no_further(tiny_base: BaseModel) -> None:
    """What `Harness.score` runs under; the config is there again afterwards."""
    own = tiny_base.model.generation_config = GenerationConfig(repetition_penalty=5.0, eos_token_id=2, pad_token_id=0)
    ids = torch.tensor([tokenize_prompts(tiny_base.tokenizer, TEXTS[:1])[0]])
    with plain_decoding(tiny_base.model):
        found = tiny_base.model.generate(ids, max_length=ids.shape[1] + 6, do_sample=False)
    text = tiny_base.tokenizer.decode(found[0, ids.shape[1] :], skip_special_tokens=True).strip()
    assert text == by_hand(tiny_base, TEXTS[0], 6)
    assert tiny_base.model.generation_config is own
