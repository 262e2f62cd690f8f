"""`t2l evaluate harness=lm_eval`: contenders on tasks of the lm-evaluation-harness, and what comes of it."""

from __future__ import annotations

import logging
from dataclasses import replace

import torch

from t2l.base_model import verify_frozen
from t2l.evaluation.config import EvaluateConfig
from t2l.evaluation.contenders.interface import kinds
from t2l.evaluation.context import Context
from t2l.evaluation.data_checks import check_data
from t2l.evaluation.harness.board import HarnessBoard, can_enter, view_of
from t2l.evaluation.harness.data import as_suite, check_checkpoints, tasks_about
from t2l.evaluation.harness.lm_eval import descriptions_of, what_differs
from t2l.evaluation.harness.report import HARNESS_FILES, Row, rows_of, write_harness_report
from t2l.evaluation.metrics.code_runner import as_configured
from t2l.evaluation.report.collect import provenance
from t2l.evaluation.scope import Scope
from t2l.evaluation.settings import decisive_settings
from t2l.evaluation.store import CellStore, Ledger
from t2l.registry import component_of
from t2l.verbs.shared import report_folder

log = logging.getLogger(__name__)


@as_configured
def evaluate_with_harness(config: EvaluateConfig) -> list[Row]:
    """Scores contenders on harness tasks; writes harness.json, harness.md and harness_samples.jsonl. Returns the rows.

    Raises ValueError for an unknown task, a dataset that is not there, a task without a description if a
    contender needs one, and for contenders that fed the base model the same.
    """
    folder = report_folder(config.run_dir, HARNESS_FILES)
    torch.manual_seed(config.seed)
    ledger = Ledger(folder, decisive_settings(config))
    harness = component_of("harness", config.harness).make(config.harness, config.tasks)
    scope = Scope.of(replace(config, splits=[]))
    config = scope.config
    check_checkpoints(scope)
    described = config.prompt.is_shown or any(k.needs.descriptions for k in kinds(scope.contenders).values())
    told = {n: descriptions_of(config.harness, n, scope.suite.tasks) if described else ([], "") for n in harness.tasks}
    own = [config.harness.library_tasks.get(n, n) for n in harness.tasks]
    view = view_of(own, [texts for texts, _ in told.values()], config.prompt.is_shown)
    suite, rows_view, notes = as_suite(harness.tasks, view)
    data = check_data(scope, suite, [rows_view], is_strict=False)
    data.notes.extend(notes)
    context, store = Context.load(scope), CellStore(folder)
    board = HarnessBoard(harness, context, view, store)
    contenders = [c for c in context.contenders() if can_enter(c, view)]
    entries = board.enter(contenders)
    ledger.start({"base_model": context.base.fingerprint, "suite": scope.suite.content_hash()})
    if already := store.finished():
        log.info("%s has %d finished passes: what is asked for again is taken from there", config.run_dir, already)
    with verify_frozen(context.base.model):
        passes = board.score(contenders, entries)
    if not store.written:
        log.info("%s was scored already: only the report is written again", config.run_dir)
    rows = rows_of(passes)
    about = {**provenance(context, data), "prompts": what_differs(config.harness, context.base.tokenizer)}
    write_harness_report(folder, rows, passes, tasks_about(context, view, told), about)
    return rows
