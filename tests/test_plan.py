"""Sizes and memory from configs alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import CONFIGS, random_adapters, tiny_model

from t2l import hypernetwork as hypernetworks
from t2l.base_model import (
    BaseModelConfig,
    LoraConfig,
    Quantization,
    label_logits,
    load_base_model,
    lora_spec,
    lora_spec_from_config,
    meta_model,
)
from t2l.base_model.files import model_config, shipped_folder
from t2l.cli import main
from t2l.cli.settings import compose_settings
from t2l.hypernetwork import ResidualConfig, TextToLoraConfig
from t2l.lora import inject
from t2l.lora.peft_folder import save_adapter
from t2l.objectives.losses import label_loss
from t2l.training.memory import (
    StepShape,
    activation_bytes,
    adapter_file_bytes,
    base_bytes,
    bytes_kept,
    hypernetwork_bytes,
    meta_hypernetwork,
)
from t2l.verbs.plan import PlanConfig, _Search, plan

PUBLISHED = {  # parameters in millions, as the models' publishers state them
    "mistralai/Mistral-7B-Instruct-v0.2": 7242,
    "meta-llama/Llama-3.1-8B-Instruct": 8030,
    "google/gemma-2-2b-it": 2614,
    "Qwen/Qwen3-0.6B": 596,
    "Qwen/Qwen3-1.7B": 1721,
    "Qwen/Qwen3-4B": 4022,
    "Qwen/Qwen3-8B": 8191,
    "HuggingFaceTB/SmolLM2-135M-Instruct": 135,
    "HuggingFaceTB/SmolLM2-360M-Instruct": 362,
    "HuggingFaceTB/SmolLM2-1.7B-Instruct": 1711,
}


def test_shipped_configs_have_the_published_sizes() -> None:
    folder = shipped_folder("model_configs")
    assert folder is not None
    assert {f.name.replace("--", "/") for f in folder.iterdir() if f.is_dir()} == set(PUBLISHED)
    for name, millions in PUBLISHED.items():
        model = meta_model(model_config(name))
        parameters = sum(p.numel() for p in {id(p): p for p in model.parameters()}.values())
        assert round(parameters / 1e6) == millions, name


@pytest.mark.parametrize(("hypernetwork", "millions"), [("l", 55), ("m", 34), ("s", 5)])
def test_counts_are_the_published_ones(hypernetwork: str, millions: int) -> None:
    overrides = [
        "base_model=mistral_7b",
        f"hypernetwork={hypernetwork}",
        "lora=paper",
        "trainer=paper_sft",
        "d_embedding=1024",
    ]
    found = plan(compose_settings("plan", overrides))
    assert int(found.hypernetwork_parameters / 1e6) == millions
    assert found.spec.parameters_per_adapter == 32 * 8 * (4096 + 4096 + 4096 + 1024)


def test_adapter_bytes_are_those_of_the_file(tmp_path: Path) -> None:
    spec = lora_spec_from_config(model_config("mistralai/Mistral-7B-Instruct-v0.2"), LoraConfig())
    for name, geometry in (
        ("mistral", spec),
        ("tiny", lora_spec(tiny_model("phi3"), LoraConfig(target_modules=["all"]))),
    ):
        save_adapter(tmp_path / name, geometry, random_adapters(geometry, 1), "base", {})
        assert adapter_file_bytes(geometry) == (tmp_path / name / "adapter_model.safetensors").stat().st_size


@pytest.mark.parametrize("name", ["llama", "gemma2", "phi3"])
def test_activations_are_what_a_real_step_keeps(name: str) -> None:
    model, step = tiny_model(name), StepShape(adapters=3, rows=3, length=20, response=5)
    spec = lora_spec(model, LoraConfig(rank=2, target_modules=["attention"]))
    weights = random_adapters(spec, 3).map(lambda t: t.requires_grad_())
    ids = torch.ones(3, 20, dtype=torch.long)
    labels = torch.full_like(ids, -100)
    labels[:, 15:] = 1
    mask = torch.ones_like(ids)
    mask[0, :3] = 0  # rows of a batch differ in length

    def run() -> torch.Tensor:
        with inject(model, spec, weights):
            found = label_logits(model, ids, mask, labels)
            return label_loss(found.logits, found.targets, found.rows, 3).sum()

    measured = bytes_kept(run, [*model.parameters(), *model.buffers(), *weights.tensors()])
    config = BaseModelConfig(attention=model.config._attn_implementation)
    estimated, layer_input = activation_bytes(CONFIGS[name][0], config, spec, step)
    assert layer_input == 3 * 20 * 32 * 4
    assert estimated == pytest.approx(measured, rel=0.02)


def test_what_saves_memory_saves_it() -> None:
    config = model_config("HuggingFaceTB/SmolLM2-135M-Instruct")
    base, spec = BaseModelConfig(dtype="bfloat16"), lora_spec_from_config(config, LoraConfig())
    plain, _ = activation_bytes(config, base, spec, StepShape(4, 4, 128, 16))
    halved, _ = activation_bytes(config, base, spec, StepShape(4, 2, 128, 16))
    recomputed, _ = activation_bytes(config, base, spec, StepShape(4, 4, 128, 16, gradient_checkpointing=True))
    assert halved == pytest.approx(plain / 2, rel=0.05)
    assert recomputed < plain / 5
    assert recomputed > 30 * 4 * 128 * 576 * 2  # every layer's input
    model = meta_hypernetwork(TextToLoraConfig("l"), spec, 384)
    whole, eight_bit = (hypernetwork_bytes(model, o)[1] for o in ("adamw", "adamw_8bit"))
    assert whole == 8 * sum(p.numel() for p in model.parameters())
    assert eight_bit < whole / 3


@pytest.mark.parametrize("kind", [Quantization.none, Quantization.nf4, Quantization.int8])
def test_base_bytes_are_those_of_a_loaded_base(kind: Quantization) -> None:
    config = BaseModelConfig(device="cpu", quantization=kind)
    base = load_base_model(config)
    measured = sum(p.numel() * p.element_size() for p in base.model.parameters())
    for module in base.model.modules():
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        if state is not None:
            measured += state.absmax.nbytes + state.state2.absmax.nbytes
        scales = getattr(getattr(module, "weight", None), "SCB", None)
        measured += scales.nbytes if scales is not None else 0
    estimated, _ = base_bytes(meta_model(model_config("mini")), config)
    assert estimated == pytest.approx(measured, rel=0.01)


def test_meta_hypernetwork_has_the_real_ones_shapes() -> None:
    spec = lora_spec(tiny_model("llama"), LoraConfig())
    for config in (ResidualConfig(), TextToLoraConfig("s", latent=16)):
        meta, real = meta_hypernetwork(config, spec, 12), hypernetworks.build(config, spec, 12, seed=0)
        assert all(p.is_meta for p in meta.parameters())
        assert [p.shape for p in meta.parameters()] == [p.shape for p in real.parameters()]


SMALL = ["base_model=smollm", "lora=qv_r8", "hypernetwork=l", "trainer=paper_sft", "length=64", "response=8"]


@pytest.mark.slow
def test_names_a_single_change_that_fits(capsys: pytest.CaptureFixture[str]) -> None:
    needed = plan(compose_settings("plan", SMALL)).memory.total / 2**30
    main(["plan", *SMALL, f"memory_gb={needed - 0.01:.3f}"])
    out = capsys.readouterr().out
    assert "does not fit" in out
    change = out.split("this single change makes it fit: ")[1].split("\n")[0]
    main(["plan", *SMALL, f"memory_gb={needed - 0.01:.3f}", change, "--json"])
    assert json.loads(capsys.readouterr().out)["fits"] is True
    main(["plan", *SMALL, "memory_gb=0.01"])
    assert "not even together do changes make it fit: " in capsys.readouterr().out


@pytest.mark.slow
def test_names_the_fewest_changes_that_fit_together(capsys: pytest.CaptureFixture[str]) -> None:
    """Just below what the best single change leaves: two are named, and with them typed in the step fits."""
    single = min(c.memory_gib for c in plan(compose_settings("plan", [*SMALL, "memory_gb=0.01"])).changes)
    limit = f"memory_gb={single - 0.001:.4f}"
    main(["plan", *SMALL, limit])
    out = capsys.readouterr().out
    said = " ".join(
        out.split("these 2 together do, with ")[1].split("or these, with")[0].split("each alone:")[0].split()
    )
    words = said.partition(" GiB: ")[2].split()
    assert len(words) == 2
    found = plan(compose_settings("plan", [*SMALL, limit, *words]))
    assert found.fits
    assert found.memory.total / 2**30 == pytest.approx(float(said.split()[0]), abs=0.01)


def test_changes_together_are_the_fewest_and_one_value_of_each_key() -> None:
    """Here a made-up step takes 8, less what each change saves; the order is that of single changes."""
    saved = {"gradient_checkpointing": 1, "rows_per_pass": 2, "quantization": 3}

    def memory(config: PlanConfig) -> float:
        used = {
            "gradient_checkpointing": config.trainer.gradient_checkpointing,
            "rows_per_pass": config.trainer.rows_per_pass is not None,
            "quantization": config.base_model.quantization is Quantization.nf4,
        }
        return 8.0 - sum(saved[key] for key, is_used in used.items() if is_used)

    config = compose_settings("plan", [*SMALL, "trainer.tasks_per_step=8"])
    pairs = _Search(config, 4.0, memory).together()
    assert [c.overrides for c in pairs] == [
        ("trainer.gradient_checkpointing=true", "base_model.quantization=nf4"),
        ("trainer.rows_per_pass=2", "base_model.quantization=nf4"),
    ]
    three = _Search(config, 2.5, memory).together()
    assert [len(c.overrides) for c in three] == [3]
    (least,) = _Search(config, 1.0, memory).together()
    assert not least.fits
    assert least.memory_gib * 2**30 == 2.0


def test_a_reconstruction_step_leaves_the_base_alone() -> None:
    found = plan(compose_settings("plan", [*SMALL, "objective=reconstruction"]))
    assert (found.memory.activations, found.memory.workspace) == (0, 0)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["base_model.path=no/such-model"], "configs that ship with t2l"),
        (["base_model=smollm", "lora.target_modules=[c_attn]"], "no linear 'c_attn'"),
        (["encoder=one_hot"], "give d_embedding=NUMBER"),
        (["response=600"], "response must be in 1 to length - 1"),
    ],
)
def test_bad_plans_say_why(overrides: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["plan", *overrides])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("kind", ["none", "nf4"])
def test_measured_step_runs_as_planned(kind: str) -> None:
    from experiments.memory.run import measure, random_base

    overrides = ["base_model=mini", "lora=qv_r8", "hypernetwork=s", "d_embedding=24", "length=24", "response=6"]
    config = compose_settings(
        "plan", [*overrides, f"base_model.quantization={kind}", "trainer.gradient_checkpointing=true"]
    )
    linear = random_base(config.base_model, "cpu").model.model.layers[0].self_attn.q_proj
    assert type(linear).__name__ == ("Linear4bit" if kind == "nf4" else "Linear")
    assert measure(config, "cpu", steps=2)["tokens_per_second"] > 0
