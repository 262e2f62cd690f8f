"""Every benchmark of `experiments/speed` runs, at toy sizes, and reports what its report promises."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.speed.case import Case, Target
from experiments.speed.report import growth
from experiments.speed.run import BENCHMARKS, main
from experiments.speed.timing import peak_bytes
from t2l.files import read_json

CONTENDERS = {
    "injection": {"bare", "injected", "per_token"},
    "sft_step": {"bare", "t2l", "peft_multi_task"},
    "library_step": {"bare", "t2l", "peft_switching", "peft_separate"},
    "reconstruction": {"factor_l1", "gram_frobenius", "product_l1"},
    "generation": {"l", "m", "s", "write", "write_through"},
    "evaluation": {"t2l", "peft_load_each", "peft_switch"},
}


def test_every_benchmark_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--toy", "--out", str(tmp_path)])
    report = read_json(tmp_path / "report.json")
    assert set(report["about"]) == {"device", "threads", "scale", "environment", "clock", "time_s"}
    assert tuple(report["benchmarks"]) == BENCHMARKS
    for name, cases in report["benchmarks"].items():
        for case in cases:
            assert set(case["contenders"]) in (CONTENDERS[name], {"t2l", "bare"})
            assert case["contenders"][case["reference"]]["ratio"] == 1
            assert case["setting"]
            assert case["rounds"] >= 2
            for contender in case["contenders"].values():
                assert set(contender) == {"ratio", "ratio_quartiles", "time_s", "peak_bytes"}
                assert contender["ratio"] > 0
    evaluation, beside_bare = report["benchmarks"]["evaluation"]
    assert beside_bare["checks"]["same_number_of_tokens"]
    assert [t["against"] for t in report["benchmarks"]["sft_step"][1]["targets"]] == ["bare"]
    assert evaluation["checks"]["same_answers_as_peft"] == 1
    assert "## How cost grows" in (tmp_path / "report.md").read_text()
    assert (tmp_path / "growth.png").is_file()
    assert "report:" in capsys.readouterr().out


def test_ratios_are_medians_of_rounds() -> None:
    seconds = {"slow": [2.0, 6.0, 30.0], "quick": [1.0, 2.0, 5.0]}
    targets = [Target("slow", "quick", at_most=2.9), Target("slow", "quick", at_least=3)]
    case = Case("c", {"size": 1}, "quick", seconds, targets=targets, sweeps={"size": 1}).to_json()
    assert case["contenders"]["slow"]["ratio"] == 3
    assert [t["met"] for t in case["targets"]] == [False, True]
    bigger = {**case, "sweeps": {"size": 4}}
    assert growth([bigger, case]) == {"size": {"slow": [(1, 3), (4, 3)], "quick": [(1, 1), (4, 1)]}}


def test_peak_memory_counts_what_was_alive_at_once() -> None:
    import torch

    kept = torch.zeros(1000)

    def call() -> None:
        for _ in range(3):
            (kept.repeat(4) + 1).sum()

    assert 32_000 <= peak_bytes(call, torch.device("cpu")) < 36_000


def test_an_unknown_benchmark_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--only", "injektion"])
    assert "choose from injection" in capsys.readouterr().err
