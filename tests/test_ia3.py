"""(IA)3: injection by hand and by PEFT, folders, merging, what a hypernetwork starts from, training, and one board with LoRA."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CONFIGS, tiny_gpt2, tiny_model
from small_run import SMALL
from test_cli import refused
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from t2l.base_model import BaseModel, BaseModelConfig, LoraConfig, Quantization, freeze, load_base_model, lora_spec
from t2l.base_model.files import file_fingerprint
from t2l.base_model.merge import merge
from t2l.cli import main
from t2l.evaluation.config import EvaluateConfig
from t2l.evaluation.settings import decisive_settings
from t2l.hypernetwork import ResidualConfig, TextToLoraConfig, build
from t2l.hypernetwork.checkpoint import find_checkpoint, load_record
from t2l.lora import AdapterKind, LoraSpec, LoraWeights, inject
from t2l.lora.injection import scale
from t2l.lora.peft_folder import find_adapter, load_adapter, save_adapter
from t2l.lora.weights import fresh_lora
from t2l.objectives.losses import weight_penalty
from t2l.run.continuation import settings_of, without
from t2l.verbs.train import TrainConfig

IDS = torch.randint(3, 400, (6, 9), generator=torch.Generator().manual_seed(1))
TARGETS = {name: ["k_proj", "v_proj", "down_proj"] for name in CONFIGS if name != "phi3"}
TARGETS["gpt2"] = ["c_attn", "c_proj"]
EMITTING = [TextToLoraConfig("l"), ResidualConfig(width=32, description_width=16)]


def model_of(name: str) -> PreTrainedModel:
    """A tiny model; GPT-2's biases are not zero, as those that are trained."""
    if name != "gpt2":
        return tiny_model(name)
    model = tiny_gpt2()
    for key, parameter in model.named_parameters():
        if key.endswith("bias"):
            nn.init.normal_(parameter, std=0.1)
    return freeze(model)  # type: ignore[return-value]


def spec_of(name: str, model: nn.Module | None = None, layers: list[int] | None = None) -> LoraSpec:
    config = LoraConfig(target_modules=TARGETS[name], layers=layers, kind=AdapterKind.ia3)
    return lora_spec(model or model_of(name), config)


def random_vectors(spec: LoraSpec, batch: int) -> LoraWeights:
    generator = torch.Generator().manual_seed(0)
    shapes = spec.shapes["B"].items()
    return LoraWeights({}, {name: 0.5 * torch.randn(batch, *shape, generator=generator) for name, shape in shapes})


def logits(model: Any, ids: Tensor = IDS) -> Tensor:
    with torch.no_grad():
        return model(ids).logits


def injected(model: nn.Module, spec: LoraSpec, weights: LoraWeights, ids: Tensor = IDS) -> Tensor:
    with inject(model, spec, weights):
        return logits(model, ids)


def scale_by_hand(model: nn.Module, spec: LoraSpec, weights: LoraWeights) -> None:
    """Multiplies rows (with their biases) or columns of the weights themselves."""
    for g in spec.groups:
        for i, path in enumerate(g.paths):
            module, factor = model.get_submodule(path), 1 + weights.B[g.name][0, i]
            weight = module.weight.data if isinstance(module, nn.Linear) else module.weight.data.T  # of Conv1D
            weight.mul_(factor if g.scales_input else factor[:, None])  # type: ignore[operator]
            if module.bias is not None and not g.scales_input:
                module.bias.data.mul_(factor)  # type: ignore[operator]


def test_feed_forward_is_read_off_the_model() -> None:
    found = {g.name: (g.scales_input, g.scaled, g.d_in, g.d_out) for g in spec_of("llama").groups}
    assert found == {
        "down_proj": (True, 48, 48, 32), "k_proj": (False, 16, 32, 16), "v_proj": (False, 16, 32, 16),
    }  # fmt: skip
    assert spec_of("llama").parameters_per_adapter == 3 * (48 + 16 + 16)
    of_gpt2 = {(g.name, g.scales_input) for g in spec_of("gpt2").groups}
    assert of_gpt2 == {("c_attn", False), ("c_proj:32x32", False), ("c_proj:128x32", True)}


def test_a_spec_comes_back_from_json_and_those_of_lora_stay_as_they_were() -> None:
    spec = spec_of("llama", layers=[0, 2])
    assert LoraSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
    plain = lora_spec(tiny_model("llama"), LoraConfig()).to_json()
    assert set(plain) == {"groups", "rank", "alpha", "scaling_rule"}
    assert {key for g in plain["groups"] for key in g} == {"name", "module", "d_in", "d_out", "layers", "paths"}
    assert LoraSpec.from_json(plain).kind is AdapterKind.lora
    with pytest.raises(ValueError, match="neither rank nor alpha"):
        LoraSpec(spec.groups, 4, 4.0, kind=AdapterKind.ia3)


@pytest.mark.parametrize("name", TARGETS)
def test_every_row_runs_under_its_own_vectors(name: str) -> None:
    model = model_of(name)
    spec = spec_of(name, model)
    weights = random_vectors(spec, 3)
    mixed = injected(model, spec, weights)
    for adapter in range(3):
        rows, changed = slice(2 * adapter, 2 * adapter + 2), model_of(name)
        scale_by_hand(changed, spec, weights[adapter])
        torch.testing.assert_close(mixed[rows], logits(changed, IDS[rows]), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(mixed, logits(model), atol=1e-3)
    index = torch.tensor([2, 0, 2, 1, 1, 2])
    with inject(model, spec, weights, index):
        uneven = logits(model)
    for row, adapter in enumerate(index.tolist()):
        alone = injected(model, spec, weights[adapter], IDS[row : row + 1])
        torch.testing.assert_close(uneven[row : row + 1], alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("layers", [None, [1]])
@pytest.mark.parametrize("name", TARGETS)
def test_peft_loads_every_vector_and_gives_the_logits_of_injection(
    name: str, layers: list[int] | None, tmp_path: Path
) -> None:
    from peft import PeftModel, get_peft_model_state_dict

    spec, weights = spec_of(name, layers=layers), random_vectors(spec_of(name, layers=layers), 1)
    save_adapter(tmp_path / "adapter", spec, weights, "base", {})
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Found missing adapter keys")
        loaded = PeftModel.from_pretrained(model_of(name), str(tmp_path / "adapter"))
    result = loaded.load_adapter(str(tmp_path / "adapter"), adapter_name="again")
    assert not result.missing_keys
    assert not result.unexpected_keys
    held = get_peft_model_state_dict(loaded)
    assert len(held) == sum(len(g.paths) for g in spec.groups)
    torch.testing.assert_close(logits(loaded), injected(model_of(name), spec, weights), atol=1e-5, rtol=1e-4)
    by_transformers = model_of(name)
    by_transformers.load_adapter(str(tmp_path / "adapter"))
    torch.testing.assert_close(logits(by_transformers), logits(loaded), atol=1e-5, rtol=1e-4)
    again = load_adapter(tmp_path / "adapter", spec)
    for name_, delta in weights.B.items():
        torch.testing.assert_close(again.B[name_], delta, atol=1e-6, rtol=0)


def test_what_peft_trained_is_read(tmp_path: Path) -> None:
    from peft import IA3Config, get_peft_model

    config = IA3Config(target_modules=TARGETS["llama"], feedforward_modules=["down_proj"], task_type="CAUSAL_LM")
    trained = get_peft_model(tiny_model("llama"), config)
    for key, parameter in trained.named_parameters():
        if "ia3_l" in key:
            nn.init.normal_(parameter)
    trained.save_pretrained(tmp_path)
    spec = spec_of("llama")
    found = injected(tiny_model("llama"), spec, load_adapter(tmp_path, spec))
    torch.testing.assert_close(found, logits(trained), atol=1e-5, rtol=1e-4)


def test_folders_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    model, spec = tiny_model("llama"), spec_of("llama")
    save_adapter(tmp_path / "ia3", spec, random_vectors(spec, 1), "base", {})
    plain = lora_spec(model, LoraConfig())
    save_adapter(tmp_path / "lora", plain, fresh_lora(plain, torch.Generator()), "base", {})
    with pytest.raises(ValueError, match="holds a LORA adapter, the spec wants IA3"):
        load_adapter(tmp_path / "lora", spec)
    with pytest.raises(ValueError, match="holds a IA3 adapter, the spec wants LORA"):
        load_adapter(tmp_path / "ia3", plain)
    with pytest.raises(ValueError, match=r"has 6 keys that the spec does not, first .*layers\.0.*ia3_l"):
        load_adapter(tmp_path / "ia3", spec_of("llama", layers=[1]))
    config = json.loads((tmp_path / "ia3/adapter_config.json").read_text())
    (tmp_path / "ia3/adapter_config.json").write_text(json.dumps({**config, "modules_to_save": ["lm_head"]}))
    with pytest.raises(ValueError, match="modules_to_save"):
        load_adapter(tmp_path / "ia3", spec)
    with pytest.raises(ValueError, match="adapter has A for"):
        fresh_lora(plain, torch.Generator()).check(spec)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_merged_gives_the_logits_of_injection(name: str, tmp_path: Path, tokenizer: Any) -> None:
    base, spec = tmp_path / "base", spec_of(name)
    model_of(name).save_pretrained(base)
    tokenizer.save_pretrained(base)
    record = {"base_fingerprint": file_fingerprint(str(base)), "base_model": str(base)}
    save_adapter(tmp_path / "adapter", spec, random_vectors(spec, 1), str(base), record)
    merge(tmp_path / "adapter", tmp_path / "merged")
    expected = injected(model_of(name), spec, load_adapter(tmp_path / "adapter", spec))
    found = logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged"))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert "(IA)3 adapter merged" in (tmp_path / "merged/README.md").read_text()


def test_scaling_keeps_small_deltas_and_shares_rows_evenly() -> None:
    x = torch.ones(2, 3, 4)
    small = torch.full((1, 4), 2.0**-10, dtype=torch.bfloat16)
    assert torch.equal(scale(x, small), x * (1 + 2.0**-10))
    assert scale(x.bfloat16(), small.float()).dtype is torch.bfloat16
    assert torch.equal(scale(x, torch.zeros(2, 4)), x)
    with pytest.raises(ValueError, match="3 adapters cannot share 2 rows evenly"):
        scale(x, torch.zeros(3, 4))


@pytest.mark.parametrize("kind", [Quantization.nf4, Quantization.int8])
def test_quantised_linears_are_scaled_like_others(kind: Quantization) -> None:
    base = load_base_model(BaseModelConfig(device="cpu", quantization=kind))
    config = LoraConfig(target_modules=TARGETS["llama"], kind=AdapterKind.ia3)
    spec = lora_spec(base.model, config)
    g = next(g for g in spec.groups if g.name == "down_proj")
    weights = fresh_lora(spec, torch.Generator())
    ids = torch.arange(8).reshape(1, 8) + 3
    bare = logits(base.model, ids)
    assert torch.equal(injected(base.model, spec, weights, ids), bare)
    for delta in weights.B.values():
        delta.fill_(-1.0)  # nothing of attention or feed-forward is left
    weights.B["k_proj"].zero_()
    seen: list[Tensor] = []
    handles = [
        base.model.get_submodule(p).register_forward_hook(lambda _m, _a, y: seen.append(y.abs().max())) for p in g.paths
    ]
    gone = injected(base.model, spec, weights, ids)
    for handle in handles:
        handle.remove()
    assert len(seen) == len(g.paths)
    assert not any(seen)
    assert not torch.allclose(gone, bare, atol=1e-2)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("config", EMITTING, ids=["l", "residual"])
def test_a_fresh_hypernetwork_leaves_the_base_alone_and_learns(config: Any, checkpointing: bool) -> None:
    model, spec = tiny_model("llama"), spec_of("llama")
    bare = logits(model)
    made = build(config, spec, 24, seed=0).eval()
    weights = made.generate(torch.randn(3, 24, generator=torch.Generator().manual_seed(0)))
    weights.check(spec)
    assert torch.equal(injected(model, spec, weights), bare)
    if checkpointing:
        model.gradient_checkpointing_enable()
        model.train()
    with inject(model, spec, weights):
        model(IDS, use_cache=False).logits.square().mean().backward()
    assert all(head.weight.grad is not None and head.weight.grad.any() for head in made.heads)
    assert all(p.grad is None for p in model.parameters())


def test_statistics_and_penalty_are_those_of_the_deltas() -> None:
    spec = spec_of("llama")
    made, vectors = build(EMITTING[1], spec, 24, seed=0), random_vectors(spec, 5)
    made.set_statistics(vectors)
    normal = made.normalise(vectors)
    assert all(t.mean(0).abs().max() < 1e-5 for t in normal.tensors())
    torch.testing.assert_close(made.generate(torch.randn(1, 24)).tensors()[0][0], vectors.tensors()[0].mean(0))
    flat = torch.cat([t.flatten() for t in vectors.tensors()])
    torch.testing.assert_close(weight_penalty(vectors), flat.square().mean())


@pytest.mark.parametrize("name", ["m", "s"])
def test_architectures_that_emit_two_sides_are_refused(name: str) -> None:
    with pytest.raises(
        ValueError, match=rf"hypernetwork={name} emits no adapters of lora.kind=ia3.*choose from l, residual"
    ):
        build(TextToLoraConfig(name), spec_of("llama"), 24, seed=0)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["train", "lora=ia3", "lora.rank=4"], "lora.rank=4 means nothing to (IA)3"),
        (["train", "lora.kind=ia3"], "choose lora=ia3"),
        (["train", "lora=ia3", "lora.scaling_rule=rslora"], "lora.scaling_rule=rslora means nothing"),
        (["train", "lora=ia3", "hypernetwork=s"], "hypernetwork=s emits no adapters of lora.kind=ia3"),
        (["train", "lora=ia3", "objective=reconstruction", "library=x"], "which are LoRAs"),
        (["train_library", "lora=ia3"], "choose method=ia3"),
        (["quickstart", "lora=ia3"], "adapters of a library are LoRAs"),
        (["compare_methods", "lora=ia3"], "adapters of a library are LoRAs"),
        (["plan", "lora=ia3", "lora.target_modules=[qkv]"], "no linear 'qkv'"),
    ],
)
def test_what_means_nothing_is_refused(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert says in refused(capsys, *arguments)


def test_a_fused_projection_has_no_keys_of_its_own() -> None:
    config = LoraConfig(target_modules=TARGETS["llama"], kind=AdapterKind.ia3)
    with pytest.raises(ValueError, match=r"no linear 'k_proj' in its layers; it has .*qkv_proj"):
        lora_spec(tiny_model("phi3"), config)


def test_settings_of_before_count_as_loras() -> None:
    now = decisive_settings(EvaluateConfig(contenders=["base"]))
    assert "kind" not in now["lora"]
    assert "lora.kind" not in without(settings_of(TrainConfig()), ())
    other = EvaluateConfig(contenders=["base"], lora=LoraConfig(kind=AdapterKind.ia3))
    assert decisive_settings(other)["lora"]["kind"] == "ia3"


def test_the_plan_counts_vectors(capsys: pytest.CaptureFixture[str], mini_base: BaseModel) -> None:
    main(["plan", "lora=ia3", "hypernetwork=residual", "json=true"])
    found = json.loads(capsys.readouterr().out)
    spec = lora_spec(mini_base.model, LoraConfig(target_modules=TARGETS["llama"], kind=AdapterKind.ia3))
    assert found["kind"] == "ia3"
    assert (
        found["adapter_parameters"]
        == spec.parameters_per_adapter
        == sum(len(g.layers) * (g.d_in if g.module == "down_proj" else g.d_out) for g in spec.groups)
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few steps by SFT and by distillation."""
    root = tmp_path_factory.mktemp("ia3")
    brief = [
        *SMALL,
        "trainer.steps=6",
        "trainer.tasks_per_step=8",
        "descriptions_per_task=2",
        "trainer.validate_every=6",
    ]
    for name, words in {"sft": ["hypernetwork=residual"], "told": ["hypernetwork=l", "objective=distillation"]}.items():
        main(["train", *brief, "lora=ia3", *words, f"run_dir={root}/{name}"])
    return root


def test_it_is_trained_generated_and_loaded(trained: Path, tmp_path: Path, mini_base: BaseModel) -> None:
    from peft import PeftModel

    for name in ("sft", "told"):
        record = load_record(find_checkpoint(trained / name))
        assert record.spec.kind is AdapterKind.ia3
        main(["generate", "Keep only the animals.", "--checkpoint", f"{trained}/{name}", "--out", f"{tmp_path}/{name}"])
        folder = find_adapter(tmp_path / name)
        weights = load_adapter(folder, record.spec)
        assert all(0 < t.abs().max() < 10 for t in weights.tensors())
        ids = torch.arange(12).reshape(1, 12) + 3
        expected = injected(mini_base.model, record.spec, weights, ids)
        fresh = load_base_model(BaseModelConfig(device="cpu")).model
        loaded = PeftModel.from_pretrained(fresh, str(folder))
        torch.testing.assert_close(logits(loaded, ids), expected, atol=1e-4, rtol=1e-4)
        card = (folder / "README.md").read_text()
        assert "An (IA)3 adapter for" in card
        assert "- ia3" in card
        assert "or its input (`down_proj`)" in card
    main(["merge", f"{tmp_path}/sft", "--run-dir", f"{tmp_path}/merged"])


def test_it_stands_beside_lora_on_one_board(trained: Path, root: Path, tmp_path: Path) -> None:
    """With the controls of both, and contenders of a library of LoRAs."""
    board = ["tasks_per_split=2", "examples_per_task=2", "bootstrap_samples=10"]
    main(
        [
            "evaluate", *SMALL, *(f"evaluation.{b}" for b in board), f"checkpoints=[{trained}/sft,{root}/sft]",
            "contenders=[base,nearest,library_mean,oracle,generated,refined]", f"library={root}/library",
            "splits=[train,unseen_combination]", "few_shot.steps=2", "descriptions_per_task=2", f"run_dir={tmp_path}/board",
        ]
    )  # fmt: skip
    report = json.loads((tmp_path / "board/report.json").read_text())
    costs = {row["contender"]: row for row in report["costs"]}
    names = [name for name in costs if name.startswith("generated_sft[") and name.endswith("]")]
    assert [name.removeprefix("generated_sft[").split(",")[0] for name in names] == ["ia3", "lora"]
    runs = (trained / "sft", root / "sft")
    specs = {name: load_record(find_checkpoint(run)).spec for name, run in zip(names, runs, strict=True)}
    for name, spec in specs.items():
        for control in ("", "_shuffled", "_shuffled_nearest", "_random_text", "_static"):
            assert costs[name + control]["adapter_bytes"] == 4 * spec.parameters_per_adapter
        assert costs[f"{name}_refined"]["trainable_parameters"] == spec.parameters_per_adapter
    assert [s.kind for s in specs.values()] == [AdapterKind.ia3, AdapterKind.lora]
    assert {"nearest", "library_mean", "oracle"} <= set(costs)
