"""One component of each kind from a module outside the package: found, chosen by its name, and run."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hydra.core.config_store import ConfigStore
from small_run import SMALL
from test_cli import refused

from t2l import registry
from t2l.cli import main
from t2l.cli.settings import compose_settings
from t2l.encoder import TaskEncoder
from t2l.files import write_json
from t2l.hypernetwork.checkpoint import find_checkpoint, load_hypernetwork, load_record, own_encoder
from t2l.methods.folder import MethodLibrary
from t2l.verbs.describe import describe
from t2l.verbs.train import train
from t2l.verbs.train_library import train_library

TASKS = {"shout": "Write it in capitals.", "twice": "Say all of it twice.", "last": "Give the last word alone."}
BRIEF = ["trainer.steps=2", "trainer.tasks_per_step=2", "trainer.description_whitening=null"]
BOARD = ["evaluation.tasks_per_split=2", "evaluation.examples_per_task=2", "evaluation.bootstrap_samples=10"]
Add = Callable[[str], None]


@pytest.fixture
def add(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Add:
    """Writes a module outside the package and has its components found; afterwards they are gone again."""

    def write(code: str) -> None:
        name = f"components_of_{tmp_path.name}"
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(code))
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.setattr(registry, "_COMPONENTS", {g: registry.components(g) for g in registry.PACKAGES})
        monkeypatch.setenv("T2L_COMPONENTS", name)
        monkeypatch.setattr(registry, "_FOUND", set())
        store = ConfigStore.instance().repo
        for group in (*registry.PACKAGES, "objective_part"):
            monkeypatch.setitem(store, group, dict(store.get(group, {})))

    return write


@pytest.fixture
def tasks(tmp_path: Path) -> list[str]:
    """Words that choose a suite of three tasks."""
    folder = tmp_path / "tasks"
    write_json(folder / "tasks.json", {name: {"descriptions": [d]} for name, d in TASKS.items()})
    for name in TASKS:
        rows = [json.dumps({"input": f"dog cat {i}", "output": f"cat {i}"}) for i in range(10)]
        (folder / f"{name}.jsonl").write_text("\n".join(rows))
    return ["suite=folder", f"suite.path={folder}", "suite.held_fraction=0"]


def test_a_hypernetwork(add: Add, tasks: list[str], tmp_path: Path) -> None:
    add("""
from dataclasses import dataclass
from torch import nn
from t2l.hypernetwork import Hypernetwork
from t2l.lora import LoraWeights
from t2l.registry import register

@dataclass
class LinearConfig:
    bias: bool = True

@register("hypernetwork", "linear", LinearConfig)
class Linear(Hypernetwork):
    def __init__(self, config, spec, d_embedding, generator):
        super().__init__(spec, d_embedding)
        self.heads = nn.ModuleList(
            nn.Linear(d_embedding, len(g.layers) * spec.rank * (g.d_in + g.d_out), config.bias) for g in spec.groups
        )

    def emit(self, embeddings):
        A, B, rank = {}, {}, self.spec.rank
        for head, g in zip(self.heads, self.spec.groups):
            out = head(embeddings).unflatten(-1, (len(g.layers), rank * (g.d_in + g.d_out)))
            A[g.name] = out[..., : rank * g.d_in].unflatten(-1, (rank, g.d_in))
            B[g.name] = out[..., rank * g.d_in :].unflatten(-1, (g.d_out, rank))
        return LoraWeights(A, B)
""")
    words = [*tasks, *BRIEF, "encoder=one_hot", "hypernetwork=linear", "hypernetwork.bias=false"]
    folder = find_checkpoint(train(compose_settings("train", [*words, f"run_dir={tmp_path}/run"])))
    record = load_record(folder)
    assert record.to_json()["hypernetwork"] == {"architecture": "linear", "bias": False}
    loaded = load_hypernetwork(folder, record)
    assert type(loaded).__name__ == "Linear"
    loaded.emit(torch.eye(3)).check(record.spec)


def test_an_encoder(add: Add, tasks: list[str], tmp_path: Path) -> None:
    add("""
from dataclasses import dataclass
import numpy as np
from t2l.encoder.interface import Embedder
from t2l.registry import register

@dataclass
class LettersConfig:
    letters: str = "abcdefghijklmnopqrstuvwxyz"

@register("encoder", "letters", LettersConfig)
class Letters(Embedder):
    @classmethod
    def width(cls, config, base_config):
        return len(config.letters)

    @property
    def identity(self):
        return f"letters:{self.config.letters}"

    def embed(self, texts, progress):
        return np.array([[text.count(letter) for letter in self.config.letters] for text in texts], dtype=np.float32)
""")
    config = compose_settings("train", [*tasks, *BRIEF, "encoder=letters", f"run_dir={tmp_path}/run"])
    record = load_record(find_checkpoint(train(config)))
    assert (record.d_embedding, record.encoder) == (26, {"kind": "letters", "letters": config.encoder.letters})
    assert TaskEncoder(own_encoder(record)).encode(["baa"])[0, :3].tolist() == [2, 1, 0]


def test_a_suite(add: Add, tmp_path: Path) -> None:
    add("""
from dataclasses import dataclass
from t2l.registry import register
from t2l.tasks import Example, Split, Task, TaskSuite

@dataclass
class CountingConfig:
    rows: int = 4

@register("suite", "counting", CountingConfig)
def build(config):
    examples = tuple(Example("dog " * (i + 1), str(i + 1)) for i in range(config.rows))
    tasks = {n: Task(n, {"train": (f"Count the {n}.",)}, {"train": examples}) for n in ("dogs", "words")}
    return TaskSuite("counting", tasks, {"train": Split(tuple(tasks))})
""")
    config = compose_settings("train", [*BRIEF, "encoder=one_hot", "suite=counting", f"run_dir={tmp_path}/run"])
    record = load_record(find_checkpoint(train(config)))
    assert (record.trained_on["suite"], record.trained_on["tasks"]) == ("counting", ["dogs", "words"])


def test_a_method(add: Add, tasks: list[str], tmp_path: Path, mini_base: Any) -> None:
    add("""
from dataclasses import dataclass
from t2l.base_model.targets import select_targets
from t2l.methods import MethodConfig
from t2l.methods.hooked import HookedMethod, Rescale
from t2l.registry import register

@dataclass
class RescaledConfig(MethodConfig):
    module: str = "down_proj"

@register("method", "rescaled", RescaledConfig)
class Rescaled(HookedMethod):
    def modules(self, model):
        return {t.path: Rescale(t.d_out, has_shift=False) for t in select_targets(model, [self.config.module])}
""")
    words = ["method=rescaled", "method.module=o_proj", "method.optimization.steps=2", "base_model.device=cpu"]
    folder = train_library(compose_settings("train_library", [*tasks, *words, f"run_dir={tmp_path}/run"]))
    library = MethodLibrary.open(folder)
    assert (library.method.name, library.method.config.module) == ("rescaled", "o_proj")
    assert library.tasks() == sorted(TASKS)
    with library.restore(mini_base, "last"):
        pass


def test_a_describer(add: Add, tasks: list[str], tmp_path: Path) -> None:
    add("""
import json
from dataclasses import dataclass
from t2l.describe import Describer
from t2l.registry import register

@dataclass
class ParrotConfig:
    word: str = "Please"

@register("describer", "parrot", ParrotConfig)
class Parrot(Describer):
    model, origin = "parrot", "here"

    def __init__(self, config):
        self.config = config

    def settings(self):
        return {"word": self.config.word}

    def reply(self, prompt, seed):
        word = self.config.word
        return json.dumps([f"{word}, do what number {seed} says.", f"{word}, follow rule {seed} and write the outcome."])
""")
    words = ["describer=parrot", "describer.word=Kindly", "n=2", f"run_dir={tmp_path}/out"]
    out = describe(compose_settings("describe", [*tasks, *words]))
    for name in TASKS:
        written = yaml.safe_load((out / name / "metadata.yaml").read_text())
        assert written["provenance"]["model"] == "parrot"
        assert all(d.startswith("Kindly, ") for d in written["descriptions"])


def evaluated(folder: Path, *more: str) -> dict[str, object]:
    """The report of `t2l evaluate` on one split."""
    main(["evaluate", *BOARD, "splits=[train]", "robustness_split=null", f"run_dir={folder}", *more])
    return json.loads((folder / "report.json").read_text())


def test_a_contender(add: Add, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is on the board in its place, and what it needs is asked for before anything is scored."""
    add(
        '''
        from t2l.evaluation.contenders.interface import Contender, Entry, Needs, SplitView
        from t2l.evaluation.scoring import questions_for
        from t2l.registry import register


        @register("contender", "shouted")
        class Shouted(Contender):
            """The base model that is told the description in capitals."""

            name, place = "shouted", 25
            needs = Needs(descriptions=True, examples=lambda config: config.few_shot.shots)

            def enter(self, view: SplitView) -> Entry:
                told = lambda task, example: view.description(task, example).upper()
                return Entry(questions_for(view.tasks, view.examples, prefix_of=told))


        @register("contender", "first_adapter")
        class FirstAdapter(Contender):
            """The adapter of the first training task, everywhere."""

            name = "first_adapter"
            needs = Needs(library="training_tasks", training_tasks=True)

            @classmethod
            def make(cls, context):
                made = cls()
                made.adapter = context.library.adapters.source(context.training_tasks[:1])
                return [made]

            def enter(self, view: SplitView) -> Entry:
                return Entry(view.questions(), self.adapter)
        '''
    )
    report = evaluated(tmp_path / "run", *SMALL, "contenders=[base,shouted]")
    assert [r["contender"] for r in report["results"]] == ["base", "shouted"]
    assert set(report["identities"]) == {"base", "shouted"}
    answers = [json.loads(line) for line in (tmp_path / "run/answers.jsonl").read_text().splitlines()]
    told = [a["prefix"] for a in answers if a["contender"] == "shouted"]
    assert len(told) == 4
    assert all(text and text == text.upper() for text in told)
    for given, says in (
        (["contenders=[first_adapter]"], "contenders first_adapter need library=DIR"),
        (["contenders=[base,shouted]", *SMALL, "few_shot.shots=17"], "17 shots are asked for"),
        (["contenders=[shouted]", "harness=lm_eval", "tasks=[a]"], "shouted cannot be scored by the harness"),
        (["contenders=[shouting]"], "choose from base, prompted, shouted, icl"),
    ):
        assert says in refused(capsys, "evaluate", *given, f"run_dir={tmp_path}/refused")


def test_a_metric(add: Add, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A suite may name it, and its rows are scored by it."""
    add(
        '''
        from t2l.evaluation.metrics.interface import Metric, Probe
        from t2l.registry import register


        @register("metric", "as_long")
        class AsLong(Metric):
            """1 if the answer has as many words as the reference, or more."""

            probes = (Probe("a b", "c d", 1), Probe("a", "c d", 0), Probe("a b", "c", 1))
            aliases = ("length@1",)

            def score(self, answer: str, reference: str) -> float:
                return float(len(answer.split()) >= len(reference.split()))
        '''
    )
    folder = tmp_path / "suite"
    folder.mkdir()
    (folder / "tasks.json").write_text(json.dumps({"copy": {"descriptions": ["Copy."], "metric": "length@1 (words)"}}))
    rows = [{"input": f"dog {i}", "output": "dog" if i % 2 else "dog cat cow " * 30} for i in range(10)]
    (folder / "copy.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    suite = ["suite=folder", f"suite.path={folder}", "suite.held_fraction=0.0"]
    report = evaluated(tmp_path / "run", *suite, "contenders=[base]")
    assert report["results"][0]["metric"] == "as_long"
    answers = [json.loads(line) for line in (tmp_path / "run/answers.jsonl").read_text().splitlines()]
    assert answers
    assert [a["score"] for a in answers] == [
        float(len(a["answer"].split()) >= len(a["reference"].split())) for a in answers
    ]
    (folder / "tasks.json").write_text(json.dumps({"copy": {"descriptions": ["Copy."], "metric": "as_short"}}))
    says = refused(capsys, "evaluate", *suite, "contenders=[base]", f"run_dir={tmp_path}/refused")
    assert "unknown metric 'as_short': choose from as_long, choice_label" in says


def test_a_module_that_is_missing_is_told_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_FOUND", set())
    monkeypatch.setenv(registry.MODULES_VARIABLE, "no_such_module")
    for _ in range(2):
        with pytest.raises(ValueError, match="T2L_COMPONENTS names 'no_such_module', which cannot be imported"):
            registry.components("objective")


def test_it_is_told_on_the_command_line_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(registry, "_FOUND", set())
    monkeypatch.setenv(registry.MODULES_VARIABLE, "no_such_module")
    says = refused(capsys, "train", f"run_dir={tmp_path}/run")
    assert says.endswith("which cannot be imported (No module named 'no_such_module')")
    assert not (tmp_path / "run").exists()
