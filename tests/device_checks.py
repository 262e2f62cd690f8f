"""What `test_devices.py` runs in a process of its own: every path of t2l on a pretend GPU, against the same on the CPU."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import CONFIGS, random_adapters
from pretend_gpu import DeviceMismatchError, OnGpu, onto_gpu, pretend_gpu
from torch import Tensor
from transformers import AutoModelForCausalLM, GenerationConfig

from t2l import hypernetwork as hypernetworks
from t2l import methods
from t2l.base_model import BaseModel, LoraConfig, freeze, hash_parameters, label_logits, lora_spec_from_config
from t2l.base_model.merge import sample_logits
from t2l.cli import main
from t2l.encoder import BaseModelEncoderConfig, TaskEncoder
from t2l.evaluation.adapter_map import adapter_map, norms_by_layer
from t2l.evaluation.contenders.composition import mean_of_products
from t2l.evaluation.contenders.few_shot import FewShotConfig, train_few_shot
from t2l.evaluation.contenders.generated import DescriptionBank, generate_adapters
from t2l.evaluation.contenders.lorahub import LoraHub
from t2l.evaluation.scoring import Question, greedy_answers
from t2l.files import read_json
from t2l.hypernetwork import Hypernetwork, ResidualConfig, TextToLoraConfig
from t2l.hypernetwork.checkpoint import CheckpointRecord, TrainingData, find_checkpoint
from t2l.hypernetwork.confidence import Calibration, distances, task_centres
from t2l.hypernetwork.generator import Generator, confidences
from t2l.library.slots import SlotConfig, SlotTrainer, TrainingJob
from t2l.library.snapshots import Snapshots
from t2l.library.training import LibraryTrainingConfig, bytes_per_task
from t2l.lora import LoraSpec, LoraWeights, inject
from t2l.methods.full import FullFineTuningConfig
from t2l.methods.hooked import BitFitConfig, BottleneckAdapterConfig
from t2l.methods.low_rank import AdaLoraConfig, DoraConfig, LoraMethodConfig, VeraConfig
from t2l.methods.scaling_and_prompts import Ia3Config, PrefixTuningConfig, PromptTuningConfig
from t2l.methods.training import train_attached
from t2l.objectives import Materials, ReconstructionConfig, ReconstructionObjective, SftConfig, SftObjective, Steps
from t2l.objectives.distillation import DistillationConfig, DistillationObjective
from t2l.objectives.losses import (
    frobenius_distance,
    inner_product,
    l1_distance,
    label_loss,
    product_norm,
    weight_penalty,
)
from t2l.tasks import Task, tokenize_examples
from t2l.tasks.batches import collate
from t2l.tasks.manifest import Manifest
from t2l.tasks.suites import WordListConfig, build
from t2l.training.checkpoint import resume, save_checkpoint
from t2l.training.loop import TrainerConfig
from t2l.training.optimizer import make_optimizer

MODEL = copy.deepcopy(CONFIGS["llama"][0])
MODEL.num_hidden_layers = 2
CPU, WIDTH = torch.device("cpu"), 12
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
ARCHITECTURES = {
    "l": TextToLoraConfig("l", latent=8), "m": TextToLoraConfig("m", latent=8), "s": TextToLoraConfig("s", latent=8),
    "residual": ResidualConfig(width=16, description_width=8, blocks=1),
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def gpu() -> Iterator[torch.device]:
    with pretend_gpu() as device:
        yield device


@pytest.fixture(scope="module")
def tasks() -> list[Task]:
    suite = build(WordListConfig(train_examples=16, validation_examples=2, test_examples=4))
    return suite.select(["keep_animals", "count_tools", "reverse"])


@pytest.fixture
def base_on(tokenizer: Any) -> Callable[..., BaseModel]:
    def make(device: torch.device, dtype: torch.dtype = torch.float32) -> BaseModel:
        torch.manual_seed(0)
        model: Any = freeze(AutoModelForCausalLM.from_config(MODEL)).to(dtype)
        model.generation_config = GenerationConfig(eos_token_id=2, pad_token_id=0, bos_token_id=1)
        return BaseModel(onto_gpu(model) if device != CPU else model, tokenizer, "tiny", "tiny", "fingerprint-of-tiny")

    return make


def same(run: Callable[[torch.device], Any], gpu: torch.device, tolerance: float = 1e-5) -> Any:
    """Runs something on both devices; the GPU's tensors must be there, and everything equal. Returns the CPU's."""
    ours, theirs = run(CPU), run(gpu)
    _compare(ours, theirs, tolerance)
    return ours


def _compare(ours: Any, theirs: Any, tolerance: float) -> None:
    if isinstance(ours, LoraWeights):
        ours, theirs = ours.tensors(), theirs.tensors()
    if isinstance(ours, Tensor):
        torch.testing.assert_close(theirs.detach().cpu(), ours.detach(), atol=tolerance, rtol=tolerance)
    elif isinstance(ours, Mapping):
        assert ours.keys() == theirs.keys()
        for key, value in ours.items():
            _compare(value, theirs[key], tolerance)
    elif isinstance(ours, list | tuple):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            _compare(one, other, tolerance)
    elif isinstance(ours, float):
        assert theirs == pytest.approx(ours, rel=1e-4, abs=tolerance)
    else:
        assert ours == theirs


def spec_of(rank: int = 4) -> LoraSpec:
    return lora_spec_from_config(MODEL, LoraConfig(rank=rank))


def embeddings(groups: int = 3, count: int = 4) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(count, WIDTH, generator=generator) for _ in range(groups)]


def hypernetwork_on(device: torch.device, name: str = "l", size: float = 0.1) -> Hypernetwork:
    """One that generates something, also for B."""
    made = hypernetworks.build(ARCHITECTURES[name], spec_of(), WIDTH, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))
    return made.to(device)


def test_the_device_tells_mistakes(gpu: torch.device) -> None:
    """What a planted mistake looks like, and what CUDA allows."""
    here, there = torch.ones(3, device=gpu), torch.ones(3)
    mistakes: list[Callable[[], Any]] = [
        lambda: here + there, lambda: here @ there, lambda: torch.cat([here, there]), lambda: torch.stack([there, here]),
        lambda: here.mul_(there), lambda: torch.where(here > 0, here, there), lambda: there[torch.arange(2, device=gpu)],
        lambda: torch.ones(4).index_add(0, torch.arange(3, device=gpu), here), lambda: there + here.sum(),
        lambda: torch.nn.functional.cross_entropy(torch.ones(2, 3, device=gpu), torch.zeros(2, dtype=torch.long)),
        lambda: torch.rand(3, device=gpu, generator=torch.Generator()), lambda: torch.isin(here, there),
        lambda: torch.nn.functional.embedding(torch.zeros(2, dtype=torch.long), torch.ones(3, 3, device=gpu)),
        lambda: torch.einsum("i,i->", here, there), lambda: torch.cdist(here[None], there[None]),
    ]  # fmt: skip
    for mistake in mistakes:
        with pytest.raises(DeviceMismatchError):
            mistake()
    for value in (here, here.sum()):
        with pytest.raises(TypeError, match="can't convert"):
            np.asarray(value)
    assert here.device.type == "gpu"
    for allowed in (here + 1.0, here * torch.tensor(2.0), here[torch.tensor([0, 1])], here.to(gpu), there.to(gpu)):
        assert isinstance(allowed, OnGpu)
    assert not isinstance(here.cpu() + there, OnGpu)
    here[torch.tensor([0])] = 5.0
    here.copy_(there)
    assert here.tolist() == [1.0, 1.0, 1.0]
    leaf = torch.nn.Parameter(torch.ones(3, 2).to(gpu))
    (here @ leaf).sum().backward()
    assert isinstance(leaf.grad, OnGpu)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_hypernetworks(name: str, gpu: torch.device) -> None:
    def run(device: torch.device) -> Any:
        made = hypernetwork_on(device, name).eval()
        library = random_adapters(spec_of(), 5)
        made.set_statistics(library)  # read from disk, so on the CPU
        made.set_statistics(library.to(device))
        made.set_description_statistics(embeddings(), 0.5)  # as the encoder gives them, on the CPU
        made.set_description_statistics([e.to(device) for e in embeddings()], 0.5)
        described = torch.cat(embeddings()).to(device)
        weights = made(1.1 * made.describe(described))
        weight_penalty(weights).backward()
        gradients = [p.grad for p in made.parameters() if p.grad is not None]
        return [weights, made.normalise(weights), gradients, generate_adapters(made, torch.cat(embeddings()))]

    same(run, gpu, 1e-4)


class Words:
    """Stands for an encoder, which gives embeddings on the CPU."""

    identity, reads_any_text = "words", True

    def encode(self, texts: Any, progress: bool = False) -> Tensor:
        return torch.stack([torch.randn(WIDTH, generator=torch.Generator().manual_seed(len(t))) for t in texts])

    def encode_groups(self, groups: Any, progress: bool = False) -> list[Tensor]:
        return [self.encode(g) for g in groups]


def test_generating_with_confidence(gpu: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record: Any = type("Record", (), {"trained_on": {"tasks": ["a", "b", "c"]}, "step": 1, "base_fingerprint": "f"})()

    def run(device: torch.device) -> Any:
        made = hypernetwork_on(device).eval()
        centres = task_centres(made, [e.to(device) for e in embeddings()])
        data = TrainingData(Manifest({}, {}), centres)
        monkeypatch.setattr("t2l.hypernetwork.generator.load_training_data", lambda _: data)
        generator = Generator(made, Words(), record, tmp_path / "checkpoints/step-1")  # type: ignore[arg-type]
        apart, nearest = distances(made, centres, torch.cat(embeddings()))
        there, _ = distances(made, centres, torch.cat(embeddings()).to(device))
        calibration = Calibration((0.0, 2.0), (1.0, 0.0), 1)
        sure = [asdict(c) for c in confidences(generator, ["one", "four"]) if c is not None]
        weights = generator(["one", "four"])
        assert weights.tensors()[0].device == CPU
        return [weights, apart, there, nearest, calibration(apart), calibration(there.to(device)), sure]

    same(run, gpu)


@pytest.mark.parametrize("adapter", DTYPES, ids=str)
@pytest.mark.parametrize("stored", DTYPES, ids=str)
def test_injection_and_label_logits(
    stored: torch.dtype, adapter: torch.dtype, base_on: Callable[..., BaseModel], tasks: list[Task], gpu: torch.device
) -> None:
    rows = [tokenize_examples(base_on(CPU).tokenizer, t.examples["train"][:2]) for t in tasks]

    def run(device: torch.device) -> Any:
        base, spec = base_on(device, stored), spec_of()
        batch = collate([r for group in rows for r in group], 0, base.device)
        found = []
        for count, index in ((1, None), (3, None), (2, torch.tensor([0, 1, 1, 0, 1, 0], device=device))):
            weights = random_adapters(spec, count).to(device, adapter).map(lambda t: t.requires_grad_())
            with inject(base.model, spec, weights, index):
                labelled = label_logits(base.model, batch.input_ids, batch.attention_mask, batch.labels)
                losses = label_loss(labelled.logits, labelled.targets, labelled.rows, 6, 0.1)
                losses.sum().backward()
            found += [losses, [t.grad for t in weights.tensors()]]
        return found

    is_full = stored == adapter == torch.float32
    same(run, gpu, 1e-4 if is_full else 5e-2)


def test_distances_between_adapters(gpu: torch.device) -> None:
    spec = spec_of()

    def run(device: torch.device) -> Any:
        found = []
        for seed in (1, 0):  # of equal adapters, the terms cancel, and factors are aligned
            one = random_adapters(spec, 3).to(device).map(lambda t: t.requires_grad_())
            other = random_adapters(spec, 3, seed).to(device)
            for loss in (
                l1_distance(one, other), frobenius_distance(one, other).mean(), weight_penalty(one),
                (frobenius_distance(one, other) / product_norm(other)).mean(), inner_product(one, other).sum(),
            ):  # fmt: skip
                found += [loss, torch.autograd.grad(loss, one.tensors())]
            gauge = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(0))).Q.to(device)
            turned = LoraWeights({k: gauge @ v for k, v in one.A.items()}, {k: v @ gauge.T for k, v in one.B.items()})
            found.append(frobenius_distance(one, turned.detach()))
        return found

    same(run, gpu, 1e-3)


@pytest.mark.parametrize(
    "settings",
    [{}, {"rows_per_pass": 2, "description_noise": 0.3}, {"adapter_dtype": "float16"},
     {"pass_cost": 1, "gradient_checkpointing": True, "adapter_dtype": "bfloat16"}],
    ids=str,
)  # fmt: skip
def test_sft(settings: dict[str, Any], base_on: Callable[..., BaseModel], tasks: list[Task], gpu: torch.device) -> None:
    def run(device: torch.device) -> Any:
        base, made = base_on(device), hypernetwork_on(device)
        trainer = TrainerConfig(tasks_per_step=3, rows_per_task=2, **settings)
        rows = [tokenize_examples(base.tokenizer, t.examples["train"]) for t in tasks]
        objective = SftObjective(SftConfig(label_smoothing=0.1), trainer, base, rows)
        return _steps(Steps(objective, embeddings(), trainer, 0), made.eval(), trainer)

    same(run, gpu, 1e-3 if "adapter_dtype" not in settings else 5e-2)


def test_distillation(base_on: Callable[..., BaseModel], tasks: list[Task], gpu: torch.device) -> None:
    def run(device: torch.device) -> Any:
        base, made = base_on(device), hypernetwork_on(device)
        trainer = TrainerConfig(tasks_per_step=3, rows_per_task=2, rows_per_pass=2)
        config = DistillationConfig(teacher="both", shots=2, labels=0.5, temperature=2.0)
        objective = DistillationObjective.make(config, Materials(trainer, base, tasks))
        return _steps(Steps(objective, embeddings(), trainer, 0), made.eval(), trainer)

    same(run, gpu, 1e-3)


def _steps(steps: Steps, made: Hypernetwork, trainer: TrainerConfig) -> Any:
    """Metrics and gradients of two steps of training."""
    optimizer, found = make_optimizer(trainer, made), []
    for step in range(2):
        metrics = steps.backward(made, step)
        norm = torch.nn.utils.clip_grad_norm_(made.parameters(), trainer.clip)
        found += [metrics, float(norm)]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize(("distance", "standardise"), [(d, s) for d in ("l1", "frobenius") for s in (True, False)])
def test_reconstruction(distance: str, standardise: bool, gpu: torch.device) -> None:
    def run(device: torch.device) -> Any:
        made, trainer = hypernetwork_on(device).eval(), TrainerConfig(tasks_per_step=2, description_noise=0.1)
        config = ReconstructionConfig(distance=distance, standardise=standardise)
        library = random_adapters(spec_of(), 3).to(device)
        steps = Steps(ReconstructionObjective(config, library), embeddings(), trainer, 0)
        steps.objective.prepare(made)
        return _steps(steps, made, trainer)

    same(run, gpu, 1e-3)


def test_checkpoints(gpu: torch.device, tmp_path: Path) -> None:
    """Moments come back where the parameters are, whichever device they were saved from."""

    def trained(device: torch.device, folder: Path) -> tuple[Hypernetwork, torch.optim.Optimizer]:
        made = hypernetwork_on(device)
        optimizer = make_optimizer(TrainerConfig(), made)
        _step_on(made, optimizer, device)
        record = CheckpointRecord(1, "sft", ARCHITECTURES["l"], made.spec, WIDTH, "encoder", "base", "tiny", {})
        centres = task_centres(made, [e.to(device) for e in embeddings()])
        save_checkpoint(folder, record, made, optimizer, TrainingData(Manifest({}, {}), centres))
        return made, optimizer

    for name, saved_on, read_on in (("there", gpu, gpu), ("back", gpu, CPU), ("over", CPU, gpu)):
        made, optimizer = trained(saved_on, tmp_path / name)
        again = hypernetworks.build(ARCHITECTURES["l"], made.spec, WIDTH, seed=5).to(read_on)
        fresh = make_optimizer(TrainerConfig(), again)
        resume(find_checkpoint(tmp_path / name), again, fresh)
        for network, moments, device in ((made, optimizer, saved_on), (again, fresh, read_on)):
            _step_on(network, moments, device)
        _compare([p.detach().cpu() for p in made.parameters()], [p.detach() for p in again.parameters()], 1e-5)


def _step_on(made: Hypernetwork, optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    weight_penalty(made.eval()(torch.cat(embeddings()).to(device))).backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


SLOTS = SlotConfig(steps=2, rows_per_task=2, lr=0.01, check_every=1, cycles=2, stop_loss=1e-6, patience=3, pass_cost=1)


@pytest.mark.parametrize(
    "config",
    [SLOTS, replace(SLOTS, train_a=False, shared_a=True, weight_decay=0.1, gradient_checkpointing=True, patience=None)],
    ids=["plain", "shared"],
)
def test_library_training(
    config: SlotConfig, base_on: Callable[..., BaseModel], tasks: list[Task], gpu: torch.device, tmp_path: Path
) -> None:
    """Three jobs in two slots, so that one is refilled and the last one shrinks; taken up from a snapshot in the middle."""

    def run(device: torch.device) -> Any:
        base, spec = base_on(device), spec_of()
        jobs = [
            TrainingJob(t.name, *(tokenize_examples(base.tokenizer, t.examples[s]) for s in ("train", "validation")))
            for t in tasks
        ]
        trainer = SlotTrainer(base, spec, jobs, 2, config, 0)
        found = trainer.step()
        snapshots = Snapshots(tmp_path / device.type, {"of": "this"})
        snapshots.save(trainer)
        trainer = SlotTrainer(base, spec, jobs, 2, config, 0)
        snapshots.resume(trainer, jobs)
        while not trainer.done:
            found += trainer.step()
        assert all(t.device == CPU for a in found for t in a.weights.tensors())
        return [[a.name, a.steps, a.weights, a.final_loss] for a in sorted(found, key=lambda a: a.name)]

    same(run, gpu, 1e-3)


def test_memory_of_a_task(base_on: Callable[..., BaseModel], tasks: list[Task], gpu: torch.device) -> None:
    def run(device: torch.device) -> int:
        base = base_on(device)
        jobs = [TrainingJob(t.name, tokenize_examples(base.tokenizer, t.examples["train"])) for t in tasks]
        return bytes_per_task(base, spec_of(), jobs, LibraryTrainingConfig(rows_per_task=2))

    assert run(gpu) > 0
    assert run(CPU) > 0


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
def test_scoring(dtype: torch.dtype, base_on: Callable[..., BaseModel], tasks: list[Task], gpu: torch.device) -> None:
    choices = ("dog", "cat red", "car")
    questions = [
        Question(t.name, e.input, e.input, e.output, adapter=i % 2)
        for i, (t, e) in enumerate((t, e) for t in tasks for e in t.examples["test"][:2])
    ]
    questions += [
        replace(q, metric="multiple_choice", choices=choices, reference="dog", adapter=1) for q in questions[:2]
    ]

    def run(device: torch.device) -> Any:
        base, weights = base_on(device, dtype), random_adapters(spec_of(), 2).to(device)
        answers = [
            greedy_answers(base, questions, *how, max_new_tokens=4, batch_size=3)
            for how in ((None, None), (spec_of(), weights), (spec_of(), weights.to(dtype)))
        ]
        hashes = hash_parameters(base.model)
        return [[(a.answer, a.score, a.answer_tokens) for a in group] for group in answers], hashes

    same(run, gpu)


def test_what_contenders_compute(base_on: Callable[..., BaseModel], tasks: list[Task], gpu: torch.device) -> None:
    spec = spec_of()

    def run(device: torch.device) -> Any:
        made, words = hypernetwork_on(device).eval(), Words()
        bank = DescriptionBank.of(words, tasks, 3)  # type: ignore[arg-type]
        static = generate_adapters(made, bank.mean())
        generated = generate_adapters(made, words.encode([t.name for t in tasks]))
        oracles = random_adapters(spec, 3)
        labels = {"task": [t.name for t in tasks]}
        hub = LoraHub.__new__(LoraHub)
        hub._base = base_on(device)
        return [
            bank.nearest(words.encode(["one", "three"]), ["keep_animals", "none"]), static,
            mean_of_products(oracles.to(device), 4), norms_by_layer(generated, 2.0),
            [abs(v) for p in adapter_map(generated.to("cpu"), oracles, labels)["points"] for v in p["oracle"]],
            [abs(v) for p in adapter_map(generated, oracles.to(device), labels)["points"] for v in p["oracle"]],
            hub._compose(oracles, [[0, 2], [1, 0]], [np.array([0.5, -1.0]), np.array([1.0, 0.25])]),
        ]  # fmt: skip

    same(run, gpu, 1e-4)


def test_few_shot(base_on: Callable[..., BaseModel], tasks: list[Task], gpu: torch.device) -> None:
    spec, config = spec_of(), FewShotConfig(examples=2, steps=2)

    def run(device: torch.device) -> Any:
        made = generate_adapters(hypernetwork_on(device), torch.cat(embeddings(2, count=1)))
        starts = (made, made.to("cpu"))
        return [train_few_shot(base_on(device), spec, tasks[:2], start, config, 0.01, 0) for start in starts]

    same(run, gpu, 1e-3)


def test_the_base_as_encoder(base_on: Callable[..., BaseModel], gpu: torch.device) -> None:
    def run(device: torch.device) -> Any:
        found = []
        for dtype in (torch.float32, torch.bfloat16):
            encoder = TaskEncoder(BaseModelEncoderConfig(cache="", batch_size=2), base_on(device, dtype))
            found.append(encoder.encode(["dog cat", "red", "keep the animals please"]))
        assert all(t.device == CPU for t in found)
        return found

    same(run, gpu, 5e-2)


HOW = methods.OptimizationConfig(steps=2, rows_per_task=2, lr=0.01)
METHODS = {
    "lora": LoraMethodConfig(HOW, rank=4),
    "dora": DoraConfig(HOW, rank=4),
    "adalora": AdaLoraConfig(HOW, initial_rank=6, target_rank=4), "vera": VeraConfig(HOW, rank=8),
    "ia3": Ia3Config(HOW), "prefix_tuning": PrefixTuningConfig(HOW, virtual_tokens=3),
    "prompt_tuning": PromptTuningConfig(HOW, virtual_tokens=3), "bitfit": BitFitConfig(HOW),
    "bottleneck_adapter": BottleneckAdapterConfig(HOW, size=4),
    "full_fine_tuning": FullFineTuningConfig(HOW),
}  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
def test_methods(
    name: str, base_on: Callable[..., BaseModel], tasks: list[Task], gpu: torch.device, tmp_path: Path
) -> None:
    """Attached, trained, saved, restored and answering."""

    def run(device: torch.device) -> Any:
        base, method = base_on(device), methods.build(METHODS[name])
        rows = tokenize_examples(base.tokenizer, tasks[0].examples["train"])
        folder = tmp_path / device.type
        folder.mkdir()
        batch = collate(rows[:2], 0, base.device)
        with method.attach(base, 1) as attached:
            loss = train_attached(method, attached, base, rows, 0, "keep_animals").final_loss
            method.save(attached, folder)
        with torch.no_grad(), method.restore(base, folder) as attached:
            logits = attached.logits(batch.input_ids, batch.attention_mask)
            questions = [Question("a", e.input, e.input, e.output) for e in tasks[0].examples["test"][:2]]
            answers = greedy_answers(replace(base, model=attached.model), questions, None, None, 3, 2)
        return [loss, logits, [a.answer for a in answers]]

    same(run, gpu, 1e-2)


def test_logits_that_a_merge_is_checked_by(base_on: Callable[..., BaseModel], gpu: torch.device) -> None:
    same(lambda device: sample_logits(base_on(device).model), gpu)


def test_verbs(gpu: torch.device, tmp_path: Path) -> None:
    """A library, training on it and through the base, the board with its controls: what verbs move, and where to."""
    suite = tmp_path / "suite"
    suite.mkdir()
    names = ("dog", "cat", "car", "red", "saw", "blue", "lion", "green")
    for name in names:
        rows = [json.dumps({"input": f"word {n}", "output": f"{name} {n}"}) + "\n" for n in names[:4]]
        (suite / f"{name}.jsonl").write_text("".join(rows))
    records = {
        n: {"descriptions": [f"Say {n}.", f"Only {n}."], "splits": {"train": [0, 2], "test": [2, 4]}} for n in names
    }
    (suite / "tasks.json").write_text(json.dumps(records))
    common = ["suite=folder", f"suite.path={suite}", "suite.held_tasks=[saw,blue,lion,green]", "base_model.device=gpu"]
    brief = [f"{p}.{k}" for p in ("training", "multi_task") for k in ("steps=1", "rows_per_task=1", "cycles=1")]
    main(["train_library", *common, *brief, f"run_dir={tmp_path}/library"])
    train = ["trainer.steps=1", "trainer.tasks_per_step=2", "trainer.rows_per_task=1", "encoder=base_model"]
    main(["train", *common, *train, f"run_dir={tmp_path}/sft"])
    rebuilt = ["objective=reconstruction", f"library={tmp_path}/library", f"run_dir={tmp_path}/rebuilt"]
    main(["train", *common, *train, *rebuilt])
    main(
        ["evaluate", *common, f"library={tmp_path}/library", f"checkpoints=[{tmp_path}/rebuilt]", "splits=[train]",
         "contenders=[library_mean,nearest,generated,refined]", "few_shot.steps=1", "few_shot.examples=1",
         "evaluation.tasks_per_split=3", "evaluation.examples_per_task=1", "evaluation.bootstrap_samples=2",
         "evaluation.max_new_tokens=1", "robustness_split=null", "encoder=base_model", f"run_dir={tmp_path}/board"]
    )  # fmt: skip
    assert read_json(tmp_path / "board/report.json")
