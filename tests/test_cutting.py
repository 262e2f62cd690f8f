"""Rows and prompts that are too long: what goes, what stays, what is said, and where it is refused."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import pytest
import torch
from conftest import CONFIGS, SIZES
from transformers import AutoModelForCausalLM, LlamaConfig

from t2l.base_model import BaseModel, LoraConfig, freeze, lora_spec
from t2l.evaluation.contenders.few_shot import FewShotConfig, train_few_shot
from t2l.evaluation.contenders.interface import SplitView
from t2l.evaluation.contenders.lorahub import LoraHub
from t2l.evaluation.scoring import Question, greedy_answers
from t2l.library import AdapterLibrary
from t2l.library.slots import initial_adapter
from t2l.library.training import LibraryTrainingConfig, train_library
from t2l.lora.weights import concatenate
from t2l.methods import OptimizationConfig, build
from t2l.methods.folder import MethodLibrary
from t2l.methods.hooked import BitFitConfig
from t2l.methods.scaling_and_prompts import PromptTuningConfig
from t2l.methods.training import train_method_library
from t2l.tasks import CutCount, Example, Task, tokenize_examples, tokenize_prompts
from t2l.tasks.prompting import template_lengths

WORDS = "dog cat lion cow"


def long(words: int) -> str:
    return " ".join(WORDS.split()[i % 4] for i in range(words))


def lengths(tokenizer: Any, limit: int, prompt: int, response: int) -> tuple[int, int, bool]:
    """Of a row of so many words: tokens of the prompt, of the response, and whether it ends."""
    (row,) = tokenize_examples(tokenizer, [Example(long(prompt), long(response))], max_length=limit)
    assert row.length <= limit
    return len(row.prompt_ids), len(row.response_ids), row.response_ids[-1] == tokenizer.eos_token_id


def test_a_response_is_whole_where_there_is_room(tokenizer: Any) -> None:
    """The template takes three tokens, the end of the sequence one."""
    assert sum(template_lengths(tokenizer)) == 3
    assert lengths(tokenizer, 64, 4, 50) == (7, 51, True)
    assert lengths(tokenizer, 64, 4, 56) == (7, 57, True)


def test_the_prompt_is_cut_first_and_the_response_only_where_nothing_of_it_would_be_left(tokenizer: Any) -> None:
    assert lengths(tokenizer, 64, 40, 56) == (7, 57, True)
    assert lengths(tokenizer, 64, 40, 59) == (4, 60, True)  # one token of the user's turn is left
    assert lengths(tokenizer, 64, 40, 60) == (3 + 31, 30, False)  # then each has half, and the answer does not end
    assert lengths(tokenizer, 64, 4, 90) == (7, 57, False)  # a short prompt takes no more than it needs
    assert lengths(tokenizer, 5, 4, 90) == (4, 1, False)


def test_the_template_stays_around_what_is_left(tokenizer: Any) -> None:
    before, after = template_lengths(tokenizer)
    (whole,) = tokenize_examples(tokenizer, [Example(long(40), "dog")])
    for limit in (5, 6, 20):
        (row,) = tokenize_examples(tokenizer, [Example(long(40), "dog")], max_length=limit)
        assert row.prompt_ids[:before] == whole.prompt_ids[:before]
        assert row.prompt_ids[before:] == whole.prompt_ids[-(len(row.prompt_ids) - before) :]
        assert len(row.prompt_ids) > before + after


def test_refused_where_nothing_of_the_prompt_is_left(tokenizer: Any) -> None:
    with pytest.raises(
        ValueError, match=r"task 'sums': max_length=4 leaves nothing of the prompt 'dog cat.*raise max_"
    ):
        tokenize_examples(tokenizer, [Example(long(9), "dog")], max_length=4, task="sums")
    (row,) = tokenize_examples(tokenizer, [Example("", "")], max_length=4)  # it has nothing to lose
    assert row.length == 4


def test_what_was_cut_is_said_once(tokenizer: Any, caplog: pytest.LogCaptureFixture) -> None:
    rows = [Example(long(n), long(m)) for n, m in ((2, 2), (30, 2), (30, 40), (1, 40))]
    with caplog.at_level(logging.WARNING):
        tokenize_examples(tokenizer, rows, max_length=20)
        tokenize_examples(tokenizer, rows[:1], max_length=20)
    says = "of 4 rows, 2 prompts lost their beginning and 2 responses their end, to fit into max_length=20 tokens"
    assert caplog.messages == [says]
    counted = CutCount()
    for row in rows:
        tokenize_examples(tokenizer, [row], max_length=20, cuts=counted)
    assert caplog.messages == [says]
    assert counted == CutCount(4, 2, 2)


def tasks(count: int) -> list[Task]:
    rows = tuple(Example(long(20 + i), long(2)) for i in range(3))
    told = {"train": ("Do.",)}
    return [Task(f"t{i}", told, {"train": rows, "validation": rows[:1], "test": rows}) for i in range(count)]


def test_every_kind_of_training_says_it_once_for_all_tasks(
    tiny_base: BaseModel, tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    spec = lora_spec(tiny_base.model, LoraConfig(rank=2))
    library = AdapterLibrary(tmp_path / "library", spec, "tiny", tiny_base.fingerprint)
    how = LibraryTrainingConfig(steps=1, rows_per_task=1, max_length=16, cycles=1)
    view = SplitView("train", tasks(3), [["Do."]] * 3, 1)
    few = FewShotConfig(examples=2, steps=1, tasks_at_once=2, max_length=16)
    start = concatenate(initial_adapter(spec, 0, t.name, False) for t in view.tasks)
    method = build(BitFitConfig(OptimizationConfig(steps=1, rows_per_task=1, max_length=16)))
    with caplog.at_level(logging.WARNING, logger="t2l.tasks.prompting"):
        train_library(library, tiny_base, tasks(3), how, 0)
        train_few_shot(tiny_base, spec, view.tasks, start, few, 1e-3, 0)
        train_method_library(MethodLibrary(tmp_path / "m", method, tiny_base.fingerprint), tiny_base, tasks(3), 0)
        LoraHub(library, ["t0", "t1"], tiny_base, 1, replace(few, tasks_at_once=3), 0).enter(view).adapters.all()
    counts = [m.split(",")[0] for m in caplog.messages if "lost their beginning" in m]
    assert counts == ["of 12 rows", "of 6 rows", "of 12 rows", "of 6 rows"]


def test_no_answer_without_anything_of_the_question(tokenizer: Any) -> None:
    """A base of 16 positions; the template takes three."""
    config = LlamaConfig(**{**SIZES, "max_position_embeddings": 16})
    torch.manual_seed(0)
    base = BaseModel(freeze(AutoModelForCausalLM.from_config(config)), tokenizer, "short", "short", "f")
    asked = Question("t", long(20), long(20), "dog", choices=("dog", long(12), long(13)))
    (answer,) = greedy_answers(base, [asked], None, None, 12, 2)
    assert answer.prompt_tokens == 4
    with pytest.raises(
        ValueError, match=r"task 't': an answer of 13 tokens leaves no room for a prompt: base short reads 16"
    ):
        greedy_answers(base, [asked], None, None, 13, 2)
    choose = replace(asked, metric="multiple_choice")
    with pytest.raises(ValueError, match=r"an answer of 13 tokens leaves no room .* its template takes 3"):
        greedy_answers(base, [choose], None, None, 1, 2)
    (fits,) = greedy_answers(base, [replace(choose, choices=asked.choices[:2])], None, None, 1, 2)
    assert fits.prompt_tokens == 2 * 4
    (short,) = greedy_answers(base, [replace(asked, content="dog")], None, None, 12, 2)
    assert short.prompt_tokens == 4


def test_virtual_tokens_take_room_too(tiny_base: BaseModel) -> None:
    assert tiny_base.positions == CONFIGS["llama"][0].max_position_embeddings == 128
    asked = Question("t", long(200), long(200), "dog")
    with build(PromptTuningConfig(virtual_tokens=5)).attach(tiny_base, 0) as attached:
        adapted = replace(tiny_base, model=attached.model)
        assert adapted.positions == 123
        (answer,) = greedy_answers(adapted, [asked], None, None, 8, 2)
    assert answer.prompt_tokens == 115


def test_earlier_turns_go_before_anything_of_the_question(tokenizer: Any) -> None:
    config = LlamaConfig(**{**SIZES, "max_position_embeddings": 24})
    torch.manual_seed(0)
    base = BaseModel(freeze(AutoModelForCausalLM.from_config(config)), tokenizer, "short", "short", "f")
    shots = tuple((f"dog {i}", "cat") for i in range(4))
    asked = Question("t", "lion", "lion", "dog", shots=shots)
    (answer,) = greedy_answers(base, [asked], None, None, 6, 2)
    sizes = [len(tokenize_prompts(tokenizer, ["lion"], [shots[i:]])[0]) for i in range(5)]
    assert answer.prompt_tokens == max(s for s in sizes if s <= 18) > sizes[-1]
    (cut,) = greedy_answers(base, [replace(asked, content=long(30))], None, None, 6, 2)
    assert cut.prompt_tokens == 18
