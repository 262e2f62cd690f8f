"""`t2l report RUN`: a table or a figure of a report for a paper, a spreadsheet or a notebook, or its page once more."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from t2l.checks import one_of
from t2l.evaluation.harness.report import HARNESS_FILES, harness_table
from t2l.evaluation.report.forms import FIGURE_FORMS, FIGURES
from t2l.evaluation.report.saved import load_report
from t2l.evaluation.report.tables import (
    TABLES,
    entries_of,
    long_table,
    selected,
    to_csv,
    to_latex,
    to_markdown,
    wide_table,
)
from t2l.own_files import replace_file
from t2l.run.console import print_table
from t2l.tracking import Table
from t2l.verbs import Verb

FORMS = ("table", "markdown", "latex", "csv", "parquet", "html", *FIGURE_FORMS)
ENDINGS = {".md": "markdown", ".tex": "latex", ".csv": "csv", ".parquet": "parquet", ".html": "html"} | {
    f".{form}": form for form in FIGURE_FORMS
}


@dataclass
class ReportConfig:
    """`t2l report`: a table of a report in another form, a figure of it, or the whole report as a page."""

    folder: str = ""
    """run folder of `t2l evaluate`, also in the harness, or of `t2l quickstart`"""
    table: str = "results"
    """results, content, controls, against, recipes, recovered, by_task or costs"""
    figure: str | None = None
    """a figure in place of a table: scores, controls, recipes, costs, tasks, style, scale, confidence, map or norms"""
    to: str | None = None
    """table (of the terminal), markdown or latex, with a column per split; csv or parquet, with a row per number; html: the
    whole report as a page; of a figure png, pdf or svg; None: as the file ends (.md, .tex, .csv, .parquet, .html, .png,
    .pdf, .svg), without one table"""
    contenders: list[str] = field(default_factory=list)
    """contenders to show; empty: all"""
    splits: list[str] = field(default_factory=list)
    """splits to show, of a report of the harness its tasks; empty: all"""
    file: str | None = None
    """file to write; None prints, which parquet and figures cannot"""
    overwrite: bool = False
    """whether a file that is there is replaced"""

    def __post_init__(self) -> None:
        one_of(self, FORMS, "to")
        one_of(self, TABLES, "table")
        one_of(self, FIGURES, "figure")
        self._check_figure()
        if self.file and self.form == "table":
            endings = ", ".join(ENDINGS)
            raise ValueError(
                f"file={self.file}: say what to write, by its ending ({endings}) or by to={', '.join(FORMS[1:])}"
            )
        if self.form == "parquet" and not self.file:
            raise ValueError("to=parquet is no text: name the file to write, file=FILE.parquet")

    def _check_figure(self) -> None:
        is_figure = self.form in FIGURE_FORMS
        if self.figure is None and is_figure:
            raise ValueError(f"a figure is asked for as {self.form}: say which, figure={', '.join(FIGURES)}")
        if self.figure is not None and not (is_figure and self.file):
            raise ValueError(f"figure={self.figure} is an image: name the file to write, file=FILE.png, .pdf or .svg")

    @property
    def form(self) -> str:
        """What the table becomes."""
        return self.to or ENDINGS.get(Path(self.file or "").suffix, "table")


def _parquet(table: Table) -> bytes:
    from pandas import DataFrame

    stream = io.BytesIO()
    DataFrame(table.rows, columns=list(table.header)).to_parquet(stream, index=False)
    return stream.getvalue()


MAKERS: dict[str, Callable[[Table], str | bytes]] = {
    "markdown": to_markdown,
    "latex": to_latex,
    "csv": to_csv,
    "parquet": _parquet,
}


def run(config: ReportConfig) -> None:
    """Prints or writes the table. Raises ValueError for a folder without a report, or a contender or split that it has not."""
    if not config.folder:
        raise ValueError("report needs the run folder of a report: t2l report DIR")
    if config.figure is not None or config.form == "html":
        if _is_of_harness(Path(config.folder)):
            raise ValueError(f"{config.folder} is of the harness, whose scores are a table: leave out figure= and html")
        report = selected(load_report(config.folder).data, config.contenders, config.splits)
        _put(config, _drawn(report, config.figure, config.form) if config.figure else _page(report))
        return
    table = _table(config)
    if config.form == "table":
        rows = [["" if cell is None else str(cell) for cell in row] for row in table.rows]
        print_table(table.header, rows, config.table)
        return
    _put(config, MAKERS[config.form](table))


def _drawn(report: Mapping[str, Any], figure: str, form: str) -> bytes:
    """Raises ValueError for a figure that the report has no data for."""
    from t2l.evaluation.report.figures import drawn, makers

    there = makers(report)
    if figure not in there:
        raise ValueError(f"figure={figure}: this report has nothing for it; choose from {', '.join(there)}")
    return drawn(there[figure], [form])[form]


def _page(report: Mapping[str, Any]) -> str:
    from t2l.evaluation.report.html_page import page
    from t2l.evaluation.report.report import rendered

    text, figures, _ = rendered(report, ["png"])
    return page(text, {name: images["png"] for name, images in figures.items()})


def _put(config: ReportConfig, made: str | bytes) -> None:
    """Into the file, if one is named, else on standard output."""
    if config.file is None:
        sys.stdout.write(str(made))
        return
    _write(Path(config.file), made, config.overwrite)
    print(config.file)


def _table(config: ReportConfig) -> Table:
    """What is asked for, of a report of t2l's own board or of the harness."""
    is_long = config.form in ("csv", "parquet")
    if _is_of_harness(Path(config.folder)):
        if config.table != "results":
            raise ValueError(f"table={config.table}: a report of the harness has results alone")
        return harness_table(Path(config.folder), is_long, config.contenders, config.splits)
    report = selected(load_report(config.folder).data, config.contenders, config.splits)
    table = long_table(report, config.table) if is_long else wide_table(report, config.table)
    if not table.rows:
        there = ", ".join(name for name in TABLES if entries_of(report, name))
        raise ValueError(f"table={config.table}: this report has nothing of it; choose from {there}")
    return table


def _is_of_harness(folder: Path) -> bool:
    own, of_harness = "report.json", HARNESS_FILES[0]
    return (folder / of_harness).is_file() and not (folder / own).is_file()


def _write(path: Path, made: str | bytes, overwrite: bool) -> None:
    """Whole or not at all. Raises ValueError if a file is there that is not to be replaced, or it cannot be written."""
    if path.exists() and not (overwrite and path.is_file()):
        raise ValueError(f"{path} is there already: choose another file, or overwrite=true")
    try:
        replace_file(path, made.encode() if isinstance(made, str) else made)
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error.strerror or error}") from error


VERB = Verb(ReportConfig, run, words=("folder",), keeps_records=False)
