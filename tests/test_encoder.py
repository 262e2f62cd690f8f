from __future__ import annotations

import copy
import hashlib
import os
import pwd
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from small_encoder import sentence_transformer, tiny_bert
from torch import Tensor

from t2l.encoder import EncoderConfig, TaskEncoder, config_from_json
from t2l.encoder.minilm import MINILM_SHA256, check_minilm, packaged_minilm
from t2l.encoder.saved_config import OwnEncoderConfig

TEXTS = ["Keep only the animals.", "Count."]


class CountingEmbedder:
    """Stands for an encoder and counts what it is asked to embed."""

    identity, reads_any_text, cache, name = "counting", True, "", "counting"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def embed(self, texts: list[str], progress: bool) -> Tensor:
        self.asked += texts
        return torch.tensor([[float(len(t)), float(sum(t.encode()))] for t in texts])

    def reads(self, text: str) -> str:
        return text


def encoder_in(folder: Path) -> tuple[TaskEncoder, CountingEmbedder]:
    encoder = TaskEncoder(EncoderConfig(cache=str(folder)))
    counting: Any = CountingEmbedder()
    encoder._embedder = counting
    return encoder, counting


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


def test_what_was_computed_otherwise_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another number of threads changes last bits, and with them what a run of the same seed ends in."""
    encoder_in(tmp_path)[0].encode(["keep", "drop"])
    for name, made in (("get_num_threads", lambda: 17), ("cuda.is_available", lambda: True)):
        monkeypatch.setattr(f"torch.{name}", made)  # a device rounds otherwise, too
        encoder, asked = encoder_in(tmp_path)
        encoder.encode(["keep", "drop"])
        assert asked.asked == ["keep", "drop"]


def test_tests_leave_the_users_cache_alone() -> None:
    user = pwd.getpwuid(os.getuid()).pw_dir
    assert not Path(EncoderConfig().cache).expanduser().is_relative_to(Path(user) / ".cache")


def test_groups_come_back_as_they_went_in(tmp_path: Path) -> None:
    encoder, asked = encoder_in(tmp_path)
    groups = encoder.encode_groups([["keep", "drop"], ["keep"], ["count", "sort", "mask"]])
    assert [len(g) for g in groups] == [2, 1, 3]
    assert asked.asked == ["keep", "drop", "count", "sort", "mask"]
    assert torch.equal(torch.cat(groups), encoder.encode(["keep", "drop", "keep", "count", "sort", "mask"]))


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
    similarity = F.cosine_similarity
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
            first = F.normalize(states[1][0].mean(dim=0), dim=0)
            torch.testing.assert_close(pooled[i, :384], first, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(pooled[:, 384:], own, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layers", [None, [0, 2, 4, 6]])
def test_identity_of_the_default_encoders_is_that_of_earlier_checkpoints(layers: list[int] | None) -> None:
    """Spelled out: sha256 over names and contents of the folder's files, then over that and the layers."""
    digest = hashlib.sha256()
    folder = packaged_minilm()
    for file in sorted(folder.rglob("*")):
        if file.suffix in (".safetensors", ".json", ".txt", ".bin"):
            content = hashlib.sha256(file.read_bytes()).hexdigest()
            digest.update(f"{file.relative_to(folder)}:{content}\n".encode())
    expected = digest.hexdigest()
    if layers is not None:
        expected = hashlib.sha256(f"{expected}:layers=[0, 2, 4, 6]".encode()).hexdigest()
    assert TaskEncoder(EncoderConfig(cache="", layers=layers)).identity == expected


def test_layers_must_be_there() -> None:
    with pytest.raises(ValueError, match=r"no hidden layer 7; it has 0 .* to 6"):
        TaskEncoder(EncoderConfig(cache="", layers=[0, 7])).encode(["Keep the animals."])
    with pytest.raises(ValueError, match=r"encoder\.layers"):
        EncoderConfig(layers=[])


@pytest.mark.parametrize("path", ["pypi:other", "./nowhere", "/no/such/folder"])
def test_unknown_encoders_are_refused(path: str) -> None:
    with pytest.raises(ValueError, match=r"encoder\.path="):
        TaskEncoder(EncoderConfig(path=path))


@pytest.mark.parametrize(
    "settings",
    [
        {"pooling": "max"}, {"normalize": "sometimes"}, {"dtype": "int8"}, {"max_length": 0}, {"kind": "one_hot"},
        {"prompt": "a", "prompt_name": "b"}, {"long_texts": "fold"},
    ],
)  # fmt: skip
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"encoder\.(pooling|normalize|dtype|max_length|kind|prompt|long_texts)"):
        EncoderConfig(**settings)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    return tiny_bert(tmp_path_factory.mktemp("plain"), tokenizer)


def states(plain: Path, text: str, layer: int = -1, longest: int | None = None) -> Tensor:
    """Hidden states [tokens, d_hidden] of a text alone."""
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = AutoModel.from_pretrained(plain), AutoTokenizer.from_pretrained(plain)
    with torch.no_grad():
        ids = torch.tensor([tokenizer(text)["input_ids"][:longest]])
        return model(input_ids=ids, output_hidden_states=True).hidden_states[layer][0]


POOLED = {"cls": lambda s: s[0], "mean": lambda s: s.mean(dim=0), "last_token": lambda s: s[-1]}


def encoded(path: Path, **settings: Any) -> Tensor:
    return TaskEncoder(EncoderConfig(path=str(path), cache="", **settings)).encode(TEXTS)


def identity(path: Path, **settings: Any) -> str:
    return TaskEncoder(EncoderConfig(path=str(path), cache="", **settings)).identity


@pytest.mark.parametrize(("own", "mode"), [("cls", "cls"), ("mean", "mean"), ("last_token", "lasttoken")])
def test_pooling_is_the_models_own_unless_told_otherwise(plain: Path, tmp_path: Path, own: str, mode: str) -> None:
    folder = sentence_transformer(plain, tmp_path / "encoder", mode)
    for pooling, pool in POOLED.items():
        expected = torch.stack([pool(states(plain, text)) for text in TEXTS])
        torch.testing.assert_close(encoded(folder, pooling=pooling), expected, rtol=1e-4, atol=1e-5)
        if pooling == own:
            torch.testing.assert_close(encoded(folder), expected, rtol=1e-4, atol=1e-5)
    assert len({identity(folder, pooling=p) for p in ("auto", *POOLED)}) == 4


def test_normalisation_is_the_models_own_unless_told_otherwise(plain: Path, tmp_path: Path) -> None:
    scaled = sentence_transformer(plain, tmp_path / "scaled", "mean", normalize=True)
    raw = sentence_transformer(plain, tmp_path / "raw", "mean")
    expected = torch.stack([states(plain, text).mean(dim=0) for text in TEXTS])
    for folder, own in ((scaled, True), (raw, False)):
        for normalize, is_scaled in (("auto", own), ("true", True), ("False", False)):
            wanted = F.normalize(expected, dim=-1) if is_scaled else expected
            torch.testing.assert_close(encoded(folder, normalize=normalize), wanted, rtol=1e-4, atol=1e-5)


def test_layers_are_pooled_and_scaled_as_told(plain: Path, tmp_path: Path) -> None:
    folder = sentence_transformer(plain, tmp_path / "encoder", "cls")
    found = encoded(folder, layers=[0, 2], pooling="last_token", normalize="false")
    expected = torch.stack([torch.cat([states(plain, t, layer)[-1] for layer in (0, 2)]) for t in TEXTS])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    means = encoded(folder, layers=[2])
    expected = torch.stack([F.normalize(states(plain, t).mean(dim=0), dim=0) for t in TEXTS])
    torch.testing.assert_close(means, expected, rtol=1e-4, atol=1e-5)


def test_prompts_are_the_models_own_unless_told_otherwise(plain: Path, tmp_path: Path) -> None:
    prompts = {"query": "list: ", "task": "count the words: "}
    folder = sentence_transformer(plain, tmp_path / "encoder", "mean", prompts=prompts, default_prompt_name="task")
    told = {"auto": {}, "none": {"prompt": ""}, "own": {"prompt": "sort: "}, "named": {"prompt_name": "query"}}
    texts = {"auto": "count the words: ", "none": "", "own": "sort: ", "named": "list: "}
    for case, settings in told.items():
        expected = torch.stack([states(plain, texts[case] + t).mean(dim=0) for t in TEXTS])
        torch.testing.assert_close(encoded(folder, **settings), expected, rtol=1e-4, atol=1e-5)
    assert len({identity(folder, **settings) for settings in told.values()}) == 4
    with pytest.raises(ValueError, match=r"encoder.prompt_name=document: .* names query, task"):
        encoded(folder, prompt_name="document")


def test_layers_are_read_with_the_models_own_prompt(plain: Path, tmp_path: Path) -> None:
    """And such an encoder is told apart from what earlier versions made of these files, without the prompt."""
    bare = sentence_transformer(plain, tmp_path / "bare", "mean")
    prompted = sentence_transformer(
        plain, tmp_path / "prompted", "mean", prompts={"task": "count: "}, default_prompt_name="task"
    )
    torch.testing.assert_close(encoded(prompted, layers=[1]), encoded(bare, layers=[1], prompt="count: "))
    assert not torch.allclose(encoded(prompted, layers=[1]), encoded(bare, layers=[1]))
    earlier = hashlib.sha256(f"{identity(prompted)}:layers=[1]".encode()).hexdigest()
    assert identity(prompted, layers=[1]) != earlier
    assert identity(bare, layers=[1]) == hashlib.sha256(f"{identity(bare)}:layers=[1]".encode()).hexdigest()


def test_a_plain_model_must_be_told_how_to_pool(plain: Path) -> None:
    with pytest.raises(
        ValueError, match=r"no sentence-transformers config .* set encoder.pooling to mean, cls, last_token"
    ):
        encoded(plain)
    expected = torch.stack([states(plain, text)[-1] for text in TEXTS])
    torch.testing.assert_close(encoded(plain, pooling="last_token"), expected, rtol=1e-4, atol=1e-5)
    assert encoded(plain, layers=[0, 1, 2]).shape == (2, 24)


def test_a_plain_causal_model_reads_texts_as_they_are(tokenizer: Any, tmp_path: Path) -> None:
    """Without the chat template that it has, and without a padding token, which it has not."""
    from conftest import tiny_model

    tiny_model("llama").save_pretrained(tmp_path)
    chatty = copy.deepcopy(tokenizer)
    chatty.pad_token, chatty.padding_side = None, "left"
    chatty.save_pretrained(tmp_path)
    expected = torch.stack([states(tmp_path, text)[-1] for text in TEXTS])
    torch.testing.assert_close(encoded(tmp_path, pooling="last_token"), expected, rtol=1e-4, atol=1e-5)


def test_length_and_dtype(plain: Path, tmp_path: Path) -> None:
    folder = sentence_transformer(plain, tmp_path / "encoder", "mean")
    expected = torch.stack([states(plain, text, longest=3).mean(dim=0) for text in TEXTS])
    torch.testing.assert_close(encoded(folder, max_length=3, long_texts="cut"), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"encoder.max_length=65: .* reads at most 64 tokens"):
        encoded(folder, max_length=65)
    half = encoded(folder, dtype="bfloat16")
    assert half.dtype == torch.float32
    assert 0 < (half - encoded(folder)).abs().max() < 0.1
    assert len({identity(folder), identity(folder, max_length=3), identity(folder, dtype="bfloat16")}) == 3


CODE = """
from pathlib import Path

from transformers import BertConfig, BertModel

Path({marker!r}).write_text("the encoder's code ran")


class OwnConfig(BertConfig):
    model_type = "of_its_own"


class OwnModel(BertModel):
    config_class = OwnConfig
"""


def test_code_of_an_encoder_runs_only_when_told(plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from t2l.files import read_json, write_json

    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    folder, marker = tmp_path / "encoder", tmp_path / "marker"
    sentence_transformer(plain, folder, "mean")
    expected = encoded(folder)
    (folder / "own.py").write_text(CODE.format(marker=str(marker)))
    auto_map = {"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"}
    write_json(
        folder / "config.json", {**read_json(folder / "config.json"), "model_type": "of_its_own", "auto_map": auto_map}
    )
    with pytest.raises(ValueError, match=r"brings Python code of its own.*set encoder.trust_remote_code=true"):
        encoded(folder)
    assert not marker.exists()
    torch.testing.assert_close(encoded(folder, trust_remote_code=True), expected)
    assert marker.exists()
    before = identity(folder, trust_remote_code=True)
    (folder / "own.py").write_text("# other code\n" + CODE.format(marker=str(marker)))
    assert identity(folder, trust_remote_code=True) != before


def test_a_foreign_module_class_is_refused_too(plain: Path, tmp_path: Path) -> None:
    from t2l.files import read_json, write_json

    folder = sentence_transformer(plain, tmp_path / "encoder", "mean")
    modules = read_json(folder / "modules.json")
    modules[1]["type"] = "own.Pooling"
    write_json(folder / "modules.json", modules)
    (folder / "own.py").write_text(f"open({str(tmp_path / 'marker')!r}, 'w')")
    with pytest.raises(ValueError, match=r"set encoder.trust_remote_code=true"):
        encoded(folder)
    assert not (tmp_path / "marker").exists()


def test_damaged_and_missing_encoders_say_so_in_a_line(plain: Path, tmp_path: Path) -> None:
    folder = sentence_transformer(plain, tmp_path / "encoder", "mean")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-40])
    for path in (folder, Path("nobody/no-such-encoder")):
        with pytest.raises(ValueError, match=rf"encoder.path={path} could not be loaded: [^\n]+$"):
            encoded(path)


def in_hub_cache(folder: Path, cache: Path, commit: str) -> None:
    """Puts a folder into the hub's local cache as the newest commit of owner/tiny."""
    repository = cache / "models--owner--tiny"
    shutil.copytree(folder, repository / "snapshots" / commit)
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs/main").write_text(commit)


def test_a_hub_id_is_told_by_its_commit(plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the local cache, without a network: another commit is another encoder, and a checkpoint keeps the one it had."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    hub, commits = Path("owner/tiny"), ("a" * 40, "b" * 40)
    folders = [sentence_transformer(plain, tmp_path / mode, mode) for mode in ("mean", "cls")]
    in_hub_cache(folders[0], tmp_path / "hub", commits[0])
    first = TaskEncoder(EncoderConfig(path=str(hub), cache=""))
    torch.testing.assert_close(first.encode(TEXTS), encoded(folders[0]))
    in_hub_cache(folders[1], tmp_path / "hub", commits[1])
    second = TaskEncoder(EncoderConfig(path=str(hub), cache=""))
    torch.testing.assert_close(second.encode(TEXTS), encoded(folders[1]))
    assert first.identity != second.identity
    assert first.to_json()["revision"] == commits[0]
    again = TaskEncoder(config_from_json(first.to_json(), OwnEncoderConfig(cache="")))
    assert again.identity == first.identity
    assert torch.equal(again.encode(TEXTS), first.encode(TEXTS))
    assert identity(Path("owner/unknown")) == hashlib.sha256(b"owner/unknown").hexdigest()


def test_records_leave_out_what_a_machine_decides(plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(plain.parent)
    config = EncoderConfig(
        path=plain.name, pooling="cls", cache="", device="cpu", batch_size=3, trust_remote_code=True, dtype="float16"
    )
    kept = TaskEncoder(config).to_json()
    assert kept["path"] == str(plain)
    assert not {"device", "cache", "batch_size"} & set(kept)
    for here in (None, OwnEncoderConfig()):
        with pytest.raises(ValueError, match=rf"\({plain}\) runs Python code .* pass encoder.trust_remote_code=true"):
            config_from_json(kept, here)
    back = config_from_json({**kept, "device": "cuda"}, OwnEncoderConfig(cache="", trust_remote_code=True))
    assert back == replace(config, path=str(plain), device="auto", batch_size=32)
    del kept["trust_remote_code"]
    with pytest.raises(ValueError, match="has a key that this version does not have"):
        config_from_json({**kept, "colour": "red"})
    with pytest.raises(ValueError, match="unknown encoder 'telepathy'"):
        config_from_json({"kind": "telepathy"})
