"""`t2l compare` of two reports of the lm-evaluation-harness: paired by document, or a line on why not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from t2l.cli import main
from t2l.evaluation.harness.report import Pass, rows_of, write_harness_report
from t2l.verbs.compare_harness import compare_harness_reports

TASK = "a_task"


def passed(contender: str, scores: list[float], run: int, value: float | None, checkpoint: str | None) -> Pass:
    mean = sum(scores) / len(scores) if value is None else value
    samples = [
        {"doc_id": i, "doc_hash": f"h{i}", "filter": "none", "target": "x", "answer": [], "scores": {"acc": s}}
        for i, s in enumerate(scores)
    ]
    found = {
        "results": {TASK: {"acc,none": mean, "acc_stderr,none": 0.1}}, "samples": {TASK: samples}, "lm_eval_version": "0.4.9",
        "n-samples": {TASK: {"original": len(scores), "effective": len(scores)}}, "versions": {TASK: 1.0}, "configs": {},
        "n-shot": {TASK: 0}, "higher_is_better": {},
    }  # fmt: skip
    return Pass(contender, run, TASK, None, "", checkpoint, 1.0, found)


def write(
    folder: Path,
    scores: dict[str, list[list[float]]],
    value: float | None = None,
    checkpoint: str | None = None,
    **changes: Any,
) -> Path:
    """A report by the code that writes them; per contender the scores of each pass."""
    folder.mkdir()
    passes = [passed(n, s, i, value, checkpoint) for n, runs in scores.items() for i, s in enumerate(runs)]
    about: dict[str, Any] = {
        "base_model": {"name": "b", "fingerprint": "f" * 20}, "config": {"harness": {"num_fewshot": None, "limit": None}},
    }  # fmt: skip
    write_harness_report(folder, rows_of(passes), passes, {TASK: {"trained_on_by": []}}, {**about, **changes})
    return folder


def test_two_reports_are_paired_by_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Passes are averaged first; the interval is that of the differences, narrower than of either score."""
    half = [1.0, 0.0] * 20
    one = write(tmp_path / "one", {"base": [half], "oracle": [half, half], "only_here": [half]})
    other = write(tmp_path / "other", {"oracle": [[1.0] * 40, half], "base": [half]}, checkpoint="runs/x")
    rows = {r["contender"]: r for r in compare_harness_reports([one, other]).rows}
    assert set(rows) == {"base", "oracle"}
    assert (rows["base"]["difference"], rows["base"]["ci95"]) == (0.0, [0.0, 0.0])
    assert (rows["oracle"]["first_mean"], rows["oracle"]["other_mean"]) == (0.5, 0.75)
    assert rows["oracle"]["distinguishable"]
    assert rows["oracle"]["paired"]
    assert rows["oracle"]["n_examples"] == 40
    main(["compare", str(one), str(other)])
    told = capsys.readouterr().out
    assert "other, on a_task, acc" in told
    assert all(len(line) <= 80 or str(tmp_path) in line for line in told.splitlines())


def test_common_documents_alone_are_compared(tmp_path: Path) -> None:
    one = write(tmp_path / "one", {"base": [[1.0, 0.0, 1.0, 1.0]]})
    other = write(tmp_path / "other", {"base": [[1.0, 1.0]]})
    (row,) = compare_harness_reports([one, other]).rows
    assert (row["n_examples"], row["first_mean"], row["other_mean"]) == (2, 0.5, 1.0)


def test_scores_that_are_no_mean_of_examples_get_the_interval_of_their_errors(tmp_path: Path) -> None:
    one = write(tmp_path / "one", {"base": [[1.0, 0.0]]}, value=0.3)
    other = write(tmp_path / "other", {"base": [[1.0, 0.0]]}, value=0.7)
    found = compare_harness_reports([one, other])
    (row,) = found.rows
    assert not row["paired"]
    assert row["difference"] == pytest.approx(0.4)
    assert row["ci95"] == pytest.approx([0.4 - 1.96 * 0.1 * 2**0.5, 0.4 + 1.96 * 0.1 * 2**0.5], abs=1e-5)
    assert "intervals from standard errors" in found.notes[0]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"base_model": {"name": "c", "fingerprint": "e" * 20}}, "(base model)"),
        ({"config": {"harness": {"num_fewshot": 5, "limit": None}}}, "(harness.num_fewshot)"),
    ],
)
def test_other_conditions_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], says: str
) -> None:
    one, other = (
        write(tmp_path / "one", {"base": [[1.0, 0.0]]}),
        write(tmp_path / "other", {"base": [[1.0, 0.0]]}, **changes),
    )
    with pytest.raises(SystemExit) as stopped:
        main(["compare", str(one), str(other)])
    assert stopped.value.code == 2
    line = capsys.readouterr().err.strip()
    assert says in line
    assert "\n" not in line
    found = compare_harness_reports([one, other], by_name=True)
    assert len(found.rows) == 1
    assert says.strip("()") in found.notes[0]


def test_a_board_and_a_report_of_the_harness_are_not_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = write(tmp_path / "one", {"base": [[1.0, 0.0]]})
    for name, what in (("board", "a report of t2l's own board"), ("empty", "no report")):
        (tmp_path / name).mkdir()
        if name == "board":
            (tmp_path / name / "report.json").write_text(json.dumps({"results": []}))
        with pytest.raises(SystemExit) as stopped:
            main(["compare", str(one), str(tmp_path / name)])
        assert stopped.value.code == 2
        assert f"{tmp_path / name} {what}: compare reports of one kind" in capsys.readouterr().err
    other = write(tmp_path / "other", {"oracle": [[1.0, 0.0]]})
    with pytest.raises(ValueError, match="no contender, task and metric"):
        compare_harness_reports([one, other])
