"""The table of adaptation methods: each trained on the tasks that the board scores, then all scored together."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import Any

from t2l import methods
from t2l.base_model import BaseModelConfig, LoraConfig
from t2l.evaluation.board import BoardConfig, Cell, view_split
from t2l.evaluation.config import EvaluateConfig
from t2l.evaluation.contenders.interface import Needs, kinds
from t2l.evaluation.metrics.code_runner import as_configured
from t2l.evaluation.scoring import check_scorable
from t2l.library.training import LibraryTrainingConfig
from t2l.methods.low_rank import check_layers
from t2l.tasks import suites
from t2l.verbs import Verb
from t2l.verbs.evaluate import evaluate, print_report
from t2l.verbs.library import training_outcome
from t2l.verbs.results import of_report
from t2l.verbs.shared import folder_of, settings_from
from t2l.verbs.train_library import TrainLibraryConfig, train_library

log = logging.getLogger(__name__)


@dataclass
class CompareMethodsConfig:
    """`t2l compare_methods`: every method trained on the tasks that the board scores, and the table."""

    base_model: BaseModelConfig = field(default_factory=BaseModelConfig)
    """the frozen base that the methods adapt"""
    encoder: Any = None
    """what compares descriptions for contenders that need it"""
    suite: Any = None
    """where the tasks come from"""
    lora: LoraConfig = field(default_factory=LoraConfig)
    """geometry of the adapters"""
    training: LibraryTrainingConfig = field(default_factory=LibraryTrainingConfig)
    """how the library's own batched LoRA is trained, the contender `oracle`"""
    methods: dict[str, Any] = field(default_factory=dict)
    """the methods by name; `~method@methods.NAME` leaves one out"""
    contenders: list[str] = field(default_factory=lambda: ["base", "formal_code", "oracle"])
    """which contenders of `t2l evaluate` are scored beside them, of those that need nothing or each scored task's own adapter"""
    evaluation: BoardConfig = field(default_factory=BoardConfig)
    """how much is scored, and how"""
    splits: list[str] = field(default_factory=lambda: ["train"])
    """splits whose scored tasks are trained, on their own training examples"""
    allow_code_execution: bool = False
    """whether the code that the model writes may run, for tasks that are scored by running it (pass@1); such
    code can do harm, so give it a sandbox"""
    logger: Any = None
    """where metrics and results go besides the run's own files"""
    seed: int = 0
    """decides the tasks, initial values and data order"""
    run_dir: str | None = None
    """folder of everything the run makes"""

    def __post_init__(self) -> None:
        allowed = [name for name, kind in kinds().items() if _fits(kind.needs)]
        unknown = [c for c in self.contenders if c not in allowed]
        if unknown:
            raise ValueError(f"contenders: unknown {unknown[0]!r} here; choose from {', '.join(allowed)}")
        if not self.methods:
            raise ValueError("methods is empty: name at least one, like +method@methods.dora=dora")
        unknown = [name for name, m in self.methods.items() if not is_dataclass(m)]
        if unknown:
            raise ValueError(f"methods.{unknown[0]} is no method: choose one, like +method@methods.{unknown[0]}=dora")
        if any(map(methods.is_batched, self.methods.values())):
            raise ValueError("methods: batched_lora is the contender `oracle`, set by lora.* and training.*")
        check_layers(self.lora, {f"methods.{name}": method for name, method in self.methods.items()})


def _fits(needs: Needs) -> bool:
    """Whether a contender can be made here: without checkpoints, training tasks, and examples to give away."""
    return needs.library in ("", "own") and not (needs.checkpoints or needs.training_tasks or needs.examples)


def _train(config: CompareMethodsConfig, folder: Path, name: str, tasks: list[str]) -> Path:
    own = {"method": config.methods.get(name), "splits": None, "tasks": tasks, "run_dir": str(folder / name)}
    return train_library(settings_from(TrainLibraryConfig, config, **own))


def _is_whole(folder: Path) -> bool:
    """Whether a method came out on every task; it is said if not, and the table does without it."""
    outcome = training_outcome(folder)
    if not outcome.is_complete:
        log.warning("%s is left out of the table, since some tasks failed: %s", folder.name, ", ".join(outcome.failed))
    return outcome.is_complete


@as_configured
def compare_methods(config: CompareMethodsConfig) -> list[Cell]:
    """Trains what is missing, scores everything, prints and writes the report. Returns the scored cells.

    Raises ValueError for an unknown split, or a run folder of other settings.
    """
    folder, suite = folder_of(config.run_dir), suites.build(config.suite)
    views = [view_split(suite, split, config.evaluation, config.seed) for split in config.splits]
    for view in views:
        for task in view.tasks:
            check_scorable(task)
    tasks = list(dict.fromkeys(task.name for view in views for task in view.tasks))
    chosen = kinds(config.contenders)
    needs_library = any(kind.needs.library for kind in chosen.values())
    library = _train(config, folder, "batched_lora", tasks) if needs_library else None
    trained = [path for name in config.methods if _is_whole(path := _train(config, folder, name, tasks))]
    contenders = config.contenders
    if library is not None and not _is_whole(library):
        library, contenders = None, [c for c in contenders if not chosen[c].needs.library]
    own = {"library": None if library is None else str(library), "method_libraries": [str(path) for path in trained]}
    cells = evaluate(settings_from(EvaluateConfig, config, contenders=contenders, run_dir=str(folder), **own))
    print_report(cells, folder)
    return cells


VERB = Verb(CompareMethodsConfig, compare_methods, results=of_report)
