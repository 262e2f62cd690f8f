"""`t2l export RUN`: a trained hypernetwork to hand on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from t2l.evaluation.report.saved import load_report
from t2l.hypernetwork.export import export
from t2l.run.folder import command_of
from t2l.verbs import Verb


@dataclass
class ExportConfig:
    """`t2l export RUN`: a checkpoint without its optimiser, in 16 bits, with a card, in a folder to hand on.

    The folder is a checkpoint wherever one is asked for; training does not go on from it.
    """

    checkpoint: str = ""
    """run or checkpoint folder of `t2l train`, or RUN:best or RUN:last"""
    run_dir: str = ""
    """folder to write"""
    report: str | None = None
    """run folder of a `t2l evaluate` that scores this checkpoint, for the scores in the card"""
    licence: str | None = None
    """licence of the hypernetwork, as the hub spells it (apache-2.0, mit...), for the card; None states none"""


def run(config: ExportConfig) -> None:
    """Prints the folder that it writes."""
    if not config.checkpoint or not config.run_dir:
        raise ValueError("export needs a checkpoint and a folder to write: t2l export RUN --run-dir DIR")
    report = load_report(config.report).data if config.report is not None else None
    scored_by = command_of(Path(config.report), "evaluate") if config.report is not None else None
    print(export(Path(config.checkpoint), Path(config.run_dir), report, config.licence, scored_by))


VERB = Verb(ExportConfig, run, words=("checkpoint",), keeps_records=False)
