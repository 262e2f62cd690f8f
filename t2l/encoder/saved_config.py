"""Encoder configs as a checkpoint keeps them, and back."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from t2l.base_model import BaseModelConfig, Quantization
from t2l.encoder.interface import NOT_KEPT, without_machine
from t2l.encoder.last_token import BaseModelEncoderConfig, CausalLMEncoderConfig
from t2l.encoder.one_hot import OneHotConfig
from t2l.encoder.sentence import EncoderConfig

AnyEncoderConfig = EncoderConfig | BaseModelEncoderConfig | CausalLMEncoderConfig | OneHotConfig
KINDS: dict[str, type[AnyEncoderConfig]] = {
    "sentence": EncoderConfig,
    "base_model": BaseModelEncoderConfig,
    "causal_lm": CausalLMEncoderConfig,
    "one_hot": OneHotConfig,
}


@dataclass
class OwnEncoderConfig:
    """The encoder that a checkpoint was trained with, on this machine; for verbs that are given a checkpoint."""

    kind: str = "own"
    """fixed"""
    batch_size: int = 32
    """descriptions per forward pass"""
    device: str = "auto"
    """`auto` (cuda where there is one), cpu, cuda..."""
    cache: str = "~/.cache/t2l/embeddings"
    """folder of the embedding cache; empty for none"""
    trust_remote_code: bool = False
    """whether code that comes with the encoder may run"""

    def __post_init__(self) -> None:
        if self.kind != "own":
            raise ValueError(f"encoder.kind must be 'own' here, not {self.kind!r}")
        if self.batch_size < 1:
            raise ValueError(f"encoder.batch_size must be at least 1, not {self.batch_size}")


def config_from_json(data: Mapping[str, Any], here: OwnEncoderConfig | None = None) -> AnyEncoderConfig:
    """The config that a checkpoint kept, with what this machine decides.

    Raises ValueError for a kind or key that this version does not have, and for an encoder that needs code of its own
    which `here` does not allow to run; that a checkpoint asks for it is not enough.
    """
    values = without_machine(data)
    kind = KINDS.get(values.get("kind", ""))
    if kind is None:
        raise ValueError(f"unknown encoder kind {values.get('kind')!r}: this version has {', '.join(KINDS)}")
    model = values.get("model") or {}
    needs_code = values.get("trust_remote_code") or model.get("trust_remote_code")
    if needs_code and not (here is not None and here.trust_remote_code):
        raise ValueError(
            f"the checkpoint's encoder ({values.get('path') or model.get('path')}) runs Python code of its own: read it, "
            "then pass encoder.trust_remote_code=true"
        )
    machine = {k: v for k, v in asdict(here or OwnEncoderConfig()).items() if k in NOT_KEPT}
    try:
        if "model" in values:
            values["model"] = _base_config(values["model"], machine)
        return kind(**_known(kind, machine), **values)
    except TypeError as error:
        raise ValueError(f"the encoder's config has a key that this version does not have ({error})") from None


def _known(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    return {f.name: values[f.name] for f in fields(kind) if f.name in values}


def _base_config(data: Mapping[str, Any], machine: Mapping[str, Any]) -> BaseModelConfig:
    quantization = Quantization(data.get("quantization", "none"))
    return BaseModelConfig(**_known(BaseModelConfig, machine), **{**data, "quantization": quantization})


def as_overrides(data: Mapping[str, Any]) -> str:
    """What to type in a shell to get the encoder of a kept config; defaults, and names of tasks, are left out."""
    values = without_machine({k: v for k, v in data.items() if k != "tasks"})
    words = _changed("encoder", values, asdict(KINDS[values["kind"]]()))
    return " ".join([f"encoder={values['kind']}", *map(_quoted, words)])


def _changed(where: str, values: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[str]:
    """Overrides of the values that are not the defaults; of keys that have none, they add."""
    found: list[str] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            found += _changed(f"{where}.{key}", value, defaults.get(key) or {})
        elif key not in defaults:
            found.append(f"+{where}.{key}={_value(value)}")
        elif value != defaults[key]:
            found.append(f"{where}.{key}={_value(value)}")
    return found


def _value(value: Any) -> str:
    """A value in Hydra's grammar."""
    from hydra.core.override_parser.types import Quote, QuotedString

    if isinstance(value, list):
        return "[" + ",".join(_value(v) for v in value) + "]"
    if isinstance(value, str):
        is_plain = re.fullmatch(r"[A-Za-z./][\w./:-]*", value) is not None
        return str(value) if is_plain else QuotedString(value, Quote.double).with_quotes()
    return json.dumps(value)


def _quoted(override: str) -> str:
    """An override as one word of a shell's command line, and on one line."""
    if "\n" not in override:
        return shlex.quote(override)
    escaped = override.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    return f"$'{escaped}'"
