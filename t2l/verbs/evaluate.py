"""`t2l evaluate`: builds the contenders, scores them, and judges what the scores are worth."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from t2l.evaluation.board import Board, Cell
from t2l.evaluation.config import EvaluateConfig
from t2l.evaluation.context import Context
from t2l.evaluation.data_checks import check_data
from t2l.evaluation.metrics.code_runner import as_configured
from t2l.evaluation.report.collect import collect
from t2l.evaluation.report.report import REPORT_FILES, write_report
from t2l.evaluation.report.summary import summary_lines
from t2l.evaluation.robustness import robustness
from t2l.evaluation.scope import Scope
from t2l.evaluation.settings import decisive_settings
from t2l.evaluation.store import CellStore, Ledger
from t2l.files import read_json
from t2l.verbs import Verb
from t2l.verbs.results import of_report
from t2l.verbs.shared import report_folder

log = logging.getLogger(__name__)


@as_configured
def evaluate(config: EvaluateConfig) -> list[Cell]:
    """Scores contenders on splits and writes the report. Returns the scored cells.

    Raises ValueError for a checkpoint trained on what a split claims to be unseen, and for contenders that
    fed the base model the same.
    """
    folder = report_folder(config.run_dir, REPORT_FILES)
    torch.manual_seed(config.seed)
    ledger = Ledger(folder, decisive_settings(config))
    scope = Scope.of(config)
    config = scope.config
    data = check_data(scope)
    context = Context.load(scope)
    context.check_tasks()
    contenders = [c for c in context.contenders() if any(c.lacks(view) is None for view in scope.views)]
    ledger.start({"base_model": context.base.fingerprint, "suite": scope.suite.content_hash()})
    store = CellStore(folder)
    if already := store.finished():
        log.info("%s has %d finished cells: what is asked for again is taken from there", config.run_dir, already)
    board = Board(context.base, context.spec, config.evaluation, config.seed, store)
    cells = board.score(contenders, scope.views)
    varied = config.robustness_split and any(c.is_generated for c in contenders)
    variants = robustness(board, context) if varied else {}
    if not store.written:
        log.info("%s was scored already: only the report is written again", config.run_dir)
    write_report(folder, collect(context, data, board, contenders, cells, variants), config.vector_figures)
    return cells


def print_report(cells: Sequence[Cell], folder: Path) -> None:
    """Prints the means, how far controls are behind, and where the report is."""
    controls = read_json(folder / "report.json")["controls"]
    print("\n".join(["", *summary_lines(cells, controls), ""]))
    print(f"report, with intervals, controls and costs:\n  {folder / 'report.md'}\n  {folder / 'report.html'}")


def run(config: EvaluateConfig) -> None:
    """Scores contenders and prints the table: on t2l's own board or, if a harness is chosen, by that."""
    if config.harness is None:
        print_report(evaluate(config), Path(config.run_dir or ""))
        return
    from t2l.evaluation.harness.report import print_harness
    from t2l.verbs.evaluate_harness import evaluate_with_harness

    print_harness(evaluate_with_harness(config), Path(config.run_dir or ""))


VERB = Verb(EvaluateConfig, run, results=of_report)
