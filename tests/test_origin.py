"""A run that starts from another run's checkpoint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_training import ARCHITECTURE, WIDTH, Setup

from t2l import hypernetwork as hypernetworks
from t2l.base_model import BaseModel
from t2l.hypernetwork import TextToLoraConfig
from t2l.hypernetwork.checkpoint import TrainingData, load_record
from t2l.tasks.manifest import Manifest
from t2l.training.checkpoint import save_checkpoint
from t2l.training.optimizer import make_optimizer
from t2l.training.origin import Origin, where_from


def first_run(base: BaseModel, folder: Path, training_data: TrainingData | None = None, whitens: bool = True) -> Setup:
    """A run of one step whose weights and statistics are those of no fresh hypernetwork."""
    setup = Setup(base, folder)
    model = hypernetworks.build(ARCHITECTURE, setup.spec, WIDTH, seed=5)
    if whitens:
        model.set_description_statistics(setup.embeddings, 0.5)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1)
    record = replace(setup.record, step=1, trained_on={"tasks": ["a"], "seed": 3})
    save_checkpoint(folder, record, model, make_optimizer(setup.trainer, model), training_data)
    return setup


def test_weights_and_statistics_are_taken(tiny_base: BaseModel, tmp_path: Path) -> None:
    setup = first_run(tiny_base, tmp_path)
    origin = Origin.find(str(tmp_path), ARCHITECTURE)
    origin.check(setup.spec, tiny_base.fingerprint, "encoder")
    fresh = hypernetworks.build(ARCHITECTURE, setup.spec, WIDTH, seed=0)
    origin.load_into(fresh, is_whitening=True)
    for name, one in hypernetworks.build(ARCHITECTURE, setup.spec, WIDTH, seed=5).named_parameters():
        torch.testing.assert_close(fresh.get_parameter(name), one + 0.1)
    assert not torch.equal(fresh.description_map, torch.eye(WIDTH))
    told = where_from(origin, None)["init_from"]
    assert (told["step"], told["objective"], told["trained_on"]["seed"]) == (1, "sft", 3)
    assert where_from(None, replace(setup.record, trained_on={"init_from": told})) == {"init_from": told}
    assert where_from(None, load_record(origin.folder)) == {}


def test_what_does_not_fit_is_refused(tiny_base: BaseModel, tmp_path: Path) -> None:
    setup = first_run(tiny_base, tmp_path)
    with pytest.raises(
        ValueError, match=r"init_from=.* is a hypernetwork of another architecture \(architecture=l, latent=16"
    ):
        Origin.find(str(tmp_path), TextToLoraConfig("m", latent=16))
    origin = Origin.find(str(tmp_path), ARCHITECTURE)
    with pytest.raises(ValueError, match=r"init_from=.* was trained for another base model"):
        origin.check(setup.spec, "other", "encoder")
    with pytest.raises(ValueError, match=r"init_from=.* was trained with another sentence encoder"):
        origin.check(setup.spec, tiny_base.fingerprint, "other")
    with pytest.raises(ValueError, match=r"adapters of another geometry than lora"):
        origin.check(replace(setup.spec, rank=2), tiny_base.fingerprint, "encoder")
    fresh = hypernetworks.build(ARCHITECTURE, setup.spec, WIDTH, seed=0)
    with pytest.raises(
        ValueError, match=r"trained with whitened descriptions: set trainer.description_whitening to a value"
    ):
        origin.load_into(fresh, is_whitening=False)
    first_run(tiny_base, tmp_path / "plain", whitens=False)
    with pytest.raises(ValueError, match=r"trained without whitened descriptions: .* to null"):
        Origin.find(str(tmp_path / "plain"), ARCHITECTURE).load_into(fresh, is_whitening=True)


def test_what_the_first_run_was_trained_on_counts(
    tiny_base: BaseModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    setup = Setup(tiny_base, tmp_path / "new")
    before, now = setup.tasks[:2], [replace(setup.tasks[1], examples={"train": setup.tasks[1].examples["test"]})]
    centres = torch.zeros(1, WIDTH)
    validated = [replace(t, examples={"validation": t.examples["test"]}) for t in (setup.tasks[1], setup.tasks[2])]
    first_run(tiny_base, tmp_path / "told", TrainingData(Manifest.of(before, 2, validated[:1]), torch.zeros(2, WIDTH)))
    own = TrainingData(Manifest.of(now, 3, validated[1:]), centres)
    joined = Origin.find(str(tmp_path / "told"), ARCHITECTURE).training_data(own)
    assert joined is not None
    assert set(joined.manifest.examples) == {t.name for t in before}
    both = {*Manifest.of(before, 2).examples[now[0].name].tolist(), *Manifest.of(now, 3).examples[now[0].name].tolist()}
    assert set(joined.manifest.examples[now[0].name].tolist()) == both
    assert len(joined.manifest.descriptions[now[0].name]) == 3
    assert set(joined.manifest.validation) == {t.name for t in validated}  # they decided what was kept, then or now
    assert joined.centres is centres
    first_run(tiny_base, tmp_path / "silent")
    silent = Origin.find(str(tmp_path / "silent"), ARCHITECTURE)
    assert silent.training_data(TrainingData(Manifest.of(now, 3), centres)) is None
    assert "does not say what it was trained on" in caplog.text
