from __future__ import annotations

import pytest
import torch
from conftest import random_adapters

from t2l.base_model import BaseModel, LoraConfig, lora_spec
from t2l.encoder import EncoderConfig, TaskEncoder
from t2l.evaluation.adapter_map import adapter_map, gram_matrix
from t2l.evaluation.unrelated_sentences import FOREIGN_SENTENCES
from t2l.hypernetwork import ResidualConfig
from t2l.hypernetwork import build as build_hypernetwork
from t2l.hypernetwork.confidence import Calibration, auroc, calibration_error, distances, reliability, task_centres
from t2l.tasks.suites import WordListConfig, build


def test_calibration_never_predicts_better_from_further_away() -> None:
    generator = torch.Generator().manual_seed(0)
    apart = torch.rand(200, generator=generator)
    score = (torch.rand(200, generator=generator) > apart).float()
    fitted = Calibration.fit(apart.tolist(), score.tolist(), step=7)
    predicted = fitted(torch.linspace(-1, 2, 50))
    assert predicted == sorted(predicted, reverse=True)
    assert predicted[0] > 0.8
    assert predicted[-1] < 0.2
    again = Calibration.from_json(fitted.to_json())
    assert again == fitted
    with pytest.raises(ValueError, match="at least two"):
        Calibration.fit([1.0], [1.0], step=0)


def test_auroc_counts_pairs() -> None:
    assert auroc([1, 2, 3], [4, 5]) == 1
    assert auroc([4, 5], [1, 2, 3]) == 0
    assert auroc([1, 1], [1, 1]) == 0.5
    assert auroc([1, 3], [2, 4]) == 0.75


def test_reliability_bins_hold_everything_once() -> None:
    predicted = [0.1] * 10 + [0.9] * 10
    observed = [0.0] * 9 + [1.0] + [1.0] * 10
    bins = reliability(predicted, observed, bins=2)
    assert [b["n"] for b in bins] == [10, 10]
    assert [b["observed"] for b in bins] == pytest.approx([0.1, 1.0])
    assert calibration_error(bins) == pytest.approx(0.05)


def test_descriptions_of_the_suite_lie_nearer_than_foreign_sentences(mini_base: BaseModel) -> None:
    spec = lora_spec(mini_base.model, LoraConfig(rank=4))
    suite = build(WordListConfig(train_examples=2, validation_examples=1, test_examples=1))
    encoder = TaskEncoder(EncoderConfig(cache=""))
    tasks = suite.select(suite.split("train").tasks[::6])
    groups = list(encoder.encode([d for t in tasks for d in t.descriptions["train"][:12]]).split(12))
    model = build_hypernetwork(ResidualConfig(width=16, description_width=8), spec, 384, 0)
    model.set_description_statistics(groups, 0.1)
    centres = task_centres(model, groups)
    near, nearest = distances(model, centres, encoder.encode([t.descriptions["test"][0] for t in tasks]))
    far, _ = distances(model, centres, encoder.encode(list(FOREIGN_SENTENCES)))
    assert auroc(near.tolist(), far.tolist()) >= 0.9
    assert sum(i == n for i, n in enumerate(nearest)) > 0.5 * len(tasks)


def test_map_puts_alike_adapters_together(mini_base: BaseModel) -> None:
    spec = lora_spec(mini_base.model, LoraConfig(rank=4))
    oracles = random_adapters(spec, 4)
    close = oracles.map(lambda t: t + 0.01 * torch.randn(t.shape, generator=torch.Generator().manual_seed(1)))
    gram = gram_matrix(oracles)
    torch.testing.assert_close(gram, gram.T, rtol=1e-4, atol=1e-4)
    want = sum(((oracles.B[n][0] @ oracles.A[n][0]) * (oracles.B[n][1] @ oracles.A[n][1])).sum() for n in oracles.A)
    torch.testing.assert_close(gram[0, 1], want, rtol=1e-3, atol=1e-3)
    found = adapter_map(close, oracles, {"operation": [f"g{i}" for i in range(4)]}, scaling=2.0)
    assert found["norms"]["oracle"].keys() == oracles.A.keys()
    first = next(iter(oracles.A))
    norms = (2.0 * oracles.B[first][:, 0] @ oracles.A[first][:, 0]).norm(dim=(1, 2))
    assert found["norms"]["oracle"][first][0] == pytest.approx(float(norms.mean()), rel=1e-4)
    for point in found["points"]:
        assert point["generated"] == pytest.approx(point["oracle"], abs=0.1)
