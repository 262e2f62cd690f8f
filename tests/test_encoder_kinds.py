"""Encoders that are no sentence encoder, and what a checkpoint keeps of any; all of them through the verbs."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from t2l.base_model import BaseModel, BaseModelConfig, Quantization, load_base_model
from t2l.base_model.files import mini_base_model_path
from t2l.cli import main
from t2l.cli.settings import compose_settings
from t2l.config import config_folder, register
from t2l.encoder import (
    BaseModelEncoderConfig,
    CausalLMEncoderConfig,
    EncoderConfig,
    OneHotConfig,
    TaskEncoder,
    config_from_json,
)
from t2l.encoder.saved_config import OwnEncoderConfig, in_words
from t2l.files import write_json
from t2l.hypernetwork.checkpoint import find_checkpoint, load_record, own_encoder
from t2l.lora.peft_folder import load_adapter, load_provenance
from t2l.tasks import Task

TEXTS = ["Keep only the animals.", "Count.", "Say how many of the words are tools, please."]


def states(base: BaseModel, content: str, template: str = "raw") -> torch.Tensor:
    """Hidden states [layers + 1, tokens, d_hidden] of one text alone."""
    text = f"<s>{content}" if template == "raw" else f"<s><|user|>{content}<|assistant|>"
    ids = base.tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        return torch.stack(base.model(input_ids=ids, output_hidden_states=True).hidden_states)[:, 0]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("architecture", ["llama", "gemma2", "qwen3", "mistral"])
def test_base_model_states_are_those_of_each_text_alone(tokenizer: Any, architecture: str, side: str) -> None:
    from conftest import tiny_model

    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.padding_side = side
    base = BaseModel(tiny_model(architecture), tokenizer, "tiny", "tiny", f"fingerprint-of-{architecture}")
    for layer, template in ((-1, "raw"), (0, "raw"), (2, "chat")):
        config = BaseModelEncoderConfig(
            layer=layer, template=template, prompt="tools: ", cache="", batch_size=2, full_stop=layer != 0
        )
        texts = TEXTS if layer else [text.removesuffix(".") for text in TEXTS]  # layer 0 sees the last token alone
        found = TaskEncoder(config, base).encode(texts)
        expected = torch.stack([states(base, f"tools: {text}", template)[layer, -1] for text in texts])
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_last_state_is_what_the_output_embedding_reads(tiny_base: BaseModel) -> None:
    found = TaskEncoder(BaseModelEncoderConfig(cache=""), tiny_base).encode(TEXTS)
    for row, text in zip(found, TEXTS, strict=True):
        ids = tiny_base.tokenizer(f"<s>{text}", add_special_tokens=False, return_tensors="pt")["input_ids"]
        torch.testing.assert_close(tiny_base.model.lm_head(row), tiny_base.model(input_ids=ids).logits[0, -1])


def test_descriptions_end_alike(tiny_base: BaseModel) -> None:
    encode = TaskEncoder(BaseModelEncoderConfig(cache=""), tiny_base).encode
    assert torch.equal(encode(["Count the tools"]), encode(["Count the tools."]))
    assert not torch.equal(encode(["Count the tools!"]), encode(["Count the tools."]))
    bare = TaskEncoder(BaseModelEncoderConfig(cache="", full_stop=False), tiny_base).encode
    assert not torch.equal(bare(["Count the tools"]), bare(["Count the tools."]))


def test_what_changes_a_state_changes_the_identity(tiny_base: BaseModel) -> None:
    variants: list[dict[str, Any]] = [
        {}, {"layer": 0}, {"layer": 1}, {"template": "chat"}, {"prompt": "a "}, {"full_stop": False},
    ]  # fmt: skip
    identities = [TaskEncoder(BaseModelEncoderConfig(cache="", **v), tiny_base).identity for v in variants]
    half = replace(tiny_base, model=copy.deepcopy(tiny_base.model).bfloat16())
    other = replace(tiny_base, fingerprint="of another")
    identities += [TaskEncoder(BaseModelEncoderConfig(cache=""), base).identity for base in (half, other)]
    assert len(set(identities)) == len(identities)
    same = TaskEncoder(BaseModelEncoderConfig(cache="", layer=3, batch_size=1), tiny_base)
    assert same.identity == identities[0]


def test_base_model_is_shared_and_can_be_had_again(mini_base: BaseModel) -> None:
    config = BaseModelConfig(device="cpu")
    shared = TaskEncoder(BaseModelEncoderConfig(cache="", layer=2), mini_base, config)
    kept = shared.to_json()
    json.dumps(kept)
    assert kept["kind"] == "causal_lm"
    assert (kept["model"]["path"], kept["model"]["dtype"]) == ("mini", "float32")
    assert not {"device", "shard"} & set(kept["model"])
    back = config_from_json(kept, OwnEncoderConfig(cache="", device="cpu"))
    assert isinstance(back, CausalLMEncoderConfig)
    assert back.model.quantization is Quantization.none
    again = TaskEncoder(back)
    assert again.identity == shared.identity
    assert torch.equal(again.encode(TEXTS), shared.encode(TEXTS))
    embedders: Any = [TaskEncoder(c, mini_base, config)._embedder for c in (BaseModelEncoderConfig(), back)]
    assert all(e._base is mini_base for e in embedders)
    embedder: Any = TaskEncoder(replace(back, model=replace(config, dtype="bfloat16")), mini_base, config)._embedder
    assert embedder._base is not mini_base


def test_causal_models_that_will_not_do_are_refused(tiny_base: BaseModel) -> None:
    with pytest.raises(ValueError, match="base model of a run, and here is none"):
        TaskEncoder(BaseModelEncoderConfig())
    with pytest.raises(ValueError, match=r"encoder.layer=4: the model has hidden layers 0 .* to 3"):
        TaskEncoder(BaseModelEncoderConfig(layer=4), tiny_base)
    with pytest.raises(ValueError, match=r"tokens long; the encoder reads at most 128"):
        TaskEncoder(BaseModelEncoderConfig(cache=""), tiny_base).encode(["Keep the animals. " * 20])
    with pytest.raises(ValueError, match=r"encoder.model.path=./nowhere: no such folder"):
        TaskEncoder(CausalLMEncoderConfig(model=BaseModelConfig(path="./nowhere")))
    bare = replace(tiny_base, tokenizer=copy.deepcopy(tiny_base.tokenizer))
    bare.tokenizer.chat_template = None
    with pytest.raises(ValueError, match="has no chat template"):
        TaskEncoder(BaseModelEncoderConfig(template="chat"), bare)


def task(name: str, *descriptions: str) -> Task:
    return Task(name, {"train": descriptions[:1], "test": descriptions[1:]}, {})


ONE_HOT_TASKS = [task("sort", "Sort the list.", "Order it."), task("count", "Count the words.", "Reckon.")]


def test_one_hot_tells_tasks_by_names_and_descriptions() -> None:
    encoder = TaskEncoder(OneHotConfig(), tasks=ONE_HOT_TASKS)
    found = encoder.encode(["count", "Sort the list.", "Reckon.", " Order\n it. "])
    assert found.tolist() == [[0, 1], [1, 0], [0, 1], [1, 0]]
    assert not encoder.reads_any_text
    with pytest.raises(ValueError, match=r"'Reverse it.' is neither the name nor a known description .* like 'sort'"):
        encoder.encode(["Reverse it."])
    by_name = TaskEncoder(config_from_json(encoder.to_json()))
    assert by_name.identity == encoder.identity
    assert by_name.encode(["sort"]).tolist() == [[1, 0]]
    with pytest.raises(ValueError, match="is neither the name"):
        by_name.encode(["Sort the list."])
    assert TaskEncoder(OneHotConfig(), tasks=ONE_HOT_TASKS[::-1]).identity != encoder.identity


def test_one_hot_refuses_a_text_of_two_tasks_and_no_tasks_at_all() -> None:
    twins = [*ONE_HOT_TASKS, task("order", "Put it in order.", "Sort the list.")]
    with pytest.raises(ValueError, match="describes 'sort' and 'order' alike"):
        TaskEncoder(OneHotConfig(), tasks=twins).encode(["Sort the list."])
    assert TaskEncoder(OneHotConfig(tasks=["sort", "count"]), tasks=twins).encode(["Sort the list."]).shape == (1, 2)
    with pytest.raises(ValueError, match=r"needs the training tasks"):
        TaskEncoder(OneHotConfig())
    with pytest.raises(ValueError, match=r"encoder.tasks must name"):
        OneHotConfig(tasks=["sort", "sort"])


@pytest.mark.parametrize(
    "config",
    [
        EncoderConfig(layers=[0, 2, 4, 6]),
        EncoderConfig(
            path="Qwen/Some-Encoder 'two'", revision="12345678", pooling="last_token", normalize="true", max_length=64,
            prompt='Instruct: give "the" task\'s\nQuery:', dtype="bfloat16",
        ),
        EncoderConfig(prompt=""),
        BaseModelEncoderConfig(layer=-2, template="chat", full_stop=False),
        CausalLMEncoderConfig(
            model=BaseModelConfig(path="owner/name", quantization=Quantization.nf4, template_values={"thinking": False}),
            prompt="Task: ",
        ),
        OneHotConfig(),
    ],
)  # fmt: skip
def test_what_an_error_says_is_that_encoder(config: Any) -> None:
    """A name to choose, and its values."""
    told = in_words(asdict(config))
    assert "\n" not in told
    chosen, _, values = told.partition(" with ")
    composed = compose_settings("train", [chosen, "trainer.description_whitening=null"])
    assert type(composed.encoder) is type(config)
    here = OwnEncoderConfig(batch_size=getattr(config, "batch_size", 32))
    kind = chosen.removeprefix("encoder=")
    assert config_from_json({"kind": kind, **json.loads(values or "{}")}, here) == config


SUITE_TASKS = {
    "shout": ("Write it in capitals.", "Use upper case."),
    "twice": ("Say it twice.", "Repeat it once."),
    "last": ("Give the last word.", "Name what comes at the end."),
    "first": ("Give the first word.", "Name what comes at the start."),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A suite of four tasks, a library of the three in training, and a hypernetwork trained on it by one-hot."""
    folder = tmp_path_factory.mktemp("kinds")
    for name in SUITE_TASKS:
        lines = [json.dumps({"input": f"dog cat {i}", "output": f"cat {i}"}) for i in range(10)]
        (folder / f"suite/{name}.jsonl").parent.mkdir(exist_ok=True)
        (folder / f"suite/{name}.jsonl").write_text("\n".join(lines))
    write_json(folder / "suite/tasks.json", {name: {"descriptions": list(d)} for name, d in SUITE_TASKS.items()})
    brief = [f"{p}.{k}" for p in ("training", "multi_task") for k in ("steps=2", "rows_per_task=2", "cycles=1")]
    main(["train_library", *suite(folder), *brief, f"run_dir={folder}/library"])
    train(folder, "one_hot")
    return folder


def suite(folder: Path) -> list[str]:
    return ["suite=folder", f"suite.path={folder}/suite", "suite.held_fraction=0.25"]


def train(folder: Path, encoder: str, *more: str) -> None:
    brief = ["trainer.steps=3", "trainer.tasks_per_step=3", "trainer.description_whitening=null"]
    main(
        ["train", *suite(folder), *brief, "objective=reconstruction", f"library={folder}/library", f"encoder={encoder}",
         "hypernetwork=s", *more, f"run_dir={folder}/{encoder}"]
    )  # fmt: skip


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    assert stopped.value.code == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("t2l: error")]
    return line


def test_one_hot_from_training_to_an_adapter_by_task_name(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = load_record(find_checkpoint(runs / "one_hot"))
    names = record.trained_on["tasks"]
    assert record.encoder == {"kind": "one_hot", "tasks": names}
    assert record.d_embedding == len(names) == 3
    generate = ["generate", "--checkpoint", f"{runs}/one_hot", "--out", f"{tmp_path}/out"]
    main([*generate, *names])
    loaded = [load_adapter(tmp_path / "out" / name, record.spec) for name in names]
    assert [load_provenance(tmp_path / "out" / name)["description"] for name in names] == names
    group = record.spec.group_names[0]
    assert not torch.equal(loaded[0].A[group], loaded[1].A[group])
    generate[-1] = f"{tmp_path}/other"
    assert "knows nothing else: give a task's name" in refused(capsys, *generate, "Reverse the words.")
    assert "or encoder=own" in refused(capsys, *generate, names[0], "encoder=minilm")


def test_one_hot_is_scored_where_its_tasks_are_known(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    board = [
        "evaluate", *suite(runs), "contenders=[base,generated]", f"checkpoints=[{runs}/one_hot]",
        "evaluation.examples_per_task=2", "evaluation.bootstrap_samples=20", f"run_dir={tmp_path}/board",
    ]  # fmt: skip
    main([*board, "splits=[train]"])
    report = json.loads((tmp_path / "board/report.json").read_text())
    contenders = {r["contender"] for r in report["results"]}
    assert contenders == {
        "base",
        *(f"generated_reconstruction{c}" for c in ("", "_shuffled", "_shuffled_nearest", "_static")),
    }
    more = write_second_held_task(runs, tmp_path)
    line = refused(capsys, *board[:-1], *more, "splits=[unseen_task]", f"run_dir={tmp_path}/unseen")
    assert "is neither the name nor a known description of one of its 3 training tasks" in line
    assert not (tmp_path / "unseen/report.json").exists()
    main([*board[:-1], "encoder=one_hot", "splits=[train]", f"run_dir={tmp_path}/named"])
    line = refused(capsys, *board[:-1], "splits=[train]", "encoder=minilm", f"run_dir={tmp_path}/other")
    assert "was trained with another sentence encoder" in line
    assert line.endswith("for its own pass encoder=one_hot, or encoder=own")


def write_second_held_task(runs: Path, folder: Path) -> list[str]:
    """A suite with one more held task, since shuffling needs two."""
    shutil.copytree(runs / "suite", folder / "suite")
    record = load_record(find_checkpoint(runs / "one_hot"))
    held = next(name for name in SUITE_TASKS if name not in record.trained_on["tasks"])
    shutil.copy(folder / f"suite/{held}.jsonl", folder / "suite/again.jsonl")
    tasks = json.loads((folder / "suite/tasks.json").read_text())
    tasks = {k: {**v, "family": held if k == held else k} for k, v in tasks.items()}
    write_json(folder / "suite/tasks.json", {**tasks, "again": {"descriptions": ["Again."], "family": held}})
    return [f"suite.path={folder}/suite"]


def test_the_base_model_as_encoder_from_training_to_an_adapter(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(runs, "base_model", "encoder.cache=", "encoder.layer=-2", "base_model.dtype=bfloat16")
    record = load_record(find_checkpoint(runs / "base_model"))
    assert record.encoder is not None
    assert record.encoder["model"]["dtype"] == "bfloat16"
    assert record.d_embedding == load_base_model(BaseModelConfig(device="cpu")).model.config.hidden_size
    generate = ["generate", "Use capitals.", "--checkpoint", f"{runs}/base_model", "--out", f"{tmp_path}/out"]
    main([*generate, "encoder.cache="])
    assert load_provenance(tmp_path / "out/use_capitals")["encoder_identity"] == record.encoder_identity
    line = refused(capsys, *generate, "encoder=base_model", "encoder.cache=")
    told = line.partition("for its own pass encoder=causal_lm with ")[2].removesuffix(", or encoder=own")
    assert {"kind": "causal_lm", **json.loads(told)} == record.encoder
    main([*generate, "--base-model", str(mini_base_model_path()), "encoder.cache="])


def test_checkpoints_of_before_are_of_the_default_encoder(runs: Path, tmp_path: Path) -> None:
    data = json.loads((find_checkpoint(runs / "one_hot") / "checkpoint.json").read_text())
    del data["encoder"]
    write_json(tmp_path / "checkpoint.json", data)
    assert own_encoder(load_record(tmp_path)) == EncoderConfig(layers=[0, 2, 4, 6], batch_size=32)


def test_every_encoder_of_a_task_is_said_in_yaml() -> None:
    """The facts of published encoders that their cards state."""
    register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        found = {
            name: OmegaConf.to_object(compose("train", overrides=[f"encoder={name}"]).encoder)
            for name in ("gte_large", "gte_modernbert", "e5", "qwen3_embedding", "minilm_layers")
        }
    assert all(isinstance(c, EncoderConfig) and not c.trust_remote_code for c in found.values())
    prompts: Any = {name: c.prompt for name, c in found.items()}
    assert prompts["e5"] == "query: "
    assert prompts["qwen3_embedding"].startswith("Instruct: ")
    assert prompts["qwen3_embedding"].endswith("\nQuery:")
    assert prompts["gte_large"] is prompts["gte_modernbert"] is None
