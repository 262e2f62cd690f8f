"""`t2l export`: a checkpoint to hand on."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from small_run import DESCRIPTION, ONE
from test_cli import refused

from t2l.cli import main
from t2l.files import FileProblemError, read_tensors, write_tensors
from t2l.hypernetwork import checkpoint, export
from t2l.hypernetwork.checkpoint import WEIGHTS, find_checkpoint
from t2l.hypernetwork.export import halved
from t2l.hypernetwork.generator import load
from t2l.run.folder import command_of


@pytest.mark.parametrize("run", ["sft", "reconstruction"])  # without and with statistics of adapters
def test_an_exported_checkpoint_writes_the_same_adapters(root: Path, tmp_path: Path, run: str) -> None:
    main(["export", str(root / run), "--out", str(tmp_path / "small"), "--report", str(root / "board")])
    whole, small = (load(folder)([DESCRIPTION]) for folder in (root / run, tmp_path / "small"))
    for side in ("A", "B"):
        for name, values in getattr(whole, side).items():
            largest = values.abs().max().clamp_min(1e-6)
            assert (values - getattr(small, side)[name]).abs().max() < 0.02 * largest
            assert getattr(small, side)[name].dtype is torch.float32
    before, after = find_checkpoint(root / run) / WEIGHTS, tmp_path / "small" / WEIGHTS
    assert after.stat().st_size < 0.6 * before.stat().st_size
    assert sorted(p.name for p in (tmp_path / "small").iterdir() if not p.name.startswith(".")) == sorted(
        {"README.md", "checkpoint.json", WEIGHTS, "training_data.safetensors"}
        | ({"confidence.json"} if (find_checkpoint(root / run) / "confidence.json").is_file() else set())
    )


def test_confidence_goes_along(root: Path, tmp_path: Path) -> None:
    main(["export", str(root / "sft"), "--out", str(tmp_path / "small")])
    whole, small = (load(folder)([DESCRIPTION]).confidences()[0] for folder in (root / "sft", tmp_path / "small"))
    assert whole is not None
    assert small is not None
    assert whole.expected_score is not None
    assert small.expected_score == pytest.approx(whole.expected_score, abs=0.05)
    assert small.distance == pytest.approx(whole.distance, rel=0.02)


def test_the_card_says_what_was_run_and_what_it_scores(root: Path, tmp_path: Path) -> None:
    main(["export", str(root / "sft"), "--out", str(tmp_path / "small"), "--report", str(root / "board")])
    text = (tmp_path / "small/README.md").read_text()
    for said in (
        "for the base model `mini`",
        "objective sft, step 12",
        "| contender |",
        "| generated",
        "None was stated",
        "`t2l train suite.train_examples=16",
        "t2l evaluate suite.train_examples=16",
        "checkpoints=[sft,reconstruction]",
    ):
        assert said.lower() in text.lower()
    assert str(root) not in text  # how this machine lays out its folders
    assert str(tmp_path) not in text
    main(["export", str(root / "sft"), "--out", str(tmp_path / "bare"), "--licence", "mit"])
    assert "exported without a report" in (tmp_path / "bare/README.md").read_text()


def test_the_commands_of_the_card_run_as_they_stand(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    main(["export", str(root / "sft"), "--out", "to share"])
    (lines,) = re.findall(r"```sh\n(.*?)\n```", Path("to share/README.md").read_text(), re.DOTALL)
    for line in lines.splitlines():
        capsys.readouterr()
        main(shlex.split(line)[1:])
    assert "base, told" in capsys.readouterr().out


def test_an_exported_checkpoint_is_evaluated_like_any_other(root: Path, tmp_path: Path) -> None:
    from small_run import SMALL

    main(["export", str(root / "sft"), "--out", str(tmp_path / "small")])
    board = ["tasks_per_split=2", "examples_per_task=2", "bootstrap_samples=20"]
    words = [*SMALL, *(f"evaluation.{b}" for b in board), "contenders=[generated]", "splits=[train]"]
    main(["evaluate", *words, f"checkpoints=[{tmp_path}/small]", f"run_dir={tmp_path}/board"])
    assert (tmp_path / "board/report.json").is_file()


def test_a_report_of_something_else_is_refused(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "load_record", lambda folder: _other(checkpoint.load_record(folder)))
    line = refused(capsys, "export", str(root / "sft"), "--out", str(tmp_path / "o"), "--report", str(root / "board"))
    assert "that report does not score" in line
    assert not (tmp_path / "o").exists()


def _other(record: checkpoint.CheckpointRecord) -> checkpoint.CheckpointRecord:
    from dataclasses import replace

    return replace(record, step=999)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_nothing_else_of_t2ls_is_replaced(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A slip in --out must not cost a checkpoint or an oracle, though t2l wrote them."""
    run = shutil.copytree(root / "sft", tmp_path / "run")
    library = shutil.copytree(root / "library", tmp_path / "library")
    trained, oracle = find_checkpoint(run), next((library / "adapters").iterdir())
    main(["export", str(root / "sft"), "--out", str(tmp_path / "small")])
    before = {folder: contents(folder) for folder in (run, library, tmp_path / "small")}
    wanted = "it is not what would be written there, so it is not replaced"
    assert wanted in refused(capsys, "export", str(run), "--out", str(trained))
    assert wanted in refused(capsys, "export", str(run), "--out", str(oracle))
    for taken in (trained, oracle, tmp_path / "small"):
        line = refused(capsys, "generate", DESCRIPTION, "--checkpoint", str(root / "sft"), "--out", str(taken))
        assert "is an adapter, or something else that t2l wrote: name the folder that adapters go into" in line
    assert {folder: contents(folder) for folder in before} == before
    main(["export", str(root / "reconstruction"), "--out", str(tmp_path / "small")])  # another of its kind is
    assert contents(tmp_path / "small") != before[tmp_path / "small"]


def test_values_beyond_sixteen_bits_are_refused() -> None:
    with pytest.raises(FileProblemError, match="stored in 16 bits"):
        halved({"w": torch.tensor([1e9])}, "x")


def test_lacking_weights_are_still_refused(root: Path, tmp_path: Path) -> None:
    main(["export", str(root / "sft"), "--out", str(tmp_path / "small")])
    tensors = read_tensors(tmp_path / "small" / WEIGHTS)
    tensors.pop(next(k for k in tensors if "weight" in k))
    write_tensors(tmp_path / "small" / WEIGHTS, tensors)
    with pytest.raises(FileProblemError, match="does not fit its record"):
        load(tmp_path / "small")


def test_the_shipped_one_is_what_generate_takes_by_itself(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    main(["export", str(root / "sft"), "--out", str(tmp_path / "small")])
    monkeypatch.setattr(checkpoint, "shipped_folder", lambda name: tmp_path / "small" if name == "smollm2" else None)
    monkeypatch.chdir(tmp_path)
    main(["generate", DESCRIPTION, "--out", "a"])
    assert (tmp_path / "a" / Path(ONE).name / "adapter_model.safetensors").is_file()
    shutil.copytree(find_checkpoint(root / "reconstruction"), tmp_path / "smollm2")
    assert find_checkpoint(Path("smollm2")) == Path("smollm2")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "export needs a checkpoint and a folder to write"),
        (["nowhere", "--out", "x"], "checkpoint nowhere does not exist"),
    ],
)
def test_bad_words_are_refused(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert message in refused(capsys, "export", *words)


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("checkpoints=[/a/b/c,d/e,f,../x:best]", "'checkpoints=[c,e,f,x:best]'"),
        ("library=runs/lib", "library=lib"),
        ("base_model.path=/a/b", "base_model.path=b"),
        ("base_model.path=./a/b", "base_model.path=b"),
        ("base_model.path=HuggingFaceTB/SmolLM-135M", "base_model.path=HuggingFaceTB/SmolLM-135M"),
        ("suite.path=~/tasks", "suite.path=tasks"),
        ("seed=1", "seed=1"),
    ],
)
def test_a_command_is_told_without_this_machines_folders(typed: str, told: str, tmp_path: Path) -> None:
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra/overrides.yaml").write_text(f"- {typed}\n- run_dir=/some/where\n")
    assert command_of(tmp_path, "train") == f"t2l train {told}"
    assert command_of(tmp_path / "nowhere", "train") is None
