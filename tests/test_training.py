from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from t2l import hypernetwork as hypernetworks
from t2l.base_model import BaseModel, LoraConfig, hash_parameters, lora_spec
from t2l.evaluation.validation import Validator, parts_of
from t2l.files import FileProblemError, read_tensors
from t2l.hypernetwork import Hypernetwork, ResidualConfig, TextToLoraConfig
from t2l.hypernetwork.checkpoint import (
    CheckpointRecord,
    check_fits,
    find_checkpoint,
    latest_checkpoint,
    load_hypernetwork,
    load_record,
)
from t2l.lora.injection import add_lora
from t2l.objectives import Objective, ReconstructionConfig, ReconstructionObjective, SftConfig, SftObjective, Steps
from t2l.run.record import Run
from t2l.tasks import TaskSuite, tokenize_examples
from t2l.tasks.batches import draw_noise
from t2l.tasks.suites import WordListConfig, build
from t2l.training import Validation, train
from t2l.training.loop import TrainerConfig

TRAINER = TrainerConfig(steps=12, tasks_per_step=2, rows_per_task=2, checkpoint_every=4, log_every=1, lr=0.01)
ARCHITECTURE = TextToLoraConfig("l", latent=16, dropout=0.1)
WIDTH = 24


@cache
def small_suite() -> TaskSuite:
    """The word lists with few rows and descriptions, made once."""
    return build(WordListConfig(train_examples=16, validation_examples=3, test_examples=4, train_descriptions=50))


class KilledError(Exception):
    """Stands for a process that dies."""


class Setup:
    """A tiny SFT or reconstruction run that can be killed at a step and started again."""

    def __init__(self, base: BaseModel, folder: Path, kind: str = "sft", trainer: TrainerConfig = TRAINER) -> None:
        self.base, self.folder, self.trainer = base, folder, trainer
        self.spec = lora_spec(base.model, LoraConfig(rank=4))
        self.suite = small_suite()
        self.tasks = self.suite.select(["keep_animals", "count_tools", "reverse"])
        generator = torch.Generator().manual_seed(0)
        self.embeddings = [torch.randn(4, WIDTH, generator=generator) for _ in self.tasks]
        self.record = CheckpointRecord(
            step=0, objective=kind, hypernetwork=ARCHITECTURE, spec=self.spec, d_embedding=WIDTH,
            encoder_identity="encoder", base_fingerprint=base.fingerprint, base_name="tiny", trained_on={},
        )  # fmt: skip

    def steps(self) -> Steps:
        if self.record.objective == "sft":
            rows = [tokenize_examples(self.base.tokenizer, t.examples["train"]) for t in self.tasks]
            objective: Objective = SftObjective(SftConfig(), self.trainer, self.base, rows)
            return Steps(objective, self.embeddings, self.trainer, 0)
        from conftest import random_adapters

        library = random_adapters(self.spec, len(self.tasks))
        return Steps(ReconstructionObjective(ReconstructionConfig(), library), self.embeddings, self.trainer, 0)

    def run(self, die_at: int | None = None, config: object = None) -> Hypernetwork:
        model = hypernetworks.build(ARCHITECTURE, self.spec, WIDTH, seed=0)
        steps = self.steps()
        steps.objective.prepare(model)
        if die_at is not None:
            backward = steps.backward

            def dying(hypernetwork: Hypernetwork, step: int) -> dict[str, float]:
                if step == die_at:
                    raise KilledError
                return backward(hypernetwork, step)

            steps.backward = dying  # type: ignore[method-assign]
        run = Run(self.folder, "train", {"config": config})
        train(self.trainer, steps, model, run, self.record, seed=0, validation=self.validation())
        return model

    def validation(self) -> Validation | None:
        """Rows of the training tasks under embeddings that were not trained on, where the trainer asks for validation."""
        if self.trainer.validate_every is None:
            return None
        parts = parts_of(self.suite, self.tasks, 48, self.trainer.validation_tasks, self.trainer.validation_rows)
        generator = torch.Generator().manual_seed(1)
        embeddings = [torch.randn(len(p.rows), WIDTH, generator=generator) for p in parts]
        validator = Validator(parts, self.base, embeddings, 2, 64, scores=self.trainer.validate_score)
        return Validation(validator, validator.on)

    def metrics(self) -> list[dict[str, float]]:
        return [json.loads(line) for line in (self.folder / "metrics.jsonl").read_text().splitlines()]


def resumptions(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was said of runs that went on from a checkpoint."""
    return [message for message in caplog.messages if message.startswith("resuming ")]


@pytest.mark.parametrize("kind", ["sft", "reconstruction"])
@pytest.mark.parametrize("die_at", [2, 7])
def test_resumed_equals_uninterrupted(
    tiny_base: BaseModel, tmp_path: Path, kind: str, die_at: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Bit for bit: weights and every line of metrics, with dropout on, whether or not a checkpoint was written."""
    caplog.set_level("INFO")
    whole, broken = Setup(tiny_base, tmp_path / "whole", kind), Setup(tiny_base, tmp_path / "broken", kind)
    expected = whole.run()
    with pytest.raises(KilledError):
        broken.run(die_at)
    torch.manual_seed(999)
    resumed = broken.run()
    # A run that began anew would end in the same place.
    assert resumptions(caplog) == ([f"resuming {broken.folder} at step 4"] if die_at == 7 else [])
    for one, two in zip(expected.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(one, two)
    assert whole.metrics() == broken.metrics()
    assert [m["step"] for m in whole.metrics()] == list(range(1, 13))


def test_eight_bit_optimiser_resumes_exactly(
    tiny_base: BaseModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    trainer = replace(TRAINER, optimizer="adamw_8bit")
    whole = Setup(tiny_base, tmp_path / "whole", trainer=trainer).run()
    with pytest.raises(KilledError):
        Setup(tiny_base, tmp_path / "killed", trainer=trainer).run(die_at=9)
    trainer_file = latest_checkpoint(tmp_path / "killed") / "trainer.safetensors"  # type: ignore[operator]
    moments = [t for k, t in read_tensors(trainer_file).items() if k.endswith(".state1")]
    assert any(t.dtype == torch.uint8 for t in moments)
    resumed = Setup(tiny_base, tmp_path / "killed", trainer=trainer).run()
    assert resumptions(caplog) == [f"resuming {tmp_path}/killed at step 8"]
    for (name, ours), theirs in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name


@pytest.mark.parametrize("change", [{"rows_per_pass": 2}, {"rows_per_pass": 5}, {"gradient_checkpointing": True}])
def test_what_saves_memory_changes_nothing_else(
    tiny_base: BaseModel, tmp_path: Path, change: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And it does what it says: passes have so many rows, and recompute their activations."""
    passes: list[tuple[int, bool]] = []
    forward = tiny_base.model.forward

    def watched(*args: Any, **options: Any) -> Any:
        passes.append((len(options["input_ids"]), tiny_base.model.is_gradient_checkpointing))
        return forward(*args, **options)

    monkeypatch.setattr(tiny_base.model, "forward", watched)

    def gradients(trainer: TrainerConfig) -> list[torch.Tensor]:
        setup = Setup(tiny_base, tmp_path, trainer=trainer)
        model = hypernetworks.build(replace(ARCHITECTURE, dropout=0.0), setup.spec, WIDTH, seed=0)
        setup.steps().backward(model, 0)
        return [p.grad for p in model.parameters() if p.grad is not None]

    plain = replace(TRAINER, tasks_per_step=3)
    expected = gradients(plain)
    assert max(passes) == (6, False)
    passes.clear()
    for ours, theirs in zip(expected, gradients(replace(plain, **change)), strict=True):  # type: ignore[arg-type]
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    assert max(passes) == {2: (2, False), 5: (4, False), None: (6, True)}[change.get("rows_per_pass")]  # type: ignore[index]
    assert sum(rows for rows, _ in passes) == 6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_adapters_are_applied_in_the_precision_asked_for(
    tiny_base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    """What trains is float32 either way."""
    applied = set()

    def watched(output: Tensor, x: Tensor, A: Tensor, B: Tensor, scaling: float) -> Tensor:
        applied.update((A.dtype, B.dtype))
        return add_lora(output, x, A, B, scaling)

    monkeypatch.setattr("t2l.lora.injection.add_lora", watched)
    trainer = replace(TRAINER, adapter_dtype=str(dtype).removeprefix("torch."))
    before = hypernetworks.build(ARCHITECTURE, Setup(tiny_base, tmp_path).spec, WIDTH, seed=0)
    model = Setup(tiny_base, tmp_path, trainer=trainer).run()
    assert applied == {dtype}
    assert all(p.dtype is torch.float32 for p in model.parameters())
    pairs = list(zip(model.parameters(), before.parameters(), strict=True))
    assert any(not torch.equal(ours, theirs) for ours, theirs in pairs)
    assert all(p.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"optimizer": "sgd"}, "trainer.optimizer must be adamw or adamw_8bit, not 'sgd'"),
        ({"adapter_dtype": "fp8"}, "must be float32, bfloat16 or float16"),
        ({"rows_per_pass": 1, "rows_per_task": 2}, "the rows of a task share a pass"),
    ],
)
def test_bad_trainer_configs(change: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        TrainerConfig(**change)  # type: ignore[arg-type]


def test_overfits_three_tasks_and_leaves_the_base_alone(mini_base: BaseModel, tmp_path: Path) -> None:
    trainer = replace(TRAINER, steps=100, tasks_per_step=3, rows_per_task=4, checkpoint_every=100)
    before = hash_parameters(mini_base.model)
    setup = Setup(mini_base, tmp_path / "run", trainer=trainer)
    setup.run()
    losses = [m["train/loss"] for m in setup.metrics()]
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])
    assert hash_parameters(mini_base.model) == before
    assert all(p.grad is None for p in mini_base.model.parameters())


def test_reconstruction_learns_its_targets(tiny_base: BaseModel, tmp_path: Path) -> None:
    setup = Setup(tiny_base, tmp_path / "run", "reconstruction", replace(TRAINER, steps=200, checkpoint_every=200))
    setup.run()
    losses = [m["train/loss"] for m in setup.metrics()]
    assert sum(losses[-10:]) < 0.6 * sum(losses[:10])


def test_description_noise_is_relative_to_the_description(tiny_base: BaseModel, tmp_path: Path) -> None:
    """Noise has, on average, `description_noise` times the root mean square of the description it is added to."""
    trainer = replace(TRAINER, description_noise=0.5)
    bare, noisy = (Setup(tiny_base, tmp_path / str(i), "reconstruction", t) for i, t in enumerate((TRAINER, trainer)))
    seen: list[torch.Tensor] = []

    def spying(model: Hypernetwork) -> Hypernetwork:
        model.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        return model

    for setup in (bare, noisy):
        setup.embeddings = [100 * e for e in setup.embeddings]  # their length does not matter
        setup.steps().backward(spying(hypernetworks.build(ARCHITECTURE, setup.spec, WIDTH, seed=0)), 0)
    clean, disturbed = seen
    assert clean.square().mean(dim=1).sqrt().tolist() == pytest.approx([1.0] * len(clean), abs=1e-4)
    drawn = draw_noise(0, 0, len(clean), WIDTH)
    torch.testing.assert_close(disturbed, clean + 0.5 * drawn)


@pytest.mark.parametrize(
    "config", [ReconstructionConfig("reconstruction", d, s) for d in ("l1", "frobenius") for s in (True, False)]
)
def test_reconstruction_loss_is_zero_on_its_own_target(
    tiny_base: BaseModel, tmp_path: Path, config: ReconstructionConfig
) -> None:
    setup = Setup(tiny_base, tmp_path / "run", "reconstruction")
    model = hypernetworks.build(ResidualConfig(width=16, description_width=8), setup.spec, WIDTH, seed=0)
    for head in model.heads:  # type: ignore[union-attr]
        torch.nn.init.normal_(head.weight, std=0.5)
    with torch.no_grad():
        same = [e[:1] for e in setup.embeddings]
        library = model.generate(torch.cat(same))
    steps = Steps(ReconstructionObjective(config, library), same, TRAINER, 0)
    assert steps.backward(model, 0)["train/loss"] == pytest.approx(0, abs=1e-5)


def test_divergence_stops_with_one_clear_line(tiny_base: BaseModel, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"training diverged.*lower trainer\.lr"):
        Setup(tiny_base, tmp_path / "run", trainer=replace(TRAINER, lr=1e30)).run()


def test_a_folder_of_another_configuration_is_refused(tiny_base: BaseModel, tmp_path: Path) -> None:
    Setup(tiny_base, tmp_path / "run").run(config={"lr": 1})
    with pytest.raises(ValueError, match="holds a run with another configuration"):
        Setup(tiny_base, tmp_path / "run").run(config={"lr": 2})


def test_checkpoint_round_trip_and_strictness(tiny_base: BaseModel, tmp_path: Path) -> None:
    setup = Setup(tiny_base, tmp_path / "run")
    trained = setup.run()
    folder = find_checkpoint(tmp_path / "run")
    assert folder == latest_checkpoint(tmp_path / "run") == find_checkpoint(folder)
    assert [p.name for p in folder.parent.iterdir()] == ["step-000012"]
    record = load_record(folder)
    assert record.selection is None
    assert record == replace(setup.record, step=12)
    x = torch.randn(2, WIDTH)
    for one, two in zip(trained(x).tensors(), load_hypernetwork(folder, record)(x).tensors(), strict=True):
        assert torch.equal(one, two)
    with pytest.raises(FileProblemError, match="does not fit its record"):
        load_hypernetwork(folder, replace(record, hypernetwork=TextToLoraConfig("l", latent=32)))
    weights = folder / "hypernetwork.safetensors"
    weights.write_bytes(weights.read_bytes()[:-50])
    with pytest.raises(FileProblemError, match="is damaged"):
        load_hypernetwork(folder, record)


def test_checkpoints_refuse_another_base_or_encoder(tiny_base: BaseModel, tmp_path: Path) -> None:
    record = Setup(tiny_base, tmp_path).record
    check_fits(record, tiny_base.fingerprint, "encoder", "here")
    with pytest.raises(ValueError, match="here was trained for another base model"):
        check_fits(record, "other", "encoder", "here")
    with pytest.raises(ValueError, match="here was trained with another sentence encoder"):
        check_fits(record, tiny_base.fingerprint, "other", "here")
