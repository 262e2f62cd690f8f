"""The judge: what diverged is left out, what learnt nothing is marked, what is sound is left in peace."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import random_adapters

from t2l.base_model import (
    BaseModel,
    BaseModelConfig,
    LoraConfig,
    Quantization,
    hash_parameters,
    load_base_model,
    lora_spec,
)
from t2l.cli import main
from t2l.files import read_json, write_json
from t2l.library import AdapterLibrary
from t2l.library import training as library_training
from t2l.library.slots import SlotTrainer, TrainedAdapter
from t2l.library.training import LibraryTrainingConfig, train_library, train_multi_task
from t2l.lora import LoraWeights
from t2l.lora.weights import fresh_lora
from t2l.methods import OptimizationConfig, build
from t2l.methods import training as method_training
from t2l.methods.folder import MethodLibrary
from t2l.methods.low_rank import LoraMethodConfig
from t2l.methods.training import train_method_library
from t2l.objectives.soundness import (
    LARGEST_SIZE,
    Judgement,
    Losses,
    Trained,
    Verdict,
    adapter_size,
    judge_adapter,
    judge_history,
    judge_losses,
    judge_run,
    judge_size,
    judge_values,
    measure_losses,
    row_losses,
    target_norm,
    worst,
)
from t2l.tasks import Task, tokenize_examples
from t2l.tasks.suites import WordListConfig
from t2l.tasks.suites import build as build_suite
from t2l.verbs.library import examine_library, training_outcome

CONFIG = LibraryTrainingConfig(steps=6, rows_per_task=3, tasks_at_once=2, lr=0.01)
NAN, INF = math.nan, math.inf


@pytest.fixture(scope="module")
def tasks() -> list[Task]:
    suite = build_suite(WordListConfig(train_examples=16, validation_examples=2, test_examples=4))
    return suite.select(["keep_animals", "count_tools", "reverse"])


@pytest.fixture
def library(tmp_path: Path, tiny_base: BaseModel) -> AdapterLibrary:
    spec = lora_spec(tiny_base.model, LoraConfig(rank=4))
    return AdapterLibrary(tmp_path / "library", spec, "tiny", tiny_base.fingerprint)


@pytest.mark.parametrize(
    ("losses", "verdict"),
    [
        ((2.0, 0.5), "sound"),
        ((2.0, 0.5, 2.0, 0.6), "sound"),
        ((None, 0.5), "sound"),
        ((2.0, 1.99), "sound"),
        ((0.01, 0.02), "sound"),  # the base knew the task
        ((2.0, 2.0), "learnt nothing"),
        ((2.0, 1.9999), "learnt nothing"),
        ((2.0, 3.0), "learnt nothing"),
        ((2.0, 0.5, 2.0, 2.1), "learnt nothing"),  # nothing that holds on other rows
        ((5.99, 5.99), "learnt nothing"),
        ((2.0, 5.5), "learnt nothing"),
        ((2.0, 31.0), "diverged"),
        ((2.0, NAN), "diverged"),
        ((2.0, INF), "diverged"),
        ((None, NAN), "diverged"),
        ((NAN, 1.0), "diverged"),
        ((2.0, 0.5, 2.0, NAN), "diverged"),
    ],
)
def test_verdicts_by_losses(losses: tuple[float | None, ...], verdict: str) -> None:
    judgement = judge_losses(*losses)
    assert judgement.verdict == verdict
    assert bool(judgement.reason) == (verdict != "sound")
    assert (judgement.is_sound, judgement.is_kept) == (verdict == "sound", verdict != "diverged")


def test_finite_losses_do_not_save_weights_of_1e30(tiny_base: BaseModel) -> None:
    """What an Intel Xeon gave at a learning rate of 1e30: a loss of log(vocabulary), before and after."""
    spec = lora_spec(tiny_base.model, LoraConfig(rank=4))
    norm = target_norm(tiny_base.model, spec)
    fine = Losses(5.99, 0.1, 5.99, 0.1)
    wild = random_adapters(spec, 1, size=2.5e30)
    for losses in (fine, Losses(5.99, 5.99)):
        judgement = judge_adapter(spec, wild, losses, 5.99, norm)
        assert judgement.verdict is Verdict.diverged
        assert "norm of scaling * BA" in judgement.reason
    assert judge_values(wild.tensors()).verdict is Verdict.diverged
    only_b = LoraWeights(fresh_lora(spec, torch.Generator().manual_seed(0)).A, wild.B)
    assert judge_adapter(spec, only_b, fine, 0.1, norm).verdict is Verdict.diverged
    honest = random_adapters(spec, 1, size=0.3)
    assert judge_adapter(spec, honest, fine, 0.1, norm).is_sound
    assert judge_adapter(spec, honest.map(lambda t: t / 0), fine, 0.1, norm).verdict is Verdict.diverged


def test_sizes(tiny_base: BaseModel) -> None:
    spec = lora_spec(tiny_base.model, LoraConfig(rank=4))
    weights = random_adapters(spec, 1)
    modules = dict(tiny_base.model.named_modules())
    own = torch.cat([modules[p].weight.flatten() for g in spec.groups for p in g.paths])
    products = torch.cat([(spec.scaling * weights.B[k] @ weights.A[k]).flatten() for k in weights.A])
    assert target_norm(tiny_base.model, spec) == pytest.approx(float(own.norm()), rel=1e-5)
    assert adapter_size(spec, weights) == pytest.approx(float(products.norm()), rel=1e-4)
    assert adapter_size(spec, fresh_lora(spec, torch.Generator())) == 0
    assert judge_size(LARGEST_SIZE, 1.0).is_sound
    for size, norm in ((1.01 * LARGEST_SIZE, 1.0), (NAN, 1.0), (NAN, None), (INF, None)):
        assert judge_size(size, norm).verdict is Verdict.diverged
    for value in (1.1e4, -1e30, NAN, INF):
        tensors = [torch.ones(2), torch.tensor([0.5, value]), torch.zeros(0)]
        assert judge_values(tensors).verdict is Verdict.diverged
    assert judge_values([torch.ones(2), torch.tensor([-100.0])]).is_sound


def test_the_gravest_judgement_counts() -> None:
    nothing, bad = Judgement(Verdict.learnt_nothing, "a"), Judgement(Verdict.diverged, "b")
    assert worst(Judgement(), nothing, bad) == bad
    assert worst(nothing, Judgement()) == nothing
    assert worst() == Judgement()


def test_norm_of_a_quantised_base_leaves_it_as_it_is() -> None:
    plain = load_base_model(BaseModelConfig(device="cpu"))
    spec = lora_spec(plain.model, LoraConfig(rank=4))
    for how in (Quantization.nf4, Quantization.int8):
        base = load_base_model(BaseModelConfig(device="cpu", quantization=how))
        before = hash_parameters(base.model)
        assert target_norm(base.model, spec) == pytest.approx(target_norm(plain.model, spec), rel=0.1)
        assert hash_parameters(base.model) == before


def test_losses_are_measured_side_by_side_as_alone(mini_base: BaseModel, tasks: list[Task]) -> None:
    """With B = 0 an adapter is the bare base; and what shares a pass does not matter to an adapter."""
    spec = lora_spec(mini_base.model, LoraConfig(rank=4))
    rows = [tokenize_examples(mini_base.tokenizer, t.examples["train"]) for t in tasks]
    fresh = fresh_lora(spec, torch.Generator().manual_seed(0))
    trained = [
        Trained(fresh, rows[0], rows[1][:3], 0.5),
        Trained(random_adapters(spec, 1, seed=1), rows[1][:2]),
        Trained(random_adapters(spec, 1, seed=2), rows[2], rows[2][:1], 0.7),
    ]
    alone = [measure_losses(mini_base, spec, [t], 1)[0] for t in trained]
    for at_once in (3, 16, 100):
        for one, two in zip(alone, measure_losses(mini_base, spec, trained, at_once), strict=True):
            numbers = ([0.0 if v is None else v for v in x.to_json().values()] for x in (one, two))
            assert next(numbers) == pytest.approx(next(numbers), rel=1e-3)
    assert alone[0].loss_after == pytest.approx(alone[0].loss_before, rel=1e-3)
    assert alone[1].loss_after != pytest.approx(alone[1].loss_before, rel=1e-2)
    assert [a.validation_loss for a in alone] == [0.5, None, 0.7]
    bare = row_losses(mini_base, rows[1][:3], 2)
    assert alone[0].validation_loss_before == pytest.approx(sum(bare) / 3, rel=1e-3)


# Library training.


def explode(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Hands the judge weights of 1e30 and finite losses for these jobs, as no rounding decides here."""
    real = SlotTrainer._result

    def result(self: SlotTrainer, i: int) -> TrainedAdapter:
        made = real(self, i)
        if made.name not in names:
            return made
        return replace(made, weights=made.weights.map(lambda t: torch.full_like(t, 1e30)), final_loss=1.0)

    monkeypatch.setattr(SlotTrainer, "_result", result)
    monkeypatch.setattr(
        library_training, "measure_losses", lambda base, spec, trained, *args: [Losses(2.0, 1.0) for _ in trained]
    )


def test_a_library_leaves_out_what_exploded(
    library: AdapterLibrary, tiny_base: BaseModel, tasks: list[Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    explode(monkeypatch, "count_tools")
    failed = train_library(library, tiny_base, tasks, CONFIG, seed=0)
    assert failed.keys() == {"count_tools"}
    assert library.tasks() == ["keep_animals", "reverse"]


def test_a_multi_task_lora_that_exploded_is_an_error(
    library: AdapterLibrary, tiny_base: BaseModel, tasks: list[Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    explode(monkeypatch, "multi_task")
    with pytest.raises(ValueError, match=r"the multi-task LoRA diverged: .*: lower multi_task\.lr"):
        train_multi_task(library, tiny_base, tasks, CONFIG, 0, "multi_task")
    assert library.tasks() == []


def test_what_learnt_nothing_is_kept_and_marked(
    library: AdapterLibrary, tiny_base: BaseModel, tasks: list[Task], caplog: pytest.LogCaptureFixture
) -> None:
    still = replace(CONFIG, lr=1e-12)
    assert train_library(library, tiny_base, tasks[:1], still, seed=0) == {}
    record = library.provenance("keep_animals")
    assert record["verdict"] == "learnt nothing"
    assert record["loss_after"] == pytest.approx(record["loss_before"], rel=1e-3)
    assert "keep_animals learnt nothing" in caplog.text
    caplog.clear()
    train_multi_task(library, tiny_base, tasks, still, 0, "multi_task")
    assert library.provenance("multi_task")["verdict"] == "learnt nothing"
    assert "the multi-task LoRA learnt nothing" in caplog.text


def test_honest_adapters_are_sound_and_far_below_the_largest_size(mini_base: BaseModel, tmp_path: Path) -> None:
    suite = build_suite(WordListConfig(train_examples=48, validation_examples=8, test_examples=4))
    tasks = suite.select(["keep_animals"])
    spec = lora_spec(mini_base.model, LoraConfig(rank=8, alpha=32.0, target_modules=["o_proj", "v_proj"]))
    library = AdapterLibrary(tmp_path, spec, "mini", mini_base.fingerprint)
    norm = target_norm(mini_base.model, spec)
    train_library(library, mini_base, tasks, replace(CONFIG, steps=30, lr=0.015), seed=0)
    for task in tasks:
        record = library.provenance(task.name)
        assert record["verdict"] == "sound"
        assert record["loss_after"] < record["loss_before"]
        assert record["validation_loss_before"] > 0
        assert adapter_size(spec, library.load([task.name])) < 0.1 * LARGEST_SIZE * norm


# Methods.


def test_a_method_is_judged_alike(
    tmp_path: Path, tiny_base: BaseModel, tasks: list[Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    how = OptimizationConfig(steps=2, rows_per_task=2, lr=1e-12)
    library = MethodLibrary(tmp_path / "still", build(LoraMethodConfig(how)), tiny_base.fingerprint)
    assert train_method_library(library, tiny_base, tasks[:1], 0) == {}
    record = library.provenance("keep_animals")
    assert record["verdict"] == "learnt nothing"
    assert {"loss_before", "loss_after", "validation_loss_before", "validation_loss"} <= record.keys()
    monkeypatch.setattr(method_training, "_row_losses", lambda attached, base, rows, at_once: [0.1] * len(rows))
    real = method_training.train_attached

    def exploding(method: Any, attached: Any, *args: Any) -> Any:
        trained = real(method, attached, *args)
        for parameter in attached.trainable.values():
            parameter.data.fill_(1e30)
        return replace(trained, final_loss=0.1)

    monkeypatch.setattr(method_training, "train_attached", exploding)
    library = MethodLibrary(tmp_path / "wild", build(LoraMethodConfig(how)), tiny_base.fingerprint)
    failed = train_method_library(library, tiny_base, tasks[:1], 0)
    assert "largest trained value is 1e+30" in failed["keep_animals"]
    assert library.tasks() == []


# Hypernetworks.


@pytest.mark.parametrize(
    ("history", "verdict"),
    [
        ([3.0, 2.0, 1.0, 0.5, 0.4, 0.3], "sound"),
        ([3.0] * 20, "learnt nothing"),
        ([3.0, 3.1, *[3.5] * 18], "learnt nothing"),
        ([1.0] * 10 + [21.0] * 10, "diverged"),
        ([1.0, 2.0, NAN], "diverged"),
        ([3.0, 3.0], "sound"),  # too short to tell
        ([], "sound"),
    ],
)
def test_verdicts_by_a_history(history: list[float], verdict: str) -> None:
    assert judge_history(history).verdict == verdict


def test_a_hypernetwork_that_exploded_is_not_written(tmp_path: Path, tiny_base: BaseModel) -> None:
    from t2l import hypernetwork as hypernetworks
    from t2l.hypernetwork import TextToLoraConfig
    from t2l.hypernetwork.checkpoint import CheckpointRecord
    from t2l.training.checkpoint import save_checkpoint

    spec, architecture = lora_spec(tiny_base.model, LoraConfig(rank=4)), TextToLoraConfig("s", latent=8)
    model = hypernetworks.build(architecture, spec, 8, seed=0)
    record = CheckpointRecord(1, "sft", architecture, spec, 8, "e", "b", "tiny", {})
    optimizer = torch.optim.AdamW(model.parameters())
    kept = save_checkpoint(tmp_path, record, model, optimizer)
    with torch.no_grad():
        next(model.parameters()).fill_(1e30)
    with pytest.raises(ValueError, match=r"training diverged: the largest trained value is 1e\+30: lower trainer\.lr"):
        save_checkpoint(tmp_path, replace(record, step=2), model, optimizer)
    assert list((tmp_path / "checkpoints").iterdir()) == [kept]


def test_a_run_is_judged_by_its_metrics(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    metrics = tmp_path / "metrics.jsonl"
    for history, verdict in (([3.0, 2.5, 2.0, 1.0, 0.5], "sound"), ([3.0] * 6, "learnt nothing")):
        metrics.write_text("".join(json.dumps({"step": i, "train/loss": x}) + "\n" for i, x in enumerate(history)))
        assert judge_run(metrics, "trainer.lr").verdict == verdict
    assert "training learnt nothing" in caplog.text
    metrics.write_text("".join(json.dumps({"step": i, "train/loss": 10.0**i}) + "\n" for i in range(6)))
    with pytest.raises(ValueError, match=r"training diverged: the loss rose from 1 to 1e\+05: lower trainer\.lr"):
        judge_run(metrics, "trainer.lr")


# On disk, and through the command line.


def test_a_library_is_judged_again_from_disk(
    library: AdapterLibrary, tiny_base: BaseModel, tasks: list[Task], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, spec = tmp_path / "there", library.spec
    there = AdapterLibrary(folder / "adapters", spec, "tiny", tiny_base.fingerprint)
    outcome = {"steps": 6, "final_loss": 1.0, **Losses(2.0, 1.0).to_json()}
    there.save("sound", random_adapters(spec, 1), outcome)
    there.save("wild", random_adapters(spec, 1, size=1e10), outcome)
    there.save("still", random_adapters(spec, 1), {**outcome, **Losses(2.0, 2.0).to_json()})
    there.save("older", random_adapters(spec, 1), {"steps": 6, "final_loss": 1.0})
    static = AdapterLibrary(folder / "static", spec, "tiny", tiny_base.fingerprint)
    static.save("multi_task", random_adapters(spec, 1, size=1e10), outcome)
    record = {
        "spec": spec.to_json(),
        "base_model": "tiny",
        "base_fingerprint": tiny_base.fingerprint,
        "suite": {},
        "base_norm": target_norm(tiny_base.model, spec),
    }
    write_json(folder / "library.json", record)
    problems = {a.task: a.problem for a in examine_library(folder).problems}
    assert problems.keys() == {"wild", "still", "multi_task"}
    assert str(problems["wild"]).startswith("diverged")
    assert str(problems["still"]).startswith("learnt nothing")
    with pytest.raises(SystemExit) as stopped:
        main(["library", str(folder)])
    assert stopped.value.code == 2
    assert "3 adapters are not sound" in capsys.readouterr().err
    del record["base_norm"]
    write_json(folder / "library.json", record)
    assert {a.task for a in examine_library(folder).problems} == {"still"}


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """`t2l train_library` for two small tasks, in two steps."""
    folder = tmp_path / "suite"
    folder.mkdir()
    (folder / "tasks.json").write_text(json.dumps({name: {"descriptions": ["Do it."]} for name in ("one", "two")}))
    for name in ("one", "two"):
        rows = [{"input": f"dog {i}", "output": "cat"} for i in range(8)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    suite = ["suite=folder", f"suite.path={folder}", "suite.held_fraction=0.0"]
    return ["train_library", *suite, "training.steps=2", "training.cycles=1", f"run_dir={tmp_path}/made"]


@pytest.mark.parametrize("method", [[], ["method=lora", "method.optimization.steps=2"]], ids=["library", "method"])
def test_a_library_with_failures_ends_in_a_list_and_code_1(
    command: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    method: list[str],
) -> None:
    from t2l.objectives import soundness

    name = "judge_adapter" if not method else "judge_values"
    module, real, calls = (method_training if method else library_training), getattr(soundness, name), []

    def judge(*args: Any) -> Judgement:
        calls.append(args)
        return Judgement(Verdict.diverged, "as told") if len(calls) == 1 else real(*args)

    monkeypatch.setattr(module, name, judge)
    command = [*command, *method, "tasks=[one,two]"]
    with pytest.raises(SystemExit) as stopped:
        main(command)
    assert stopped.value.code == 1
    assert "1 adapters; 1 tasks failed and were left out" in capsys.readouterr().err
    outcome = training_outcome(tmp_path / "made")
    assert (outcome.count, next(iter(outcome.failed.values()))[:17]) == (1, "diverged: as told")
    main(command)  # the same command trains what is missing, and is then content
    assert training_outcome(tmp_path / "made").is_complete


def test_nothing_trained_is_code_1(command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([*command, "training.lr=1e30", "tasks=[one]"])
    assert stopped.value.code == 1
    assert "0 adapters; 1 tasks failed" in capsys.readouterr().err
    record = read_json(tmp_path / "made/library.json")
    assert record["failed"]["one"].startswith("diverged")
    assert record["base_norm"] > 0
    assert not list((tmp_path / "made/adapters").glob("*"))
