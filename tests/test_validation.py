"""Validation in training: what it looks at, what it chooses, and that it changes nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import random_adapters
from test_training import ARCHITECTURE, TRAINER, WIDTH, KilledError, Setup, resumptions, small_suite

from t2l import hypernetwork as hypernetworks
from t2l.base_model import BaseModel
from t2l.evaluation.selected import selection_text, splits_to_score
from t2l.evaluation.validation import Validator, distance_to, held_out, parts_of
from t2l.files import FileProblemError, read_tensors, write_json, write_tensors
from t2l.hypernetwork import Hypernetwork
from t2l.hypernetwork.checkpoint import find_checkpoint, how_chosen, latest_checkpoint, load_record
from t2l.hypernetwork.selection import Selection
from t2l.library import AdapterLibrary
from t2l.objectives import ReconstructionConfig, ReconstructionObjective
from t2l.tasks import Split, Task, TaskSuite
from t2l.training import Validation, random_state
from t2l.training.checkpoint import resume, save_checkpoint
from t2l.training.loop import TrainerConfig
from t2l.training.optimizer import make_optimizer
from t2l.verbs.train import check_parts

VALIDATED = replace(TRAINER, validate_every=3, validation_tasks=2, validation_rows=2)


def suite_with_validation() -> tuple[TaskSuite, list[Task]]:
    """Three training tasks, and two of a split `validation`, one of them without validation rows."""
    whole = small_suite()
    trained = whole.select(["keep_animals", "count_tools", "reverse"])
    held = whole.select(["drop_fruit", "sort"] if "drop_fruit" in whole.tasks else ["sort", "rotate"])
    held[1] = replace(held[1], examples={**held[1].examples, "validation": ()})
    tasks = {t.name: t for t in [*trained, *held]}
    splits = {"train": Split(tuple(t.name for t in trained)), "validation": Split(tuple(t.name for t in held))}
    return TaskSuite("small", tasks, splits), trained


def test_the_set_is_unseen_and_never_what_is_scored() -> None:
    suite, trained = suite_with_validation()
    parts = {p.name: p for p in parts_of(suite, trained, 48, 64, 3)}
    assert set(parts) == {"unseen_tasks", "unseen_descriptions"}
    assert {r.task.name for r in parts["unseen_tasks"].rows} == set(suite.splits["validation"].tasks)
    for row in parts["unseen_descriptions"].rows:
        assert row.description in row.task.descriptions["train"][48:]
        assert row.example in row.task.examples["validation"]
    for row in (r for p in parts.values() for r in p.rows):
        assert row.example not in row.task.examples["test"]
        assert row.description not in row.task.descriptions["test"]
    assert parts_of(suite, trained, 48, 64, 3) == list(parts.values())
    assert parts["unseen_tasks"].about()["names"] == list(suite.splits["validation"].tasks)


def test_without_more_descriptions_or_rows_it_says_so(caplog: pytest.LogCaptureFixture) -> None:
    suite, trained = suite_with_validation()
    bare = replace(suite, splits={"train": suite.splits["train"]})
    (seen,) = parts_of(bare, trained, 1000, 64, 2)
    assert seen.name == "seen_descriptions"
    check_parts([seen], VALIDATED, "small")
    assert "lower descriptions_per_task" in caplog.text
    (by_name,) = parts_of(suite, trained, 48, 64, 2, reads_any_text=False)
    assert {r.description for r in by_name.rows} == {t.name for t in trained}
    without = [replace(t, examples={**t.examples, "validation": ()}) for t in trained]
    assert parts_of(bare, without, 48, 64, 2) == []
    check_parts([], VALIDATED, "small")
    assert "suite small has no validation rows: set suite.dealt_validation" in caplog.text
    with pytest.raises(ValueError, match=r"trainer.patience .* suite small has no validation rows"):
        check_parts([], replace(VALIDATED, patience=2), "small")


@pytest.mark.parametrize("kind", ["sft", "reconstruction"])
def test_validation_changes_no_weight(tiny_base: BaseModel, tmp_path: Path, kind: str) -> None:
    """Dropout is on, so one draw more or less would show."""
    plain = Setup(tiny_base, tmp_path / "plain", kind).run()
    setup = Setup(tiny_base, tmp_path / "validated", kind, replace(VALIDATED, validate_score=True))
    for ours, theirs in zip(plain.state_dict().values(), setup.run().state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)
    told = [m for m in setup.metrics() if "validation/loss" in m]
    assert [m["step"] for m in told] == [3, 6, 9, 12]
    assert {"validation/loss_unseen_descriptions", "validation/score"} <= set(told[0])


class Scripted(Setup):
    """A run whose validation loss follows a script."""

    losses: tuple[float, ...] = (5.0, 2.0, 3.0, 4.0)

    def validation(self) -> Validation:
        every = self.trainer.validate_every or 1

        def measure(hypernetwork: Hypernetwork) -> dict[str, float]:
            torch.rand(5)  # the loop keeps this from mattering
            step = round(float(self.state["step"]))
            return {"validation/loss": self.losses[min(step // every, len(self.losses)) - 1]}

        return Validation(measure, {"unseen_descriptions": {"tasks": 3, "rows": 6}})

    @property
    def state(self) -> dict[str, float]:
        lines = self.metrics() if (self.folder / "metrics.jsonl").is_file() else []
        return {"step": lines[-1]["step"] + 1 if lines else 1}


def test_best_and_last_are_kept_and_found(tiny_base: BaseModel, tmp_path: Path) -> None:
    Scripted(tiny_base, tmp_path / "run", trainer=VALIDATED).run()
    run = tmp_path / "run"
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["step-000006", "step-000012"]
    assert find_checkpoint(run).name == find_checkpoint(Path(f"{run}:best")).name == "step-000006"
    assert find_checkpoint(Path(f"{run}:last")) == latest_checkpoint(run)
    selection = load_record(run / "checkpoints/step-000012").selection
    assert selection is not None
    assert (selection.best_step, selection.best_value, selection.validations) == (6, 2.0, 4)
    assert how_chosen(find_checkpoint(run)) == (
        "the best by validation/loss 2 of 4 validations on 6 rows of 3 tasks (unseen descriptions), step 6 (the last is "
        "step 12)"
    )
    assert how_chosen(run / "checkpoints/step-000012").startswith("the last, step 12 (the best by validation/loss 2 on")
    told = selection_text({"run": find_checkpoint(run)}, None)
    assert told.startswith("run: the best by validation/loss 2")
    (run / "checkpoints/step-000006/checkpoint.json").unlink()
    with pytest.raises(FileProblemError, match=r"step 6, is not there any more; for the last write .*:last"):
        find_checkpoint(run)


@pytest.mark.parametrize("die_at", [4, 7, 10])
def test_the_record_of_the_best_survives_kills(
    tiny_base: BaseModel, tmp_path: Path, die_at: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    whole, broken = (Setup(tiny_base, tmp_path / name, trainer=VALIDATED) for name in ("whole", "broken"))
    whole.run()
    with pytest.raises(KilledError):
        broken.run(die_at)
    broken.run()
    (resumed,) = resumptions(caplog)
    assert 0 < int(resumed.rsplit(" ", 1)[1]) <= die_at
    one, two = (load_record(find_checkpoint(Path(f"{s.folder}:last"))) for s in (whole, broken))
    assert one == two
    assert find_checkpoint(whole.folder).name == find_checkpoint(broken.folder).name
    assert whole.metrics() == broken.metrics()


def test_training_stops_early_and_stays_stopped(tiny_base: BaseModel, tmp_path: Path) -> None:
    setup = Scripted(tiny_base, tmp_path / "run", trainer=replace(VALIDATED, patience=1))
    setup.run()
    assert [m["step"] for m in setup.metrics()] == list(range(1, 10))
    setup.run()
    assert [m["step"] for m in setup.metrics()] == list(range(1, 10))
    patient = Scripted(tiny_base, tmp_path / "run", trainer=VALIDATED)
    patient.run()
    assert [m["step"] for m in patient.metrics()] == list(range(1, 13))


def test_a_choice_counts_ties_and_values_that_are_no_numbers() -> None:
    chosen = Selection("validation/score")
    for step, score in enumerate([float("nan"), 0.5, 0.5, 0.4, float("inf")], start=1):
        chosen = chosen.after(step, {"validation/score": score})
    assert (chosen.best_step, chosen.best_value, chosen.since_best, chosen.validations) == (2, 0.5, 3, 5)
    assert chosen.is_over(3)
    assert not chosen.is_over(4)
    assert not chosen.is_over(None)
    assert Selection.from_json(json.loads(json.dumps(chosen.to_json()))) == chosen


def test_losses_do_not_depend_on_how_rows_are_batched(tiny_base: BaseModel) -> None:
    suite, trained = suite_with_validation()
    parts = parts_of(suite, trained, 48, 3, 3)
    embeddings = [
        torch.randn(len(p.rows), WIDTH, generator=torch.Generator().manual_seed(i)) for i, p in enumerate(parts)
    ]
    model = hypernetworks.build(ARCHITECTURE, Setup(tiny_base, Path()).spec, WIDTH, seed=0).train()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    one, two = (Validator(parts, tiny_base, embeddings, n, 64)(model) for n in (1, 16))
    assert one == pytest.approx(two, rel=1e-4)
    assert model.training
    assert one["validation/loss"] == pytest.approx(
        (one["validation/loss_unseen_tasks"] + one["validation/loss_unseen_descriptions"]) / 2
    )


def test_distance_to_library_adapters_of_validation_tasks(tiny_base: BaseModel, tmp_path: Path) -> None:
    suite, trained = suite_with_validation()
    spec = Setup(tiny_base, tmp_path).spec
    library = AdapterLibrary(tmp_path, spec, "tiny", tiny_base.fingerprint)
    for i, name in enumerate([trained[0].name, *suite.splits["validation"].tasks]):
        library.save(name, random_adapters(spec, 1, seed=i), {})
    tasks = held_out(suite, trained, library, 64)
    assert [t.name for t in tasks] == list(suite.splits["validation"].tasks)
    objective = ReconstructionObjective(ReconstructionConfig(standardise=False), random_adapters(spec, 2))
    model = hypernetworks.build(ARCHITECTURE, spec, WIDTH, seed=0).eval()
    known = [torch.randn(1, WIDTH, generator=torch.Generator().manual_seed(i)) for i in range(2)]
    with torch.no_grad():
        one, both = (distance_to(library, tasks, known, objective, n)(model) for n in (1, 2))
        expected = objective.distance(model, model.generate(torch.cat(known)), library.load([t.name for t in tasks]))
    assert one == pytest.approx(both, rel=1e-5)
    assert both == pytest.approx(float(expected), rel=1e-5)


def test_a_split_that_chose_a_checkpoint_is_not_scored(tiny_base: BaseModel, tmp_path: Path) -> None:
    suite, _ = suite_with_validation()
    setup = Scripted(tiny_base, tmp_path / "run", trainer=replace(VALIDATED, steps=3))
    setup.run()
    path = tmp_path / "run/checkpoints/step-000003/checkpoint.json"
    record = json.loads(path.read_text())
    names = list(suite.splits["validation"].tasks)
    on = {"unseen_tasks": {"tasks": 2, "rows": 4, "names": names}}
    chosen = {**record["selection"], "on": on}
    write_json(path, {**record, "selection": chosen})
    run = str(tmp_path / "run")
    assert splits_to_score(suite, None, [run]) == ["train"]
    assert splits_to_score(suite, None, []) == ["train", "validation"]
    with pytest.raises(ValueError, match=r"split 'validation' cannot be scored: checkpoint .* was chosen by its tasks"):
        splits_to_score(suite, ["validation"], [run])
    origin = {"trained_on": {}, "selection": chosen}
    write_json(path, {**record, "selection": None, "trained_on": {"init_from": origin}})
    assert splits_to_score(suite, None, [run]) == ["train"]


def test_checkpoints_are_ordered_by_step(tiny_base: BaseModel, tmp_path: Path) -> None:
    setup = Setup(tiny_base, tmp_path / "run")
    for step in (995000, 1000000):
        write_json(
            tmp_path / f"run/checkpoints/step-{step:06d}/checkpoint.json", replace(setup.record, step=step).to_json()
        )
    assert latest_checkpoint(tmp_path / "run") == tmp_path / "run/checkpoints/step-1000000"


def test_every_process_gets_its_own_random_state_back(tiny_base: BaseModel, tmp_path: Path) -> None:
    setup = Setup(tiny_base, tmp_path / "run")
    model = hypernetworks.build(ARCHITECTURE, setup.spec, WIDTH, seed=0)
    optimizer = make_optimizer(TRAINER, model)
    states, expected = [], []
    for seed in (1, 2):
        torch.manual_seed(seed)
        states.append(random_state.capture())
        expected.append(torch.rand(3))
    folder = save_checkpoint(tmp_path / "run", replace(setup.record, step=1), model, optimizer, states=states)
    for rank in (0, 1):
        resume(folder, model, optimizer, rank, 2)
        assert torch.equal(torch.rand(3), expected[rank])


def test_checkpoints_of_earlier_versions_resume(tiny_base: BaseModel, tmp_path: Path) -> None:
    setup = Setup(tiny_base, tmp_path / "run")
    setup.run()
    folder = find_checkpoint(tmp_path / "run")
    tensors = {k: v for k, v in read_tensors(folder / "trainer.safetensors").items() if k.startswith("optimizer.")}
    torch.manual_seed(5)
    write_tensors(folder / "trainer.safetensors", {**tensors, "torch_generator": torch.get_rng_state()})
    expected = torch.rand(3)
    record = json.loads((folder / "checkpoint.json").read_text())
    del record["selection"]
    write_json(folder / "checkpoint.json", record)
    model = hypernetworks.build(ARCHITECTURE, setup.spec, WIDTH, seed=0)
    assert resume(folder, model, make_optimizer(TRAINER, model)).step == 12
    assert torch.equal(torch.rand(3), expected)
    assert how_chosen(folder) == "the last, step 12 (nothing was validated)"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"patience": 2}, "set trainer.validate_every"),
        ({"validate_every": 2, "select_by": "train/loss"}, "must be validation/loss, validation/score"),
        ({"validate_every": 2, "select_by": "validation/score"}, "needs trainer.validate_score=true"),
        ({"validate_every": 0}, "at least 1, or null"),
        ({"schedule": "cosine"}, "must be linear or constant"),
        ({"warmup_steps": 0}, "at least 1, or null"),
    ],
)
def test_bad_validation_configs(change: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        TrainerConfig(**change)  # type: ignore[arg-type]
