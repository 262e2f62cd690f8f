"""`t2l compare` pairs what was trained, on the examples that both reports have, and refuses what has no difference."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from t2l.cli import main
from t2l.verbs.compare import Comparison, compare_reports, comparison_lines

GOOD, BAD = (1.0, 1.0, 1.0, 0.0), (0.0, 0.0, 0.0, 1.0)


def trained(what: str, seed: int | None = 0, weights: str | None = None) -> dict[str, Any]:
    return {"what": what, "seed": seed, "weights": weights or f"{what}-{seed}", "about": f"the recipe {what}"}


def write(
    folder: Path,
    contenders: dict[str, list[tuple[dict[str, Any], tuple[float, ...]]]],
    identities: bool = True,
    metric: str = "exact_match",
    suite: str = "suite",
    prefix: str = "",
    tasks: tuple[str, ...] = ("a", "b"),
) -> Path:
    """A report: per contender, what each run is and its scores of every task's four examples."""
    folder.mkdir()
    answers = [
        {
            "contender": name, "split": "s", "task": task, "run": run, "input": f"in{i}", "prefix": prefix,
            "reference": "out", "score": score,
        }
        for name, runs in contenders.items()
        for run, (_, scores) in enumerate(runs)
        for task in tasks
        for i, score in enumerate(scores)
    ]  # fmt: skip
    (folder / "answers.jsonl").write_text("".join(json.dumps(a) + "\n" for a in answers))
    means = {n: sum(sum(s) / len(s) for _, s in runs) / len(runs) for n, runs in contenders.items()}
    data: dict[str, Any] = {
        "results": [{"contender": n, "split": "s", "metric": metric, "mean": m} for n, m in means.items()],
        "provenance": {"suite": {"sha256": suite}},
    }
    if identities:
        data["identities"] = {name: [who for who, _ in runs] for name, runs in contenders.items()}
    (folder / "report.json").write_text(json.dumps(data))
    return folder


def differences(found: Comparison) -> dict[str, float]:
    return {r["contender"]: r["difference"] for r in found.rows}


def test_checkpoints_in_another_order_are_paired_rightly(tmp_path: Path) -> None:
    """Two recipes of one objective get their names by order; two of one recipe and seed differ by weights alone."""
    fast, slow = trained("fast"), trained("slow")
    one = write(tmp_path / "one", {"generated_sft": [(fast, GOOD)], "generated_sft_2": [(slow, BAD)]})
    two = write(tmp_path / "two", {"generated_sft": [(slow, BAD)], "generated_sft_2": [(fast, GOOD)]})
    found = compare_reports([one, two])
    assert differences(found) == {"generated_sft": 0, "generated_sft_2": 0}
    assert [r["other_contender"] for r in found.rows] == ["generated_sft_2", "generated_sft"]
    assert not found.notes
    assert differences(compare_reports([one, two], by_name=True)) == {"generated_sft": -0.5, "generated_sft_2": 0.5}
    here, there = trained("same", 0, "x"), trained("same", 0, "y")
    one = write(tmp_path / "three", {"generated_sft": [(here, GOOD)], "generated_sft_2": [(there, BAD)]})
    two = write(tmp_path / "four", {"generated_sft": [(there, BAD)], "generated_sft_2": [(here, GOOD)]})
    assert differences(compare_reports([one, two])) == {"generated_sft": 0, "generated_sft_2": 0}


def test_runs_are_paired_by_seed(tmp_path: Path) -> None:
    runs = [(trained("r", 1), GOOD), (trained("r", 2), BAD)]
    one, two = (write(tmp_path / n, {"generated_sft": r}) for n, r in (("one", runs), ("two", runs[::-1])))
    (row,) = compare_reports([one, two]).rows
    assert (row["difference"], row["ci95"], row["n_seeds"]) == (0, [0, 0], 2)


def test_another_thing_under_the_same_name_and_other_seeds_are_refused(tmp_path: Path) -> None:
    one = write(tmp_path / "one", {"generated_sft": [(trained("fast"), GOOD)]})
    two = write(tmp_path / "two", {"generated_sft": [(trained("slow"), BAD)]})
    with pytest.raises(
        ValueError, match=r"generated_sft is one thing in .* \(the recipe fast\) and another .*--by-name"
    ):
        compare_reports([one, two])
    more = write(tmp_path / "more", {"generated_sft": [(trained("fast", 0), GOOD), (trained("fast", 1), GOOD)]})
    with pytest.raises(ValueError, match=r"has training seeds 0 in .* and 0, 1 in"):
        compare_reports([one, more])
    found = compare_reports([one, two], by_name=True)
    assert differences(found) == {"generated_sft": -0.5}
    assert "unchecked, since --by-name was given: generated_sft" in found.notes[0]


def test_means_are_over_the_common_examples(tmp_path: Path) -> None:
    """0.75 over both tasks of the first report, and other tasks in the second: rows agree with themselves."""
    base = trained("base", None)
    one = write(tmp_path / "one", {"base": [(base, GOOD)]}, tasks=("a", "b"))
    lines = (one / "answers.jsonl").read_text().splitlines()
    better = [json.dumps({**json.loads(x), "score": 1.0}) if '"task": "b"' in x else x for x in lines]
    (one / "answers.jsonl").write_text("\n".join(better))
    two = write(tmp_path / "two", {"base": [(base, GOOD)]}, tasks=("a", "c"), suite="another")
    found = compare_reports([one, two])
    (row,) = found.rows
    assert (row["first_mean"], row["other_mean"], row["difference"]) == (0.75, 0.75, 0)
    assert (row["n_tasks"], row["n_examples"]) == (1, 4)
    assert "was scored on another suite" in found.notes[0]
    lines = comparison_lines(found)
    assert any(line.startswith("  base  ") for line in lines)
    assert any(line.split()[1:5] == ["4", "0.75", "0.75", "+0.00"] for line in lines)


def test_a_row_never_contradicts_itself(tmp_path: Path) -> None:
    one = write(tmp_path / "one", {"x": [(trained("x", 1), GOOD), (trained("x", 2), BAD)]})
    two = write(tmp_path / "two", {"x": [(trained("x", 2), GOOD), (trained("x", 1), (1.0, 0.5, 0.25, 0.0))]})
    (row,) = compare_reports([one, two]).rows
    assert row["difference"] == pytest.approx(row["other_mean"] - row["first_mean"], abs=2e-6)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"metric": "rouge_l"}, "is scored by exact_match in .* and by rouge_l"),
        ({"prefix": "Do."}, "has another prompt"),
    ],
)
def test_other_metrics_and_prompts_have_no_difference(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    contenders = {"base": [(trained("base", None), GOOD)]}
    one, two = write(tmp_path / "one", contenders), write(tmp_path / "two", contenders, **change)
    with pytest.raises(ValueError, match=says) as refused:
        compare_reports([one, two])
    assert "\n" not in str(refused.value)
    assert differences(compare_reports([one, two], by_name=True)) == {"base": 0}


def test_other_conditions_are_refused(tmp_path: Path) -> None:
    contenders = {"base": [(trained("base", None), GOOD)]}
    reports = [write(tmp_path / name, contenders) for name in ("one", "two")]
    for folder, tokens in zip(reports, (8, 24), strict=True):
        data = json.loads((folder / "report.json").read_text())
        data["provenance"]["decoding_conditions"] = {"max_new_tokens": tokens, "decoding": "greedy"}
        (folder / "report.json").write_text(json.dumps(data))
    with pytest.raises(ValueError, match=r"under other conditions \(max_new_tokens\)"):
        compare_reports(reports)


def test_older_reports_are_paired_by_name_and_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    contenders = {"base": [(trained("base", None), GOOD)]}
    one, two = write(tmp_path / "one", contenders), write(tmp_path / "two", contenders, identities=False)
    monkeypatch.setattr(sys, "argv", ["t2l"])
    main(["compare", str(one), str(two), "--json"])
    said = capsys.readouterr()
    (row,) = json.loads(said.out)
    assert (row["difference"], row["paired_by"]) == (0, "name")
    assert "paired by name and order, unchecked, since a report does not say what was trained: base" in said.err
