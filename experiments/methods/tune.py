"""Chooses each method's settings on the mini base: validation rows of training tasks that the table does not score.

    python -m experiments.methods.tune OUT.jsonl [METHOD ...]

Every candidate is trained on the same four tasks; a line of OUT.jsonl gives its exact match and its loss
on their validation rows. Test rows are not looked at. What OUT.jsonl already has is not tried again.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from t2l.base_model import BaseModel, BaseModelConfig, load_base_model
from t2l.evaluation.board import BoardConfig, view_split
from t2l.evaluation.scoring import greedy_answers, questions_for
from t2l.methods import Method, OptimizationConfig, build
from t2l.methods.training import initial_seed, train_attached
from t2l.objectives.losses import response_loss
from t2l.registry import component
from t2l.tasks import Task, TaskSuite, suites, tokenize_examples
from t2l.tasks.batches import collate

SEED, TASKS, SCORED = 0, 4, 24
OV = ["o_proj", "v_proj"]
ALL_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LORA = {"rank": 8, "alpha": 32.0, "target_modules": OV}
ADALORA = {"initial_rank": 12, "target_rank": 8, "alpha": 32.0, "target_modules": OV, "orthogonality": 0.1}
VERA = {"rank": 256, "initial_scale": 0.1, "target_modules": OV}
PREFIX = {"virtual_tokens": 16, "projection_size": None, "initial_values": "vocabulary"}
LOW, HIGH = (0.001, 0.003, 0.01, 0.02), (0.01, 0.03, 0.1, 0.3)
# Per method: settings, and the learning rates they were tried with.
CANDIDATES: Mapping[str, list[tuple[dict[str, Any], Sequence[float]]]] = {
    "lora": [(LORA, (*LOW, 0.04)), ({**LORA, "target_modules": ALL_LINEAR}, LOW)],
    "rslora": [(LORA, LOW)],
    "dora": [(LORA, (*LOW, 0.04))],
    "lora_plus": [({**LORA, "lr_ratio": r}, (0.0003, 0.001, 0.003, 0.01)) for r in (4.0, 16.0)],
    "qlora": [(LORA, (*LOW, 0.04))],
    "adalora": [
        (ADALORA, (0.003, 0.01, 0.03, 0.1, 0.2)),
        ({**ADALORA, "orthogonality": 0.5}, (0.003, 0.01, 0.03, 0.1)),
        ({**ADALORA, "target_modules": ALL_LINEAR}, (0.003, 0.01, 0.03, 0.1)),
    ],
    "vera": [
        (VERA, (*HIGH, 0.6)),
        ({**VERA, "initial_scale": 1.0}, (*HIGH, 0.6)),
        ({**VERA, "target_modules": ALL_LINEAR}, HIGH[:3]),
    ],
    "ia3": [({}, (0.03, 0.1, 0.3)), ({"target_modules": ["k_proj", "v_proj", "o_proj"]}, (0.03, 0.1, 0.3))],
    "prefix_tuning": [
        (PREFIX, (0.01, 0.03, 0.1)),
        ({**PREFIX, "initial_values": "random"}, (0.03, 0.1, 0.3)),
        ({**PREFIX, "initial_values": "random", "projection_size": 128}, (0.003, 0.01)),
    ],
    "prompt_tuning": [
        ({"virtual_tokens": 16, "initial_values": "vocabulary"}, (0.003, 0.01, 0.03)),
        ({"virtual_tokens": 16, "initial_values": "random"}, (0.01, 0.03)),
    ],
    "bitfit": [({}, (0.01, 0.03, 0.1, 0.3))],
    "bottleneck_adapter": [
        ({"size": 16}, (0.001, 0.003, 0.01, 0.03)),
        ({"size": 64}, (0.003, 0.01)),
        ({"size": 16, "train_norms": False}, (0.01,)),
    ],
    "full_fine_tuning": [({}, (0.0003, 0.001, 0.003))],
}
STEPS = 150
# What still fell short after that many steps, tried with more.
LONGER: Mapping[str, list[tuple[dict[str, Any], Sequence[float]]]] = {
    "ia3": [({}, (0.03, 0.1))],
    "prompt_tuning": [({"virtual_tokens": 16, "initial_values": "vocabulary"}, (0.01, 0.03))],
    "bitfit": [({}, (0.01, 0.03, 0.1))],
    "bottleneck_adapter": [({"size": 16}, (0.001, 0.003)), ({"size": 64}, (0.001,))],
}
LONGER_STEPS = 450


def tuning_tasks(suite: TaskSuite) -> list[Task]:
    """Training tasks that the table does not score, spread over the split."""
    scored = {t.name for t in view_split(suite, "train", BoardConfig(tasks_per_split=SCORED), SEED).tasks}
    free = [name for name in suite.split("train").tasks if name not in scored]
    return suite.select(free[len(free) // (2 * TASKS) :: len(free) // TASKS][:TASKS])


def candidates(name: str) -> Iterator[tuple[dict[str, Any], OptimizationConfig]]:
    """Settings and optimisation of every candidate of a method."""
    for steps, groups in ((STEPS, CANDIDATES[name]), (LONGER_STEPS, LONGER.get(name, []))):
        for settings, rates in groups:
            for lr in rates:
                yield settings, OptimizationConfig(steps=steps, lr=lr)


def validation(base: BaseModel, method: Method[Any], task: Task) -> tuple[float, float]:
    """Exact match and loss on a task's validation rows after training on its training rows."""
    rows = tokenize_examples(base.tokenizer, task.examples["train"])
    held_out = tokenize_examples(base.tokenizer, task.examples["validation"])
    with method.attach(base, initial_seed(SEED, task.name)) as attached:
        train_attached(method, attached, base, rows, SEED, task.name)
        batch = collate(held_out, base.tokenizer.pad_token_id, base.device)
        with torch.no_grad():
            loss = response_loss(attached.logits(batch.input_ids, batch.attention_mask), batch.labels).mean().item()
        hidden = replace(task, examples={"test": task.examples["validation"]})
        questions = questions_for([hidden], len(held_out))
        answers = greedy_answers(replace(base, model=attached.model), questions, None, None, 24, 256)
    return sum(a.score for a in answers) / len(answers), loss


def main(out: Path, names: list[str]) -> None:
    """Tries every candidate of the named methods and appends what came out."""
    suite = suites.build(suites.WordListConfig())
    tasks = tuning_tasks(suite)
    bases: dict[str, BaseModel] = {}
    lines = [json.loads(line) for line in out.read_text().splitlines()] if out.is_file() else []
    done = [(x["method"], x["settings"], x["lr"], x["steps"]) for x in lines]
    for name in names:
        kind: Any = component("method", name).config
        for settings, optimization in candidates(name):
            if (name, settings, optimization.lr, optimization.steps) in done:
                continue
            method = build(kind(optimization=optimization, **settings))
            config = method.base_config(BaseModelConfig(device="cpu"))
            if config.quantization not in bases:
                bases[config.quantization] = load_base_model(config)
            base = bases[config.quantization]
            scores, losses = zip(*(validation(base, method, t) for t in tasks), strict=True)
            line = {
                "method": name, "settings": settings, "lr": optimization.lr, "steps": optimization.steps,
                "exact_match": round(sum(scores) / TASKS, 4), "by_task": {t.name: s for t, s in zip(tasks, scores, strict=True)},
                "loss": round(sum(losses) / TASKS, 4) if all(map(math.isfinite, losses)) else None,
            }  # fmt: skip
            with out.open("a") as stream:
                stream.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:] or list(CANDIDATES))
