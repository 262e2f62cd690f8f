"""An evaluation that is killed anywhere goes on to the report of one that was not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import torch
from conftest import random_adapters
from small_run import SMALL, TRAIN
from test_contenders import generated

from t2l.base_model import BaseModel, LoraConfig, lora_spec
from t2l.cli import main
from t2l.encoder import EncoderConfig, TaskEncoder
from t2l.evaluation import scoring
from t2l.evaluation.board import Board, BoardConfig, Cell, SameInputsError, view_split
from t2l.evaluation.contenders import few_shot
from t2l.evaluation.contenders.base import Base
from t2l.evaluation.contenders.composition import LibraryMean, NearestAdapter
from t2l.evaluation.contenders.few_shot import FewShot, FewShotConfig, Refined
from t2l.evaluation.contenders.generated import DescriptionBank
from t2l.evaluation.contenders.in_context import InContext
from t2l.evaluation.contenders.interface import Contender, SplitView
from t2l.evaluation.contenders.lorahub import LoraHub
from t2l.evaluation.contenders.oracle import Oracle
from t2l.evaluation.report import figures
from t2l.evaluation.store import Batches, CellStore, Ledger
from t2l.library import AdapterLibrary
from t2l.lora import LoraSpec
from t2l.tasks.suites import WordListConfig, build

CONFIG = BoardConfig(
    tasks_per_split=3,
    examples_per_task=3,
    descriptions_per_task=2,
    max_new_tokens=4,
    bootstrap_samples=20,
    batch_size=4,
)


class KilledError(BaseException):
    """Not an Exception: nothing between here and the process's end may catch it."""


class Dying:
    """A function that is called `after` times and then ends the process."""

    def __init__(self, function: Callable[..., Any], after: int) -> None:
        self.function, self.left = function, after

    def __call__(self, *args: Any, **options: Any) -> Any:
        if self.left == 0:
            raise KilledError
        self.left -= 1
        return self.function(*args, **options)


class World:
    """A tiny base, a library of random adapters, and contenders of every kind, made anew for every board."""

    def __init__(self, base: BaseModel, folder: Path) -> None:
        suite = build(WordListConfig(train_examples=10, validation_examples=1, test_examples=4))
        self.base, self.spec = base, lora_spec(base.model, LoraConfig(rank=4))
        self.views = [view_split(suite, name, CONFIG, 0) for name in ("train", "unseen_phrasing", "unseen_combination")]
        last = self.views[-1]
        choices = [_with_choices(task) for task in last.tasks]
        self.views[-1] = SplitView("choices", choices, last.descriptions, last.examples)
        self.tasks = list(
            dict.fromkeys([*suite.split("train").tasks[:6], *(t.name for v in self.views for t in v.tasks)])
        )
        self.library = AdapterLibrary(folder / "library", self.spec, base.path, base.fingerprint)
        for i, name in enumerate(self.tasks):
            self.library.save(name, random_adapters(self.spec, 1, seed=i, size=0.5), {"training_time_s": 1.0})
        self.encoder = TaskEncoder(EncoderConfig(cache=str(folder / "cache")))
        self.bank = DescriptionBank.of(self.encoder, suite.select(self.tasks[:6]), 4)

    def contenders(self) -> list[Contender]:
        few = FewShotConfig(examples=2, steps=2, tasks_at_once=2)
        torch.manual_seed(0)
        text = generated(self.spec, self.encoder, self.bank)
        return [
            Base(), InContext(self.base, 2, CONFIG, 3), LibraryMean(self.library, self.tasks[:6]),
            NearestAdapter(self.library, self.bank, self.encoder),
            LoraHub(self.library, self.tasks[:6], self.base, 3, few, 0), FewShot(self.base, self.spec, few, 0),
            Oracle(self.library), *text, Refined(text[0], self.base, few, 0),
        ]  # fmt: skip

    def score(self, folder: Path | None, config: BoardConfig = CONFIG) -> list[Cell]:
        store = None if folder is None else CellStore(folder)
        return Board(self.base, self.spec, config, 0, store).score(self.contenders(), self.views)


def _with_choices(task: Any) -> Any:
    examples = tuple(replace(e, choices=("dog", e.output or "cat", "seven tools")) for e in task.examples["test"])
    return replace(task, metric="multiple_choice", examples={**task.examples, "test": examples})


@pytest.fixture
def world(tiny_base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(LoraHub, "budget", 3)
    return World(tiny_base, tmp_path)


def facts(cells: Sequence[Cell]) -> list[Any]:
    """Everything of cells but measured times."""
    return [
        (
            c.contender, c.split, c.estimate,
            [
                (r.answers, r.conditions, r.fingerprint, r.making.count if "few" in c.contender else None,
                 r.usage.flops, r.usage.n_questions)
                for r in c.runs
            ],
        )
        for c in cells
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("alive_for", [11, 30])
def test_killed_again_and_again_ends_with_the_same_cells(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alive_for: int
) -> None:
    """Each process answers a few batches more; what is half written when it dies is dropped."""
    whole = world.score(None)
    write, label = scoring._write, scoring.label_logits
    deaths, cells = 0, None
    while cells is None:
        monkeypatch.setattr(scoring, "_write", Dying(write, alive_for))
        monkeypatch.setattr(scoring, "label_logits", Dying(label, alive_for))
        try:
            cells = world.score(tmp_path / "run")
        except KilledError:
            deaths += 1
            for unfinished in (tmp_path / "run").rglob("*.batches.jsonl"):
                with unfinished.open("a") as stream:
                    stream.write(
                        '{"batch": "write 4: [0, 1',
                    )
        assert deaths < 50
    assert deaths >= 3
    assert facts(cells) == facts(whole)
    left = [p.name for p in (tmp_path / "run").rglob("*") if p.name.endswith((".batches.jsonl", ".adapters", ".tmp"))]
    assert left  # what in-context learning tried stays
    assert all(name.startswith("tried.") for name in left)


def test_what_is_finished_is_not_trained_searched_or_asked_again(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[int] = []
    train = few_shot.train_few_shot

    def counting(base: Any, spec: Any, tasks: Any, *rest: Any) -> Any:
        trained.append(len(tasks))
        return train(base, spec, tasks, *rest)

    monkeypatch.setattr(few_shot, "train_few_shot", counting)
    whole = world.score(tmp_path / "run")
    # Two views of three tasks each, in chunks of two; the phrasing changes nothing for a fresh LoRA, but for a generated one.
    assert trained == [2, 1] * 2 + [2, 1] * 3
    for module, name in ((scoring, "_write"), (scoring, "label_logits"), (few_shot, "train_few_shot")):
        monkeypatch.setattr(module, name, Dying(getattr(module, name), 0))
    monkeypatch.setattr(LoraHub, "_composed_for", Dying(LoraHub._composed_for, 0))
    monkeypatch.setattr(AdapterLibrary, "load", Dying(AdapterLibrary.load, 0))
    assert facts(world.score(tmp_path / "run")) == facts(whole)


def test_a_kill_after_training_does_not_lose_the_training(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contender = [FewShot(world.base, world.spec, FewShotConfig(examples=2, steps=2, tasks_at_once=2), 0)]
    train, write = few_shot.train_few_shot, scoring._write
    whole = Board(world.base, world.spec, CONFIG, 0).score(contender, world.views[:1])
    monkeypatch.setattr(scoring, "_write", Dying(write, 1))
    with pytest.raises(KilledError):
        Board(world.base, world.spec, CONFIG, 0, CellStore(tmp_path)).score(contender, world.views[:1])
    monkeypatch.setattr(scoring, "_write", write)
    monkeypatch.setattr(few_shot, "train_few_shot", Dying(train, 0))
    again = [FewShot(world.base, world.spec, FewShotConfig(examples=2, steps=2, tasks_at_once=2), 0)]
    assert facts(Board(world.base, world.spec, CONFIG, 0, CellStore(tmp_path)).score(again, world.views[:1])) == facts(
        whole
    )


def test_same_inputs_are_caught_from_what_is_stored(world: World, tmp_path: Path) -> None:
    class Impostor(Base):
        name = "impostor"

    Board(world.base, world.spec, CONFIG, 0, CellStore(tmp_path)).score([Base()], world.views[:1])
    with pytest.raises(SameInputsError, match="contenders base and impostor feed the base model the same text"):
        Board(world.base, world.spec, CONFIG, 0, CellStore(tmp_path)).score([Base(), Impostor()], world.views[:1])


def test_a_cell_is_taken_for_nothing_that_it_is_not(world: World, tmp_path: Path) -> None:
    """Another adapter on disk, another length of answers, another base: all of it is answered anew."""

    def answered(base: BaseModel = world.base, spec: LoraSpec = world.spec, config: BoardConfig = CONFIG) -> int:
        store = CellStore(tmp_path / "run")
        Board(base, spec, config, 0, store).score([Oracle(world.library)], world.views[:1])
        return store.written

    assert answered() == 1
    assert answered() == 0
    assert answered(config=replace(CONFIG, batch_size=2, adapter_memory_gb=0.25, bootstrap_samples=3)) == 0
    assert answered(config=replace(CONFIG, max_new_tokens=5)) == 1
    assert answered(base=replace(world.base, fingerprint=world.base.fingerprint)) == 0
    assert answered(spec=replace(world.spec, alpha=99.0)) == 1
    name = world.views[0].tasks[0].name
    shutil.rmtree(world.library.path(name))
    world.library.save(name, random_adapters(world.spec, 1, seed=99, size=0.5), {"training_time_s": 1.0})
    assert answered() == 1


def test_batches_survive_a_half_written_line(tmp_path: Path) -> None:
    path = tmp_path / "cell.batches.jsonl"
    first = Batches(path)
    assert first("one", lambda: [["a", 1]]) == [["a", 1]]
    with path.open("a") as stream:
        stream.write('{"batch": "two", "results": [["b"')
    second = Batches(path)
    assert second("one", lambda: [["never"]]) == [["a", 1]]
    assert second("two", lambda: [["b", 2]]) == [["b", 2]]
    assert [json.loads(line)["batch"] for line in path.read_text().splitlines()] == ["one", "two"]


def test_a_folder_holds_one_evaluation(tmp_path: Path) -> None:
    Ledger(tmp_path, {"seed": 0, "suite": {"name": "x"}}).start({"base_model": "abc"})
    with pytest.raises(ValueError, match=r"holds an evaluation with another configuration \(different: seed\): choose"):
        Ledger(tmp_path, {"seed": 1, "suite": {"name": "x"}})
    with pytest.raises(ValueError, match=r"holds an evaluation with another data \(different: base_model\)"):
        Ledger(tmp_path, {"seed": 0, "suite": {"name": "x"}}).start({"base_model": "abd"})


BOARD = ["tasks_per_split=2", "examples_per_task=2", "descriptions_per_task=2", "bootstrap_samples=20", "batch_size=3"]


def evaluation(root: Path, folder: Path, *more: str) -> list[str]:
    return [
        "evaluate", *SMALL, *(f"evaluation.{b}" for b in BOARD), f"library={root}/library", f"checkpoints=[{root}/sft]",
        "few_shot.steps=2", "contenders=[base,library_mean,few_shot,oracle,generated,refined]", "seed=3",
        "splits=[train,unseen_combination]", f"run_dir={folder}", *more,
    ]  # fmt: skip


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            k: without_times(v)
            for k, v in value.items()
            if "time" not in k and k not in ("run_dir", "environment", "command")
        }
    return [without_times(v) for v in value] if isinstance(value, list) else value


def read_report(folder: Path) -> tuple[Any, list[str], str]:
    report = without_times(json.loads((folder / "report.json").read_text()))
    return report, (folder / "answers.jsonl").read_text().splitlines(), (folder / "report.html").read_text()[:200]


@pytest.mark.slow
def test_a_killed_evaluation_ends_with_the_same_report(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Through the command itself: five deaths, then an error in a figure, which loses nothing; other settings are refused."""
    main(evaluation(root, tmp_path / "whole"))
    write = scoring._write
    for alive_for in (2, 3, 11, 17, 23):
        monkeypatch.setattr(scoring, "_write", Dying(write, alive_for))
        with pytest.raises(KilledError):
            main(evaluation(root, tmp_path / "killed"))
        assert list((tmp_path / "killed/cells").rglob("*.json*"))
    monkeypatch.setattr(scoring, "_write", write)
    main(evaluation(root, tmp_path / "killed"))
    assert read_report(tmp_path / "killed") == read_report(tmp_path / "whole")

    def broken(*_args: object) -> bytes:
        raise RuntimeError("no such font")

    for name in ("_write", "label_logits"):
        monkeypatch.setattr(scoring, name, Dying(write, 0))  # all of it is there
    monkeypatch.setattr(figures, "costs_figure", broken)
    (tmp_path / "killed/report.json").unlink()
    (tmp_path / "killed/costs.png").unlink()
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(evaluation(root, tmp_path / "killed"))
    assert stopped.value.code == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("t2l: error")]
    assert "without 1 of its figures, first 'costs' (RuntimeError: no such font)" in line
    assert read_report(tmp_path / "killed")[:2] == read_report(tmp_path / "whole")[:2]
    assert "(The figure costs could not be drawn.)" in (tmp_path / "killed/report.md").read_text()
    assert not (tmp_path / "killed/costs.png").exists()
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(evaluation(root, tmp_path / "killed", "seed=4"))
    assert "holds an evaluation with another configuration (different: seed)" in capsys.readouterr().err


def test_cells_are_kept_when_another_checkpoint_joins(root: Path, tmp_path: Path) -> None:
    """Though each is then called by what it differs in."""
    main(["train", *TRAIN, "trainer.lr=0.0001", f"run_dir={tmp_path}/slow"])
    board = [*SMALL, "contenders=[base,generated]", "splits=[unseen_combination]", "robustness_split=null"]
    board += ["evaluation.tasks_per_split=3", f"run_dir={tmp_path}/board"]
    main(["evaluate", *board, f"checkpoints=[{root}/sft]"])
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "board/cells").glob("*/*.json")}
    main(["evaluate", *board, f"checkpoints=[{root}/sft,{tmp_path}/slow]"])
    after = {p: p.stat().st_mtime_ns for p in (tmp_path / "board/cells").glob("*/*.json")}
    assert len(before) == 6
    assert before.items() <= after.items()
    assert {p.parent.name for p in after.keys() - before.keys()} == {
        quote(f"generated_sft[lr=0.0001]{c}", safe="")
        for c in ("", "_shuffled", "_shuffled_nearest", "_random_text", "_static")
    }
    report = json.loads((tmp_path / "board/report.json").read_text())
    assert {"base", "generated_sft[lr=0.003]", "generated_sft[lr=0.0001]"} <= {
        r["contender"] for r in report["results"]
    }
