from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from conftest import CONFIGS, tiny_model

from t2l.base_model import (
    BaseModel,
    BaseModelConfig,
    LoraConfig,
    checkpointing,
    label_logits,
    load_base_model,
    lora_spec,
)
from t2l.library.slots import SlotAdamW, SlotConfig, SlotTrainer, TrainedAdapter, TrainingJob
from t2l.library.snapshots import restore, take_snapshot
from t2l.library.training import LibraryTrainingConfig, bytes_per_task, tasks_at_once, train_adapters
from t2l.lora import LoraSpec
from t2l.objectives.losses import label_loss, response_loss
from t2l.tasks import IGNORE_INDEX, TokenizedExample, tokenize_examples
from t2l.tasks.batches import RowCycle, collate
from t2l.tasks.suites import WordListConfig, build
from t2l.training.schedule import linear_schedule

CONFIG = SlotConfig(steps=8, rows_per_task=3, lr=0.01, check_every=2)


@pytest.fixture(scope="module")
def jobs(mini_base: BaseModel) -> list[TrainingJob]:
    suite = build(WordListConfig(train_examples=16, validation_examples=4, test_examples=4))
    made = []
    for task in suite.select(["keep_animals", "count_tools", "reverse", "any_jobs", "sort"]):
        train, check = (tokenize_examples(mini_base.tokenizer, task.examples[s]) for s in ("train", "validation"))
        made.append(TrainingJob(task.name, train, check))
    return made


@pytest.fixture
def spec(mini_base: BaseModel) -> LoraSpec:
    return lora_spec(mini_base.model, LoraConfig(rank=4))


@pytest.fixture(scope="module")
def exact_base() -> BaseModel:
    """The mini base in float64, where rounding hides nothing."""
    base = load_base_model(BaseModelConfig(device="cpu"))
    base.model.double()
    return base


def finish(trainer: SlotTrainer, dtype: torch.dtype = torch.float32) -> dict[str, TrainedAdapter]:
    trainer.adopt(trainer.weights.detach().to(dtype))
    finished: dict[str, TrainedAdapter] = {}
    while not trainer.done:
        finished.update({a.name: a for a in trainer.step()})
    return finished


def assert_same(one: TrainedAdapter, two: TrainedAdapter, atol: float = 1e-4) -> None:
    assert one.steps == two.steps
    assert one.final_loss == pytest.approx(two.final_loss, rel=1e-3, abs=1e-4)
    for ours, theirs in zip(one.weights.tensors(), two.weights.tensors(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=atol, rtol=0)


@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        replace(CONFIG, cycles=2, stop_loss=1.0, cycle_lr=2.0, cycle_growth=1.5),
        replace(CONFIG, patience=1),
        replace(CONFIG, bucket_by_length=True, pass_cost=1),
        replace(CONFIG, gradient_checkpointing=True),
        replace(CONFIG, shared_a=True, train_a=False, weight_decay=0.1, clip=0.05),
    ],
    ids=["plain", "cycles", "patience", "bucketed", "checkpointing", "frozen_a"],
)
def test_refilled_slots_train_as_if_alone(
    exact_base: BaseModel, spec: LoraSpec, jobs: list[TrainingJob], config: SlotConfig
) -> None:
    """Five jobs through two slots, refilled as they become free: each adapter is the one it becomes alone."""
    together = finish(SlotTrainer(exact_base, spec, jobs, 2, config, seed=0), torch.float64)
    assert set(together) == {j.name for j in jobs}
    for job in jobs:
        alone = finish(SlotTrainer(exact_base, spec, [job], 1, config, seed=0), torch.float64)
        assert_same(together[job.name], alone[job.name], atol=1e-6)


def test_a_snapshot_goes_on_bit_for_bit(mini_base: BaseModel, spec: LoraSpec, jobs: list[TrainingJob]) -> None:
    """A trainer restored from a snapshot, in the middle of cycles and refills, ends as the one it was taken of."""
    config = replace(CONFIG, cycles=3, stop_loss=0.5, patience=3, check_every=3)
    one = SlotTrainer(mini_base, spec, jobs, 2, config, seed=0)
    for _ in range(13):
        one.step()
    record, tensors = take_snapshot(one)
    tensors = {k: t.clone() for k, t in tensors.items()}
    two = SlotTrainer(mini_base, spec, jobs, 2, config, seed=0)
    restore(two, json.loads(json.dumps(record)), tensors, jobs)
    ends = []
    for trainer in (one, two):
        finished = {}
        while not trainer.done:
            finished.update({a.name: a for a in trainer.step()})
        ends.append(finished)
    assert set(ends[0]) == set(ends[1])
    for name, adapter in ends[0].items():
        assert (adapter.steps, adapter.final_loss) == (ends[1][name].steps, ends[1][name].final_loss)
        for a, b in zip(adapter.weights.tensors(), ends[1][name].weights.tensors(), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize(("slots", "change"), [(1, {"pass_cost": 1}), (4, {}), (2, {"gradient_checkpointing": True})])
def test_a_snapshot_goes_on_in_other_slots(
    exact_base: BaseModel, spec: LoraSpec, jobs: list[TrainingJob], slots: int, change: dict[str, object]
) -> None:
    """After an out-of-memory error, say: fewer slots take up three that had begun, and nothing that was done is lost."""
    config, jobs = replace(CONFIG, steps=4, cycles=2, stop_loss=1.0, patience=3), jobs[:4]
    one = SlotTrainer(exact_base, spec, jobs, 3, config, seed=0)
    one.adopt(one.weights.detach().to(torch.float64))
    early = {a.name: a for _ in range(3) for a in one.step()}
    record, tensors = take_snapshot(one)
    tensors = {k: t.clone() for k, t in tensors.items()}
    begun = {s["name"]: s["step"] for s in record["slots"]}
    two = SlotTrainer(exact_base, spec, jobs, slots, replace(config, **change), seed=0)  # type: ignore[arg-type]
    restore(two, json.loads(json.dumps(record)), tensors, jobs)
    assert (len(two.slots), len(two.waiting)) == (slots, max(0, 3 - slots))
    assert sum(begun.values()) == 9
    taken = 0
    while not two.done:
        if taken == 1:  # once more, while jobs are waiting for a slot
            record, tensors = take_snapshot(two)
            restore(two, json.loads(json.dumps(record)), {k: t.clone() for k, t in tensors.items()}, jobs)
        early.update({a.name: a for a in two.step()})
        taken += 1
    whole = finish(SlotTrainer(exact_base, spec, jobs, 3, config, seed=0), torch.float64)
    assert early.keys() == whole.keys()
    for name, adapter in early.items():
        assert_same(adapter, whole[name], atol=1e-6)
    if slots == 1:
        assert taken == sum(a.steps for a in whole.values()) - 9


def test_sixteen_at_once_equal_one_at_a_time(mini_base: BaseModel, spec: LoraSpec) -> None:
    suite = build(WordListConfig(train_examples=16, validation_examples=1, test_examples=1))
    tasks = list(suite.tasks.values())[::19][:16]
    jobs = [TrainingJob(t.name, tokenize_examples(mini_base.tokenizer, t.examples["train"])) for t in tasks]
    config = replace(CONFIG, steps=20, shared_a=True, clip=0.1, lr=0.005)
    together = finish(SlotTrainer(mini_base, spec, jobs, 16, config, seed=0))
    for job in jobs:
        assert_same(together[job.name], finish(SlotTrainer(mini_base, spec, [job], 1, config, seed=0))[job.name])


def test_slots_stay_full_while_there_are_jobs(mini_base: BaseModel, spec: LoraSpec, jobs: list[TrainingJob]) -> None:
    trainer = SlotTrainer(mini_base, spec, jobs, 2, replace(CONFIG, cycles=2, stop_loss=1e-9), seed=0)
    started, finished = set(trainer.running), 0
    while not trainer.done:
        finished += len(trainer.step())
        started |= set(trainer.running)
        assert len(trainer.running) == min(2, len(jobs) - finished)
    assert started == {j.name for j in jobs}


def test_optimiser_is_torchs_adamw() -> None:
    """Each slot, stepped to its own count and rate, is what torch.optim.AdamW makes of it alone."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(3, 4, 5, generator=generator)
    gradients = torch.randn(6, 3, 4, 5, generator=generator)
    ours = start.clone().requires_grad_()
    optimizer = SlotAdamW([ours], weight_decay=0.1, beta1=0.8)
    lr = torch.tensor([0.1, 0.01, 0.3])
    for step in range(6):
        ours.grad = gradients[step].clone()
        optimizer.step(lr, torch.full((3,), step + 1.0))
    for slot in range(3):
        alone = start[slot].clone().requires_grad_()
        reference = torch.optim.AdamW([alone], lr=float(lr[slot]), weight_decay=0.1, betas=(0.8, 0.999), eps=1e-5)
        for step in range(6):
            alone.grad = gradients[step, slot].clone()
            reference.step()
        torch.testing.assert_close(ours[slot], alone, atol=1e-5, rtol=1e-4)


def test_clipping_is_per_slot() -> None:
    parameter = torch.zeros(2, 3, requires_grad=True)
    parameter.grad = torch.tensor([[3.0, 4.0, 0.0], [0.3, 0.4, 0.0]])
    norms = SlotAdamW([parameter]).clip(1.0)
    torch.testing.assert_close(norms, torch.tensor([5.0, 0.5]))
    torch.testing.assert_close(parameter.grad, torch.tensor([[0.6, 0.8, 0.0], [0.3, 0.4, 0.0]]), atol=1e-5, rtol=0)


def test_schedule_rises_and_falls() -> None:
    factors = [linear_schedule(s, 10, 0.2) for s in range(10)]
    assert factors[:2] == [0.5, 1.0]
    assert factors[1:] == sorted(factors[1:], reverse=True)
    assert linear_schedule(10, 10, 0.2) == 0


def test_a_hard_task_gets_another_cycle_and_an_easy_one_does_not(
    mini_base: BaseModel, spec: LoraSpec, jobs: list[TrainingJob]
) -> None:
    hard = finish(SlotTrainer(mini_base, spec, jobs[:1], 1, replace(CONFIG, cycles=3, stop_loss=1e-6), seed=0))
    easy = finish(SlotTrainer(mini_base, spec, jobs[:1], 1, replace(CONFIG, cycles=3, stop_loss=100.0), seed=0))
    assert hard["keep_animals"].steps == 24
    assert easy["keep_animals"].steps == 8


def test_patience_ends_training_with_the_best_weights(
    mini_base: BaseModel, spec: LoraSpec, jobs: list[TrainingJob]
) -> None:
    """With a rate far too high nothing improves after the first looks: training stops long before its end."""
    config = replace(CONFIG, steps=200, lr=0.5, patience=2, warmup_fraction=0.0)
    adapter = finish(SlotTrainer(mini_base, spec, jobs[:1], 1, config, seed=0))["keep_animals"]
    assert adapter.steps < 200
    batch = collate(jobs[0].validation_rows, mini_base.tokenizer.pad_token_id, mini_base.device)
    from t2l.lora import inject

    with torch.no_grad(), inject(mini_base.model, spec, adapter.weights):
        logits = mini_base.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    assert adapter.validation_loss == pytest.approx(response_loss(logits, batch.labels).mean().item(), rel=1e-4)


def test_one_divergence_leaves_the_neighbours_alone(
    mini_base: BaseModel, spec: LoraSpec, jobs: list[TrainingJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    healthy = finish(SlotTrainer(mini_base, spec, jobs[1:3], 2, CONFIG, seed=0))
    trainer = SlotTrainer(mini_base, spec, jobs[:3], 3, CONFIG, seed=0)
    with torch.no_grad():
        trainer.weights.tensors()[0][0] = float("nan")
    mixed = finish(trainer)
    assert not math.isfinite(mixed["keep_animals"].final_loss)
    assert mixed["keep_animals"].steps < CONFIG.steps
    for name, adapter in healthy.items():
        assert_same(mixed[name], adapter)


def test_bucketed_rows_are_of_like_length_and_each_comes_once_an_epoch() -> None:
    lengths = [5, 9, 5, 30, 9, 31, 6, 10]
    cycle = RowCycle(8, seed=0, name="x", count=2, lengths=lengths)
    epoch = [cycle.take(step) for step in range(4)]
    assert sorted(i for step in epoch for i in step) == list(range(8))
    assert max(abs(lengths[a] - lengths[b]) for a, b in epoch) <= 4
    assert [cycle.take(step) for step in range(4)] == epoch


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_label_logits_are_the_models_own(name: str) -> None:
    """Any architecture's logits at labelled positions, whatever it does to them after the output embedding."""
    model = tiny_model(name)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 60, (3, 9), generator=generator)
    labels = ids.clone()
    labels[:, :4] = IGNORE_INDEX
    labels[1] = IGNORE_INDEX
    mask = torch.ones_like(ids)
    found = label_logits(model, ids, mask, labels)
    whole = model(input_ids=ids, attention_mask=mask).logits
    torch.testing.assert_close(found.logits, torch.cat([whole[0, 3:-1], whole[2, 3:-1]]))
    torch.testing.assert_close(
        label_loss(found.logits, found.targets, found.rows, 3, 0.1), response_loss(whole, labels, 0.1)
    )
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_checkpointing_leaves_flags_as_they_were() -> None:
    model = tiny_model("llama").eval()
    with checkpointing(model):
        assert any(m.training for m in model.modules())
        assert not any(m.training for m in model.modules() if isinstance(m, torch.nn.Linear))
    assert not any(m.training for m in model.modules())
    assert not model.is_gradient_checkpointing


def test_memory_budget_decides_tasks_at_once(mini_base: BaseModel, spec: LoraSpec, jobs: list[TrainingJob]) -> None:
    config = LibraryTrainingConfig(tasks_at_once=None, memory_gb=0.01, rows_per_task=3)
    each = bytes_per_task(mini_base, spec, jobs, config)
    assert each > 16 * spec.parameters_per_adapter
    assert bytes_per_task(mini_base, spec, jobs, replace(config, rows_per_task=6)) < 2 * each
    assert bytes_per_task(mini_base, spec, jobs, replace(config, gradient_checkpointing=True)) < each
    many = jobs * 100
    assert tasks_at_once(mini_base, spec, many, config) == max(1, int(0.01 * 2**30 / each))
    assert tasks_at_once(mini_base, spec, jobs, replace(config, memory_gb=100.0)) == len(jobs)
    assert tasks_at_once(mini_base, spec, jobs, replace(config, tasks_at_once=3)) == 3


@pytest.mark.parametrize("change", [{}, {"autocast": True}, {"gradient_checkpointing": True}], ids=str)
def test_passes_run_as_told(
    mini_base: BaseModel, spec: LoraSpec, jobs: list[TrainingJob], change: dict[str, bool]
) -> None:
    """In bfloat16 under autocast, recomputing activations if asked; either way float32 adapters are trained."""
    seen = set()

    def look(module: torch.nn.Module, args: object, output: torch.Tensor) -> None:
        if torch.is_grad_enabled():
            seen.add((output.dtype, mini_base.model.is_gradient_checkpointing))

    config = LibraryTrainingConfig(steps=12, rows_per_task=4, tasks_at_once=2, **change)  # type: ignore[arg-type]
    handle = mini_base.model.get_submodule(spec.groups[0].paths[0]).register_forward_hook(look)
    first = train_adapters(mini_base, spec, jobs[:2], replace(config, steps=1), 0)
    last = train_adapters(mini_base, spec, jobs[:2], config, 0)
    handle.remove()
    dtype = torch.bfloat16 if config.autocast else torch.float32
    assert seen == {(dtype, config.gradient_checkpointing)}
    assert all(b.final_loss < a.final_loss for a, b in zip(first, last, strict=True))
    assert all(t.dtype == torch.float32 for a in last for t in a.weights.tensors())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "training.steps must be at least 1"),
        ({"stop_loss": 0.0}, "training.stop_loss must be positive"),
        ({"patience": 0}, "training.patience must be at least 1"),
        ({"beta1": 1.0}, "training.beta1 must be in"),
        ({"warmup_fraction": 1.0}, "training.warmup_fraction must be in"),
        ({"memory_gb": 0.0}, "training.memory_gb must be positive"),
        ({"tasks_at_once": 0}, "training.tasks_at_once must be at least 1"),
    ],
)
def test_bad_settings_are_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LibraryTrainingConfig(**changes)  # type: ignore[arg-type]


def test_empty_rows_are_refused(mini_base: BaseModel, spec: LoraSpec) -> None:
    rows: Sequence[TokenizedExample] = []
    with pytest.raises(ValueError, match="'empty' has no training examples"):
        SlotTrainer(mini_base, spec, [TrainingJob("empty", rows)], 1, CONFIG, seed=0)
