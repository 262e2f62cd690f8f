"""Which settings of an evaluation decide its answers, and which only say where things are or how much memory they get."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from t2l.run.continuation import SINCE

INDECISIVE: Mapping[str, tuple[str, ...]] = {
    "": (
        "run_dir", "contenders", "splits", "tasks", "checkpoints", "method_libraries", "library", "robustness_split",
        "confidence", "keep_calibration", "validation_split", "allow_code_execution", "logger",
        "vector_figures",
    ),
    "base_model": ("path", "gguf_file", "revision", "device", "shard", "trust_remote_code"),
    "encoder": ("path", "revision", "device", "batch_size", "cache", "trust_remote_code"),
    "suite": ("path",),
    "training_suite": ("path",),
    "evaluation": ("batch_size", "tokens_per_batch", "bootstrap_samples", "adapter_memory_gb"),
    "few_shot": ("tasks_at_once",),
    "harness": ("batch_size", "include_path", "descriptions", "descriptions_folder", "library_tasks"),
}  # fmt: skip
"""by part of the configuration: what may change between two runs of one evaluation. What is scored at all may grow; what
lies at a path is told by its content, cell by cell; batches change nothing but rounding."""


def decisive_settings(config: Any) -> dict[str, Any]:
    """The settings of `t2l evaluate` that a run folder's cells have in common."""
    kept = {k: v for k, v in asdict(config).items() if k not in INDECISIVE[""]}
    for part, keys in INDECISIVE.items():
        if part and isinstance(kept.get(part), dict):
            kept[part] = {k: v for k, v in kept[part].items() if k not in keys}
    return _without_unset(kept)


def _without_unset(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Less what came later and is as it was before."""
    kept = {k: v for k, v in settings.items() if f"{prefix}{k}" not in SINCE or v != SINCE[f"{prefix}{k}"]}
    return {k: _without_unset(v, f"{prefix}{k}.") if isinstance(v, dict) else v for k, v in kept.items()}
