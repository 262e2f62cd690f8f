"""What was trained is scored as it was trained, unless the user says otherwise: base, prompt, encoder, calibration."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_cli import refused
from test_config import composed

from t2l.base_model import BaseModel, BaseModelConfig, LoraConfig, Quantization, lora_spec
from t2l.encoder import EncoderConfig, OwnEncoderConfig, TaskEncoder
from t2l.evaluation.board import BoardConfig
from t2l.evaluation.conditions import (
    ScoredPromptConfig,
    Trained,
    conditions_for,
    conditions_of,
    conditions_text,
    conditions_to_record,
    trained_in,
)
from t2l.evaluation.config import EvaluateConfig
from t2l.evaluation.context import Context
from t2l.evaluation.scope import Scope
from t2l.files import read_json, write_json
from t2l.hypernetwork import ResidualConfig
from t2l.hypernetwork import build as build_hypernetwork
from t2l.hypernetwork.checkpoint import CheckpointRecord, TrainingData, find_checkpoint, load_record
from t2l.hypernetwork.confidence import Calibration, task_centres
from t2l.hypernetwork.kept_calibration import CONFIDENCE_FILE, keep_calibration, kept_calibration
from t2l.library import LIBRARY_RECORD, LibraryFolder
from t2l.lora.card import adapter_card, merged_card
from t2l.own_files import RECORD
from t2l.tasks import TaskSuite
from t2l.tasks.manifest import Manifest
from t2l.tasks.suites import FolderSuiteConfig, build
from t2l.training.checkpoint import save_checkpoint
from t2l.verbs.evaluate import evaluate

HELD = [f"held{i}" for i in range(6)]
BOARD = BoardConfig(
    tasks_per_split=6, examples_per_task=2, descriptions_per_task=1, max_new_tokens=4, bootstrap_samples=10
)
AS_TRAINED = conditions_of(BaseModelConfig(device="cpu"), "hidden")
Writer = Callable[..., Path]


@pytest.fixture(scope="module")
def small_suite(tmp_path_factory: pytest.TempPathFactory) -> FolderSuiteConfig:
    """Four training tasks, six held ones."""
    folder = tmp_path_factory.mktemp("suite")
    names = [*(f"own{i}" for i in range(4)), *HELD]
    ranges = {"train": [0, 4], "validation": [4, 5], "test": [5, 8]}
    tasks = {n: {"descriptions": [f"Write {n}, please.", f"Always {n}."], "splits": ranges, "family": n} for n in names}
    write_json(folder / "tasks.json", tasks)
    for name in names:
        lines = [json.dumps({"input": f"dog {i}", "output": f"cat {name}"}) for i in range(8)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    return FolderSuiteConfig(path=str(folder), held_tasks=HELD)


@pytest.fixture
def write(mini_base: BaseModel, small_suite: FolderSuiteConfig) -> Writer:
    def checkpoint(run: Path, conditions: Mapping[str, Any] | None, layers: tuple[int, ...] = (0,), **on: Any) -> Path:
        return write_checkpoint(run, mini_base, build(small_suite), conditions, layers, **on)

    return checkpoint


@pytest.fixture
def asked(small_suite: FolderSuiteConfig) -> Callable[..., EvaluateConfig]:
    def config(**changes: Any) -> EvaluateConfig:
        usual: dict[str, Any] = {
            "base_model": BaseModelConfig(device="cpu"), "suite": small_suite, "evaluation": BOARD,
            "contenders": ["generated"], "splits": ["unseen_task"], "robustness_split": None, "confidence": False,
            "encoder": OwnEncoderConfig(cache=""), "descriptions_per_task": 2,
        }  # fmt: skip
        return EvaluateConfig(**{**usual, **changes})

    return config


def write_checkpoint(
    run: Path,
    base: BaseModel,
    suite: TaskSuite,
    conditions: Mapping[str, Any] | None,
    layers: tuple[int, ...],
    **trained_on: Any,
) -> Path:
    """A run folder with a random hypernetwork, as `t2l train` leaves it."""
    encoder = TaskEncoder(EncoderConfig(layers=list(layers), cache=""))
    tasks = suite.select(suite.split("train").tasks)
    groups = encoder.encode_groups([t.descriptions["train"][:2] for t in tasks])
    spec = lora_spec(base.model, LoraConfig(rank=2))
    config = ResidualConfig(width=8, description_width=4, blocks=1)
    model = build_hypernetwork(config, spec, groups[0].shape[1], seed=0)
    generator = torch.Generator().manual_seed(len(layers))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    record = CheckpointRecord(
        step=3,
        objective="sft",
        hypernetwork=config,
        spec=spec,
        d_embedding=groups[0].shape[1],
        encoder_identity=encoder.identity,
        base_fingerprint=base.fingerprint,
        base_name="mini",
        trained_on={
            "suite": suite.name, "suite_sha256": suite.content_hash(), "tasks": [t.name for t in tasks], "seed": 0,
            **trained_on,
        },
        encoder=encoder.to_json(),
        conditions=None if conditions is None else dict(conditions),
    )  # fmt: skip
    write_json(run / "run.json", {"verb": "train", "config": {"seed": 0, "layers": list(layers)}})
    optimizer = torch.optim.AdamW(model.parameters())
    return save_checkpoint(
        run, record, model, optimizer, TrainingData(Manifest.of(tasks, 2), task_centres(model, groups))
    )


def loaded(config: EvaluateConfig) -> Context:
    return Context.load(Scope.of(config))


def trained(what: str = "checkpoint runs/a", **values: Any) -> Trained:
    return Trained(what, {**AS_TRAINED, **values})


def test_the_base_is_loaded_and_prompted_as_in_training(
    write: Writer, asked: Callable[..., EvaluateConfig], tmp_path: Path
) -> None:
    """Whatever the configuration's defaults say: dtype, template values and definition of the checkpoint."""
    values = {**AS_TRAINED, "dtype": "bfloat16", "template_values": {"thinking": False}, "definition": "shown"}
    values["chat_template"] = "{{ messages[0].content }}"
    write(tmp_path / "run", values)
    context = loaded(asked(checkpoints=[str(tmp_path / "run")]))
    assert context.base.model.dtype is torch.bfloat16
    assert context.base.tokenizer.chat_template == "{%- set thinking = false -%}{{ messages[0].content }}"
    assert all(view.shows_description for view in context.scope.views)
    assert context.scope.conditions.taken == (
        "base_model.chat_template={{ messages[0].content }} as trained, not null as configured",
        'base_model.template_values={"thinking": false} as trained, not {} as configured',
        "base_model.dtype=bfloat16 as trained, not float32 as configured",
    )
    given = loaded(asked(checkpoints=[str(tmp_path / "run")], conditions="given", prompt=ScoredPromptConfig("hidden")))
    assert given.base.model.dtype is torch.float32
    assert not any(view.shows_description for view in given.scope.views)
    assert len(given.scope.conditions.deviations) == 4


def test_a_value_set_aside_is_said_loudly_unless_it_is_a_default(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "t2l.evaluation.conditions")
    conditions_for("trained", BaseModelConfig(), None, [trained(dtype="bfloat16")])
    conditions_for("trained", BaseModelConfig(dtype="bfloat16"), None, [trained()])
    assert [(r.levelname, r.message) for r in caplog.records] == [
        (level, f"base_model.dtype={a} as trained, not {b} as configured; conditions=given scores as configured")
        for level, a, b in (("INFO", "bfloat16", "float32"), ("WARNING", "float32", "bfloat16"))
    ]


def test_quantization_is_restored_and_what_the_machine_decides_is_not() -> None:
    found = conditions_for("trained", BaseModelConfig(), None, [trained(quantization="nf4", attention="eager")])
    assert found.base_model.quantization is Quantization.nf4
    assert found.base_model.attention is None
    assert found.deviations == (
        "checkpoint runs/a was trained with base_model.attention=eager, and is scored with null",
    )
    assert found.is_as_trained


def test_other_conditions_are_listed() -> None:
    found = conditions_for("given", BaseModelConfig(dtype="bfloat16"), "shown", [trained(), trained("library b")])
    assert found.deviations == (
        "checkpoint runs/a was trained with base_model.dtype=float32, and is scored with bfloat16",
        "checkpoint runs/a was trained with prompt.definition=hidden, and is scored with shown",
        "library b was trained with base_model.dtype=float32, and is scored with bfloat16",
        "library b was trained with prompt.definition=hidden, and is scored with shown",
    )
    assert not found.is_as_trained
    assert set(found.deviations) <= {line.removeprefix("- ") for line in conditions_text(found.to_json())}
    same = conditions_for("given", BaseModelConfig(), None, [trained(definition="shown")])
    assert (same.definition, same.deviations) == ("shown", ())


def test_things_trained_otherwise_than_one_another_are_refused() -> None:
    pair = [trained(), trained("library b", dtype="float16")]
    with pytest.raises(
        ValueError, match=r"checkpoint runs/a was trained with base_model.dtype=float32, library b with float16"
    ):
        conditions_for("trained", BaseModelConfig(), None, pair)
    assert conditions_for("given", BaseModelConfig(), None, pair).base_model.dtype == "float32"
    shown = [trained(), trained("library b", definition="shown")]
    for rule in ("trained", "given"):
        with pytest.raises(ValueError, match=r"pass conditions=given and prompt\.definition=\.\.\."):
            conditions_for(rule, BaseModelConfig(), None, shown)
    with pytest.raises(ValueError, match=r"prompt.definition=shown, but checkpoint runs/a was trained with it hidden"):
        conditions_for("trained", BaseModelConfig(), "shown", [trained()])


def test_what_recorded_no_conditions_is_scored_as_configured_and_said(write: Writer, tmp_path: Path) -> None:
    write(tmp_path / "old", None, definition="shown")
    found = conditions_for("trained", BaseModelConfig(dtype="float16"), None, trained_in([str(tmp_path / "old")]))
    assert (found.base_model.dtype, found.definition) == ("float16", "shown")
    assert found.unrecorded == (f"checkpoint {tmp_path}/old",)
    assert any("did not record the conditions" in line for line in conditions_text(found.to_json()))
    assert conditions_for("trained", BaseModelConfig(), None, []).definition == "hidden"


def test_a_library_is_restored_too_and_not_continued_otherwise(mini_base: BaseModel, tmp_path: Path) -> None:
    library = LibraryFolder.of(tmp_path, lora_spec(mini_base.model, LoraConfig(rank=2)), mini_base)
    record = {"spec": library.spec.to_json(), "base_fingerprint": mini_base.fingerprint, "base_model": "mini"}
    begun = conditions_to_record(tmp_path / LIBRARY_RECORD, BaseModelConfig(dtype="bfloat16"), "hidden")
    write_json(tmp_path / LIBRARY_RECORD, {**record, "conditions": begun})
    assert trained_in([], str(tmp_path))[0].values["dtype"] == "bfloat16"
    assert conditions_to_record(tmp_path / LIBRARY_RECORD, BaseModelConfig(dtype="bfloat16"), "hidden") == begun
    for config, definition in ((BaseModelConfig(), "hidden"), (BaseModelConfig(dtype="bfloat16"), "shown")):
        with pytest.raises(ValueError, match=r"was begun with .*: choose another run_dir, or remove that folder"):
            conditions_to_record(tmp_path / LIBRARY_RECORD, config, definition)
    write_json(tmp_path / LIBRARY_RECORD, {**record, "definition": "hidden"})
    assert conditions_to_record(tmp_path / LIBRARY_RECORD, BaseModelConfig(), "hidden") is None


def test_each_checkpoint_is_scored_with_its_own_encoder(
    write: Writer, asked: Callable[..., EvaluateConfig], tmp_path: Path
) -> None:
    runs = [tmp_path / "one", tmp_path / "two", tmp_path / "three"]
    for run, layers in zip(runs, ((0,), (0, 2), (0,)), strict=True):
        write(run, AS_TRAINED, layers)
    context = loaded(asked(checkpoints=[str(r) for r in runs]))
    first, second, third = (c.encoder for c in context.checkpoints)
    assert first is third
    assert [c.encoder.identity for c in context.checkpoints] == [
        load_record(find_checkpoint(r)).encoder_identity for r in runs
    ]
    static = [
        c.generated[-1].enter(context.scope.views[0]) for c in context.checkpoints
    ]  # from its own bank of descriptions
    assert [e.adapters is not None for e in static] == [True] * 3
    assert context.encoders.bank(first).centres.shape[1] != context.encoders.bank(second).centres.shape[1]
    assert composed("evaluate", "contenders=[base]").encoder == OwnEncoderConfig()
    with pytest.raises(ValueError, match="was trained with another sentence encoder"):
        loaded(asked(checkpoints=[str(r) for r in runs], encoder=EncoderConfig(layers=[2], cache="")))


def test_without_a_checkpoint_descriptions_are_compared_by_the_default_encoder(
    asked: Callable[..., EvaluateConfig],
) -> None:
    context = loaded(asked(contenders=["base"]))
    assert context.encoder.to_json()["layers"] == composed("train").encoder.layers


def test_calibration_is_kept_when_asked_with_the_checkpoint(
    write: Writer,
    asked: Callable[..., EvaluateConfig],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And a smaller one never replaces a larger one; nothing else in or above the checkpoint changes."""
    monkeypatch.setattr("t2l.verbs.evaluate.write_report", lambda *_, **__: {})  # its figures are no part of this
    caplog.set_level(logging.INFO, "t2l.evaluation.calibration")
    write(tmp_path / "run", AS_TRAINED)
    shutil.copytree(tmp_path / "run/checkpoints/step-000003", tmp_path / "elsewhere/deep/copy")
    before = files(tmp_path)
    copied = {"checkpoints": [str(tmp_path / "elsewhere/deep/copy")], "confidence": True}
    evaluate(asked(**copied, run_dir=str(tmp_path / "out/a")))
    assert before == files(tmp_path)
    evaluate(asked(**copied, keep_calibration=True, run_dir=str(tmp_path / "out/b")))
    kept = tmp_path / "elsewhere/deep/copy" / CONFIDENCE_FILE
    assert {name for name, _ in files(tmp_path) ^ before} == {str(kept.relative_to(tmp_path))}
    data = read_json(kept)
    assert data["about"].keys() >= {"n_tasks", "n_descriptions", "splits", "suite", "suite_sha256", "date"}
    assert (data["about"]["n_tasks"], data["about"]["splits"], data["step"]) == (6, ["unseen_task"], 3)
    small = {**copied, "evaluation": replace(BOARD, tasks_per_split=4), "keep_calibration": True}
    evaluate(asked(**small, run_dir=str(tmp_path / "out/c")))
    assert read_json(kept) == data
    assert "rests on 6 tasks, this one on 4" in caplog.text
    evaluate(asked(**copied, keep_calibration=True, conditions="given", base_model=BaseModelConfig(dtype="bfloat16", device="cpu"),
                   run_dir=str(tmp_path / "out/d")))  # fmt: skip
    assert read_json(kept) == data
    assert "not kept: scored otherwise than trained" in caplog.text


def files(folder: Path) -> set[tuple[str, int]]:
    """Every file and when it was written, but for reports, and for t2l's own record of what it wrote."""
    found = [p for p in folder.rglob("*") if p.is_file() and p.name != RECORD and p.parts[len(folder.parts)] != "out"]
    return {(str(p.relative_to(folder)), p.stat().st_mtime_ns) for p in found}


def test_a_calibration_is_of_these_weights_alone(write: Writer, tmp_path: Path) -> None:
    folder = write(tmp_path / "run", AS_TRAINED)
    fitted = Calibration((0.0, 1.0), (0.9, 0.1), 3, {"n_tasks": 5, "n_fitted": 10})
    assert kept_calibration(folder, 3) is None
    write_json(
        tmp_path / "run" / CONFIDENCE_FILE, replace(fitted, about={"n_fitted": 8}).to_json()
    )  # of an earlier version
    old = kept_calibration(folder, 3)
    assert old is not None
    assert old.about == {"n_fitted": 8}
    assert kept_calibration(folder, 4) is None
    copy = tmp_path / "a/b"
    shutil.copytree(folder, copy)
    write_json(tmp_path / CONFIDENCE_FILE, fitted.to_json())  # two folders above the copy, of something else
    assert kept_calibration(copy, 3) is None
    assert "rests on 8 answers, this one on 4" in keep_calibration(folder, replace(fitted, about={"n_fitted": 4}))
    assert "calibration kept" in keep_calibration(folder, fitted)
    assert kept_calibration(folder, 3) == fitted
    other = write(tmp_path / "other", AS_TRAINED, (0, 2))
    shutil.copy(folder / CONFIDENCE_FILE, other / CONFIDENCE_FILE)
    assert kept_calibration(other, 3) is None


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["contenders=[base]", "conditions=other"], "conditions must be trained or given"),
        (["keep_calibration=true", "contenders=[base]"], "keep_calibration=true keeps what is calibrated"),
        (["contenders=[base]", "prompt.definition=both"], "must be hidden or shown, or null"),
    ],
)
def test_bad_conditions(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert says in refused(capsys, "evaluate", *arguments, f"hydra.run.dir={tmp_path}")


def test_cards_say_under_which_conditions_to_ask(mini_base: BaseModel) -> None:
    spec = lora_spec(mini_base.model, LoraConfig(rank=2))
    adapter: dict[str, Any] = {
        "description": "Count.", "generated_by": "sft", "checkpoint": "runs/a", "step": 1, "base_model": "owner/name",
        "base_fingerprint": "f" * 64, "definition": "shown",
        "conditions": {**AS_TRAINED, "quantization": "nf4", "template_values": {"enable_thinking": False}},
    }  # fmt: skip
    merged = {
        "base_model": "owner/name", "base_fingerprint": "f", "adapter_folder": "a", "rank": 2, "alpha": 4.0,
        "use_rslora": False, "dtype": "float32", "was_quantised": False, "adapter": adapter,
    }  # fmt: skip
    for card in (adapter_card(spec, adapter, Path("out")), merged_card(merged, Path("out"))):
        assert "`enable_thinking=false`: give it the same" in card
        assert "float32, quantised (nf4)" in card
        assert "put it there, on a line of its own" in card
    assert "not recorded" in adapter_card(spec, {**adapter, "conditions": None}, Path("out"))


def test_conditions_are_plain_json() -> None:
    config = BaseModelConfig(quantization=Quantization.int8, template_values={"a": [1, True]})
    found = conditions_of(config, "hidden")
    assert json.loads(json.dumps(found)) == found
    assert found["quantization"] == "int8"
