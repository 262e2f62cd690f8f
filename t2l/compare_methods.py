"""The table of adaptation methods: each trained on the tasks that the board scores, then all scored together."""

from __future__ import annotations

import logging
from pathlib import Path

from t2l import suites, verbs
from t2l.config import CompareMethodsConfig, EvaluateConfig, TrainLibraryConfig
from t2l.evaluate import evaluate, print_report
from t2l.evaluation.board import Cell, view_split
from t2l.evaluation.code_runner import as_configured
from t2l.evaluation.scoring import check_scorable
from t2l.library_report import training_outcome

log = logging.getLogger(__name__)


def _train(config: CompareMethodsConfig, folder: Path, name: str, tasks: list[str]) -> Path:
    return verbs.train_library(
        TrainLibraryConfig(
            base_model=config.base_model,
            suite=config.suite,
            lora=config.lora,
            method=config.methods.get(name),
            training=config.training,
            tasks=tasks,
            seed=config.seed,
            run_dir=str(folder / name),
        )
    )


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
    if not config.run_dir:
        raise ValueError("run_dir is empty: give the folder to write")
    folder, suite = Path(config.run_dir), suites.build(config.suite)
    views = [view_split(suite, split, config.evaluation, config.seed) for split in config.splits]
    for view in views:
        for task in view.tasks:
            check_scorable(task)
    tasks = list(dict.fromkeys(task.name for view in views for task in view.tasks))
    library = _train(config, folder, "batched_lora", tasks) if "oracle" in config.contenders else None
    trained = [path for name in config.methods if _is_whole(path := _train(config, folder, name, tasks))]
    contenders = config.contenders
    if library is not None and not _is_whole(library):
        library, contenders = None, [c for c in contenders if c != "oracle"]
    cells = evaluate(
        EvaluateConfig(
            base_model=config.base_model,
            encoder=config.encoder,
            suite=config.suite,
            lora=config.lora,
            evaluation=config.evaluation,
            library=None if library is None else str(library),
            method_libraries=[str(path) for path in trained],
            contenders=contenders,
            splits=config.splits,
            allow_code_execution=config.allow_code_execution,
            seed=config.seed,
            run_dir=str(folder),
        )
    )
    print_report(cells, folder)
    return cells
