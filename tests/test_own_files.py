"""No writer replaces, overwrites or removes what t2l did not write, or what was changed since."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import random_adapters
from test_cli import refused

from t2l.base_model import BaseModel, LoraConfig, lora_spec
from t2l.base_model.files import mini_base_model_path
from t2l.evaluation.report.report import REPORT_FILES
from t2l.files import FileProblemError, atomic_folder, move_into, remove_folder, write_own
from t2l.hypernetwork.generator import folders_for
from t2l.lora.peft_folder import save_adapter
from t2l.run.record import Run
from t2l.training.pretrain_base import BASE_FILES

Foreign = Callable[[Path], None]


def fill(folder: Path, text: str = "ours", meanwhile: Callable[[], object] = lambda: None) -> None:
    """A folder as a writer leaves it; `meanwhile` is what happens while it writes."""
    with atomic_folder(folder) as temporary:
        (temporary / "adapter_config.json").write_text(text)
        (temporary / "README.md").write_text("# card")
        (temporary / "weights.safetensors").write_bytes(b"0" * 100)
        meanwhile()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def _git(folder: Path) -> None:
    (folder / ".git").mkdir()
    (folder / ".git/HEAD").write_text("ref")


FOREIGN: dict[str, Foreign] = {
    "notes": lambda f: (f / "notes.md").write_text("mine") and None,
    "a repository": _git,
    "an empty folder": lambda f: (f / "mine").mkdir(),
    "an edited card": lambda f: (f / "README.md").write_text("# my card") and None,
    "other weights": lambda f: (f / "weights.safetensors").write_bytes(b"0" * 101) and None,
    "a link": lambda f: (f / "link").symlink_to("/"),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_a_folder_with_anything_else_stays(what: str, tmp_path: Path) -> None:
    folder = tmp_path / "one"
    fill(folder)
    FOREIGN[what](folder)
    before = contents(folder)
    with pytest.raises(FileProblemError, match="t2l did not write or which was changed"):
        fill(folder, "again")
    assert not remove_folder(folder)
    assert contents(folder) == before
    assert [p.name for p in tmp_path.iterdir()] == ["one"]


def test_what_appears_meanwhile_stays(tmp_path: Path) -> None:
    folder = tmp_path / "one"
    fill(folder)
    with pytest.raises(FileProblemError, match="other files meanwhile"):
        fill(folder, "again", lambda: (folder / "notes.md").write_text("mine"))
    assert (folder / "notes.md").read_text() == "mine"
    assert (folder / "adapter_config.json").read_text() == "ours"
    assert [p.name for p in tmp_path.iterdir()] == ["one"]


def test_our_own_folder_is_replaced_and_removed(tmp_path: Path) -> None:
    folder = tmp_path / "one"
    fill(folder)
    fill(folder, "again")
    assert (folder / "adapter_config.json").read_text() == "again"
    assert remove_folder(folder)
    assert not list(tmp_path.iterdir())


def test_a_folder_without_a_record_is_the_users(tmp_path: Path) -> None:
    (tmp_path / "peft").mkdir()
    (tmp_path / "peft/adapter_config.json").write_text("{}")
    with pytest.raises(FileProblemError, match=r"holds 'adapter_config\.json'"):
        fill(tmp_path / "peft")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FileProblemError, match="is a file"):
        fill(tmp_path / "file")
    (tmp_path / "old").mkdir()
    (tmp_path / "old/trainer.json").write_text("of before there were records")
    assert remove_folder(tmp_path / "old", owns=("trainer.json",))


def test_a_second_writer_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "one"

    def faster() -> None:
        folder.mkdir()
        (folder / "theirs").write_text("another process was faster")

    with pytest.raises(FileProblemError, match="not replaced: choose another"):
        fill(folder, "ours", faster)
    assert (folder / "theirs").is_file()
    assert [p.name for p in tmp_path.iterdir()] == ["one"]


def test_what_kills_left_behind_goes_but_nothing_like_it(tmp_path: Path) -> None:
    child = os.fork()
    if not child:
        with atomic_folder(tmp_path / "one"):
            os._exit(0)
    os.waitpid(child, 0)
    (left,) = tmp_path.iterdir()
    mine = tmp_path / f".one.{child}.tmp"
    mine.mkdir()
    (mine / "notes.md").write_text("mine")
    fill(tmp_path / "one")
    assert not left.exists()
    assert (mine / "notes.md").is_file()


def test_single_files(tmp_path: Path) -> None:
    path = tmp_path / "report.md"
    write_own(path, "one")
    write_own(path, "two")
    path.write_text("two, and my notes")
    with pytest.raises(FileProblemError, match="was not written by t2l, or was changed since"):
        write_own(path, "three")
    assert path.read_text() == "two, and my notes"
    (tmp_path / "other.md").write_text("mine")
    with pytest.raises(FileProblemError, match=r"other\.md"):
        write_own(tmp_path / "other.md", "ours")


def test_a_write_that_was_killed_leaves_a_file_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.md"
    write_own(path, "one")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("t2l.own_files.replace_file", _kill_after_record(killed))
        with pytest.raises(KeyboardInterrupt):
            write_own(path, "two")
    write_own(path, "three")
    assert path.read_text() == "three"


def _kill_after_record(killed: Callable[..., None]) -> Callable[[Path, bytes], None]:
    from t2l.own_files import RECORD, replace_file

    return lambda path, data: replace_file(path, data) if path.name == RECORD else killed()


def test_files_move_beside_others(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made/config.json").write_text("ours")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/notes.md").write_text("mine")
    move_into(tmp_path / "made", tmp_path / "out", last="config.json")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"notes.md", "config.json", ".t2l_files.json"}
    (tmp_path / "out/config.json").write_text("changed")
    (tmp_path / "made/config.json").write_text("again")
    with pytest.raises(FileProblemError, match=r"config\.json was not written by t2l"):
        move_into(tmp_path / "made", tmp_path / "out", last="config.json")


def test_adapters(tiny_base: BaseModel, tmp_path: Path) -> None:
    spec = lora_spec(tiny_base.model, LoraConfig())
    save_adapter(tmp_path / "one", spec, random_adapters(spec, 1), "tiny", {}, "# card")
    save_adapter(tmp_path / "one", spec, random_adapters(spec, 1, seed=1), "tiny", {}, "# another card")
    assert folders_for(tmp_path, ["One."]) == [tmp_path / "one"]
    (tmp_path / "one/README.md").write_text("# my card")
    (tmp_path / "two").mkdir()
    (tmp_path / "two/notes.md").write_text("mine")
    for description in ("One.", "Two."):
        with pytest.raises(FileProblemError, match="t2l did not write"):
            folders_for(tmp_path, ["Three.", description])
    with pytest.raises(FileProblemError, match="is an adapter, or something else that t2l wrote"):
        folders_for(tmp_path / "one", ["One."])


def test_adapters_are_called_after_their_descriptions(tmp_path: Path) -> None:
    long = "Keep the animals that live in water, and sort them by their length."
    names = [
        f.name for f in folders_for(tmp_path, ["Count.", "count!", "Reverse it.", long, f"{long}!", "%", "数える"])
    ]
    assert names[2] == "reverse_it"
    assert names[6] == "数える"
    for name, start in zip(
        names,
        ["count_", "count_", "", *["keep_the_animals_that_live_in_water_and_sort_"] * 2, "adapter_"],
        strict=False,
    ):
        assert name.startswith(start)
    assert len(set(names)) == 7
    assert names == [
        f.name for f in folders_for(tmp_path, ["Count.", "count!", "Reverse it.", long, f"{long}!", "%", "数える"])
    ]
    assert names[3:5] == [folders_for(tmp_path, [text])[0].name for text in (long, f"{long}!")]


def test_metrics_of_another_program(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    with pytest.raises(FileProblemError, match=r"metrics\.jsonl was not written by t2l"):
        Run(tmp_path, "train", {})
    (tmp_path / "metrics.jsonl").unlink()
    (tmp_path / "run.json").write_text("[]")
    with pytest.raises(ValueError, match="is no record of a run"):
        Run(tmp_path, "train", {})


ADAPTER = ("count/adapter_config.json", "count/README.md", "count/.git/HEAD", "count/notes.md")
VERBS: dict[str, tuple[list[str], tuple[str, ...]]] = {
    "generate": (["generate", "Count.", "--checkpoint", "c", "--out", "mine"], ADAPTER),
    "generate several": (["generate", "One.", "Two.", "--checkpoint", "c", "--out", "."], ("two/notes.md",)),
    "merge": (["merge", "adapter", "--out", "mine"], ("config.json",)),
    "evaluate": (["evaluate", "contenders=[base]", "run_dir=mine"], ("report.md", "scores.png")),
    "evaluate in the harness": (
        ["evaluate", "harness=lm_eval", "tasks=[arc_easy]", "contenders=[base]", "run_dir=mine"],
        ("harness.md",),
    ),
    "pretrain_base": (["pretrain_base", "out=mine"], ("README.md",)),
    "train_library": (["train_library", "tasks=[sort]", "run_dir=mine"], ("library.json",)),
    "train_library method": (["train_library", "method=ia3", "tasks=[sort]", "run_dir=mine"], ("method.json",)),
    "another program of Hydra's": (["train", "run_dir=mine"], (".hydra/hydra.yaml",)),
    "a sweep's list": (["train", "-m", "seed=1,2", "run_dir=mine"], ("sweep.json",)),
    "a sweep's job": (["train", "-m", "seed=1,2", "run_dir=mine"], ("0_seed1/job.json",)),
    "a sweep of Hydra's": (["train", "-m", "seed=1,2", "run_dir=mine"], ("multirun.yaml",)),
}


@pytest.mark.parametrize("case", VERBS)
def test_verbs_leave_what_is_there(
    case: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments, names = VERBS[case]
    for name in names if case.startswith("evaluate") or case == "pretrain_base" else [names]:
        mine = [name] if isinstance(name, str) else list(name)
        for one in mine:
            path = tmp_path / ("." if "several" in case else "mine") / one
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"mine": one}))
        before = {
            p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file() and p.name in {Path(m).name for m in mine}
        }
        line = refused(capsys, *arguments)
        assert str(Path(mine[0]).name) in line or "not empty" in line or "t2l did not write" in line
        assert {p: p.read_bytes() for p in before} == before
        for one in mine:
            (tmp_path / ("." if "several" in case else "mine") / one).unlink()


def test_early_checks_name_every_file_that_is_written(root: Path) -> None:
    recorded = json.loads((root / "board/.t2l_files.json").read_text())["files"]
    assert recorded.keys() <= set(REPORT_FILES)
    base = {p.name for p in mini_base_model_path().iterdir()}
    assert base <= {*BASE_FILES, "README.md"}


def test_older_checkpoints_with_notes_stay(tiny_base: BaseModel, tmp_path: Path) -> None:
    from t2l.hypernetwork.checkpoint import OWN_FILES

    step = tmp_path / "step-000002"
    with atomic_folder(step, OWN_FILES) as temporary:
        torch.save({}, temporary / "trainer.safetensors")
    (step / "notes.md").write_text("the best so far")
    assert not remove_folder(step, OWN_FILES)
    assert (step / "notes.md").is_file()
