from __future__ import annotations

import logging
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from t2l.base_model import BaseModel, LoraConfig, hash_parameters, lora_spec
from t2l.files import FileProblemError
from t2l.library import AdapterLibrary
from t2l.library.slots import SlotTrainer, TrainedAdapter
from t2l.library.snapshots import Snapshots
from t2l.library.training import (
    LibraryTrainingConfig,
    TrainingJob,
    initial_adapter,
    train_adapters,
    train_library,
    train_multi_task,
)
from t2l.lora import LoraSpec
from t2l.methods import build as build_method
from t2l.methods.folder import MethodLibrary
from t2l.methods.low_rank import LoraMethodConfig
from t2l.methods.training import train_method_library
from t2l.run.progress import Progress
from t2l.tasks import Task, tokenize_examples
from t2l.tasks.suites import WordListConfig, build

CONFIG = LibraryTrainingConfig(steps=6, rows_per_task=3, tasks_at_once=2, lr=0.01)


@pytest.fixture(scope="module")
def tasks() -> list[Task]:
    suite = build(WordListConfig(train_examples=16, validation_examples=1, test_examples=4))
    return suite.select(["keep_animals", "count_tools", "reverse"])


@pytest.fixture
def spec(tiny_base: BaseModel) -> LoraSpec:
    return lora_spec(tiny_base.model, LoraConfig(rank=4))


@pytest.fixture
def library(tmp_path: Path, spec: LoraSpec, tiny_base: BaseModel) -> AdapterLibrary:
    return AdapterLibrary(tmp_path / "library", spec, "tiny", tiny_base.fingerprint)


def jobs_of(base: BaseModel, tasks: list[Task]) -> list[TrainingJob]:
    return [TrainingJob(t.name, tokenize_examples(base.tokenizer, t.examples["train"])) for t in tasks]


@pytest.mark.parametrize("shared", [False, True])
def test_together_equals_alone(tiny_base: BaseModel, spec: LoraSpec, tasks: list[Task], shared: bool) -> None:
    """A task's adapter does not depend on its neighbours: neither values nor loss."""
    config = replace(CONFIG, clip=0.05, shared_a=shared, train_a=not shared)
    jobs = jobs_of(tiny_base, tasks)
    together = train_adapters(tiny_base, spec, jobs, config, seed=0)
    for job, adapter in zip(jobs, together, strict=True):
        (alone,) = train_adapters(tiny_base, spec, [job], config, seed=0)
        assert adapter.name == job.name
        assert adapter.final_loss == pytest.approx(alone.final_loss, rel=1e-4)
        for one, two in zip(adapter.weights.tensors(), alone.weights.tensors(), strict=True):
            torch.testing.assert_close(one, two, atol=2e-5, rtol=1e-3)


def test_training_lowers_the_loss_and_leaves_the_base_alone(mini_base: BaseModel, tasks: list[Task]) -> None:
    before = hash_parameters(mini_base.model)
    spec, jobs = lora_spec(mini_base.model, LoraConfig(rank=4)), jobs_of(mini_base, tasks)
    short = train_adapters(mini_base, spec, jobs, replace(CONFIG, steps=1), seed=0)
    long = train_adapters(mini_base, spec, jobs, replace(CONFIG, steps=40), seed=0)
    assert all(after.final_loss < 0.5 * start.final_loss for start, after in zip(short, long, strict=True))
    assert hash_parameters(mini_base.model) == before


def test_frozen_shared_a_stays_one_a(tiny_base: BaseModel, spec: LoraSpec, tasks: list[Task]) -> None:
    config = replace(CONFIG, shared_a=True, train_a=False)
    one, two, _ = train_adapters(tiny_base, spec, jobs_of(tiny_base, tasks), config, seed=0)
    start = initial_adapter(spec, 0, "anything", shared_a=True)
    for k in start.A:
        assert torch.equal(one.weights.A[k], start.A[k])
        assert torch.equal(two.weights.A[k], start.A[k])
        assert not torch.equal(one.weights.B[k], two.weights.B[k])


def test_what_is_there_is_skipped(library: AdapterLibrary, tiny_base: BaseModel, tasks: list[Task]) -> None:
    train_library(library, tiny_base, tasks[:2], CONFIG, seed=0)
    times = {t: (library.path(t) / "adapter_model.safetensors").stat().st_mtime_ns for t in library.tasks()}
    assert set(times) == {"keep_animals", "count_tools"}
    train_library(library, tiny_base, tasks, CONFIG, seed=0)
    assert set(library.tasks()) == {t.name for t in tasks}
    for task, time in times.items():
        assert (library.path(task) / "adapter_model.safetensors").stat().st_mtime_ns == time


def test_resuming_gives_what_one_run_gives(
    tmp_path: Path, spec: LoraSpec, tiny_base: BaseModel, tasks: list[Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that dies after its second adapter, run again, ends with the adapters of an uninterrupted one."""
    whole, broken = (AdapterLibrary(tmp_path / n, spec, "tiny", tiny_base.fingerprint) for n in ("whole", "broken"))
    train_library(whole, tiny_base, tasks, CONFIG, seed=0)
    real = AdapterLibrary.save

    def dies_on_third(self: AdapterLibrary, *args: Any) -> None:
        if len(self.tasks()) == 2:
            raise KeyboardInterrupt
        real(self, *args)

    monkeypatch.setattr(AdapterLibrary, "save", dies_on_third)
    with pytest.raises(KeyboardInterrupt):
        train_library(broken, tiny_base, tasks, CONFIG, seed=0)
    monkeypatch.undo()
    assert len(broken.tasks()) == 2
    train_library(broken, tiny_base, tasks, CONFIG, seed=0)
    names = [t.name for t in tasks]
    for one, two in zip(whole.load(names).tensors(), broken.load(names).tensors(), strict=True):
        torch.testing.assert_close(one, two, atol=2e-5, rtol=1e-3)


def test_provenance_says_where_an_adapter_comes_from(
    library: AdapterLibrary, tiny_base: BaseModel, tasks: list[Task]
) -> None:
    train_library(library, tiny_base, tasks[:1], CONFIG, seed=3)
    record = library.provenance("keep_animals")
    assert record["task"] == "keep_animals"
    assert record["seed"] == 3
    assert record["steps"] == CONFIG.steps
    assert record["data_sha256"] == tasks[0].examples_hash()
    assert record["base_fingerprint"] == tiny_base.fingerprint
    assert record["final_loss"] > 0


def test_another_recipe_is_refused(library: AdapterLibrary, tiny_base: BaseModel, tasks: list[Task]) -> None:
    train_library(library, tiny_base, tasks[:1], CONFIG, seed=0)
    with pytest.raises(ValueError, match="was made with seed=0, now it is 1"):
        train_library(library, tiny_base, tasks[:1], CONFIG, seed=1)


def test_another_base_is_refused(
    library: AdapterLibrary, tiny_base: BaseModel, tasks: list[Task], spec: LoraSpec
) -> None:
    train_library(library, tiny_base, tasks[:1], CONFIG, seed=0)
    other = AdapterLibrary(library.folder, spec, "tiny", "another-fingerprint")
    with pytest.raises(ValueError, match="trained on another base model"):
        other.load(["keep_animals"])


def test_missing_adapter_names_the_task(library: AdapterLibrary) -> None:
    with pytest.raises(FileProblemError, match="no adapter for task 'keep_animals'"):
        library.load(["keep_animals"])


def test_divergence_is_reported_and_left_out(library: AdapterLibrary, tiny_base: BaseModel, tasks: list[Task]) -> None:
    failed = train_library(library, tiny_base, tasks[:2], replace(CONFIG, lr=1e30), seed=0)
    assert sorted(failed) == ["count_tools", "keep_animals"]
    assert all(reason.startswith("diverged: ") for reason in failed.values())
    assert library.tasks() == []


def test_multi_task_adapter_comes_from_all_tasks(
    library: AdapterLibrary, tiny_base: BaseModel, tasks: list[Task]
) -> None:
    train_multi_task(library, tiny_base, tasks, CONFIG, 0, "multi_task")
    assert library.provenance("multi_task")["tasks"] == [t.name for t in tasks]
    assert library.load(["multi_task"]).batch_size == 1


def test_best_weights_by_validation_are_kept_if_patience_asks(
    library: AdapterLibrary, tiny_base: BaseModel, tasks: list[Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is on disk are the weights of the look with the lowest validation loss, and that is the loss recorded."""
    losses, seen = iter([3.0, 1.0, 2.0, 2.5]), []

    def look(self: SlotTrainer, i: int) -> float:
        seen.append(self._copy(i))
        return next(losses)

    monkeypatch.setattr(SlotTrainer, "_validation_loss", look)
    train_library(library, tiny_base, tasks[:1], replace(CONFIG, steps=40, check_every=2, patience=2), seed=0)
    record = library.provenance("keep_animals")
    assert (record["validation_loss"], record["steps"], len(seen)) == (1.0, 8, 4)
    for kept, best in zip(library.load(["keep_animals"]).tensors(), seen[1].tensors(), strict=True):
        assert torch.equal(kept, best)


@pytest.mark.parametrize(
    "change", [{"tasks_at_once": 1}, {"tasks_at_once": 3}, {"pass_cost": 1}, {"gradient_checkpointing": True},
               {"snapshot_every": 7, "snapshot_minutes": 1.0, "memory_gb": 0.5}]
)  # fmt: skip
def test_what_shares_the_machine_may_change_between_starts(
    tmp_path: Path,
    spec: LoraSpec,
    tiny_base: BaseModel,
    tasks: list[Task],
    monkeypatch: pytest.MonkeyPatch,
    change: Any,
) -> None:
    """A run that died, started again with other memory knobs, goes on from its snapshot to the same adapters."""
    config = replace(CONFIG, snapshot_every=2)
    whole, broken = (AdapterLibrary(tmp_path / n, spec, "tiny", tiny_base.fingerprint) for n in ("whole", "broken"))
    train_library(whole, tiny_base, tasks, config, seed=0)
    real, steps = SlotTrainer.step, []

    def dies_on_fifth(self: SlotTrainer) -> list[TrainedAdapter]:
        if len(steps) == 5:
            raise torch.OutOfMemoryError
        steps.append(self.running)
        return real(self)

    monkeypatch.setattr(SlotTrainer, "step", dies_on_fifth)
    with pytest.raises(torch.OutOfMemoryError):
        train_library(broken, tiny_base, tasks, config, seed=0)
    monkeypatch.undo()
    taken = []
    monkeypatch.setattr(SlotTrainer, "step", lambda self: taken.extend(self.running) or real(self))
    train_library(broken, tiny_base, tasks, replace(config, **change), seed=0)
    assert len(taken) == 3 * CONFIG.steps - 2 * 4  # four steps of two adapters were in the snapshot
    names = [t.name for t in tasks]
    for one, two in zip(whole.load(names).tensors(), broken.load(names).tensors(), strict=True):
        torch.testing.assert_close(one, two, atol=2e-5, rtol=1e-3)
    assert not (broken.folder / ".in_progress").exists()


def test_the_multi_task_lora_goes_on_from_a_snapshot(
    tmp_path: Path, spec: LoraSpec, tiny_base: BaseModel, tasks: list[Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(CONFIG, snapshot_every=2)
    whole, broken = (AdapterLibrary(tmp_path / n, spec, "tiny", tiny_base.fingerprint) for n in ("whole", "broken"))
    train_multi_task(whole, tiny_base, tasks, config, 0, "multi_task")
    real, steps = SlotTrainer.step, []

    def dies_on_fourth(self: SlotTrainer) -> list[TrainedAdapter]:
        steps.append(0)
        if len(steps) == 4:
            raise KeyboardInterrupt
        return real(self)

    monkeypatch.setattr(SlotTrainer, "step", dies_on_fourth)
    with pytest.raises(KeyboardInterrupt):
        train_multi_task(broken, tiny_base, tasks, config, 0, "multi_task")
    train_multi_task(broken, tiny_base, tasks, config, 0, "multi_task")
    assert len(steps) == 4 + CONFIG.steps - 2
    for one, two in zip(whole.load(["multi_task"]).tensors(), broken.load(["multi_task"]).tensors(), strict=True):
        assert torch.equal(one, two)


def test_snapshots_are_due_by_time_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, saved = [0.0], []
    monkeypatch.setattr("t2l.library.snapshots.time.monotonic", lambda: now[0])
    snapshots = Snapshots(tmp_path, {}, every_steps=3, every_minutes=10)
    monkeypatch.setattr(
        "t2l.library.snapshots.take_snapshot", lambda trainer: (saved.append(now[0]) or {"slots": [], "queue": []}, {})
    )

    class Trainer:
        done = False

    for now[0] in (1.0, 2.0, 3.0, 4.0, 603.0, 604.0, 605.0, 606.0):
        snapshots.after_step(Trainer())  # type: ignore[arg-type]
    assert saved == [3.0, 603.0, 606.0]


# With the output in a file.


def test_training_tells_how_far_it_is(
    library: AdapterLibrary,
    tiny_base: BaseModel,
    tasks: list[Task],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Library, multi-task LoRA and methods alike; lines come every two hundredths of a second here."""
    monkeypatch.setattr(logging.getLogger("t2l.run.progress"), "disabled", True)  # as if logging were not set up
    monkeypatch.setattr("t2l.run.progress.Progress.__init__.__defaults__", (*Progress.__init__.__defaults__[:-1], 0.02))
    train_library(library, tiny_base, tasks, CONFIG, seed=0)
    train_multi_task(library, tiny_base, tasks, CONFIG, 0, "multi_task")
    methods = MethodLibrary(tmp_path / "lora", build_method(LoraMethodConfig()), tiny_base.fingerprint)
    methods.method.config.optimization.steps = 12
    train_method_library(methods, tiny_base, tasks, 0)
    lines = capsys.readouterr().out.splitlines()
    for says in (
        r"training adapters: \d of 3 adapters, running \d, loss [\d.]+.* left$",
        r"training adapters: 3 of 3 adapters, .*adapter.*took",
        r"training the multi-task LoRA: \d of 6 steps, loss [\d.]+.* left$",
        r"training the multi-task LoRA: 6 of 6 steps, .*took",
        r"training lora: \d+ of 36 steps, loss [\d.]+.*(tasks \d, )?.* left$",
        r"training lora: 36 of 36 steps, .*tasks 3.*took",
    ):
        assert any(re.match(rf"\[\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d\] {says}", line) for line in lines), (says, lines)
