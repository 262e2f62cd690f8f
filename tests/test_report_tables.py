"""`t2l report`: a report's tables in other forms say what `report.json` says."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from report_of_eight import RECIPES, SPLITS, report_of_eight

from t2l.cli import main
from t2l.evaluation.report.tables import TABLES, long_table, to_latex, wide_table
from t2l.tracking import Table

REPORT: dict[str, Any] = {
    "results": [
        {"contender": "base", "split": "a_b", "metric": "m", "mean": 0.0, "ci95": [0.0, 0.0], "n_tasks": 2, "n_examples": 4, "n_seeds": 1},
        {"contender": "gen_x[lr=1e-3 & 5%]", "split": "a_b", "metric": "m", "mean": 0.456, "ci95": [0.25, 0.75], "n_tasks": 2, "n_examples": 4, "n_seeds": 1},
        {"contender": "gen_x[lr=1e-3 & 5%]", "split": "c", "metric": "m", "mean": 1.0, "ci95": [1.0, 1.0], "n_tasks": 2, "n_examples": 4, "n_seeds": 1},
    ],
    "controls": [
        {"contender": "gen_x[lr=1e-3 & 5%]", "control": "shuffled", "split": "a_b", "difference": 0.3, "ci95": [-0.1, 0.5], "n_tasks": 2}
    ],
    "recovered": [{"contender": "gen_x[lr=1e-3 & 5%]", "split": "c", "fraction": None}],
    "by_task": [{"contender": "base", "split": "c", "scores": {"t1": 0.5, "t2": None}, "fingerprints": []}],
    "costs": [{"contender": "base", "prompt_tokens": 15.36, "training_time_s": None}],
}  # fmt: skip


def shown(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    main(["report", *words])
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as caught:
        main(["report", *words])
    assert caught.value.code == 2
    told = capsys.readouterr().err.strip()
    assert "\n" not in told
    return told


def test_wide_and_long() -> None:
    wide = wide_table(REPORT, "results")
    assert wide.header == ["contender", "a_b", "c"]
    assert wide.rows == [
        ["base", "0.00 [0.00, 0.00]", None],
        ["gen_x[lr=1e-3 & 5%]", "0.46 [0.25, 0.75]", "1.00 [1.00, 1.00]"],
    ]
    assert wide_table(REPORT, "controls").rows == [["gen_x[lr=1e-3 & 5%]", "shuffled", "+0.30 [-0.10, +0.50]"]]
    assert wide_table(REPORT, "recovered").rows == [["gen_x[lr=1e-3 & 5%]", ""]]
    long = long_table(REPORT, "results")
    assert list(long.header) == ["contender", "split", "metric", "mean", "low", "high", "tasks", "examples", "seeds"]
    assert list(long.rows[1]) == ["gen_x[lr=1e-3 & 5%]", "a_b", "m", 0.456, 0.25, 0.75, 2, 4, 1]
    assert long_table(REPORT, "by_task").rows == [("base", "c", "t1", 0.5), ("base", "c", "t2", None)]
    assert wide_table(REPORT, "costs") == long_table(REPORT, "costs")
    assert long_table({"results": []}, "against") == Table([], [])


def test_latex_escapes_names_and_closes_what_it_opens() -> None:
    made = to_latex(wide_table(REPORT, "results"))
    assert r"\begin{tabular}{lrr}" in made
    assert (
        r"gen\_x[lr=1e-3 \& 5\%] & $0.46$ {\scriptsize $[0.25, 0.75]$} & $1.00$ {\scriptsize $[1.00, 1.00]$} \\" in made
    )
    assert r"base & $0.00$ {\scriptsize $[0.00, 0.00]$} &  \\" in made
    assert r"contender & a b & c \\" in made
    assert r"$+0.30$ {\scriptsize $[-0.10, +0.50]$}" in to_latex(wide_table(REPORT, "controls"))
    for name in TABLES:
        made = to_latex(wide_table({**REPORT, "against": [], "content": []}, name))
        bare = re.sub(r"\\[\\{}]", "", made)
        assert bare.count("{") == bare.count("}")
        assert made.rstrip().endswith(r"\end{tabular}")
    weird = to_latex(Table(["contender"], [["a\\b~c^d{e}#f$g"]]))
    assert r"a\textbackslash{}b\textasciitilde{}c\textasciicircum{}d\{e\}\#f\$g \\" in weird


def test_every_form_of_a_real_report(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    board = str(root / "board")
    data = json.loads((root / "board/report.json").read_text())
    rows = list(csv.DictReader(io.StringIO(shown(capsys, board, "to=csv"))))
    assert [float(r["mean"]) for r in rows] == [r["mean"] for r in data["results"]]
    assert [float(r["low"]) for r in rows] == [r["ci95"][0] for r in data["results"]]
    contenders = {r["contender"] for r in data["results"]}
    for form in ("markdown", "latex", "table"):
        told = shown(capsys, board, f"to={form}")
        assert all(
            form == "table" or name.replace("_", r"\_" if form == "latex" else "_") in told for name in contenders
        )
    for table in (name for name in TABLES if data.get(name)):
        for form in ("csv", "markdown", "latex", "table"):
            assert shown(capsys, board, f"table={table}", f"to={form}").strip()
    few = shown(capsys, board, "to=csv", "contenders=[base,oracle]", "splits=train")
    assert {(r["contender"], r["split"]) for r in csv.DictReader(io.StringIO(few))} == {
        ("base", "train"),
        ("oracle", "train"),
    }
    for ending, begins in ((".md", "| contender"), (".tex", r"\begin{tabular}"), (".csv", "contender,split")):
        shown(capsys, board, f"file={tmp_path / f'board{ending}'}")
        assert (tmp_path / f"board{ending}").read_text().startswith(begins)
    path = tmp_path / "new/scores.parquet"
    assert shown(capsys, board, "to=parquet", f"file={path}").strip() == str(path)
    from pandas import read_parquet

    assert read_parquet(path)["mean"].tolist() == [r["mean"] for r in data["results"]]


def test_what_cannot_be_shown_is_said(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    board = str(root / "board")
    assert "holds no report.json" in refused(capsys, str(tmp_path))
    assert "report needs the run folder of a report" in refused(capsys)
    assert "to must be table, markdown, latex, csv, parquet, html, png, pdf or svg, or null, not 'xls'" in refused(
        capsys, board, "to=xls"
    )
    assert "table must be results, " in refused(capsys, board, "table=scores")
    assert "table=content: this report has nothing of it; choose from results, controls" in refused(
        capsys, board, "table=content"
    )
    assert "name the file to write" in refused(capsys, board, "to=parquet")
    assert "this report has no 'nobody'; it has base" in refused(capsys, board, "contenders=nobody")
    (tmp_path / "mine.tex").write_text("mine")
    mine = f"file={tmp_path / 'mine.tex'}"
    assert "mine.tex is there already: choose another file, or overwrite=true" in refused(capsys, board, mine)
    assert (tmp_path / "mine.tex").read_text() == "mine"
    shown(capsys, board, mine, "overwrite=true")
    assert (tmp_path / "mine.tex").read_text().startswith(r"\begin{tabular}")
    assert [p.name for p in tmp_path.iterdir()] == ["mine.tex"]  # a folder of the user's gets nothing else
    assert "is there already" in refused(capsys, board, f"file={tmp_path}", "to=csv", "overwrite=true")
    assert "say what to write, by its ending (.md, .tex" in refused(capsys, board, f"file={tmp_path / 'board.doc'}")
    assert "say what to write" in refused(capsys, board, "to=table", f"file={tmp_path / 'board.tex'}")
    assert "cannot be written: " in refused(capsys, board, f"file={tmp_path / 'mine.tex/a.csv'}")


@pytest.fixture
def eight(tmp_path: Path) -> Path:
    (tmp_path / "report.json").write_text(json.dumps(report_of_eight()))
    return tmp_path


@pytest.mark.parametrize(("ending", "begins"), [("pdf", b"%PDF"), ("svg", b"<?xml"), ("png", b"\x89PNG")])
def test_a_figure_in_each_form(eight: Path, ending: str, begins: bytes) -> None:
    """Drawn from report.json alone; the same numbers give the same bytes."""
    made = [eight / f"{n}.{ending}" for n in (1, 2)]
    for path in made:
        main(["report", str(eight), "figure=norms", f"file={path}"])
    assert made[0].read_bytes().startswith(begins)
    assert made[0].read_bytes() == made[1].read_bytes()


def test_the_page_once_more(eight: Path) -> None:
    main(["report", str(eight), f"file={eight}/page.html"])
    page = (eight / "page.html").read_text()
    assert page.count("data:image/png;base64,") == 9
    assert "generated_joint" in page.replace("<wbr>", "")


def test_recipes_have_a_table(eight: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = list(csv.DictReader(io.StringIO(shown(capsys, str(eight), "table=recipes", "to=csv"))))
    pairs = [(r["contender"], r["other"]) for r in rows if r["split"] == SPLITS[0]]
    assert pairs == [(one, other) for i, one in enumerate(RECIPES) for other in RECIPES[i + 1 :]]


def test_a_figure_that_cannot_be_drawn_is_said(eight: Path, capsys: pytest.CaptureFixture[str]) -> None:
    at = str(eight)
    assert "figure=scale: this report has nothing for it" in refused(capsys, at, "figure=scale", f"file={at}/x.pdf")
    assert "name the file to write" in refused(capsys, at, "figure=scores")
    assert "say which, figure=scores, controls" in refused(capsys, at, f"file={at}/x.svg")
    assert "figure must be scores," in refused(capsys, at, "figure=all", f"file={at}/x.svg")
    assert not list(eight.glob("x.*"))
