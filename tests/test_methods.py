"""Every adaptation method: what it starts as, what it trains, how many values, what it saves, and its equation."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny_model
from torch import Tensor

from t2l.base_model import BaseModel, BaseModelConfig, Quantization, freeze, hash_parameters, load_base_model
from t2l.cli import main
from t2l.evaluation.costs import mean_costs
from t2l.evaluation.scoring import greedy_answers, questions_for
from t2l.files import FileProblemError, read_json, read_tensors, write_tensors
from t2l.lora.peft_folder import WEIGHTS_FILE
from t2l.methods import Method, MethodConfig, OptimizationConfig, build, from_settings
from t2l.methods import training as method_training
from t2l.methods.folder import MethodLibrary
from t2l.methods.full import FullFineTuningConfig
from t2l.methods.hooked import BitFitConfig, Bottleneck, BottleneckAdapterConfig, Rescale
from t2l.methods.low_rank import (
    AdaLoraConfig,
    DoraConfig,
    LoraMethodConfig,
    LoraPlusConfig,
    QLoraConfig,
    RsLoraConfig,
    VeraConfig,
)
from t2l.methods.scaling_and_prompts import Ia3Config, PrefixTuningConfig, PromptTuningConfig
from t2l.methods.training import make_method_library, train_attached, train_method_library
from t2l.objectives.losses import response_loss
from t2l.registry import components
from t2l.tasks import Task, tokenize_examples
from t2l.tasks.batches import TokenBatch, collate
from t2l.tasks.suites import WordListConfig
from t2l.tasks.suites import build as build_suite

HOW = OptimizationConfig(steps=12, rows_per_task=4, lr=0.03)
HIDDEN, INNER, LAYERS, KV = 32, 48, 3, 16
LORA_COUNT = LAYERS * 4 * ((HIDDEN + HIDDEN) + (HIDDEN + KV))
NORMS = 2 * HIDDEN
# Each method's config, and its number of trained values by the formula of its paper.
CASES: dict[str, tuple[MethodConfig, int]] = {
    "lora": (LoraMethodConfig(HOW, rank=4), LORA_COUNT),
    "rslora": (RsLoraConfig(HOW, rank=4), LORA_COUNT),
    "dora": (DoraConfig(HOW, rank=4), LORA_COUNT + LAYERS * (HIDDEN + KV)),
    "lora_plus": (LoraPlusConfig(HOW, rank=4, lr_ratio=4.0), LORA_COUNT),
    "qlora": (QLoraConfig(HOW, rank=4), LORA_COUNT),
    "adalora": (
        AdaLoraConfig(HOW, initial_rank=6, target_rank=4),
        LAYERS * 6 * ((HIDDEN + HIDDEN + 1) + (HIDDEN + KV + 1)),
    ),
    "vera": (VeraConfig(HOW, rank=24), LAYERS * ((24 + HIDDEN) + (24 + KV))),
    "ia3": (Ia3Config(replace(HOW, lr=0.3)), LAYERS * (KV + KV + INNER)),
    "prefix_tuning": (PrefixTuningConfig(HOW, virtual_tokens=5), 2 * 5 * LAYERS * KV),
    "prompt_tuning": (PromptTuningConfig(HOW, virtual_tokens=5), 5 * HIDDEN),
    "bitfit": (BitFitConfig(HOW), LAYERS * (2 * HIDDEN + 2 * KV + 2 * INNER + HIDDEN)),
    "bottleneck_adapter": (
        BottleneckAdapterConfig(HOW, size=4),
        LAYERS * (2 * (2 * HIDDEN * 4 + 4 + HIDDEN) + NORMS),
    ),
    "full_fine_tuning": (FullFineTuningConfig(HOW), sum(p.numel() for p in tiny_model("llama").parameters())),
}
STARTS_ELSEWHERE = {"prefix_tuning", "prompt_tuning"}


@pytest.fixture(scope="module")
def task() -> Task:
    suite = build_suite(WordListConfig(train_examples=16, validation_examples=1, test_examples=4))
    return suite.select(["keep_animals"])[0]


@pytest.fixture(scope="module")
def bases(tokenizer: object, tmp_path_factory: pytest.TempPathFactory) -> dict[str, BaseModel]:
    """The tiny base as it is, and in NF4."""
    folder = tmp_path_factory.mktemp("base")
    tiny_model("llama").save_pretrained(folder)
    tokenizer.save_pretrained(folder)  # type: ignore[attr-defined]
    plain = BaseModelConfig(path=str(folder), device="cpu")
    return {q.value: load_base_model(replace(plain, quantization=q)) for q in (Quantization.none, Quantization.nf4)}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, bases: dict[str, BaseModel]) -> tuple[Method[Any], BaseModel, int]:
    config, count = CASES[request.param]
    method = build(config)
    assert method.name == request.param
    return method, bases[method.base_config(BaseModelConfig()).quantization.value], count


@pytest.fixture
def batch(task: Task, bases: dict[str, BaseModel]) -> TokenBatch:
    base = bases["none"]
    return collate(tokenize_examples(base.tokenizer, task.examples["train"][:6]), 0, base.device)


@torch.no_grad()
def logits_of(base: BaseModel, batch: TokenBatch) -> Tensor:
    return base.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits


def close_at_labels(one: Tensor, two: Tensor, batch: TokenBatch, tolerance: float = 1e-4) -> bool:
    real = batch.attention_mask.bool()
    return torch.allclose(one[real], two[real], atol=tolerance, rtol=tolerance)


def test_every_method_has_a_case() -> None:
    assert {name for name, m in components("method").items() if not m.make.by_library} == set(CASES)


def test_starts_as_the_base(case: tuple[Method[Any], BaseModel, int], batch: TokenBatch) -> None:
    method, base, _ = case
    bare = logits_of(base, batch)
    with method.attach(base, 1) as attached, torch.no_grad():
        fresh = attached.logits(batch.input_ids, batch.attention_mask)
    tolerance = 0.05 if method.name == "bottleneck_adapter" else 1e-4
    assert close_at_labels(fresh, bare, batch, tolerance) == (method.name not in STARTS_ELSEWHERE)


def test_number_of_trained_values_is_the_papers(case: tuple[Method[Any], BaseModel, int]) -> None:
    method, base, count = case
    frozen = list(base.model.parameters())
    with method.attach(base, 1) as attached:
        assert attached.parameter_count == count
        # What is claimed is what has gradients, and what the optimiser gets.
        claimed = {id(p) for p in attached.trainable.values()}
        assert all(p.requires_grad for p in attached.trainable.values())
        assert {id(p) for g in method.optimizer(attached).param_groups for p in g["params"]} == claimed
        assert not {id(p) for p in frozen} & claimed
        assert not any(p.requires_grad for p in frozen)


def test_initial_values_come_from_the_seed(case: tuple[Method[Any], BaseModel, int]) -> None:
    method, base, _ = case

    def initial(seed: int) -> list[Tensor]:
        with method.attach(base, seed) as attached:
            return [p.detach().clone() for p in attached.trainable.values()]

    torch.manual_seed(99)
    before = torch.get_rng_state()
    one, two = initial(1), initial(1)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert torch.equal(torch.get_rng_state(), before)
    drawn = {"lora", "rslora", "dora", "lora_plus", "qlora", "adalora", "bottleneck_adapter", *STARTS_ELSEWHERE}
    assert any(not torch.equal(a, b) for a, b in zip(one, initial(2), strict=True)) == (method.name in drawn)


def test_training_lowers_the_loss_and_leaves_the_base_alone(
    case: tuple[Method[Any], BaseModel, int], batch: TokenBatch, task: Task
) -> None:
    method, base, _ = case
    before, bare = hash_parameters(base.model), logits_of(base, batch)
    modules, attributes = dict(base.model.named_modules()), set(vars(base.model))
    rows = tokenize_examples(base.tokenizer, task.examples["train"])

    def loss(attached: Any) -> float:
        with torch.no_grad():
            logits = attached.logits(batch.input_ids, batch.attention_mask)
        return response_loss(logits, batch.labels).mean().item()

    with method.attach(base, 1) as attached:
        start = loss(attached)
        train_attached(method, attached, base, rows, 0, task.name)
        assert loss(attached) < start - 0.01
    assert hash_parameters(base.model) == before
    assert torch.equal(logits_of(base, batch), bare)
    assert dict(base.model.named_modules()) == modules
    assert set(vars(base.model)) == attributes
    assert not any(m._forward_hooks for m in base.model.modules())
    assert not any(p.requires_grad for p in base.model.parameters())


@pytest.fixture
def trained(
    case: tuple[Method[Any], BaseModel, int], tmp_path: Path, task: Task, batch: TokenBatch
) -> tuple[MethodLibrary, BaseModel, Tensor]:
    """A library with one trained task, and the logits it had before it was saved."""
    method, base, _ = case
    library = MethodLibrary(tmp_path / "library", method, base.fingerprint)
    seen: list[Tensor] = []
    save = method.save

    def saving(attached: Any, folder: Path) -> None:
        with torch.no_grad():
            seen.append(attached.logits(batch.input_ids, batch.attention_mask))
        save(attached, folder)

    method.save = saving  # type: ignore[method-assign]
    make_method_library(library.folder, method, base, [task], 0, {})
    return MethodLibrary.open(library.folder), base, seen[0]


def test_saved_and_restored_gives_the_same_logits(
    trained: tuple[MethodLibrary, BaseModel, Tensor], task: Task, batch: TokenBatch
) -> None:
    """Bit for bit; AdaLoRA leaves its pruned ranks out of the file, which changes the order of a sum."""
    library, base, before = trained
    with library.restore(base, task.name) as restored:
        after = logits_of(restored, batch)[:, -batch.input_ids.shape[1] :]
    if library.method.name == "adalora":
        torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-5)
    else:
        assert torch.equal(after, before)
    record = library.provenance(task.name)
    assert record["trainable_parameters"] == CASES[library.method.name][1]
    assert record["adapter_bytes"] == (library.path(task.name) / library.method.weights_file).stat().st_size
    assert record["training_time_s"] > 0
    assert record["final_loss"] > 0
    assert (record["method"], record["seed"], record["steps"]) == (library.method.name, 0, HOW.steps)
    assert (record["data_sha256"], record["base_fingerprint"]) == (task.examples_hash(), base.fingerprint)
    assert library.record()["base_parameters_sha256"] == hash_parameters(base.model)


def test_missing_and_foreign_keys_are_errors(
    trained: tuple[MethodLibrary, BaseModel, Tensor], task: Task, batch: TokenBatch
) -> None:
    library, base, _ = trained
    bare, file = logits_of(base, batch), library.path(task.name) / library.method.weights_file
    tensors = read_tensors(file)
    name = sorted(tensors)[0]
    for wrong in (
        {k: v for k, v in tensors.items() if k != name},
        {**tensors, f"{name}_more": tensors[name].clone()},
        {**tensors, name: tensors[name][:-1].clone()},
    ):
        write_tensors(file, wrong)
        with pytest.raises(ValueError, match=r"adapter|needs|load") as error, library.restore(base, task.name):
            pass
        assert "\n" not in str(error.value)
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(FileProblemError, match="damaged"), library.restore(base, task.name):
        pass
    assert torch.equal(logits_of(base, batch), bare)


def test_greedy_answers_are_what_the_training_loss_sees(
    trained: tuple[MethodLibrary, BaseModel, Tensor], task: Task
) -> None:
    """Decoding a padded batch through the board's decoder gives, token by token, the argmax of unpadded forward passes."""
    library, base, _ = trained
    questions = questions_for([task], 4)
    with library.restore(base, task.name) as restored:
        answers = greedy_answers(restored, questions, None, None, 5, 4)
        for answer in answers:
            ids = list(_prompt(base, answer.question.content))
            start = len(ids)
            while len(ids) < start + 5 and ids[-1] != base.tokenizer.eos_token_id:
                logits = logits_of(restored, collate_ids(ids))
                ids.append(int(logits[0, -1].argmax()))
            text = base.tokenizer.decode(ids[start:], skip_special_tokens=True)
            assert " ".join(text.split()) == answer.answer
    assert len({len(_prompt(base, q.content)) for q in questions}) > 1


def _prompt(base: BaseModel, content: str) -> tuple[int, ...]:
    from t2l.tasks import tokenize_prompts

    return tokenize_prompts(base.tokenizer, [content])[0]


def collate_ids(ids: list[int]) -> TokenBatch:
    tensor = torch.tensor([ids])
    return TokenBatch(tensor, torch.ones_like(tensor), tensor)


# The modules of our own, against their papers' equations.


def test_bottleneck_is_houlsbys(bases: dict[str, BaseModel]) -> None:
    module = Bottleneck(6, 2, "gelu", 0.5)
    torch.nn.init.normal_(module.up.bias)
    torch.nn.init.normal_(module.down.bias)
    h = torch.randn(4, 6)
    inner = torch.nn.functional.gelu(h @ module.down.weight.T + module.down.bias)
    torch.testing.assert_close(module(h), h + inner @ module.up.weight.T + module.up.bias)
    assert module.down.weight.abs().max() <= 1.0
    made = build(BottleneckAdapterConfig(size=4)).modules(bases["none"].model)  # type: ignore[attr-defined]
    ends = {p.rsplit(".", 1)[-1] for p, m in made.items() if isinstance(m, Bottleneck)}
    norms = {p.rsplit(".", 1)[-1] for p, m in made.items() if isinstance(m, Rescale)}
    assert ends == {"o_proj", "down_proj"}
    assert norms == {"input_layernorm", "post_attention_layernorm"}


def test_rescaling_a_normalisation_is_training_its_own_parameters() -> None:
    norm, rescale = torch.nn.LayerNorm(5), Rescale(5, has_shift=True)
    for p in (*norm.parameters(), *rescale.parameters()):
        torch.nn.init.normal_(p)
    assert rescale.shift is not None
    trained = copy.deepcopy(norm)
    trained.weight.data = rescale.scale * norm.weight
    trained.bias.data = rescale.scale * norm.bias + rescale.shift
    x = torch.randn(3, 5)
    torch.testing.assert_close(rescale(norm(x)), trained(x))


def test_bitfit_on_a_base_with_biases_is_training_them(bases: dict[str, BaseModel], batch: TokenBatch) -> None:
    """Exactly the base's own biases, and the function of a copy whose biases hold the trained values."""
    from transformers import AutoModelForCausalLM, GPT2Config

    torch.manual_seed(0)
    config = GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=400, n_positions=128)
    model = freeze(AutoModelForCausalLM.from_config(config))
    base = replace(bases["none"], model=model)
    with build(BitFitConfig()).attach(base, 0) as attached, torch.no_grad():
        assert set(attached.trainable) == {n for n, _ in model.named_parameters() if n.endswith(".bias")}
        edited = copy.deepcopy(model)
        for name, delta in attached.trainable.items():
            torch.nn.init.normal_(delta, std=0.1)
            edited.get_parameter(name).add_(delta)
        for module in edited.modules():
            module._forward_hooks.clear()
        ours = attached.logits(batch.input_ids, batch.attention_mask)
    torch.testing.assert_close(ours, logits_of(replace(base, model=edited), batch), atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="has biases of its own"):
        build(BitFitConfig(target_modules=["c_attn"])).attach(base, 0).__enter__()


def test_bitfit_on_a_base_without_biases_adds_them_to_linear_layers(bases: dict[str, BaseModel]) -> None:
    with build(BitFitConfig(target_modules=["o_proj"])).attach(bases["none"], 0) as attached:
        assert attached.parameter_count == LAYERS * HIDDEN
        assert all(bool((p == 0).all()) for p in attached.trainable.values())


def test_full_fine_tuning_keeps_tied_matrices_tied(bases: dict[str, BaseModel]) -> None:
    with build(FullFineTuningConfig()).attach(bases["none"], 0) as attached:
        assert attached.model.get_input_embeddings().weight is attached.model.get_output_embeddings().weight
        assert attached.model is not bases["none"].model


# What sets a PEFT variant apart is really on.


def one_step(method: Method[Any], base: BaseModel, batch: TokenBatch) -> Iterator[Any]:
    with method.attach(base, 3) as attached:
        optimizer = method.optimizer(attached)
        response_loss(attached.logits(batch.input_ids, batch.attention_mask), batch.labels).mean().backward()
        yield attached
        optimizer.step()
        yield attached


def test_lora_plus_moves_b_by_the_ratio(bases: dict[str, BaseModel], batch: TokenBatch) -> None:
    """AdamW's first step has the size of the learning rate, so B's step shows it: ratio times A's."""
    method = build(LoraPlusConfig(HOW, rank=4, lr_ratio=4.0))
    with method.attach(bases["none"], 0) as attached:
        groups = [g for g in method.optimizer(attached).param_groups if g["params"]]
        assert sorted(g["lr"] for g in groups) == [HOW.lr, 4 * HOW.lr]
        fast = {id(p) for g in groups if g["lr"] > HOW.lr for p in g["params"]}
        # B is what starts at zero.
        assert fast == {id(p) for p in attached.trainable.values() if bool((p == 0).all())}
    *_, attached = one_step(method, bases["none"], batch)
    moved = [p for p in attached.trainable.values() if id(p) in fast] or list(attached.trainable.values())
    assert max(p.abs().max().item() for p in moved if p.shape[1] == 4) == pytest.approx(4 * HOW.lr, rel=1e-3)


def test_adalora_prunes_to_its_budget(bases: dict[str, BaseModel], task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    from peft.tuners.adalora import AdaLoraModel

    steps: list[int] = []
    allocate = AdaLoraModel.update_and_allocate
    monkeypatch.setattr(AdaLoraModel, "update_and_allocate", lambda self, s: (steps.append(s), allocate(self, s))[1])
    base, method = bases["none"], build(CASES["adalora"][0])
    rows = tokenize_examples(base.tokenizer, task.examples["train"])
    with method.attach(base, 1) as attached:
        train_attached(method, attached, base, rows, 0, task.name)
        pattern = attached.model.peft_config["default"].rank_pattern
    assert steps == list(range(HOW.steps))
    assert sum(map(sum, pattern.values())) == 4 * len(pattern)


def test_adalora_penalty_is_pefts(bases: dict[str, BaseModel], batch: TokenBatch) -> None:
    base, method = bases["none"], build(AdaLoraConfig(HOW, orthogonality=0.5))
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "labels": batch.labels}
    with torch.no_grad():
        plain = base.model(**inputs).loss
        with method.attach(base, 1) as attached:
            assert (attached.model(**inputs).loss - plain).item() == pytest.approx(
                float(method.penalty(attached)), rel=1e-3
            )


def test_peft_folders_load_without_t2l(
    trained: tuple[MethodLibrary, BaseModel, Tensor], task: Task, batch: TokenBatch
) -> None:
    library, base, before = trained
    if library.method.weights_file != WEIGHTS_FILE:
        pytest.skip("not PEFT's format")
    from peft import PeftModel

    wrapped: Any = PeftModel.from_pretrained(base.model, str(library.path(task.name)))
    try:
        with torch.no_grad():
            after = wrapped(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        torch.testing.assert_close(after[:, -batch.input_ids.shape[1] :], before, atol=1e-5, rtol=1e-5)
    finally:
        if not wrapped.active_peft_config.is_prompt_learning:
            wrapped.unload()
        vars(base.model).pop("peft_config", None)


@pytest.mark.parametrize("kind", [PrefixTuningConfig, PromptTuningConfig])
def test_virtual_tokens_from_the_vocabulary_act_as_those_words(
    kind: type[MethodConfig], bases: dict[str, BaseModel], batch: TokenBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its initial values, a prefix or prompt is the same as random words before the input."""
    base, draw, drawn = bases["none"], torch.randint, []
    monkeypatch.setattr(torch, "randint", lambda *a, **k: (drawn.append(draw(*a, **k)), drawn[-1])[1])
    with build(kind(virtual_tokens=5)).attach(base, 4) as attached, torch.no_grad():  # type: ignore[call-arg]
        ours = attached.logits(batch.input_ids, batch.attention_mask)
    words = drawn[-1].reshape(1, 5).expand(len(batch.input_ids), -1)
    longer = torch.cat([words, batch.input_ids], dim=1)
    mask = torch.cat([torch.ones_like(words), batch.attention_mask], dim=1)
    spelled = logits_of(base, TokenBatch(longer, mask, longer))[:, 5:]
    assert close_at_labels(ours, spelled, batch)


def test_prefix_mlp_is_dropped_after_training(bases: dict[str, BaseModel], tmp_path: Path, task: Task) -> None:
    method = build(PrefixTuningConfig(HOW, virtual_tokens=5, projection_size=7, initial_values="random"))
    make_method_library(tmp_path / "prefix", method, bases["none"], [task], 0, {})
    folder = MethodLibrary.open(tmp_path / "prefix").path(task.name)
    assert {k: v.numel() for k, v in read_tensors(folder / WEIGHTS_FILE).items()} == {
        "prompt_embeddings": CASES["prefix_tuning"][1]
    }


def test_only_chosen_layers_are_adapted(bases: dict[str, BaseModel]) -> None:
    with build(LoraMethodConfig(HOW, rank=4, layers=[1])).attach(bases["none"], 0) as attached:
        assert attached.parameter_count == LORA_COUNT // LAYERS
        assert all(".layers.1." in name for name in attached.trainable)


# The library on disk.


@pytest.fixture
def small(tmp_path: Path, bases: dict[str, BaseModel]) -> MethodLibrary:
    return MethodLibrary(tmp_path / "small", build(Ia3Config(HOW)), bases["none"].fingerprint)


def test_what_is_there_is_skipped_and_another_recipe_refused(
    small: MethodLibrary, bases: dict[str, BaseModel], task: Task
) -> None:
    base = bases["none"]
    train_method_library(small, base, [task], 0)
    file = small.path(task.name) / small.method.weights_file
    time = file.stat().st_mtime_ns
    train_method_library(small, base, [task], 0)
    assert file.stat().st_mtime_ns == time
    with pytest.raises(ValueError, match="was made with seed=0, now it is 1"):
        train_method_library(small, base, [task], 1)
    small.write_record({})
    with pytest.raises(ValueError, match="holds method ia3 with other settings"):
        make_method_library(small.folder, build(BitFitConfig(HOW)), base, [task], 0, {})
    with pytest.raises(ValueError, match="was trained on another base model"):
        small.restore(replace(base, fingerprint="other"), task.name).__enter__()
    with pytest.raises(FileProblemError, match="has nothing for task 'sort'"):
        small.restore(base, "sort").__enter__()


def test_divergence_is_reported_and_left_out(tmp_path: Path, bases: dict[str, BaseModel], task: Task) -> None:
    how = replace(HOW, lr=1e30)
    library = MethodLibrary(tmp_path / "wild", build(LoraMethodConfig(how)), bases["none"].fingerprint)
    failed = train_method_library(library, bases["none"], [task], 0)
    assert failed.keys() == {task.name}
    assert failed[task.name].startswith("diverged: ")
    assert library.tasks() == []


@pytest.mark.parametrize("name", ["lora", "adalora", "bitfit"])
def test_the_best_weights_by_validation_are_kept_if_asked(
    tmp_path: Path, bases: dict[str, BaseModel], task: Task, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Validation losses are dictated here: best at the first look that may be kept, worse from then on."""
    losses = iter([3.0, 1.0, 2.0, 2.5, 2.6, 2.7, 2.8, 2.9])
    seen: list[dict[str, Tensor]] = []
    real = method_training._row_losses

    def look(attached: Any, base: BaseModel, rows: list[Any], at_once: int) -> list[float]:
        if len(rows) > 1:  # the judge's look at the end, on training rows as well
            return real(attached, base, rows, at_once)
        seen.append({k: p.detach().clone() for k, p in attached.trainable.items()})
        return [next(losses)]

    monkeypatch.setattr(method_training, "_row_losses", look)
    how = replace(HOW, steps=20, check_every=1, patience=2)
    method = build(replace(CASES[name][0], optimization=how))
    base = bases["none"]
    rows, check = (tokenize_examples(base.tokenizer, task.examples[s]) for s in ("train", "validation"))
    with method.attach(base, 0) as attached:
        trained = method_training.train_attached(method, attached, base, rows, 0, task.name, check)
        assert (trained.validation_loss, len(seen)) == (1.0, 4)
        assert trained.best_step is not None
        assert trained.best_step == trained.steps - 2 < 20 - 2
        for key, parameter in attached.trainable.items():
            assert torch.equal(parameter, seen[1][key])
    if name == "adalora":  # no look before the budget of ranks has reached its end
        assert trained.best_step - 1 > 20 - method.config.budget_steps[1]


def test_validation_is_recorded_and_off_unless_asked(tmp_path: Path, bases: dict[str, BaseModel], task: Task) -> None:
    plain, asked = build(LoraMethodConfig(HOW)), build(LoraMethodConfig(replace(HOW, check_every=3)))
    assert "check_every" not in plain.settings()["optimization"]  # as libraries on disk have it
    assert from_settings("lora", asked.settings()).settings() == asked.settings()
    records = []
    for method in (plain, asked):
        library = MethodLibrary(tmp_path / str(len(records)), method, bases["none"].fingerprint)
        train_method_library(library, bases["none"], [task], 0)
        records.append(library.provenance(task.name))
    assert records[0]["best_step"] is None
    assert records[1]["best_step"] in (3, 6, 9, 12)
    assert all(r["validation_loss"] > 0 and r["validation_loss_before"] > 0 for r in records)
    with pytest.raises(ValueError, match="set check_every, too"):
        OptimizationConfig(patience=2)
    with pytest.raises(ValueError, match=r"method\.optimization\.check_every must be at least 1"):
        OptimizationConfig(check_every=0)


def test_same_seed_gives_the_same_files(tmp_path: Path, bases: dict[str, BaseModel], task: Task) -> None:
    for name in ("one", "two"):
        make_method_library(tmp_path / name, build(LoraMethodConfig(HOW)), bases["none"], [task], 0, {})
    files = [MethodLibrary.open(tmp_path / n).path(task.name) / WEIGHTS_FILE for n in ("one", "two")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_settings_round_trip_through_json() -> None:
    for config, _ in CASES.values():
        method = build(config)
        assert from_settings(method.name, json.loads(json.dumps(method.settings()))).config == config
    with pytest.raises(ValueError, match="unknown method 'magic'"):
        from_settings("magic", {})
    with pytest.raises(ValueError, match="does not have"):
        from_settings("ia3", {"optimization": {}, "size": 3})


def test_methods_refuse_a_base_they_cannot_adapt(bases: dict[str, BaseModel]) -> None:
    for config, base, says in (
        (QLoraConfig(), bases["none"], "needs its base in 4 bits"),
        (FullFineTuningConfig(), bases["nf4"], "cannot train a quantised base"),
        (LoraMethodConfig(target_modules=["c_attn"]), bases["none"], "no linear 'c_attn'"),
        (Ia3Config(feedforward_modules=["fc"]), bases["none"], "method.feedforward_modules: this base has no linear"),
        (LoraMethodConfig(layers=[7]), bases["none"], "no layer 7; this base has layers 0 to 2"),
    ):
        with pytest.raises(ValueError, match=says):
            build(config).attach(base, 0).__enter__()


@pytest.mark.parametrize(
    ("kind", "values", "says"),
    [
        (OptimizationConfig, {"steps": 0}, "steps must be at least 1"),
        (OptimizationConfig, {"lr": 0.0}, "optimization.lr must be positive, not 0.0"),
        (LoraMethodConfig, {"rank": 0}, "rank must be at least 1"),
        (LoraMethodConfig, {"target_modules": []}, "target_modules is empty"),
        (LoraPlusConfig, {"lr_ratio": 0.5}, "lr_ratio must be at least 1"),
        (AdaLoraConfig, {"target_rank": 20}, "above method.initial_rank"),
        (AdaLoraConfig, {"warmup_budget_fraction": 0.9}, "the rank budget never shrinks"),
        (VeraConfig, {"initial_scale": 0.0}, "initial_scale must be positive"),
        (Ia3Config, {"target_modules": ["down_proj"]}, "choose one"),
        (PrefixTuningConfig, {"virtual_tokens": 0}, "virtual_tokens must be at least 1"),
        (PrefixTuningConfig, {"projection_size": 8}, "an MLP cannot start from words"),
        (PromptTuningConfig, {"initial_values": "text"}, "initial_values must be random or vocabulary"),
        (BottleneckAdapterConfig, {"activation": "step"}, "activation must be gelu, relu, silu or tanh"),
        (BitFitConfig, {"target_modules": []}, "target_modules is empty"),
    ],
)
def test_bad_settings(kind: Any, values: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        kind(**values)


def test_costs_of_nothing_are_an_error() -> None:
    with pytest.raises(ValueError, match="has no costs"):
        mean_costs([])


# Through the command line, on the mini base.

SMALL = ["suite.train_examples=16", "suite.test_examples=4", "suite.train_compositions=5"]
BOARD = [f"evaluation.{b}" for b in ("tasks_per_split=2", "examples_per_task=2", "bootstrap_samples=10")]
QUICK = ["optimization.steps=2", "optimization.rows_per_task=2"]


def test_one_command_trains_and_scores_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = {"dora", "qlora", "bitfit"}
    left_out = [f"~method@methods.{name}" for name in sorted(set(CASES) - kept)]
    quick = [f"methods.{name}.{q}" for name in sorted(kept) for q in QUICK]
    main(
        ["compare_methods", "experiment=methods_table", *SMALL, *BOARD, *left_out, *quick, "training.steps=2",
         "contenders=[base,oracle]", f"run_dir={tmp_path}/table"]
    )  # fmt: skip
    report = read_json(tmp_path / "table/report.json")
    assert [r["contender"] for r in report["results"]] == [
        "base", "oracle", *(f"oracle_{m}" for m in ("dora", "qlora", "bitfit"))
    ]  # fmt: skip
    costs = {c["contender"]: c for c in report["costs"]}
    assert set(costs) == {"base", "oracle", "oracle_dora", "oracle_qlora", "oracle_bitfit"}
    bare = costs.pop("base")
    assert bare["trainable_parameters"] == bare["adapter_bytes"] == 0
    assert costs["oracle_dora"]["trainable_parameters"] > costs["oracle_qlora"]["trainable_parameters"]
    assert all(c["adapter_bytes"] > 0 and c["n_tasks"] == 2 for c in costs.values())
    assert costs["oracle_dora"]["training_time_s"] > 0
    text = (tmp_path / "table/report.md").read_text()
    assert "| oracle_dora | " in text.split("What does it cost?")[1]
    assert "oracle" in capsys.readouterr().out


def test_one_method_as_a_library_and_a_contender(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tasks = "tasks=[keep_animals,reverse]"
    quick = [f"method.{q}" for q in QUICK]
    train = ["train_library", "method=ia3", *SMALL, *quick, tasks, f"run_dir={tmp_path}/ia3"]
    main(train)
    assert MethodLibrary.open(tmp_path / "ia3").tasks() == ["keep_animals", "reverse"]
    main(train)
    capsys.readouterr()
    for wrong, says in (
        ([*train, "method.optimization.lr=0.5"], "holds method ia3 with other settings"),
        (["train_library", *SMALL, tasks, f"run_dir={tmp_path}/ia3"], "holds another method's adapters"),
        (
            ["evaluate", *SMALL, "contenders=[base]", f"method_libraries=[{tmp_path}/nowhere]",
             f"run_dir={tmp_path}/out"],
            "is not a folder of `t2l train_library method=...`",
        ),
        (
            ["evaluate", *SMALL, *BOARD, "contenders=[]", f"method_libraries=[{tmp_path}/ia3]",
             "splits=[unseen_category]", f"run_dir={tmp_path}/out"],
            "has nothing for task",
        ),
    ):  # fmt: skip
        with pytest.raises(SystemExit) as stopped:
            main(wrong)
        assert stopped.value.code == 2
        (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("t2l: error")]
        assert says in line
