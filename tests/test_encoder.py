from __future__ import annotations

from pathlib import Path

import pytest
import torch

from t2l.encoder import MINILM_SHA256, EncoderConfig, TaskEncoder, check_minilm, packaged_minilm


class CountingModel:
    """Stands for a sentence-transformers model and counts what it is asked to encode."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def encode(self, texts: list[str], **_options: object) -> torch.Tensor:
        self.asked += texts
        return torch.tensor([[float(len(t)), float(hash(t) % 97)] for t in texts])


def encoder_in(folder: Path) -> tuple[TaskEncoder, CountingModel]:
    encoder = TaskEncoder(EncoderConfig(cache=str(folder)))
    model = CountingModel()
    encoder._model = model
    return encoder, model


def test_cache_is_by_content_and_survives_a_new_encoder(tmp_path: Path) -> None:
    one, asked = encoder_in(tmp_path)
    first = one.encode(["keep", "drop", "keep"])
    assert asked.asked == ["keep", "drop"]
    two, asked_again = encoder_in(tmp_path)
    second = two.encode(["drop", "keep", "count"])
    assert asked_again.asked == ["count"]
    assert torch.equal(second[1], first[0])
    assert torch.equal(second[0], first[1])
    assert torch.equal(first[0], first[2])


def test_embeddings_can_be_trained_through(tmp_path: Path) -> None:
    """Not inference tensors: autograd may save them for backward."""
    encoder, _ = encoder_in(tmp_path)
    layer = torch.nn.Linear(2, 1)
    layer(encoder.encode(["keep"])).sum().backward()
    assert layer.weight.grad is not None


@pytest.mark.parametrize("texts", [[], [""], ["keep", "  "]])
def test_empty_descriptions_are_refused(tmp_path: Path, texts: list[str]) -> None:
    encoder, _ = encoder_in(tmp_path)
    with pytest.raises(ValueError, match=r"no descriptions|is empty"):
        encoder.encode(texts)


def test_altered_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"something else")
    with pytest.raises(ValueError, match=f"expected {MINILM_SHA256}.*refused"):
        check_minilm(tmp_path)


def test_the_packaged_encoder_tells_meanings_apart() -> None:
    encoder = TaskEncoder(EncoderConfig(path=str(packaged_minilm()), cache=""))
    animals, creatures, primes = encoder.encode(["Keep the animals.", "Retain the creatures.", "Count the primes."])
    assert animals.shape == (384,)
    similarity = torch.nn.functional.cosine_similarity
    assert similarity(animals, creatures, dim=0) > similarity(animals, primes, dim=0) + 0.1


def test_pooled_layers_are_the_means_of_hidden_states(tmp_path: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    texts = ["Keep only the animals.", "Say how many of the words in the list are names of countries."]
    own = TaskEncoder(EncoderConfig(cache="")).encode(texts)
    pooled = TaskEncoder(EncoderConfig(cache=str(tmp_path), layers=[1, 6])).encode(texts)
    model = AutoModel.from_pretrained(packaged_minilm())
    tokenizer = AutoTokenizer.from_pretrained(packaged_minilm())
    with torch.no_grad():
        for i, text in enumerate(texts):
            states = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True).hidden_states
            first = torch.nn.functional.normalize(states[1][0].mean(dim=0), dim=0)
            torch.testing.assert_close(pooled[i, :384], first, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(pooled[:, 384:], own, rtol=1e-4, atol=1e-5)


def test_layers_make_another_encoder_and_must_be_there() -> None:
    plain, pooled = EncoderConfig(cache=""), EncoderConfig(cache="", layers=[0, 6])
    assert TaskEncoder(plain).identity != TaskEncoder(pooled).identity
    with pytest.raises(ValueError, match=r"no hidden layer 7; it has 0 .* to 6"):
        TaskEncoder(EncoderConfig(cache="", layers=[0, 7])).encode(["Keep the animals."])
    with pytest.raises(ValueError, match=r"encoder\.layers"):
        EncoderConfig(layers=[])


@pytest.mark.parametrize("path", ["pypi:other", "./nowhere", "/no/such/folder"])
def test_unknown_encoders_are_refused(path: str) -> None:
    with pytest.raises(ValueError, match=r"encoder\.path="):
        TaskEncoder(EncoderConfig(path=path))
