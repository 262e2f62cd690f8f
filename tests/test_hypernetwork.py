from __future__ import annotations

import pytest
import torch
from conftest import CONFIGS, random_adapters
from transformers import MistralConfig

from t2l.base_model import LoraConfig, hash_parameters, lora_spec_from_config
from t2l.hypernetwork import ResidualConfig, TextToLoraConfig, build, config_from_json, config_to_json
from t2l.lora import LoraSpec, LoraWeights, ModuleGroup

ALL = [
    TextToLoraConfig("l"),
    TextToLoraConfig("m"),
    TextToLoraConfig("s"),
    ResidualConfig(width=32, description_width=16),
]
IDS = ["l", "m", "s", "residual"]


def spec_of(name: str = "llama") -> LoraSpec:
    config, targets = CONFIGS[name]
    return lora_spec_from_config(config, LoraConfig(rank=4, target_modules=targets))


@pytest.mark.parametrize("name", ["llama", "phi3", "qwen3"])
@pytest.mark.parametrize("config", ALL, ids=IDS)
def test_emits_the_specs_shapes(config: TextToLoraConfig | ResidualConfig, name: str) -> None:
    spec = spec_of(name)
    weights = build(config, spec, 24, seed=0)(torch.randn(5, 24))
    weights.check(spec)
    assert weights.batch_size == 5


@pytest.mark.parametrize("config", ALL, ids=IDS)
def test_starts_as_a_fresh_lora_whatever_the_description(config: TextToLoraConfig | ResidualConfig) -> None:
    """Bias-HyperInit: A is a random LoRA's, B is zero, and the description has no effect yet."""
    spec = spec_of()
    weights = build(config, spec, 24, seed=0).eval()(torch.randn(3, 24))
    for g in spec.groups:
        assert not weights.B[g.name].any()
        a = weights.A[g.name]
        torch.testing.assert_close(a, a[:1].expand_as(a))
        assert 0.8 * g.d_in**-0.5 < a.abs().max() <= g.d_in**-0.5 + 1e-6


@pytest.mark.parametrize("config", ALL, ids=IDS)
def test_can_fit_one_adapter_per_description(config: TextToLoraConfig | ResidualConfig) -> None:
    """Every architecture can tell descriptions, layers, modules, sides and ranks apart."""
    spec = spec_of()
    torch.manual_seed(0)
    embeddings, targets = torch.randn(2, 24), random_adapters(spec, 2)
    model = build(config, spec, 24, seed=0).eval()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003 if config.architecture != "residual" else 0.02)

    def error() -> torch.Tensor:
        out = model.generate(embeddings)
        pairs = zip(out.tensors(), targets.tensors(), strict=True)
        return sum((o - t).square().mean() for o, t in pairs)  # type: ignore[return-value]

    before = error().item()
    for _ in range(400):
        optimizer.zero_grad()
        loss = error()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05 * before


@pytest.mark.parametrize("config", ALL, ids=IDS)
def test_same_seed_same_network(config: TextToLoraConfig | ResidualConfig) -> None:
    one, two, other = (build(config, spec_of(), 24, seed=s).state_dict() for s in (1, 1, 2))
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert any(not torch.equal(one[k], other[k]) for k in one)


@pytest.mark.parametrize("config", ALL, ids=IDS)
def test_statistics_stay_inside(config: TextToLoraConfig | ResidualConfig) -> None:
    """With statistics set, outputs are at the library's scale and normalise() undoes exactly that."""
    spec = spec_of()
    library = random_adapters(spec, 20)
    library = LoraWeights({k: 5 + v for k, v in library.A.items()}, library.B)
    model = build(config, spec, 24, seed=0).eval()
    embeddings = torch.randn(3, 24)
    raw = model.generate(embeddings)
    model.set_statistics(library)
    scaled = model.generate(embeddings)
    assert scaled.A["q_proj"].mean().item() == pytest.approx(5, abs=0.3)
    for one, two in zip(model.normalise(scaled).tensors(), raw.tensors(), strict=True):
        torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-4)
    again = build(config, spec, 24, seed=5).eval()
    again.load_state_dict(model.state_dict(), strict=True)
    torch.testing.assert_close(again(embeddings).A["q_proj"], scaled.A["q_proj"])


def test_wrong_embedding_width_says_so() -> None:
    with pytest.raises(ValueError, match=r"this hypernetwork wants \(batch, 24\)"):
        build(ALL[0], spec_of(), 24, seed=0)(torch.randn(2, 23))


@pytest.mark.parametrize("config", ALL, ids=IDS)
def test_config_survives_json(config: TextToLoraConfig | ResidualConfig) -> None:
    assert config_from_json(config_to_json(config)) == config


@pytest.mark.parametrize(("architecture", "millions"), [("l", 55.4), ("m", 34.4), ("s", 5.0)])
def test_parameter_counts_of_the_paper(architecture: str, millions: float) -> None:
    """At Mistral-7B's geometry with a 1024-wide encoder (Charakorn et al. 2025)."""
    mistral = MistralConfig()
    spec = lora_spec_from_config(mistral, LoraConfig(rank=8))
    count = sum(p.numel() for p in build(TextToLoraConfig(architecture), spec, 1024, seed=0).parameters())
    assert count / 1e6 == pytest.approx(millions, rel=0.02)


def test_whitening_quiets_phrasing_and_keeps_tasks_apart() -> None:
    """Within a task the whitened variance is about one in every direction; between tasks it stays far above."""
    generator = torch.Generator().manual_seed(0)
    phrasing = torch.randn(24, 24, generator=generator)
    means = torch.randn(30, 24, generator=generator)
    noise = torch.randn(30, 50, 24, generator=generator) @ phrasing
    tasks = list(3 * means[:, None] + 0.3 * noise)
    model = build(ResidualConfig(width=16, description_width=8), spec_of(), 24, seed=0)
    model.set_description_statistics(tasks, shrinkage=0.01)

    def whitened(x: torch.Tensor) -> torch.Tensor:
        scaled = torch.nn.functional.normalize(x, dim=-1) * 24**0.5
        return (scaled - model.description_mean) @ model.description_map

    within = torch.cat([whitened(t) - whitened(t).mean(dim=0) for t in tasks])
    variance = within.T @ within / len(within)
    assert variance.diagonal().min() > 0.5
    assert variance.diagonal().max() < 1.1
    between = torch.stack([whitened(t).mean(dim=0) for t in tasks])
    assert between.square().sum(dim=1).mean() > 2 * within.square().sum(dim=1).mean()


@pytest.mark.parametrize(
    ("config", "digest"),
    [
        (ResidualConfig(width=8, description_width=4), "a124fabc380814e6"),
        (TextToLoraConfig("l", 8), "0951d1cea29599cd"),
        (TextToLoraConfig("m", 8), "75288f18a7b11f1f"),
        (TextToLoraConfig("s", 8), "8f2dccaee772dd73"),
    ],
    ids=lambda value: getattr(value, "architecture", value),
)
def test_fingerprints_stay_what_kept_answers_and_reports_hold(
    config: TextToLoraConfig | ResidualConfig, digest: str
) -> None:
    """They hash names, so whoever renames a parameter or buffer makes every answer that was kept before worthless."""

    def group(name: str, d_in: int, d_out: int) -> ModuleGroup:
        return ModuleGroup(name, name, d_in, d_out, (0, 2), (f"layers.0.{name}", f"layers.2.{name}"))

    model = build(config, LoraSpec((group("q_proj", 8, 8), group("v_proj", 8, 4)), 2, 4.0), 6, 0)
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    assert hash_parameters(model).startswith(digest)
