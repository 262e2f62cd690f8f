"""Every table that a verb prints fits 80 columns, and no name or number in it is cut."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from t2l.cli.main import HELP, main
from t2l.evaluation.harness.report import Row, print_harness
from t2l.evaluation.report.summary import summary_lines
from t2l.evaluation.statistics import Estimate
from t2l.run.console import WIDTH, print_table, print_wrapped
from t2l.verbs.compare import comparison_lines
from t2l.verbs.library import AdapterEntry

SPLITS = [
    "train", "unseen_phrasing", "unseen_combination", "unseen_combination_and_phrasing", "unseen_composition", "unseen_category",
]  # fmt: skip
GENERATED = [
    "generated_sft",
    "generated_reconstruction",
    "generated_sft[residual, description_whitening=0.1, lr=0.003]",
]
CONTROLS = ["shuffled", "shuffled_nearest", "random_text", "static"]
PLAIN = ["base", "prompted", "formal_code", "multi_task", "oracle", "oracle_bottleneck_adapter"]


def board(splits: list[str]) -> tuple[list[Any], list[dict[str, Any]]]:
    names = [*PLAIN, *(n for g in GENERATED for n in (g, *(f"{g}_{c}" for c in CONTROLS)))]
    cells = [
        SimpleNamespace(contender=n, split=s, estimate=Estimate((7 * i + 3 * j) % 100 / 100, 0, 1, 1, 1))
        for i, n in enumerate(names)
        for j, s in enumerate(splits)
    ]
    controls = [
        {
            "contender": g,
            "control": c,
            "split": s,
            "difference": -0.5 + 0.1 * k,
            "ci95": [-0.62 + 0.1 * k, -0.41 + 0.1 * k],
        }
        for g in GENERATED
        for s in splits
        for k, c in enumerate(CONTROLS)
    ]
    return cells, controls


def check_fits(text: str) -> None:
    lines = text.splitlines()
    assert max(map(len, lines)) <= WIDTH
    assert "…" not in text
    assert "..." not in text


@pytest.mark.parametrize("count", [1, 6, 17])
def test_the_closing_table_fits_and_says_everything(count: int) -> None:
    splits = SPLITS[:count] if count <= 6 else [f"{s}_{i}" for i in range(3) for s in SPLITS][:count]
    cells, controls = board(splits)
    lines = summary_lines(cells, controls)
    check_fits("\n".join(lines))
    for name in (*PLAIN, *GENERATED, *splits):
        assert name.replace(" ", "") in _unbroken(lines)
    for cell in cells:
        if not any(cell.contender.endswith(f"_{c}") for c in CONTROLS):
            assert f"{cell.estimate.mean:.2f}" in "\n".join(lines)
    assert not any("shuffled" in line for line in lines)
    assert "-0.50 [-0.62,-0.41]" in "\n".join(lines)  # the closest control: the one it is least surely above


def _unbroken(lines: list[str]) -> list[str]:
    """The words of the lines; one that begins with one blank goes on from the name before it."""
    words: list[str] = []
    begun = 0
    for line in lines:
        if line.startswith(" ") and not line.startswith("  "):
            words[begun] += line.replace(" ", "")
        else:
            begun = len(words)
            words += line.split()
    return words


def test_a_board_without_generated_adapters_has_no_control_column() -> None:
    cells, _ = board(SPLITS)
    lines = summary_lines([c for c in cells if c.contender in PLAIN], [])
    assert not any("control" in line for line in lines)


def test_tables_fit(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    rows = [
        Row(f"generated_reconstruction_{c}", f"a_rather_long_task_name_{t}", f"exact_match,{m}", 0.1234, 0.0123, 1)
        for c in CONTROLS
        for t in range(5)
        for m in ("none", "strict-match")
    ]
    print_harness(rows, tmp_path)
    shown = capsys.readouterr().out.split("report:")[0]
    check_fits(shown)
    assert shown.count("0.1234 ± 0.0123") == len(rows)


def test_library_and_free_tables_fit(capsys: pytest.CaptureFixture[str]) -> None:
    entry = AdapterEntry("task_1234_super_natural_instructions_with_a_name", 12345, 1.234e-05, 1.234e-05, 12.34)
    row = [entry.task, "12345", "1.234e-05", "1.234e-05", "1.234e-05", "12.34", "holds values that are not finite"]
    header = ["task", "steps", "loss before", "final loss", "validation loss", "norm", "state"]
    print_table(header, [row] * 3, "adapters that are not sound")
    shown = capsys.readouterr().out
    check_fits(shown)
    assert shown.count("1.234e-05") == 9
    print_wrapped("a step        " + "many words " * 20, indent=14)
    check_fits(capsys.readouterr().out)


@pytest.mark.parametrize("digits", range(12, 24))
def test_tables_are_whole_however_wide_their_numbers(capsys: pytest.CaptureFixture[str], digits: int) -> None:
    """Every part has its right border: rich cuts what it has no room for."""
    cell = "0." + "1" * (digits - 2)
    rows = [[name, *[cell] * 6] for name in ("base", "generated_reconstruction_shuffled_nearest")]
    print_table(
        ["contender", "train", "unseen_phrasing", "unseen_combination_and_phrasing", "a", "b", "c"], rows, "results"
    )
    shown = capsys.readouterr().out
    check_fits(shown)
    assert shown.count(cell) == 12
    assert all(line[-1] in "┓┃┩│┘" for line in shown.splitlines() if line[0] in "┏┃┡│└")


def test_comparisons_fit() -> None:
    numbers = {"n_examples": 2400, "first_mean": 0.98, "other_mean": 0.05, "difference": -0.93, "ci95": [-0.96, -0.91]}
    rows = [
        {"contender": g, "split": s, "other": "runs/b", **numbers, "distinguishable": s != "train"}
        for s in SPLITS
        for g in (*GENERATED, *PLAIN)
    ]
    lines = comparison_lines(SimpleNamespace(rows=rows))  # type: ignore[arg-type]
    check_fits("\n".join(lines))
    assert sum("-0.93 [-0.96, -0.91]" in line for line in lines) == len(rows)
    assert sum(line.endswith(" ?") for line in lines) == len(GENERATED) + len(PLAIN)
    assert f"runs/b, on {SPLITS[3]}" in lines


def test_help_fits(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    assert max(map(len, capsys.readouterr().out.splitlines())) <= WIDTH
    assert all(len(line) <= WIDTH for line in HELP.splitlines())


def test_plan_fits(capsys: pytest.CaptureFixture[str]) -> None:
    main(["plan", "d_embedding=384", "memory_gb=0.001"])
    check_fits(capsys.readouterr().out)
