"""Encoders that break, embeddings that cannot be right, and caches that cannot be used."""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_model
from small_encoder import sentence_transformer, tiny_bert

from t2l.base_model import BaseModel, BaseModelConfig
from t2l.encoder import (
    BaseModelEncoderConfig,
    CausalLMEncoderConfig,
    EncoderConfig,
    OneHotConfig,
    TaskEncoder,
    embedding_width,
    soundness,
)
from t2l.encoder.cache import EmbeddingCache
from t2l.files import read_json, write_json
from t2l.tasks import Task

TEXTS = ["dog cat", "red car"]
CODE = """
import torch
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

class OwnConfig(BertConfig):
    model_type = "of_its_own"

class OwnModel(BertModel):
    config_class = OwnConfig

    def __init__(self, config, **options):
        super().__init__(config, **options)
        {when_loaded}

    def forward(self, *args, **options):
        found = super().forward(*args, **options)
        {when_run}
        return found
"""


@pytest.fixture
def own_code(tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., EncoderConfig]:
    """Makes an encoder with code of its own, and says how to load it."""
    modules = tmp_path / "modules"
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(modules))
    monkeypatch.syspath_prepend(str(modules))
    plain = tiny_bert(tmp_path / "plain", tokenizer)

    def make(when_loaded: str = "pass", when_run: str = "pass", code: str | None = None) -> EncoderConfig:
        number = len(list(tmp_path.glob("encoder_*")))
        folder = sentence_transformer(plain, tmp_path / f"encoder_{number}", "mean")
        (folder / "own.py").write_text(code or CODE.format(when_loaded=when_loaded, when_run=when_run))
        auto_map = {"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"}
        config = {**read_json(folder / "config.json"), "model_type": "of_its_own", "auto_map": auto_map}
        write_json(folder / "config.json", config)
        return EncoderConfig(path=str(folder), cache=str(tmp_path / "cache"), trust_remote_code=True)

    return make


def kept(folder: Path) -> int:
    """Number of embeddings in the caches of a folder."""
    counts = []
    for path in folder.glob("*.sqlite"):
        with sqlite3.connect(path) as database:
            counts += database.execute("SELECT COUNT(*) FROM embedding").fetchone()
        database.close()
    return sum(counts)


@pytest.mark.parametrize(
    "error", ["AttributeError('all_tied_weights_keys')", "TypeError('a\\nb')", "KeyError('rope')", "ImportError('gone')",
              "AssertionError()", "ZeroDivisionError('by zero')"],
)  # fmt: skip
@pytest.mark.parametrize("when", ["when_loaded", "when_run"])
def test_code_of_an_encoder_that_fails_is_one_line(
    own_code: Callable[..., EncoderConfig], error: str, when: str, tmp_path: Path
) -> None:
    config = own_code(**{when: f"raise {error}"})
    what = "load" if when == "when_loaded" else "run"
    kind = error.split("(")[0]
    with pytest.raises(ValueError, match=rf"^encoder.path={config.path} does not {what}: {kind}[^\n]*$") as caught:
        TaskEncoder(config).encode(TEXTS)
    assert "may need another version" in str(caught.value)
    assert not kept(tmp_path / "cache")


def test_code_that_cannot_even_be_read_is_one_line(own_code: Callable[..., EncoderConfig]) -> None:
    config = own_code(code="from transformers.nowhere import Something\n")
    with pytest.raises(ValueError, match=r"^encoder.path=[^\n]* does not load: ModuleNotFoundError: [^\n]*$"):
        TaskEncoder(config).encode(TEXTS)
    with pytest.raises(ValueError, match=r"give d_embedding=NUMBER"):
        embedding_width(config, None)


def test_a_causal_model_whose_code_fails_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_config: BaseModelConfig) -> BaseModel:
        raise AttributeError("'Own' object has no attribute 'rotary'")

    monkeypatch.setattr("t2l.encoder.last_token.load_base_model", broken)
    config = CausalLMEncoderConfig(model=BaseModelConfig(path="mini", trust_remote_code=True), cache="")
    with pytest.raises(ValueError, match=r"^the encoder mini does not run: AttributeError: 'Own' .*another version\)$"):
        TaskEncoder(config)


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("found.last_hidden_state[0, 0, 0] = float('nan')", "as values that are not finite numbers"),
        ("found.last_hidden_state[:] = float('inf')", "as values that are not finite numbers"),
        ("found.last_hidden_state[:] = 0", "as zeros"),
        ("found.last_hidden_state[:] = 0.5", "gives 2 different texts the same embedding"),
    ],
)
def test_embeddings_that_cannot_be_right_are_refused_and_not_kept(
    own_code: Callable[..., EncoderConfig], what: str, says: str, tmp_path: Path
) -> None:
    config = own_code(when_run=what)
    for texts in (TEXTS, TEXTS[:1]):  # a single text is compared with one of ours
        with pytest.raises(ValueError, match=rf"^encoder.path={config.path} [^\n]*{says}[^\n]*transformers [\d.]+"):
            TaskEncoder(config).encode(texts)
    assert not kept(tmp_path / "cache")


def test_texts_that_an_encoder_cannot_tell_apart_may_be_embedded_alike(tmp_path: Path, tokenizer: Any) -> None:
    """As it reads the same of them: space, what is cut off, the full stop that we add."""
    folder = sentence_transformer(tiny_bert(tmp_path / "plain", tokenizer), tmp_path / "encoder", "mean")
    sentence = TaskEncoder(EncoderConfig(path=str(folder), cache="", long_texts="cut"))
    alike = ["dog", "  dog "], ["dog " * 100 + "cat", "dog " * 100 + "red"]
    for texts in alike:
        found = sentence.encode(texts)
        assert torch.equal(found[0], found[1])
    base = BaseModel(tiny_model("llama"), tokenizer, "tiny", "tiny", "fingerprint")
    found = TaskEncoder(BaseModelEncoderConfig(cache=""), base).encode(["dog cat", "dog cat."])
    torch.testing.assert_close(found[0], found[1])
    tasks = [Task(name, {"train": (f"{name} one", f"{name} two")}, {}) for name in ("a", "b")]
    found = TaskEncoder(OneHotConfig(), tasks=tasks).encode(["a one", "a two"])
    assert torch.equal(found[0], found[1])


def test_last_states_that_are_all_the_same_are_refused(tokenizer: Any) -> None:
    """Layer 0 is the token embeddings, and every description ends in a full stop."""
    base = BaseModel(tiny_model("llama"), tokenizer, "tiny", "tiny", "fingerprint")
    for texts in (TEXTS, TEXTS[:1]):
        with pytest.raises(ValueError, match=r"^the encoder \(hidden layer 0 of tiny, .* the same embedding"):
            TaskEncoder(BaseModelEncoderConfig(layer=0, cache=""), base).encode(texts)


class Source:
    """Stands for an encoder: embeds each text by its characters, and counts how often."""

    identity, reads_any_text, cache, name = "source", True, "", "source"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def embed(self, texts: Sequence[str], progress: bool) -> np.ndarray:
        self.asked += texts
        return np.array([[len(t), sum(t.encode())] for t in texts], dtype=np.float32)

    def reads(self, text: str) -> str:
        return text


def cached(folder: Path) -> tuple[TaskEncoder, Source]:
    encoder, source = TaskEncoder(EncoderConfig(cache=str(folder))), Source()
    encoder._embedder = source  # type: ignore[assignment]
    return encoder, source


def test_other_versions_of_the_libraries_have_another_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, _ = cached(tmp_path)
    encoder.encode(TEXTS)
    encoder, source = cached(tmp_path)
    encoder.encode(TEXTS)
    assert not source.asked
    own = soundness.library_versions()
    assert set(own) == {"torch", "transformers", "sentence-transformers", "tokenizers"}
    for name in own:
        monkeypatch.setattr(soundness, "library_versions", lambda name=name: {**own, name: "0.0.1"})
        other, source = cached(tmp_path)
        assert other.identity == encoder.identity
        other.encode(TEXTS)
        assert source.asked == TEXTS


def test_a_damaged_cache_is_set_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    encoder, _ = cached(tmp_path)
    expected = encoder.encode([f"text {i}" for i in range(500)])
    encoder._cache._database.close()  # type: ignore[union-attr]
    (path,) = tmp_path.glob("*.sqlite")
    whole = path.read_bytes()
    for damaged in (
        b"no database at all" * 100,
        whole[:4096] + b"\xff" * (len(whole) - 4096),
        whole[: len(whole) // 2],
    ):
        path.write_bytes(damaged)
        for ending in (".damaged", ".damaged-journal"):
            path.with_suffix(ending).unlink(missing_ok=True)
        caplog.clear()
        encoder, _ = cached(tmp_path)
        assert torch.equal(encoder.encode([f"text {i}" for i in range(500)]), expected)
        (line,) = [r.getMessage() for r in caplog.records]
        assert "was damaged" in line
        assert path.with_suffix(".damaged").read_bytes() == damaged
        encoder, source = cached(tmp_path)
        encoder.encode(["text 1", "text 2"])
        assert not source.asked


def test_a_damaged_value_is_embedded_again(tmp_path: Path) -> None:
    encoder, _ = cached(tmp_path)
    expected = encoder.encode(TEXTS)
    (path,) = tmp_path.glob("*.sqlite")
    for damage in ("substr(value, 1, 12)", "zeroblob(16)", "NULL", "'text'"):
        with sqlite3.connect(path) as database:
            database.execute(f"UPDATE embedding SET value = {damage}")
        database.close()
        encoder, source = cached(tmp_path)
        assert torch.equal(encoder.encode(TEXTS), expected)
        assert source.asked == TEXTS
    cache = EmbeddingCache(tmp_path, "nan", {})
    cache.put(["a"], np.array([[np.nan, 1.0]]))
    assert cache.get("a") is None


def test_a_cache_that_cannot_be_used_does_not_end_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = cached(tmp_path / "good")[0].encode(TEXTS)

    def one_warning(folder: Path) -> None:
        caplog.clear()
        encoder, _ = cached(folder)
        assert torch.equal(encoder.encode(TEXTS), expected)
        assert torch.equal(encoder.encode(TEXTS), expected)
        (line,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
        assert "cannot be used" in line
        assert "going on without it" in line

    (tmp_path / "file").write_text("in the way")
    one_warning(tmp_path / "file/cache")
    with sqlite3.connect(next((tmp_path / "good").glob("*.sqlite"))) as database:
        database.execute("DELETE FROM embedding")
    database.close()
    real = sqlite3.connect
    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", lambda path, **options: real(f"file:{path}?mode=ro", uri=True, **options))
        one_warning(tmp_path / "good")  # a file that may only be read
        one_warning(tmp_path / "new")  # and one that cannot be made
    if os.getuid():
        (tmp_path / "home").mkdir(mode=0o500)
        one_warning(tmp_path / "home/cache")
