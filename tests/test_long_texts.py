"""Texts that are longer than an encoder reads at once."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_encoder import sentence_transformer, tiny_bert
from torch import Tensor

from t2l.encoder import EncoderConfig, TaskEncoder, config_from_json
from t2l.encoder.minilm import packaged_minilm
from t2l.encoder.windows import token_starts, windows

SHORT = "dog cat red"
BEGINNING = " ".join(["dog", "cat", "red", "car"] * 20)
LONG = [f"{BEGINNING} {ending}" for ending in ("hammer saw", "green blue")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    """An encoder that reads 64 tokens at once, and a description of 82."""
    root = tmp_path_factory.mktemp("encoder")
    return sentence_transformer(tiny_bert(root / "plain", tokenizer), root / "encoder", "mean", normalize=True)


def encoder(folder: Path, cache: str = "", **settings: Any) -> TaskEncoder:
    return TaskEncoder(EncoderConfig(path=str(folder), cache=cache, **settings))


def encoded_by_library(folder: Path, texts: list[str]) -> Tensor:
    from sentence_transformers import SentenceTransformer

    return torch.from_numpy(SentenceTransformer(str(folder), device="cpu").encode(texts))


def test_what_comes_after_the_first_window_counts() -> None:
    """As reported: with the default encoder, texts that agree in their first 256 tokens got one adapter."""
    beginning = "Keep the animals of a list, in their order. " * 30
    texts = [beginning + "Then sort them.", beginning + "Answer in French."]
    tokenizer = encoder(packaged_minilm())._embedder
    assert len(tokenizer.reads(texts[0])) > 256  # type: ignore[arg-type]
    for settings in ({}, {"layers": [0, 6]}):
        one, two = encoder(packaged_minilm(), **settings).encode(texts)
        assert (one - two).abs().max() > 1e-3
        parts = one.view(len(settings.get("layers", [0])), -1)
        torch.testing.assert_close(parts.norm(dim=1), torch.ones(len(parts)))
        cut = encoder(packaged_minilm(), long_texts="cut", **settings).encode(texts)
        assert torch.equal(cut[0], cut[1])


def test_texts_that_fit_are_embedded_as_ever(folder: Path) -> None:
    """Alone and beside long ones; and an encoder's identity is the one that checkpoints have recorded."""
    expected = encoded_by_library(folder, [SHORT, "red"])
    assert torch.equal(encoder(folder).encode([SHORT, "red"]), expected)
    assert torch.equal(encoder(folder).encode([LONG[0], SHORT, "red"])[1:], expected)
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        if file.suffix in (".safetensors", ".json", ".txt"):
            content = hashlib.sha256(file.read_bytes()).hexdigest()
            digest.update(f"{file.relative_to(folder)}:{content}\n".encode())
    assert encoder(folder).identity == digest.hexdigest()
    identities = {encoder(folder, long_texts=how).identity for how in ("windows", "cut", "refuse")}
    assert len(identities) == 3
    record = encoder(folder).to_json()
    del record["long_texts"]  # as in a checkpoint of before
    assert TaskEncoder(config_from_json(record)).identity == digest.hexdigest()


@pytest.mark.parametrize("normalize", ["true", "false"])
def test_windows_are_averaged_by_their_tokens(folder: Path, normalize: str) -> None:
    """Spelled out: pieces of 5 and 2 words, each read with the prompt before it."""
    words = "dog cat red car hammer saw green".split()
    text, pieces = " ".join(words), [" ".join(words[:5]), " ".join(words[5:])]
    settings = {"normalize": normalize, "prompt": "count words "}
    around = len(encoder(folder, **settings)._embedder.reads(""))  # type: ignore[arg-type]
    found = encoder(folder, max_length=around + 5, **settings).encode([text])[0]
    parts = torch.stack([encoder(folder, **settings).encode([piece])[0] for piece in pieces])
    expected = (5 * parts[0] + 2 * parts[1]) / 7
    expected = F.normalize(expected, dim=0) if normalize == "true" else expected
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("is_fast", [True, False])
@pytest.mark.parametrize("text", ["one two  three\nfour five six seven", "x" * 41, "日本語の説明文" * 6, "é", " a "])
def test_windows_hold_the_whole_text(text: str, is_fast: bool) -> None:
    """Whatever the tokenizer, also one that cannot say where its tokens begin, and text without any spaces."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(packaged_minilm())

    class Slow:
        is_fast = False

        def __call__(self, text: str, **options: Any) -> Any:
            return tokenizer(text, **options)

    def count(piece: str) -> int:
        return len(tokenizer(piece, add_special_tokens=False)["input_ids"])

    starts = token_starts(tokenizer if is_fast else Slow(), text)
    for room in (3, 8):
        pieces = windows(text, starts, room, count)
        assert "".join("".join(p.split()) for p, _ in pieces) == "".join(text.split())
        assert all(0 < tokens == count(piece) <= room for piece, tokens in pieces)
        assert len(pieces) <= 2 * np.ceil(count(text) / room) + 1
    if " " in text.strip():
        assert windows(text, starts, 3, count)[0][0] == "one two  three"


def test_a_warning_says_what_is_done_with_long_texts(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    longest = len(encoder(folder)._embedder.reads(LONG[0]))  # type: ignore[arg-type]
    for how, says in (("windows", "read in windows, which are averaged"), ("cut", "what follows is not read")):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "t2l"):
            encoder(folder, long_texts=how).encode([*LONG, SHORT])
        (line,) = [r.getMessage() for r in caplog.records]
        assert line.startswith("2 of 3 texts are longer than the 64 tokens that encoder.path=")
        assert line.endswith(f"(the longest has {longest}): {says}")
        caplog.clear()
        encoder(folder, long_texts=how).encode([SHORT])
        assert not caplog.records
    assert torch.equal(encoder(folder, long_texts="cut").encode([LONG[0]]), encoded_by_library(folder, [LONG[0]]))
    with pytest.raises(ValueError, match=rf"is {longest} tokens long; .* reads 64 .*encoder.long_texts=windows"):
        encoder(folder, long_texts="refuse").encode([SHORT, LONG[0]])
    with pytest.raises(ValueError, match=r"prompt and special tokens alone are .* raise encoder.max_length"):
        encoder(folder, max_length=3, prompt=BEGINNING).encode([SHORT])


def test_cut_embeddings_of_before_are_not_taken_from_the_cache(folder: Path, tmp_path: Path) -> None:
    """Their file is named by the identity alone, which has not changed."""
    import sqlite3

    old = sqlite3.connect(tmp_path / f"{encoder(folder).identity[:32]}.sqlite")
    old.execute("CREATE TABLE embedding (key BLOB PRIMARY KEY, value BLOB)")
    cut = encoder(folder, long_texts="cut").encode(LONG)
    for text, value in zip(LONG, cut, strict=True):
        row = (hashlib.sha256(text.encode()).digest(), value.numpy().tobytes())
        old.execute("INSERT INTO embedding VALUES (?, ?)", row)
    old.commit()
    old.close()
    found = encoder(folder, cache=str(tmp_path)).encode(LONG)
    assert not torch.equal(found[0], found[1])
    assert torch.equal(encoder(folder, cache=str(tmp_path)).encode(LONG), found)


def test_an_encoder_of_any_length_reads_all_at_once(
    tmp_path: Path, tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A table of word vectors, whose tokenizer is none of transformers'."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    torch.manual_seed(0)
    SentenceTransformer(modules=[StaticEmbedding(tokenizer.backend_tokenizer, embedding_dim=8)]).save(str(tmp_path))
    found = encoder(tmp_path).encode([*LONG, SHORT])
    assert torch.equal(found, encoded_by_library(tmp_path, [*LONG, SHORT]))
    assert not torch.equal(found[0], found[1])
    assert not caplog.records
