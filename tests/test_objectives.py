from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from conftest import CONFIGS, random_adapters
from torch import Tensor

from t2l.base_model import LoraConfig, lora_spec_from_config
from t2l.lora import LoraWeights
from t2l.objectives.losses import frobenius_distance, l1_distance, product_norm, response_loss, weight_penalty
from t2l.tasks import IGNORE_INDEX

SPEC = lora_spec_from_config(CONFIGS["phi3"][0], LoraConfig(rank=3, target_modules=CONFIGS["phi3"][1]))


def materialised_distance(one: LoraWeights, two: LoraWeights) -> Tensor:
    total = torch.zeros(one.batch_size, dtype=torch.float64)
    for k in one.A:
        total += (one.B[k] @ one.A[k] - two.B[k] @ two.A[k]).square().sum(dim=(1, 2, 3))
    return total


def gauge(weights: LoraWeights) -> LoraWeights:
    """(B M^-1)(M A): other factors, the same product."""
    m = torch.eye(3) + 0.3 * torch.randn(3, 3, generator=torch.Generator().manual_seed(3))
    return LoraWeights({k: m @ a for k, a in weights.A.items()}, {k: b @ m.inverse() for k, b in weights.B.items()})


def test_frobenius_equals_the_materialised_product() -> None:
    one, two = random_adapters(SPEC, 4, seed=1), random_adapters(SPEC, 4, seed=2)
    torch.testing.assert_close(
        frobenius_distance(one, two).double(), materialised_distance(one, two), rtol=1e-4, atol=1e-3
    )
    zero = random_adapters(SPEC, 4, seed=2).map(torch.zeros_like)
    torch.testing.assert_close(product_norm(one).double(), materialised_distance(one, zero), rtol=1e-4, atol=1e-3)


def test_frobenius_is_zero_on_its_target_and_blind_to_the_gauge() -> None:
    one, two = random_adapters(SPEC, 2, seed=1), random_adapters(SPEC, 2, seed=2)
    assert frobenius_distance(one, one).abs().max() < 1e-3
    assert frobenius_distance(one, gauge(one)).abs().max() < 1e-2
    torch.testing.assert_close(frobenius_distance(gauge(one), two), frobenius_distance(one, two), rtol=1e-3, atol=1e-2)
    assert l1_distance(one, gauge(one)) > 0.01


def test_frobenius_gradient_equals_that_of_the_product() -> None:
    target = random_adapters(SPEC, 2, seed=2)
    gradients = []
    for distance in (frobenius_distance, materialised_distance):
        one = random_adapters(SPEC, 2, seed=1).map(lambda t: t.requires_grad_())
        distance(one, target).sum().backward()
        gradients.append([t.grad for t in one.tensors()])
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-10)])
@pytest.mark.parametrize("gap", [1.0, 1e-1, 1e-2, 1e-3, 1e-4])
@pytest.mark.parametrize("is_gauged", [False, True], ids=["near", "gauged"])
def test_nearly_equal_adapters_do_not_cancel(dtype: torch.dtype, tolerance: float, gap: float, is_gauged: bool) -> None:
    """The distance to a slightly moved copy, also under other factors, is that of the materialised product."""
    one = random_adapters(SPEC, 2, seed=1).to(torch.float64)
    moved = random_adapters(SPEC, 2, seed=2).to(torch.float64)
    two = LoraWeights({k: one.A[k] + gap * moved.A[k] for k in one.A}, {k: one.B[k] + gap * moved.B[k] for k in one.B})
    if is_gauged:
        m = torch.eye(3, dtype=torch.float64) + 0.3 * torch.randn(3, 3, generator=torch.Generator().manual_seed(3))
        two = LoraWeights({k: m @ a for k, a in two.A.items()}, {k: b @ m.inverse() for k, b in two.B.items()})
    one, two = one.to(dtype), two.to(dtype)
    exact = materialised_distance(one.to(torch.float64), two.to(torch.float64))
    torch.testing.assert_close(frobenius_distance(one, two).double(), exact.double(), rtol=tolerance, atol=0)


@pytest.mark.parametrize("is_gauged", [False, True], ids=["near", "gauged"])
def test_gradient_of_nearly_equal_adapters(is_gauged: bool) -> None:
    target = random_adapters(SPEC, 2, seed=1).to(torch.float64)
    start = target.map(lambda t: t + 1e-4 * torch.randn(t.shape, generator=torch.Generator().manual_seed(5)).double())
    if is_gauged:
        m = torch.eye(3, dtype=torch.float64) + 0.3 * torch.randn(3, 3, generator=torch.Generator().manual_seed(3))
        start = LoraWeights({k: m @ a for k, a in start.A.items()}, {k: b @ m.inverse() for k, b in start.B.items()})
    gradients = []
    for distance in (frobenius_distance, materialised_distance):
        one = start.map(lambda t: t.detach().clone().requires_grad_())
        distance(one, target).sum().backward()
        gradients.append(one.map(lambda t: t.grad if t.grad is not None else torch.zeros(0)).tensors())
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6 * float(theirs.abs().max()))


def test_l1_is_the_mean_over_elements() -> None:
    one = random_adapters(SPEC, 2, seed=1)
    shifted = LoraWeights({k: v + 0.5 for k, v in one.A.items()}, {k: v - 0.25 for k, v in one.B.items()})
    assert l1_distance(one, one) == 0
    assert l1_distance(one, shifted).item() == pytest.approx(0.75, rel=1e-4)


def test_weight_penalty_is_mean_square_of_a_plus_of_b() -> None:
    ones = random_adapters(SPEC, 2).map(torch.ones_like)
    assert weight_penalty(ones).item() == pytest.approx(2.0)


def test_response_loss_averages_within_rows_first() -> None:
    logits = torch.randn(2, 6, 11, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[IGNORE_INDEX] * 5 + [3], [IGNORE_INDEX, 1, 2, 3, 4, 5]])
    rows = response_loss(logits, labels)
    assert rows[0].item() == pytest.approx(F.cross_entropy(logits[0, 4:5], labels[0, 5:6]).item(), rel=1e-5)
    assert rows[1].item() == pytest.approx(F.cross_entropy(logits[1, :5], labels[1, 1:]).item(), rel=1e-5)


def test_response_loss_smooths_labels() -> None:
    logits = torch.randn(1, 3, 7, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[IGNORE_INDEX, 2, 4]])
    expected = F.cross_entropy(logits[0, :2], labels[0, 1:], label_smoothing=0.1)
    assert response_loss(logits, labels, 0.1)[0].item() == pytest.approx(expected.item(), rel=1e-5)


def test_prompt_tokens_do_not_count() -> None:
    logits = torch.randn(1, 4, 7, requires_grad=True)
    response_loss(logits, torch.tensor([[IGNORE_INDEX, IGNORE_INDEX, IGNORE_INDEX, 2]])).sum().backward()
    assert logits.grad is not None
    assert logits.grad[0, 2].abs().sum() > 0
    assert logits.grad[0, [0, 1, 3]].abs().sum() == 0
