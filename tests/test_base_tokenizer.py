"""Tokenizers as people's folders have them: the date frozen, special tokens and vocabulary that fit the model."""

from __future__ import annotations

import datetime
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import transformers.utils.chat_template_utils as chat_template_utils
from test_cli import refused

from t2l.base_model import BaseModel, BaseModelConfig, load_base_model
from t2l.base_model.files import mini_base_model_path
from t2l.base_model.tokenizer import freeze_date
from t2l.evaluation.scoring import Question, greedy_answers
from t2l.tasks import Example, render_prompts, tokenize_examples, tokenize_prompts

PRINTS = "{{ bos_token }}Today is {{ strftime_now('%d %B %Y, 100%%, %H:%M') }}.{% for m in messages %}{{ m['content'] }}{% endfor %}"
READS = (
    "{%- if not date_string is defined %}{%- if strftime_now is defined %}{%- set date_string = strftime_now('%d %b %Y') %}"
    "{%- else %}{%- set date_string = '26 Jul 2024' %}{%- endif %}{%- endif %}"
    "{{- 'Today Date: ' + date_string + '\n' }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
)
PLAIN = "\n\n{% for m in messages %}{{ m['content'] }}{% endfor %}"


class Later(datetime.datetime):
    """The system's clock, a few years on."""

    @classmethod
    def now(cls, tz: Any = None) -> datetime.datetime:  # type: ignore[override]
        return datetime.datetime(2031, 7, 9, 23, 59)


def base_with(tmp_path: Path, template: str, **config: Any) -> BaseModel:
    folder = tmp_path / "base"
    if not folder.exists():
        shutil.copytree(mini_base_model_path(), folder)
    (folder / "chat_template.jinja").write_text(template)
    return load_base_model(BaseModelConfig(str(folder), device="cpu", **config))


@pytest.mark.parametrize(
    ("template", "says"),
    [
        (PRINTS, "<s>Today is 01 January 2025, 100%, 00:00.dog"),
        (READS, "Today Date: 01 Jan 2025\ndog"),
        (READS.replace("strftime_now is defined", "false"), "Today Date: 01 Jan 2025\ndog"),
    ],
)
def test_the_date_is_the_configs_whatever_the_clock_says(
    template: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For our own prompts, and for whoever calls the tokenizer."""
    base = base_with(tmp_path, template)
    prompts, text = tokenize_prompts(base.tokenizer, ["dog"]), base.tokenizer.chat_template
    monkeypatch.setattr(chat_template_utils, "datetime", Later)
    for tokenizer in (base.tokenizer, base_with(tmp_path, template).tokenizer):
        assert render_prompts(tokenizer, ["dog"]) == [says]
        chat = [{"role": "user", "content": "dog"}]
        assert tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) == says
        assert tokenize_prompts(tokenizer, ["dog"]) == prompts
        assert tokenizer.chat_template == text  # which the identity of an encoder holds
    other = base_with(tmp_path, template, date="2024-02-29")
    assert "29 Feb" in render_prompts(other.tokenizer, ["dog"])[0]


def test_every_directive_is_what_strftime_makes_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_template_utils, "datetime", Later)
    stamp = datetime.datetime(2025, 11, 3)
    for form in (
        "%A %a %w %d %b %B %m %y %Y",
        "%H %I %p %M %S %j %U %W %F %T",
        "%c | %x | %X",
        "%%d %-d %%%d",
        "%B %-d, %Y",
    ):
        made = base_with(tmp_path, f"{{{{ strftime_now('{form}') }}}}", date="2025-11-03")
        assert render_prompts(made.tokenizer, [""]) == [stamp.strftime(form)]


def test_template_values_decide_the_date_string(tmp_path: Path) -> None:
    base = base_with(tmp_path, READS, template_values={"date_string": "Friday"})
    assert render_prompts(base.tokenizer, ["dog"]) == ["Today Date: Friday\ndog"]


def test_templates_without_a_date_stay_as_they_are(tmp_path: Path) -> None:
    base = base_with(tmp_path, PLAIN)
    assert base.tokenizer.chat_template == PLAIN
    dated = base_with(tmp_path, PLAIN + "{# date_string #}")
    assert render_prompts(dated.tokenizer, ["dog"]) == render_prompts(base.tokenizer, ["dog"]) == ["\n\ndog"]


def test_named_templates_are_frozen_one_by_one(tokenizer: Any) -> None:
    import copy

    several = copy.deepcopy(tokenizer)
    several.chat_template = {"default": PLAIN, "tool_use": PRINTS}
    freeze_date(several, "2025-01-01")
    assert several.chat_template["default"] == PLAIN
    chat = [{"role": "user", "content": "dog"}]
    said = several.apply_chat_template(chat, chat_template="tool_use", tokenize=False)
    assert said == "<s>Today is 01 January 2025, 100%, 00:00.dog"


@pytest.mark.parametrize("day", ["", "yesterday", "2025-02-30", "20250101", "2025-1-1", "2025-W01-1"])
def test_a_date_is_an_iso_date(day: str) -> None:
    with pytest.raises(ValueError, match=r"base_model\.date must be a date like 2025-01-01, not"):
        BaseModelConfig(date=day)


def test_no_date_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert "base_model.date must be a date like" in refused(capsys, "train_library", "base_model.date=today")


# Tokenizers that do not fit their model.


def edit_json(file: str, **changes: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        content = json.loads((folder / file).read_text()) if (folder / file).is_file() else {}
        content.update(changes)
        (folder / file).write_text(json.dumps({k: v for k, v in content.items() if v is not None}))

    return edit


def together(*edits: Callable[[Path], None]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        for one in edits:
            one(folder)

    return edit


def added_token(text: str) -> Callable[[Path], None]:
    """A token after all others, as people add a padding token without giving the model an embedding."""

    def edit(folder: Path) -> None:
        content = json.loads((folder / "tokenizer.json").read_text())
        number = 1 + max(*content["model"]["vocab"].values(), *(t["id"] for t in content["added_tokens"]))
        number = max(number, json.loads((folder / "config.json").read_text())["vocab_size"])
        while number > 1 + max(*content["model"]["vocab"].values()):  # ids have no gaps
            content["model"]["vocab"][f"filler{len(content['model']['vocab'])}"] = len(content["model"]["vocab"])
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        content["added_tokens"].append({"id": number, "content": text, "special": True, **flags})
        (folder / "tokenizer.json").write_text(json.dumps(content))

    return edit


def without_model_ends(folder: Path) -> None:
    for file in ("generation_config.json", "config.json"):  # a key that is missing would be the architecture's default
        content = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps({**content, "eos_token_id": None}))


SETTINGS = "tokenizer_config.json"
SAFE: dict[str, Callable[[Path], None]] = {
    "pad_outside": together(added_token("[PAD]"), edit_json(SETTINGS, pad_token="[PAD]")),
    "no_pad": edit_json(SETTINGS, pad_token=None),
    "pad_is_unk": edit_json(SETTINGS, pad_token="<unk>"),
    "pad_is_end": edit_json(SETTINGS, pad_token="</s>"),
    "no_end": edit_json(SETTINGS, eos_token=None),
    "end_outside": together(added_token("<end>"), edit_json(SETTINGS, eos_token="<end>")),
    "left_padding": edit_json(SETTINGS, padding_side="left", truncation_side="left"),
    "more_added_tokens": added_token("<image>"),
    "always_bos_and_eos": edit_json(SETTINGS, add_bos_token=True, add_eos_token=True),
}
CHANGES_PROMPTS: dict[str, Callable[[Path], None]] = {
    "no_bos": edit_json(SETTINGS, bos_token=None),
    "bos_outside": together(added_token("<begin>"), edit_json(SETTINGS, bos_token="<begin>")),
}
REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "no_end_anywhere": (
        together(edit_json(SETTINGS, eos_token=None), without_model_ends),
        "the tokenizer's end-of-sequence token is not set, and the model's configs name no other, so no answer would end",
    ),
    "only_end_outside": (
        together(added_token("<end>"), edit_json(SETTINGS, eos_token="<end>"), without_model_ends),
        "token is '<end>', which has no embedding",
    ),
    "another_models_tokenizer": (edit_json("config.json", vocab_size=150), "have no embedding, the model has 150"),
}


def broken(tmp_path: Path, edit: Callable[[Path], None]) -> Path:
    folder = shutil.copytree(mini_base_model_path(), tmp_path / "base")
    edit(folder)
    return folder


def answers(base: BaseModel, at_once: int = 3) -> list[tuple[str, int]]:
    asked = [Question("t", t, t, "dog") for t in ("dog cat lion", "cow", "hammer seven dog 7 cat cow")]
    asked += [replace(q, metric="multiple_choice", choices=("dog", "dog cat", "seven")) for q in asked]
    return [(a.answer, a.answer_tokens) for a in greedy_answers(base, asked, None, None, 6, at_once)]


@pytest.mark.parametrize("kind", [*SAFE, *CHANGES_PROMPTS])
def test_odd_tokenizers_are_made_safe(kind: str, tmp_path: Path, mini_base: BaseModel) -> None:
    """They answer, in padded batches, what the base answers with its own tokenizer, or to other prompts one at a time."""
    base = load_base_model(BaseModelConfig(str(broken(tmp_path, {**SAFE, **CHANGES_PROMPTS}[kind])), device="cpu"))
    rows = base.model.get_input_embeddings().weight.shape[0]
    assert 0 <= base.tokenizer.pad_token_id < rows
    assert base.tokenizer.eos_token_id == 2
    examples = [Example("dog cat", "dog")]
    row, own = tokenize_examples(base.tokenizer, examples), tokenize_examples(mini_base.tokenizer, examples)
    if kind in SAFE:
        assert row == own
        assert answers(base) == answers(mini_base)
    else:
        assert row[0].prompt_ids == own[0].prompt_ids[1:]  # without the beginning-of-sequence token
        assert answers(base) == answers(base, at_once=1)


def test_a_text_with_a_token_that_has_no_embedding_is_one_line(tmp_path: Path) -> None:
    base = load_base_model(BaseModelConfig(str(broken(tmp_path, SAFE["more_added_tokens"])), device="cpu"))
    with pytest.raises(
        ValueError, match=r"a text holds the token '<image>' \(\d+\), for which the model has no embedding"
    ):
        greedy_answers(base, [Question("t", "", "dog <image> cat", "dog")], None, None, 4, 1)


@pytest.mark.parametrize("kind", REFUSED)
def test_useless_tokenizers_are_one_line(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit, says = REFUSED[kind]
    folder = broken(tmp_path, edit)
    if kind == "another_models_tokenizer":
        shrink(folder, 150)
    where = [f"run_dir={tmp_path}/run", f"hydra.run.dir={tmp_path}/hydra"]
    line = refused(capsys, "train_library", f"base_model.path={folder}", "tasks=[sort]", "training.steps=1", *where)
    assert says in line
    assert not (tmp_path / "run").exists()


def shrink(folder: Path, rows: int) -> None:
    """Leaves the model so many embeddings."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        if name in tensors:
            tensors[name] = tensors[name][:rows].clone()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
