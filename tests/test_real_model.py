"""A real pretrained model on real tasks, where they are at hand (they are not part of this repository)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import SHARED

from t2l.base_model import BaseModelConfig, LoraConfig, load_base_model, lora_spec
from t2l.injection import inject
from t2l.library import AdapterLibrary
from t2l.library_training import LibraryTrainingConfig, TrainingJob, train_adapters, train_library
from t2l.suites import FolderSuiteConfig, build
from t2l.tasks import tokenize_examples

MODEL, TASKS = SHARED / "models/TinyStories-656K", SHARED / "data/function_vectors"
pytestmark = pytest.mark.skipif(
    not (MODEL.is_dir() and TASKS.is_dir()), reason=f"needs {MODEL.name} and {TASKS.name} beside the repository"
)


def test_tinystories_through_library_training_and_back_through_peft(tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = load_base_model(BaseModelConfig(path=str(MODEL), device="cpu"))
    names = ["capitalize_first_letter", "singular-plural"]
    suite = build(FolderSuiteConfig(path=str(TASKS), tasks=names, held_fraction=0.0, train_examples=64))
    spec = lora_spec(base.model, LoraConfig(rank=4, target_modules=["o_proj", "q_proj", "v_proj"]))
    library = AdapterLibrary(tmp_path / "library", spec, str(MODEL), base.fingerprint)
    config = LibraryTrainingConfig(steps=40, rows_per_task=8, tasks_at_once=2, lr=0.01)
    tasks = suite.select(names)
    assert train_library(library, base, tasks, config, seed=0) == {}
    jobs = [TrainingJob(t.name, tokenize_examples(base.tokenizer, t.examples["train"])) for t in tasks]
    start = train_adapters(base, spec, jobs, replace(config, steps=1), seed=0)
    ids = torch.tensor([jobs[0].rows[0].prompt_ids])
    for before, task in zip(start, tasks, strict=True):
        assert library.provenance(task.name)["final_loss"] < 0.5 * before.final_loss
        with torch.no_grad():
            with inject(base.model, spec, library.load([task.name])):
                injected = base.model(ids).logits
            fresh = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
            peft_model = PeftModel.from_pretrained(fresh, str(library.path(task.name)))
            torch.testing.assert_close(peft_model(ids).logits, injected, atol=1e-4, rtol=1e-4)
