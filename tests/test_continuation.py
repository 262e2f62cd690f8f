"""Going on with a run: what may change, what is recorded, and what a finished run says."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_cli import refused
from test_recipes import SPEC
from test_training import TRAINER, KilledError, Setup, resumptions

from t2l import describe, hypernetwork, methods
from t2l.base_model import BaseModel
from t2l.cli import main
from t2l.encoder import EncoderConfig, TaskEncoder, embedding_width
from t2l.evaluation.config import EvaluateConfig
from t2l.files import read_json, write_json
from t2l.hypernetwork import ResidualConfig
from t2l.hypernetwork.checkpoint import CheckpointRecord
from t2l.objectives import SftConfig, objective_of
from t2l.run import record as runs
from t2l.run.continuation import changes, defaults_of, flat, is_free, settings_of
from t2l.run.record import Run, check_settings
from t2l.tasks import suites
from t2l.tasks.suites import WordListConfig
from t2l.training.going_on import is_finished, settings_may_change
from t2l.training.loop import TrainerConfig
from t2l.training.out_of_memory import OutOfMemoryError, explained
from t2l.verbs.train import TrainConfig

CONFIG = TrainConfig(
    suite=WordListConfig(), encoder=EncoderConfig(), hypernetwork=ResidualConfig(), objective=SftConfig()
)


def begun(folder: Path, config: TrainConfig = CONFIG, steps: int | None = None) -> CheckpointRecord | None:
    """A run's folder as `t2l train` leaves it, and the record of its newest checkpoint."""
    run = Run(folder, "train", settings_of(config))
    if steps is None:
        return None
    run.record(base_parameters_sha256="x", finished=True, steps=steps)
    return CheckpointRecord(steps, "sft", ResidualConfig(), None, 8, "e", "b", "mini", {})  # type: ignore[arg-type]


def with_trainer(**values: Any) -> TrainConfig:
    return replace(CONFIG, trainer=replace(CONFIG.trainer, **values))


@pytest.mark.parametrize(
    "config",
    [
        with_trainer(rows_per_pass=4, gradient_checkpointing=True, log_every=1, checkpoint_every=7, pass_cost=9),
        with_trainer(validate_every=5, patience=3),
        replace(CONFIG, base_model=replace(CONFIG.base_model, device="cpu")),
        replace(CONFIG, encoder=EncoderConfig(batch_size=1, device="cpu", cache="")),
    ],
    ids=["memory", "validation", "device", "encoder"],
)
def test_what_changes_no_result_may_change_and_is_recorded(tmp_path: Path, config: TrainConfig) -> None:
    begun(tmp_path)
    Run(tmp_path, "train", settings_of(config))
    record = read_json(tmp_path / "run.json")
    assert record["config"] == json.loads(json.dumps(settings_of(config)))
    found = flat(json.loads(json.dumps(settings_of(CONFIG))))
    told = {c["key"]: c for c in record["changes"]}
    assert told
    for key, change in told.items():
        assert is_free(key)
        assert (change["before"], change["now"]) == (found[key], flat(record["config"])[key])
        assert change["environment"] == 0


@pytest.mark.parametrize(
    ("config", "key"),
    [
        (with_trainer(lr=0.5), "trainer.lr=0.5"),
        (with_trainer(adapter_dtype="bfloat16"), "trainer.adapter_dtype=bfloat16"),
        (with_trainer(validation_rows=9), "trainer.validation_rows=9"),
        (replace(CONFIG, suite=WordListConfig(seed=4)), "suite.seed=4"),
        (replace(CONFIG, seed=2), "seed=2"),
    ],
)
def test_what_changes_the_result_is_refused(tmp_path: Path, config: TrainConfig, key: str) -> None:
    begun(tmp_path)
    with pytest.raises(ValueError, match=rf"another configuration \({key} \(before: .*\): it changes the result\)"):
        check_settings(tmp_path, settings_of(config))
    assert "changes" not in read_json(tmp_path / "run.json")


def test_every_setting_is_classified_on_purpose() -> None:
    """A new setting of the trainer is refused on resuming until it is named among the free ones."""
    free = {key for key in asdict(TrainerConfig()) if is_free(f"trainer.{key}")}
    assert free == {
        "gradient_checkpointing", "rows_per_pass", "pass_cost", "log_every", "checkpoint_every", "validate_every", "patience",
    }  # fmt: skip


def test_a_setting_that_is_newer_than_the_run_counts_as_its_default(tmp_path: Path) -> None:
    begun(tmp_path)
    record = read_json(tmp_path / "run.json")
    del record["config"]["trainer"]["schedule"], record["config"]["init_from"]
    write_json(tmp_path / "run.json", record)
    assert check_settings(tmp_path, settings_of(CONFIG), defaults_of(CONFIG)) == []
    with pytest.raises(ValueError, match="schedule=constant"):
        check_settings(tmp_path, settings_of(with_trainer(schedule="constant")), defaults_of(CONFIG))


@pytest.mark.parametrize(
    ("before", "now", "done", "reason"),
    [
        ({}, {"steps": 2000}, 50, "changes the learning rate of the 50 steps that are done"),
        ({}, {"steps": 2000}, 0, None),
        ({"schedule": "constant"}, {"steps": 2000}, 150, "changes the learning rate"),
        ({"schedule": "constant", "warmup_steps": 10}, {"steps": 2000}, 1000, None),
        ({"schedule": "constant", "warmup_fraction": 0.0}, {"steps": 2000}, 1000, None),
        ({"schedule": "constant", "warmup_steps": 10}, {"steps": 500}, 800, "800 steps are done"),
    ],
)
def test_more_steps_if_the_schedule_allows(
    tmp_path: Path, before: dict[str, Any], now: dict[str, Any], done: int, reason: str | None
) -> None:
    old, new = with_trainer(**before), with_trainer(**before, **now)
    record = begun(tmp_path, old, done)
    (change,) = changes(read_json(tmp_path / "run.json")["config"], settings_of(new))
    why = settings_may_change(new, record)(change)
    assert why is None if reason is None else reason in (why or "")


def test_more_constant_steps_are_one_run(
    tiny_base: BaseModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    constant = replace(TRAINER, schedule="constant", warmup_steps=3)
    whole = Setup(tiny_base, tmp_path / "whole", trainer=constant).run()
    Setup(tiny_base, tmp_path / "parts", trainer=replace(constant, steps=6)).run()
    resumed = Setup(tiny_base, tmp_path / "parts", trainer=constant).run()
    assert resumptions(caplog) == [f"resuming {tmp_path}/parts at step 6"]
    for one, two in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(one, two)


def test_a_finished_run_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO")
    newest = begun(tmp_path, steps=1000)
    before = (tmp_path / "run.json").read_text()
    assert is_finished(CONFIG, tmp_path, newest)
    assert f"already finished: {tmp_path} has its 1000 steps" in caplog.text
    assert not [r for r in caplog.records if r.levelname == "WARNING"]
    other = {**runs.environment(), "code": {"commit": "another"}}
    monkeypatch.setattr(runs, "environment", lambda: other)
    assert is_finished(CONFIG, tmp_path, newest)
    assert "made by other code or packages (" in caplog.text
    assert "-> another" in caplog.text
    assert (tmp_path / "run.json").read_text() == before
    with pytest.raises(ValueError, match="it changes the result"):
        is_finished(with_trainer(lr=0.5), tmp_path, newest)
    assert not is_finished(CONFIG, tmp_path, replace(newest, step=999))  # type: ignore[type-var]


def test_every_environment_of_a_run_is_recorded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun(tmp_path)
    first = runs.environment()
    begun(tmp_path)
    assert read_json(tmp_path / "run.json")["environments"] == [first]
    other = {**first, "packages": {**first["packages"], "torch": "9.9"}}
    monkeypatch.setattr(runs, "environment", lambda: other)
    begun(tmp_path)
    assert read_json(tmp_path / "run.json")["environments"] == [first, other]
    assert "goes on under other code or packages: torch" in caplog.text
    old = {k: v for k, v in read_json(tmp_path / "run.json").items() if k != "environments"}
    write_json(tmp_path / "run.json", {**old, "environment": first})
    begun(tmp_path)
    assert read_json(tmp_path / "run.json")["environments"] == [first, other]


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate\nmore"), MemoryError()]
)
def test_memory_that_runs_out_names_the_knobs(tiny_base: BaseModel, tmp_path: Path, error: BaseException) -> None:
    setup = Setup(tiny_base, tmp_path)
    with pytest.raises(KilledError):
        setup.run(die_at=5)
    steps = setup.steps

    def failing() -> Any:
        made = steps()

        def fail(*_: object) -> dict[str, float]:
            raise error

        made.backward = fail  # type: ignore[method-assign]
        return made

    setup.steps = failing  # type: ignore[method-assign]
    with pytest.raises(OutOfMemoryError) as found:
        setup.run()
    text = str(found.value)
    assert text.startswith(
        "out of memory: trainer.rows_per_pass=2 and trainer.gradient_checkpointing=true change no result"
    )
    assert "trainer.adapter_dtype=bfloat16, trainer.optimizer=adamw_8bit" in text
    assert "\n" not in text
    assert (tmp_path / "checkpoints/step-000004/checkpoint.json").is_file()


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="shapes"), explained(lambda: "nothing"):
        raise RuntimeError("shapes do not match")
    with pytest.raises(OutOfMemoryError, match="out of memory: nothing"), explained(lambda: "nothing"):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")


class Unknown(ResidualConfig):
    """A config of a kind that nothing knows, though it is much like another."""


@pytest.mark.parametrize(
    "build",
    [
        objective_of,
        suites.build,
        methods.build,
        describe.build,
        TaskEncoder,
        lambda c: embedding_width(c, None),
        lambda c: hypernetwork.build(c, SPEC, 8, 0),
        lambda c: EvaluateConfig(harness=c, contenders=["base"]),
    ],
    ids=["objective", "suite", "method", "describer", "encoder", "embedding_width", "hypernetwork", "harness"],
)
def test_configs_of_an_unknown_kind_are_errors(build: Any) -> None:
    with pytest.raises(ValueError, match=r"there is none (for the config|of the kind) Unknown"):
        build(Unknown())


def test_an_unknown_hypernetwork_in_a_record_is_an_error() -> None:
    with pytest.raises(ValueError, match="unknown hypernetwork 'xl': choose from l, m, residual, s"):
        hypernetwork.config_from_json({"architecture": "xl"})


def test_a_chain_of_projections_ends_with_the_highest_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, width in ((2, 8), (10, 24)):
        write_json(tmp_path / f"{number}_Dense/config.json", {"out_features": width})
    write_json(tmp_path / "config.json", {"model_type": "bert", "hidden_size": 32})
    assert embedding_width(EncoderConfig(path=str(tmp_path)), None) == 24


def test_the_command_line_trains_nothing_twice_and_goes_on_with_memory_knobs(root: Path, capfd: Any) -> None:
    from small_run import TRAIN

    metrics = (root / "sft/metrics.jsonl").read_bytes()
    main(["train", *TRAIN, "trainer.rows_per_pass=2", f"run_dir={root}/sft"])
    assert (root / "sft/metrics.jsonl").read_bytes() == metrics
    main(["train_library", f"run_dir={root}/library", *library_arguments()])
    assert len(read_json(root / "library/library.json")["environments"]) == 1
    assert read_json(root / "library/library.json")["finished"]


def library_arguments() -> list[str]:
    from small_run import SMALL

    brief = [f"{p}.{key}" for p in ("training", "multi_task") for key in ("steps=2", "rows_per_task=2", "cycles=1")]
    return [*SMALL, *brief, "training.tasks_at_once=64"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["tasks=[sort]"], []),
        (["tasks=[sort]", "train_multi_task=true"], ["multi_task"]),
        (["splits=[unseen_composition]"], ["multi_task"]),
        (["splits=[unseen_composition]", "train_multi_task=false"], []),
    ],
)
def test_the_multi_task_lora_comes_with_whole_splits_and_on_request(
    words: list[str], expected: list[str], tmp_path: Path
) -> None:
    main(["train_library", *library_arguments(), *words, f"run_dir={tmp_path}/library"])
    assert [p.name for p in (tmp_path / "library").glob("static/*")] == expected


def test_a_method_without_a_multi_task_lora_is_not_asked_for_one(tmp_path: Path, capsys: Any) -> None:
    where = ["method=ia3", "tasks=[sort]", "train_multi_task=true", f"run_dir={tmp_path}/library"]
    assert "only method=batched_lora has a multi-task LoRA" in refused(capsys, "train_library", *where)
    assert not (tmp_path / "library").exists()
