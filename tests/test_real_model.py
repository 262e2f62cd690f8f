"""A pretrained model on tasks from a folder: the one that ships with t2l on rows made here, and, if they are at hand, one
that others trained on tasks that others published (they are not part of this repository)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest
import torch
from conftest import SHARED
from small_suites import make_suites

from t2l.base_model import BaseModelConfig, LoraConfig, load_base_model, lora_spec
from t2l.base_model.files import mini_base_model_path
from t2l.evaluation.scoring import greedy_answers, questions_for
from t2l.library import AdapterLibrary
from t2l.library.training import LibraryTrainingConfig, TrainingJob, train_adapters, train_library
from t2l.lora import inject
from t2l.tasks import tokenize_examples
from t2l.tasks.suites import FolderSuiteConfig, build

MODEL, DATA = SHARED / "models/TinyStories-656K", SHARED / "data"


def needs(*folders: Path) -> None:
    if not all(f.is_dir() for f in folders):
        pytest.skip(f"needs {', '.join(f.name for f in folders)} of {SHARED.name} beside the repository")


@pytest.mark.parametrize("source", ["made", "published"])
def test_a_pretrained_model_through_library_training_and_back_through_peft(source: str, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    if source == "published":
        needs(MODEL, DATA / "function_vectors")
        path, tasks_folder, second = str(MODEL), DATA / "function_vectors", "singular-plural"
    else:
        path, tasks_folder, second = (
            str(mini_base_model_path()),
            make_suites(tmp_path) / "function_vectors",
            "capitalize",
        )
    base = load_base_model(BaseModelConfig(path=path, device="cpu"))
    names = ["capitalize_first_letter", second]
    suite = build(FolderSuiteConfig(path=str(tasks_folder), tasks=names, held_fraction=0.0, train_examples=64))
    spec = lora_spec(base.model, LoraConfig(rank=4, target_modules=["o_proj", "q_proj", "v_proj"]))
    library = AdapterLibrary(tmp_path / "library", spec, path, base.fingerprint)
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
            fresh = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
            peft_model = PeftModel.from_pretrained(fresh, str(library.path(task.name)))
            torch.testing.assert_close(peft_model(ids).logits, injected, atol=1e-4, rtol=1e-4)


def test_an_oracle_learns_what_the_base_cannot_do(tmp_path: Path) -> None:
    """The first letter of a word: nothing that stories teach, and a matter of characters within tokens."""
    needs(MODEL, DATA / "instruction_induction")
    suite = build(
        FolderSuiteConfig(
            path=str(DATA / "instruction_induction"),
            tasks=["first_word_letter"],
            held_fraction=0.0,
            train_examples=1000,
        )
    )
    base = load_base_model(BaseModelConfig(path=str(MODEL), device="cpu"))
    spec = lora_spec(base.model, LoraConfig(target_modules=["all"]))
    (task,) = suite.select(["first_word_letter"])
    job = TrainingJob(task.name, tokenize_examples(base.tokenizer, task.examples["train"]))
    config = LibraryTrainingConfig(steps=250, rows_per_task=16, lr=0.01)
    (oracle,) = train_adapters(base, spec, [job], config, seed=0)
    questions = questions_for([task], 64)
    scores = [
        fmean(a.score for a in greedy_answers(base, questions, spec, weights, 4, 64))
        for weights in (None, oracle.weights)
    ]
    assert scores[0] < 0.05
    assert scores[1] > 0.4
