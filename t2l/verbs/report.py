"""`t2l report RUN`: a table of a report for a paper, a spreadsheet or a notebook."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from t2l.checks import one_of
from t2l.evaluation.report.saved import load_report
from t2l.evaluation.report.tables import (
    TABLES,
    ReportTable,
    long_table,
    selected,
    to_csv,
    to_latex,
    to_markdown,
    wide_table,
)
from t2l.files import check_own, write_own
from t2l.run.console import print_table
from t2l.verbs import Verb

FORMS = ("table", "markdown", "latex", "csv", "parquet")


@dataclass
class ReportConfig:
    """`t2l report`: a table of a report in another form."""

    folder: str = ""
    """run folder of `t2l evaluate` or `t2l quickstart`"""
    table: str = "results"
    """results, content, controls, against, recovered, by_task or costs"""
    to: str = "table"
    """table, markdown or latex, with a column per split; csv or parquet, with a row per number"""
    contenders: list[str] = field(default_factory=list)
    """contenders to show; empty: all"""
    splits: list[str] = field(default_factory=list)
    """splits to show; empty: all"""
    file: str | None = None
    """file to write; None prints, which parquet cannot"""

    def __post_init__(self) -> None:
        one_of(self, FORMS, "to")
        one_of(self, TABLES, "table")
        if self.to == "parquet" and not self.file:
            raise ValueError("to=parquet is no text: name the file to write, file=FILE.parquet")


def _parquet(table: ReportTable) -> bytes:
    from pandas import DataFrame

    stream = io.BytesIO()
    DataFrame(table.rows, columns=list(table.header)).to_parquet(stream, index=False)
    return stream.getvalue()


def _there(report: Mapping[str, Any]) -> list[str]:
    return [name for name in TABLES if report.get(name)]


def run(config: ReportConfig) -> None:
    """Prints or writes the table. Raises ValueError for a folder without a report, or a contender or split that it has not."""
    if not config.folder:
        raise ValueError("report needs the run folder of a report: t2l report DIR")
    report = selected(load_report(config.folder).data, config.contenders, config.splits)
    table = long_table(report, config.table) if config.to in ("csv", "parquet") else wide_table(report, config.table)
    if not table.rows:
        raise ValueError(
            f"table={config.table}: this report has nothing of it; choose from {', '.join(_there(report))}"
        )
    if config.to == "table" and not config.file:
        print_table(
            table.header, [["" if cell is None else str(cell) for cell in row] for row in table.rows], config.table
        )
        return
    forms: dict[str, Callable[[ReportTable], str | bytes]] = {
        "csv": to_csv,
        "latex": to_latex,
        "markdown": to_markdown,
        "table": to_markdown,
        "parquet": _parquet,
    }
    made = forms[config.to](table)
    if not config.file:
        sys.stdout.write(str(made))
        return
    path = Path(config.file)
    check_own(path.parent, [path.name])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_own(path, made)
    print(path)


VERB = Verb(ReportConfig, run, words=("folder",), keeps_records=False)
