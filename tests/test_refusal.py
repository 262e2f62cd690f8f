"""A run that is refused leaves no folder that was not there before, and everything else."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from filelock import FileLock
from test_cli import refused

from t2l.cli.refusal import cleared_if_refused
from t2l.run.folder import LOCK

BAD = ("evaluate", "contenders=[base]", "splits=[dev]")
"""what Hydra composes, and the suite then refuses"""


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def everything(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def begin(folder: Path, code: int | None, *names: str) -> None:
    """A run that makes files of these names in its folder and ends with an exit code; None: without one."""
    with cleared_if_refused(folder):
        for name in (".hydra/config.yaml", "train.log", LOCK, *names):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()
        if code is not None:
            raise SystemExit(code)


def test_a_refused_command_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "unknown split 'dev'" in refused(capsys, *BAD, "run_dir=deep/down/run")
    assert everything(tmp_path) == set()
    refused(capsys, *BAD)
    assert everything(tmp_path) <= {"runs", "runs/evaluate", f"runs/evaluate/{LOCK}"}  # no dated folder


def test_a_folder_that_was_there_stays_as_it_becomes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.md").touch()
    refused(capsys, *BAD, "run_dir=mine")
    assert {"mine/notes.md", "mine/.hydra/overrides.yaml", "mine/evaluate.log"} <= everything(tmp_path)


@pytest.mark.parametrize(
    ("code", "names", "is_kept"),
    [(2, (), False), (2, ("run.json",), True), (2, ("a/b.json",), True), (1, (), True), (None, (), True)],
)
def test_what_a_run_made_is_never_removed(
    tmp_path: Path, code: int | None, names: tuple[str, ...], is_kept: bool
) -> None:
    with suppress(SystemExit):
        begin(tmp_path / "run", code, *names)
    assert (tmp_path / "run/.hydra/config.yaml").is_file() == (tmp_path / "run").exists() == is_kept


def test_the_same_command_that_works_there_keeps_its_folder(tmp_path: Path) -> None:
    """Two start at the same moment, and the one that comes second is refused."""
    other = FileLock(tmp_path / "run" / LOCK)
    with suppress(SystemExit), cleared_if_refused(tmp_path / "run"):
        (tmp_path / "run/.hydra").mkdir(parents=True)
        other.acquire()
        raise SystemExit(2)
    assert (tmp_path / "run/.hydra").is_dir()
    other.release()
