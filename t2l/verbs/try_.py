"""`t2l try ADAPTER INPUT ...`: what the base says, and what it says under an adapter, side by side."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from t2l.base_model import BaseModel, BaseModelConfig, Quantization, load_base_model
from t2l.base_model.merge import check_base, load_strictly, named_base, own_tensors
from t2l.checks import at_least
from t2l.evaluation.conditions import OF_BASE
from t2l.evaluation.scoring import Question, greedy_answers
from t2l.files import read_json
from t2l.lora.peft_folder import CONFIG_FILE, PROVENANCE_FILE, find_adapter, load_provenance
from t2l.tasks.prompting import template_lengths
from t2l.verbs import Verb

WIDTH, COLUMN = 80, 12
"""columns of what is printed, and of who says it"""


@dataclass
class TryConfig:
    """`t2l try ADAPTER INPUT ...`: answers of the base and of the base under an adapter, side by side.

    The base is loaded and prompted as the adapter's record says it was trained. If the record holds the description that the
    adapter was generated from, the base also answers with that in its prompt; so does the adapter if it was trained with
    the description shown. Answers are decoded greedily.
    """

    adapter: str = ""
    """adapter folder of `t2l generate` or a library, or another LoRA or (IA)3 folder of PEFT's, or a folder that holds one"""
    inputs: list[str] = field(default_factory=list)
    """what is asked, without the description of the task"""
    base: str | None = None
    """folder or hub id of the base model; None: the one that the adapter names"""
    max_new_tokens: int = 48
    """longest answer in tokens"""
    json: bool = False
    """one line of JSON for each input instead of text"""

    def __post_init__(self) -> None:
        at_least(self, 1, "max_new_tokens")


@dataclass(frozen=True)
class Tried:
    """One input with the answers to it."""

    input: str
    answers: Mapping[str, str]
    """by who gave it: `base`; `base, told` (with the description in its prompt), if there is one; `adapter`"""


def load_base_of(adapter: Path, base: str | None) -> tuple[BaseModel, Mapping[str, Any]]:
    """The base of an adapter, loaded as the adapter was trained, and the adapter's record; empty for a foreign one.

    Raises ValueError for a base that is not there or another than it was made for.
    """
    record = load_provenance(adapter) if (adapter / PROVENANCE_FILE).is_file() else {}
    config = read_json(adapter / CONFIG_FILE)
    name = base or named_base(adapter, config, record)
    known = {k: v for k, v in (record.get("conditions") or {}).items() if k in OF_BASE}
    if "quantization" in known:
        known["quantization"] = Quantization(known["quantization"])
    revision = None if base else config.get("revision")
    loaded = load_base_model(BaseModelConfig(path=name, revision=revision, **known))
    check_base(adapter, name, record.get("base_fingerprint"), loaded.fingerprint)
    return loaded, record


def answers_to(base: BaseModel, inputs: Sequence[str], longest: int, description: str = "") -> list[str]:
    """A base's answers to inputs, after the description if there is one."""
    asked = [Question("", text, f"{description}\n{text}" if description else text, "") for text in inputs]
    return [a.answer for a in greedy_answers(base, asked, None, None, longest, batch_size=32)]


def try_adapter(config: TryConfig) -> list[Tried]:
    """Answers each input. Raises ValueError for no input, or an adapter or base that does not fit (`load_base_of`)."""
    if not config.adapter or not config.inputs:
        raise ValueError('try needs an adapter and something to ask: t2l try ADAPTER "an input" "another"')
    adapter = find_adapter(Path(config.adapter))
    base, record = load_base_of(adapter, config.base)
    _check_room(base, config.max_new_tokens)
    description = str(record.get("description") or "")
    found = {"base": answers_to(base, config.inputs, config.max_new_tokens)}
    if description:
        found["base, told"] = answers_to(base, config.inputs, config.max_new_tokens, description)
    adapted = load_strictly(base.model, adapter, own_tensors(base.model, adapter)).eval()
    shown = description if record.get("definition") == "shown" else ""
    found["adapter"] = answers_to(replace(base, model=adapted), config.inputs, config.max_new_tokens, shown)
    return [Tried(text, {who: said[i] for who, said in found.items()}) for i, text in enumerate(config.inputs)]


def _check_room(base: BaseModel, longest: int) -> None:
    room = None if base.positions is None else base.positions - sum(template_lengths(base.tokenizer))
    if room is not None and longest >= room:
        raise ValueError(f"max_new_tokens={longest} leaves no room for an input: this base reads {room} tokens with it")


def _lines(who: str, said: str) -> list[str]:
    """Who said what, in 80 columns."""
    lines = [part for line in said.splitlines() for part in textwrap.wrap(line, WIDTH - COLUMN) or [""]] or [""]
    return [f"{who if i == 0 else '':<{COLUMN}}{line}".rstrip() for i, line in enumerate(lines)]


def run(config: TryConfig) -> None:
    """Prints the answers."""
    for tried in try_adapter(config):
        if config.json:
            print(json.dumps({"input": tried.input, **tried.answers}, ensure_ascii=False))
            continue
        for who, said in {"input": tried.input, **tried.answers}.items():
            print("\n".join(_lines(who, said)))
        print()


VERB = Verb(TryConfig, run, words=("adapter", "inputs"), keeps_records=False)
