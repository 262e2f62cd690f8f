"""The tokenizer of a base model, made fit for it: special tokens, vocabulary, and a chat template that never changes.

Everything is set on the tokenizer itself, so that whoever uses it (the lm-evaluation-harness, too) has it.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from datetime import date, datetime
from typing import Any

import torch

log = logging.getLogger(__name__)
DIRECTIVES = (*"aAbBcCdDeFgGhHIjmMnpPrRsStTuUVwWxXyYzZf", "-d", "-m", "-H", "-I", "-M", "-S", "-j", "-y", "-e")
"""What may follow the % of a strftime format."""


def set_chat_template(tokenizer: Any, template: str) -> None:
    """Gives a tokenizer another chat template. Raises ValueError for one that cannot be read or shows no message."""
    from jinja2 import TemplateError

    tokenizer.chat_template, said = template, "What is it?"
    try:
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": said}], tokenize=False, add_generation_prompt=True
        )
    except TemplateError as error:
        raise ValueError(f"base_model.chat_template cannot be read as Jinja: {error}") from error
    if said not in text:
        raise ValueError(
            "base_model.chat_template does not show what the user says: write {{ m['content'] }} for each m of messages"
        )


def set_template_values(tokenizer: Any, values: Mapping[str, Any]) -> None:
    """Gives a tokenizer's chat template values of its own, so that every use of it has them."""
    if not values:
        return
    if not isinstance(tokenizer.chat_template, str):
        raise ValueError("base_model.template_values: this base has no chat template to give them to")
    given = "".join(f"{{%- set {name} = {_as_jinja(value)} -%}}" for name, value in values.items())
    tokenizer.chat_template = given + tokenizer.chat_template


def _as_jinja(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else json.dumps(value)


def check_date(text: str) -> date:
    """A date from its ISO form, like 2025-01-01. Raises ValueError for anything else."""
    try:
        found = date.fromisoformat(text)
    except (TypeError, ValueError):
        found = None
    if found is None or found.isoformat() != text:
        raise ValueError(f"base_model.date must be a date like 2025-01-01, not {text!r}")
    return found


def freeze_date(tokenizer: Any, day: str) -> None:
    """Makes a chat template print one date for ever if it would print today's.

    It is put into the text of the template: as `strftime_now`, in place of the function that transformers gives to
    every template, and as `date_string` if nobody else sets that. Other templates stay as they are.
    """
    stamp = datetime.combine(check_date(day), datetime.min.time())
    template = getattr(tokenizer, "chat_template", None)
    if isinstance(template, str):
        tokenizer.chat_template = _frozen(template, stamp)
    elif isinstance(template, Mapping):
        tokenizer.chat_template = {name: _frozen(text, stamp) for name, text in template.items()}


def _frozen(template: str, stamp: datetime) -> str:
    given = ""
    if "strftime_now" in template:
        percent = "\ue000"
        values = {f"%{d}": stamp.strftime(f"%{d}") for d in DIRECTIVES}
        pairs = [("%%", percent), *((d, v) for d, v in values.items() if d != v), (percent, "%")]
        chain = "".join(f".replace({json.dumps(d)}, {json.dumps(v)})" for d, v in pairs)
        given += f"{{%- macro strftime_now(format) -%}}{{{{- format{chain} -}}}}{{%- endmacro -%}}"
    if re.search(r"\bdate_string\b", template):
        said = json.dumps(stamp.strftime("%d %b %Y"))
        given += f"{{%- if date_string is not defined -%}}{{%- set date_string = {said} -%}}{{%- endif -%}}"
    # An expression between the two, since a block's end would eat the template's first line break.
    return f'{given}{{{{ "" }}}}{template}' if given else template


def fit_tokenizer(tokenizer: Any, model: Any, name: str) -> None:
    """Makes a tokenizer safe for a model: special tokens that it has embeddings for, and no token without one.

    - No end-of-sequence token, or one without an embedding: the model's own, by its configs.
    - A beginning-of-sequence token without an embedding: none, since the model cannot know it.
    - No padding token, or one without an embedding: the end-of-sequence token. Padding is always masked.
    - Added tokens without an embedding: a text that holds one is refused when it is read.

    Raises ValueError if nothing could end an answer, or where ordinary tokens have no embedding.
    """
    embedding = model.get_input_embeddings()
    rows = embedding.weight.shape[0]
    _fit_end(tokenizer, model, rows, name)
    if not _is_known(tokenizer.bos_token_id, rows) and tokenizer.bos_token is not None:
        log.warning("base model %s: %s has no embedding, prompts begin without it", name, tokenizer.bos_token)
        tokenizer.bos_token = None
    if not _is_known(tokenizer.pad_token_id, rows):
        tokenizer.pad_token = tokenizer.eos_token
    _check_vocabulary(tokenizer, embedding, rows, name)


def _is_known(token: int | None, rows: int) -> bool:
    return token is not None and 0 <= token < rows


def _fit_end(tokenizer: Any, model: Any, rows: int, name: str) -> None:
    if _is_known(tokenizer.eos_token_id, rows):
        return
    configs = (getattr(model, "generation_config", None), model.config.get_text_config())
    named = [getattr(config, "eos_token_id", None) for config in configs]
    flat = [i for ids in named for i in (ids if isinstance(ids, list) else [ids])]
    usable = [i for i in flat if _is_known(i, rows) and tokenizer.convert_ids_to_tokens(i) is not None]
    if not usable:
        what = f"is {tokenizer.eos_token!r}, which has no embedding" if tokenizer.eos_token else "is not set"
        raise ValueError(
            f"base_model.path={name}: the tokenizer's end-of-sequence token {what}, and the model's configs name no other, so "
            "no answer would end: set eos_token in tokenizer_config.json, or eos_token_id in generation_config.json"
        )
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(usable[0])


def _check_vocabulary(tokenizer: Any, embedding: Any, rows: int, name: str) -> None:
    beyond = {token: i for token, i in tokenizer.get_vocab().items() if i >= rows}
    if not beyond:
        return
    ordinary = [token for token, i in beyond.items() if i not in tokenizer.added_tokens_decoder]
    if ordinary:
        raise ValueError(
            f"base_model.path={name}: {len(ordinary)} tokens of the tokenizer ({ordinary[0]!r} among them) have no embedding, "
            f"the model has {rows}: the tokenizer is another model's, put its own into the folder"
        )
    log.warning("base model %s: %d added tokens have no embedding and must not occur in texts", name, len(beyond))
    names = {i: token for token, i in beyond.items()}

    def check(_module: Any, args: tuple[Any, ...]) -> None:
        largest = int(args[0].max()) if args and isinstance(args[0], torch.Tensor) and args[0].numel() else 0
        if largest >= rows:
            token = names.get(largest, "")
            raise ValueError(
                f"base model {name}: a text holds the token {token!r} ({largest}), for which the model has no embedding "
                f"(it has {rows}): take it out of the text"
            )

    embedding.register_forward_pre_hook(check)
