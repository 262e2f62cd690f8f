"""Sums of objectives: gradients, schedules, what costs nothing, resuming, and what is refused."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import random_adapters
from test_cli import refused
from test_continuation import begun
from test_extending import add as add
from test_extending import tasks as tasks
from test_training import TRAINER, WIDTH, KilledError, Setup, resumptions

from t2l import hypernetwork as hypernetworks
from t2l.base_model import BaseModel
from t2l.cli import main
from t2l.cli.settings import compose_settings
from t2l.hypernetwork import Hypernetwork, ResidualConfig
from t2l.hypernetwork.checkpoint import find_checkpoint, load_record
from t2l.lora.source import as_source
from t2l.objectives import (
    JointConfig,
    JointObjective,
    Materials,
    Needs,
    Objective,
    ReconstructionConfig,
    SftConfig,
    Steps,
    needs_of,
    objective_of,
    part_of,
)
from t2l.objectives.distillation import DistillationConfig
from t2l.objectives.joint import Part, part_config
from t2l.objectives.soundness import judge_parts
from t2l.run.continuation import Change, defaults_of, flat, settings_of
from t2l.training.going_on import settings_may_change
from t2l.training.loop import TrainerConfig
from t2l.verbs.plan import plan
from t2l.verbs.train import TrainConfig, train

ARCHITECTURE = ResidualConfig(width=16, description_width=8)
OWN = {
    "sft": SftConfig(label_smoothing=0.1, weight_penalty=0.01),
    "distillation": DistillationConfig(temperature=2.0),
    "reconstruction": ReconstructionConfig(standardise=False),
}
LATE = {"reconstruction": {"until": 0.5, "fall": 3.0}, "sft": {"start": 0.5, "weight": 2.0, "rise": 3.0}}
"""reconstruction, then SFT, each at its full weight but for three steps"""


def joint(settings: Mapping[str, Mapping[str, float]]) -> JointConfig:
    return JointConfig(parts={name: part_of(OWN[name], **values) for name, values in settings.items()})


def make(setup: Setup, config: Any, trainer: TrainerConfig = TRAINER) -> Objective:
    library = as_source(random_adapters(setup.spec, len(setup.tasks)))
    return objective_of(config).make(config, Materials(trainer, setup.base, setup.tasks, library))


def fresh(setup: Setup) -> Hypernetwork:
    return hypernetworks.build(ARCHITECTURE, setup.spec, WIDTH, seed=0)


def gradients(setup: Setup, config: Any, step: int = 3) -> tuple[dict[str, float], list[torch.Tensor]]:
    """A step's metrics, and the gradient of each parameter of a fresh hypernetwork."""
    model = fresh(setup)
    metrics = Steps(make(setup, config), setup.embeddings, TRAINER, 0).backward(model, step)
    return metrics, [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]


@pytest.fixture
def passes(tiny_base: BaseModel, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows of each pass through the tiny base."""
    seen: list[int] = []
    forward = tiny_base.model.forward

    def watched(*args: Any, **options: Any) -> Any:
        seen.append(len(options["input_ids"]))
        return forward(*args, **options)

    monkeypatch.setattr(tiny_base.model, "forward", watched)
    return seen


def test_gradients_are_the_weighted_sum_of_the_parts(tiny_base: BaseModel, tmp_path: Path) -> None:
    setup, weights = Setup(tiny_base, tmp_path), {"sft": 0.5, "distillation": 3.0, "reconstruction": 0.25}
    metrics, found = gradients(setup, joint({name: {"weight": w} for name, w in weights.items()}))
    alone = {name: gradients(setup, OWN[name]) for name in weights}
    for ours, *theirs in zip(found, *(g for _, g in alone.values()), strict=True):
        torch.testing.assert_close(ours, sum(w * g for w, g in zip(weights.values(), theirs, strict=True)))
    assert any(g.abs().max() > 0 for g in found)
    expected = {
        f"train/{name}/{key.removeprefix('train/')}": v for name, (own, _) in alone.items() for key, v in own.items()
    }
    total = sum(w * alone[name][0]["train/loss"] for name, w in weights.items())
    expected |= {f"train/{name}/weight": w for name, w in weights.items()} | {"train/loss": total}
    assert metrics == pytest.approx(expected)


@pytest.mark.parametrize("name", OWN)
def test_a_part_alone_is_its_objective(tiny_base: BaseModel, tmp_path: Path, name: str) -> None:
    setup = Setup(tiny_base, tmp_path)
    (one, ours), (other, theirs) = gradients(setup, joint({name: {}})), gradients(setup, OWN[name])
    assert one["train/loss"] == one[f"train/{name}/loss"] == other["train/loss"]
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize(
    ("settings", "steps", "weights"),
    [
        ({}, 4, [1, 1, 1, 1]),
        ({"weight": 0.0}, 3, [0, 0, 0]),
        ({"weight": 2.0, "until": 0.5}, 4, [2, 2, 0, 0]),
        ({"start": 0.5}, 5, [0, 0, 1, 1, 1]),
        ({"start": 2.0, "until": 3.0}, 5, [0, 0, 1, 0, 0]),
        ({"until": 100.0}, 2, [1, 1]),
        ({"rise": 1.0}, 4, [0.125, 0.375, 0.625, 0.875]),
        ({"start": 0.2, "rise": 0.4, "weight": 4.0}, 5, [0, 1, 3, 4, 4]),
        ({"until": 4.0, "fall": 2.0}, 6, [1, 1, 0.75, 0.25, 0, 0]),
        ({"rise": 4.0, "fall": 4.0}, 4, [0.125, 0.375, 0.375, 0.125]),
    ],
)
def test_weights_of_a_schedule(settings: dict[str, float], steps: int, weights: list[float]) -> None:
    part = Part(**settings)
    assert [part.weight_at(i, steps) for i in range(steps)] == pytest.approx(weights)
    assert [i for i, w in enumerate(weights) if w] == list(part.span(steps))


@pytest.mark.parametrize("steps", [7, 10, 30, 999])
def test_parts_that_take_turns_share_no_step_and_leave_none_out(steps: int) -> None:
    for change in (0.1, 0.3, 0.5, 0.7):
        first, second = Part(until=change), Part(start=change)
        assert [*first.span(steps), *second.span(steps)] == list(range(steps))
    first, second = Part(until=0.7, fall=0.4), Part(start=0.3, rise=0.4)
    if len(first.span(steps)) - second.span(steps).start == round(0.4 * steps):
        assert [first.weight_at(i, steps) + second.weight_at(i, steps) for i in range(steps)] == pytest.approx(
            [1] * steps
        )


def test_what_does_not_count_costs_nothing(tiny_base: BaseModel, tmp_path: Path, passes: list[int]) -> None:
    """No pass through the base before SFT begins; none of the teacher's after distillation ends."""
    setup = Setup(tiny_base, tmp_path)
    config = joint(
        {"reconstruction": {"until": 6.0}, "sft": {"start": 6.0}, "distillation": {"start": 8.0, "until": 10.0}}
    )
    steps, model, seen = Steps(make(setup, config), setup.embeddings, TRAINER, 0), fresh(setup), {}
    for step in (0, 5, 6, 7, 8, 9, 10, 11):
        passes.clear()
        metrics = steps.backward(model, step)
        parts = {key.split("/")[1] for key in metrics if key.endswith("/weight")}
        assert parts == {key.split("/")[1] for key in metrics if key.count("/") == 2}
        seen[step] = (sorted(parts), sum(passes) // 4)
    assert seen[0] == seen[5] == (["reconstruction"], 0)
    assert seen[6] == seen[7] == seen[10] == seen[11] == (["sft"], 1)
    assert seen[8] == seen[9] == (["distillation", "sft"], 3)


def test_a_part_of_no_weight_is_neither_needed_nor_made(tiny_base: BaseModel, tmp_path: Path) -> None:
    config = joint({"sft": {"weight": 0.0}, "distillation": {"weight": 0.0}, "reconstruction": {}})
    assert needs_of(config) == Needs(base=False, library=True)
    assert needs_of(joint({"sft": {}, "reconstruction": {}})) == Needs(base=True, library=True)
    assert needs_of(joint({"sft": {}, "reconstruction": {"weight": 0.0}})) == Needs(base=True, library=False)
    made = make(Setup(tiny_base, tmp_path), config)
    assert isinstance(made, JointObjective)
    assert set(made.objectives) == {"reconstruction"}
    assert (made.needs_base, made.needs_library, made.row_counts()) == (False, True, None)


def test_the_distance_to_a_library_is_that_of_the_part_which_needs_one(tiny_base: BaseModel, tmp_path: Path) -> None:
    setup = Setup(tiny_base, tmp_path)
    pair = (random_adapters(setup.spec, 2, seed=1), random_adapters(setup.spec, 2, seed=2))
    found = make(setup, joint({"sft": {}, "reconstruction": {"weight": 3.0}})).distance(fresh(setup), *pair)
    assert found == make(setup, OWN["reconstruction"]).distance(fresh(setup), *pair) > 0
    with pytest.raises(NotImplementedError, match="JointObjective compares no adapters"):
        make(setup, joint({"sft": {}})).distance(fresh(setup), *pair)


class JointSetup(Setup):
    """A tiny run of a joint objective."""

    def steps(self) -> Steps:
        return Steps(make(self, joint(LATE)), self.embeddings, self.trainer, 0)


@pytest.mark.parametrize("die_at", [5, 7, 10])
def test_a_run_killed_within_its_schedule_ends_bit_for_bit_the_same(
    tiny_base: BaseModel, tmp_path: Path, die_at: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    whole, broken = (
        JointSetup(tiny_base, tmp_path / "whole", "joint"),
        JointSetup(tiny_base, tmp_path / "broken", "joint"),
    )
    expected = whole.run()
    with pytest.raises(KilledError):
        broken.run(die_at)
    torch.manual_seed(999)
    resumed = broken.run()
    assert resumptions(caplog) == [f"resuming {broken.folder} at step {4 if die_at < 8 else 8}"]
    for one, two in zip(expected.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(one, two)
    assert whole.metrics() == broken.metrics()
    found = [[m.get(f"train/{name}/weight", 0) for m in whole.metrics()] for name in LATE]
    assert found[0] == pytest.approx([1, 1, 1, 5 / 6, 3 / 6, 1 / 6, *[0] * 6])
    assert found[1] == pytest.approx([*[0] * 6, 2 / 6, 6 / 6, 10 / 6, 2, 2, 2])


REFUSED = [
    (["objective.parts.sft.weigth=1"], "unknown config key objective.parts.sft.weigth; did you mean 'weight'?"),
    (["+objective.parts.sft.weigth=1"], "unknown config key objective.parts.sft.weigth; did you mean 'weight'?"),
    (["objective.parts.distillation.temprature=1"], "did you mean 'temperature'?"),
    (["objective.parts.sfft.weight=1"], "unknown config key objective.parts.sfft"),
    (["+objective.parts.mine.weight=1"], "objective.parts.mine is no objective: choose one, like +objective_part@objective.parts.mine=NAME, from distillation, "),
    (["+objective_part@objective.parts.mine=sfft"], "objective_part=sfft: there is none of that name; choose from distillation, "),
    (["+objective_part@objective.parts.mine=joint"], "objective_part=joint: there is none of that name"),
    (["objective.parts.sft.weight=heavy"], "objective.parts.sft.weight: Value 'heavy'"),
    (["objective.parts.sft.weight=-1"], "objective.parts.sft.weight must be in [0, inf), not -1.0"),
    (["objective.parts.sft.weight=nan"], "objective.parts.sft.weight must be in [0, inf), not nan"),
    (["objective.parts.sft.until=1.5"], "objective.parts.sft.until must be a fraction of trainer.steps in [0, 1] or a whole number of steps above 1, not 1.5"),
    (["objective.parts.sft.rise=-0.5"], "objective.parts.sft.rise must be a fraction"),
    (["objective.parts.sft.label_smoothing=1"], "objective.parts.sft.label_smoothing must be in [0, 1), not 1.0"),
    (["objective.parts.distillation.teacher=nobody"], "objective.parts.distillation.teacher must be description, "),
    (["objective.parts.sft.weight=0", "objective.parts.distillation.weight=0"], "objective.parts has none with a weight above 0"),
    (["objective.parts.sft.start=1000"], "objective.parts.sft counts in no step: start=1000 is not before until=1 within trainer.steps=1000"),
    (["objective.parts.sft.until=0.2", "objective.parts.distillation.start=300"], "objective.parts: none counts in step 201 of trainer.steps=1000"),
    (["objective.parts.sft.start=2", "objective.parts.distillation.start=2"], "objective.parts: none counts in step 1 of"),
    (["objective.name=sft"], "objective.name must be one word that no other objective is called, not 'sft'"),
    (["objective.name='a b'"], "objective.name must be one word"),
    (["prompt.definition=shown"], "objective.parts.distillation=distillation with prompt.definition=shown: the student would read the description as well"),
    (["+objective_part@objective.parts.near=reconstruction"], "objective=joint needs library=DIR"),
    (["trainer.select_by=validation/distance"], "trainer.select_by=validation/distance is for objective=reconstruction"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "says"), REFUSED, ids=[" ".join(words) for words, _ in REFUSED])
def test_bad_parts_are_one_line(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    given = ["objective=joint", "trainer.steps=1000", *words]
    assert says in refused(capsys, "train", *given, f"run_dir={tmp_path}/run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("verb", ["train", "plan", "quickstart"])
def test_a_student_that_reads_the_description_is_refused(
    verb: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    place = [] if verb == "plan" else [f"run_dir={tmp_path}/run"]
    group = "objective@sft" if verb == "quickstart" else "objective"
    for words in ([f"{group}=distillation"], [f"{group}=joint"]):
        says = refused(capsys, verb, *words, "prompt.definition=shown", *place)
        assert "=distillation with prompt.definition=shown: the student would read the description" in says
    compose_settings(verb, [f"{group}=distillation"])
    compose_settings(verb, [f"{group}=sft", "prompt.definition=shown"])


def test_parts_are_chosen_changed_and_left_out_by_words() -> None:
    words = [
        "objective=joint", "objective.parts.sft.weight=0.5", "objective.parts.distillation.temperature=2",
        "objective_part@objective.parts.sft=sft_paper", "+objective_part@objective.parts.near=reconstruction_frobenius",
        "objective.parts.near.until=500", "library=DIR",
    ]  # fmt: skip
    parts = compose_settings("train", words).objective.parts
    assert parts == {
        "sft": part_of(SftConfig(label_smoothing=0.1), weight=0.5),
        "distillation": part_of(DistillationConfig(temperature=2.0)),
        "near": part_of(ReconstructionConfig(distance="frobenius"), until=500.0),
    }
    left = compose_settings("train", ["objective=joint", "~objective_part@objective.parts.distillation"]).objective
    assert left == JointConfig(parts={"sft": part_of(SftConfig())})
    assert (
        compose_settings("quickstart", ["objective@sft=joint", "sft.parts.sft.weight=3"]).sft.parts["sft"].weight == 3
    )


def test_the_help_page_tells_the_keys_of_parts(capsys: pytest.CaptureFixture[str]) -> None:
    main(["train", "objective=joint", "objective.parts.sft.weight=7", "--help"])
    shown = capsys.readouterr().out
    assert "  objective.parts.sft.weight=7.0\n" in shown
    assert "objective.parts.distillation.temperature=1.0" in shown
    assert "  objective_part@objective.parts.NAME=CHOICE\n" in shown


@dataclass
class WeightyConfig:
    """An objective whose settings are called like those of a part."""

    weight: float = 1.0


def test_what_cannot_be_a_part() -> None:
    for config in (WeightyConfig(), joint({"sft": {}})):
        assert part_config(type(config)) is None
        with pytest.raises(ValueError, match=f"an objective of {type(config).__name__} cannot be a part of another"):
            part_of(config)
    with pytest.raises(ValueError, match=r"objective\.parts\.sft is no objective"):
        JointConfig(parts={"sft": SftConfig()})
    with pytest.raises(ValueError, match="a part is called by one word of letters, digits and _, not 'a/b'"):
        JointConfig(parts={"a/b": part_of(SftConfig())})


def test_parts_that_number_rows_otherwise_are_refused(tiny_base: BaseModel, tmp_path: Path) -> None:
    setup, config = Setup(tiny_base, tmp_path), joint({"sft": {}, "distillation": {}})
    made = {name: make(setup, OWN[name]) for name in config.parts}
    assert JointObjective(config, made, 10).row_counts() == made["sft"].row_counts()
    made["distillation"].rows = [rows[1:] for rows in made["distillation"].rows]  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"objective\.parts\.distillation counts other training examples"):
        JointObjective(config, made, 10)


def test_a_parts_complaint_about_data_names_the_part(tiny_base: BaseModel, tmp_path: Path) -> None:
    config = JointConfig(parts={"taught": part_of(DistillationConfig(teacher="both", shots=16))})
    with pytest.raises(ValueError, match=r"^objective\.parts\.taught\.shots=16 needs more training examples"):
        make(Setup(tiny_base, tmp_path), config)


@pytest.mark.parametrize(
    ("until", "reason"), [(0.5, "changes the schedule of objective.parts in the 15 steps"), (10.0, None)]
)
def test_more_steps_if_the_parts_stay_as_they_were(tmp_path: Path, until: float, reason: str | None) -> None:
    constant = TrainerConfig(steps=20, schedule="constant", warmup_steps=2)
    config = TrainConfig(
        objective=joint({"distillation": {"until": until}, "sft": {}}), trainer=constant,
        encoder=compose_settings("train", []).encoder, hypernetwork=ARCHITECTURE,
    )  # fmt: skip
    record = begun(tmp_path, config, 15)
    longer = replace(config, trainer=replace(constant, steps=40))
    why = settings_may_change(longer, record)(Change("trainer.steps", 20, 40))
    assert why is None if reason is None else reason in (why or "")
    assert settings_may_change(config, record)(Change("objective.parts.sft.weight", 1.0, 2.0)) is not None
    defaults, there = defaults_of(config), flat(settings_of(config)["objective"], "objective")
    assert defaults["objective.parts.distillation.until"] == 1.0
    assert defaults["objective.parts.distillation.temperature"] == 1.0
    assert {key for key in there if key.startswith("objective.parts.")} <= set(defaults)


def test_a_plan_counts_what_the_parts_need() -> None:
    small = ["base_model=mini", "d_embedding=24", "length=24", "response=6", "hypernetwork=s"]
    found = {
        name: plan(compose_settings("plan", [*small, *words])).memory
        for name, words in {
            "sft": ["objective=sft"], "joint": ["objective=joint"], "both": ["objective=reconstruction_then_sft"],
            "near": ["objective=reconstruction_then_sft", "objective.parts.sft.weight=0", "objective.parts.reconstruction.until=1"],
        }.items()
    }  # fmt: skip
    assert found["joint"] == found["both"] == found["sft"]
    assert found["near"].activations == found["near"].workspace == 0


@pytest.mark.parametrize(
    ("near", "sft", "verdict"),
    [
        ([1.0, 0.5, 0.4, 0.3, 0.2, 0.1], [9.0, 8.0, 7.0, 6.0, 5.0, 4.0], "sound"),
        ([1.0] * 6, [9.0, 8.0, 7.0, 6.0, 5.0, 4.0], "sound"),
        ([1.0] * 6, [9.0] * 6, "learnt nothing"),
        ([1.0, 0.5, 0.4, 0.3, 0.2, 0.1], [1.0, *[50.0] * 5], "diverged"),
    ],
)
def test_a_run_is_judged_by_each_part_and_not_by_their_change(
    near: list[float], sft: list[float], verdict: str
) -> None:
    lines = [
        {"step": i, f"train/{part}/loss": x, f"train/{part}/weight": w, "train/loss": w * x}
        for i, (part, w, x) in enumerate([*(("near", 1, x) for x in near), *(("sft", 100, x) for x in sft)])
    ]
    assert judge_parts(lines).verdict == verdict


OUTSIDE = '''
from dataclasses import dataclass
from t2l.objectives import Objective, Term
from t2l.registry import register

@dataclass
class SmallConfig:
    """Small adapters."""

    power: int = 2
    """of the entries"""

    def __post_init__(self):
        if self.power < 1:
            raise ValueError(f"objective.power must be at least 1, not {self.power}")

@register("objective", "small", SmallConfig)
class Small(Objective):
    def __init__(self, config):
        self.config = config

    @classmethod
    def make(cls, config, materials):
        return cls(config)

    def losses(self, hypernetwork, batch, weights):
        yield Term("loss", sum(t.abs().pow(self.config.power).mean() for t in weights.tensors()))
'''
BRIEF = [
    "trainer.steps=4", "trainer.tasks_per_step=2", "trainer.description_whitening=null", "trainer.log_every=1", "encoder=one_hot",
]  # fmt: skip


def test_one_from_outside_is_a_part(
    add: Callable[[str], None],
    tasks: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    add(OUTSIDE)
    words = [*tasks, *BRIEF, "objective=joint", "+objective_part@objective.parts.tiny=small"]
    more = ["objective.parts.tiny.power=3", "objective.parts.tiny.until=2", f"run_dir={tmp_path}/run"]
    folder = train(compose_settings("train", [*words, *more]))
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert ["train/tiny/loss" in line for line in lines] == [True, True, False, False]
    says = refused(capsys, "train", *words, "objective.parts.tiny.power=0", f"run_dir={tmp_path}/refused")
    assert "objective.parts.tiny.power must be at least 1, not 0" in says
    alone = train(compose_settings("train", [*tasks, *BRIEF, "objective=small", f"run_dir={tmp_path}/alone"]))
    assert load_record(find_checkpoint(alone)).objective == "small"


def test_both_configs_train_and_are_scored_by_their_names(
    tasks: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    brief = [
        f"{part}.{key}" for part in ("training", "multi_task") for key in ("steps=2", "rows_per_task=2", "cycles=1")
    ]
    main(["train_library", *tasks, *brief, f"run_dir={tmp_path}/library"])
    library, runs = f"library={tmp_path}/library", {}
    for name, words in {"joint": ["objective.parts.sft.weight=0.5"], "reconstruction_then_sft": [library]}.items():
        runs[name] = tmp_path / name
        command = ["train", *tasks, *BRIEF, f"objective={name}", *words, f"run_dir={runs[name]}"]
        main(command)
        lines = [json.loads(line) for line in (runs[name] / "metrics.jsonl").read_text().splitlines()]
        assert all("train/loss" in line for line in lines)
        there = [sorted(k.split("/")[1] for k in line if k.endswith("/loss") and k.count("/") == 2) for line in lines]
        both = {
            "joint": [["distillation", "sft"]] * 4,
            "reconstruction_then_sft": [["reconstruction"]] * 2 + [["sft"]] * 2,
        }
        assert there == both[name]
        record = load_record(find_checkpoint(runs[name]))
        assert (record.objective, record.step, record.conditions is not None) == (name, 4, True)
        settings = json.loads((runs[name] / "run.json").read_text())["config"]["objective"]
        assert settings == asdict(compose_settings("train", command[1:]).objective)
        before = (runs[name] / "run.json").read_bytes()
        main(command)  # finished
        assert (runs[name] / "run.json").read_bytes() == before
    settings = compose_settings("train", [*tasks, *BRIEF, "objective=reconstruction_then_sft", library])
    coarse = replace(settings, base_model=replace(settings.base_model, dtype="bfloat16"), run_dir=f"{tmp_path}/coarse")
    told: list[str] = []
    monkeypatch.setattr("t2l.verbs.train.log.warning", lambda text, *values: told.append(text % values))
    record = load_record(find_checkpoint(train(coarse)))
    assert record.conditions is not None
    assert record.conditions["dtype"] == "bfloat16"  # its own, since it goes through the base
    assert f"{library} was trained under another base_model.dtype than this run" in told
    board = ["evaluation.tasks_per_split=3", "evaluation.examples_per_task=2", "evaluation.bootstrap_samples=10"]
    scored = [f"checkpoints=[{','.join(map(str, runs.values()))}]", "contenders=[generated]", "splits=[train]"]
    main(["evaluate", *tasks, *board, *scored, "robustness_split=null", f"run_dir={tmp_path}/board"])
    report = json.loads((tmp_path / "board/report.json").read_text())
    assert {f"generated_{name}" for name in runs} <= {r["contender"] for r in report["results"]}


def test_every_objective_that_ships_is_a_part_by_all_its_names() -> None:
    from hydra.core.config_store import ConfigStore

    from t2l.config import config_folder

    compose_settings("train", [])
    names = {p.stem for p in (config_folder() / "objective").glob("*.yaml")} - {"joint", "reconstruction_then_sft"}
    stored = {name.removesuffix(".yaml") for name in ConfigStore.instance().repo["objective_part"]}
    assert {n for n in stored if not n.endswith("_schema")} == names
    for name, (key, value) in itertools.product(names, {"weight": 0.5, "until": 0.5}.items()):
        given = [f"+objective_part@objective.parts.one={name}", f"objective.parts.one.{key}={value}"]
        assert (
            getattr(compose_settings("train", ["objective=joint", "library=D", *given]).objective.parts["one"], key)
            == value
        )
