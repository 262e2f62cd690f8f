"""Trackers: what Weights & Biases and TensorBoard are told, read back from their own files."""

from __future__ import annotations

import json
import re
import shutil
import struct
import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import small_run
import yaml
from test_describe import sentences

from t2l.cli import main
from t2l.cli.command import command_words, read_command
from t2l.cli.job import run_verb
from t2l.describe import DescribeConfig
from t2l.describe.describers import Describer
from t2l.registry import register
from t2l.run.record import Run
from t2l.tasks.suites import WordListConfig
from t2l.tracking import About, Artifact, JsonlConfig, Results, Table, Tracker, active, stage, tracked
from t2l.tracking.tensorboard import TensorBoardConfig
from t2l.tracking.wandb import WandbConfig, WandbTracker
from t2l.training.pretrain_base import PretrainBaseConfig
from t2l.verbs.generate import GenerateConfig
from t2l.verbs.quickstart import QuickstartConfig
from t2l.verbs.results import of_adapters, of_library, of_quickstart, of_report, of_training
from t2l.verbs.train import TrainConfig
from t2l.verbs.train_library import TrainLibraryConfig

BLOCK = 32768


@dataclass
class ListConfig:
    """A tracker that keeps what it is told."""


@register("logger", "list", ListConfig)
class ListTracker(Tracker):
    """Keeps what it is told."""

    told: list[tuple[Any, ...]] = []  # noqa: RUF012

    def log_metrics(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        self.told.append((stage, step, dict(metrics)))

    def go_on(self, stage: str, measured: Mapping[int, Mapping[str, float]]) -> None:
        self.told.append((stage, "goes on", dict(measured)))

    def log_results(self, results: Results) -> None:
        self.told.append(("results", results))

    def finish(self, failed: bool) -> None:
        self.told.append(("failed" if failed else "finished",))


@pytest.fixture(autouse=True)
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    monkeypatch.setenv("WANDB_SILENT", "true")
    ListTracker.told = []
    return ListTracker.told


@pytest.fixture(scope="module")
def quick(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a quickstart leaves."""
    folder = tmp_path_factory.mktemp("quick")
    shutil.copytree(root / "board", folder, dirs_exist_ok=True)
    for name, where in (("library",) * 2, ("sft",) * 2, ("reconstruction",) * 2, ("one", "generated")):
        shutil.copytree(root / name, folder / where)
    return folder


def about(folder: Path | None = None) -> About:
    return About("train", {"seed": 3, "trainer": {"lr": 0.1}}, folder)


def records(folder: Path) -> list[Any]:
    """Everything in the files of offline runs, oldest first. A finished run's file is written to its end by another process."""
    deadline = time.monotonic() + 60
    while True:
        found = [_records_in(file) for file in sorted(folder.glob("wandb/offline-run-*/*.wandb"))]
        if found and all(any(True for _ in of_kind(of_file, "exit")) for of_file in found):
            return [record for of_file in found for record in of_file]
        assert time.monotonic() < deadline, "a run has no end"
        time.sleep(0.1)


def _records_in(file: Path) -> list[Any]:
    """The records of a file, in blocks, in LevelDB's log format; those that are written whole."""
    from wandb.proto.wandb_internal_pb2 import Record

    found, data, at, part = [], file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if BLOCK - at % BLOCK < 7:  # no room for a header: zeros up to the next block
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        if at + 7 + length > len(data):
            break
        part += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = Record()
            record.ParseFromString(part)
            found.append(record)
            part = b""
    return found


def of_kind(found: list[Any], kind: str) -> Iterator[Any]:
    return (getattr(r, kind) for r in found if r.WhichOneof("record_type") == kind)


def values(items: Any) -> dict[str, Any]:
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}


def test_a_run_tells_the_tracker_that_is_active(tmp_path: Path, told: list[tuple[Any, ...]]) -> None:
    run = Run(tmp_path, "train", {})
    run.log_metrics(1, {"train/loss": 3.0})
    with tracked(ListConfig(), about()):
        run.log_metrics(2, {"train/loss": 2.0})
        with stage("sft"):
            run.log_metrics(3, {"train/loss": 1.0})
            run.forget_after(2)
    known = {1: {"train/loss": 3.0}, 2: {"train/loss": 2.0}}
    assert told[:2] == [("", 2, {"train/loss": 2.0}), ("sft", 3, {"train/loss": 1.0})]
    assert told[2:] == [("sft", "goes on", known), ("finished",)]
    assert active() is None
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2


def test_the_end_says_whether_a_run_failed(told: list[tuple[Any, ...]]) -> None:
    for error in (ValueError("no"), SystemExit(1), KeyboardInterrupt()):
        with pytest.raises(type(error)), tracked(ListConfig(), about()):
            raise error
    with pytest.raises(SystemExit), tracked(ListConfig(), about()):
        raise SystemExit(0)
    assert told == [("failed",)] * 3 + [("finished",)]


def test_an_artifacts_version_is_of_its_content(tmp_path: Path) -> None:
    (tmp_path / "wandb").mkdir()
    for name in ("a.json", "wandb/log", "wandb.json", "train.log", "timings.jsonl", ".hidden", "trainer.safetensors"):
        (tmp_path / name).write_text(name)
    artifact = Artifact("adapter", tmp_path, label="my run")
    assert [p.name for p in artifact.files] == ["a.json"]
    before = artifact.reference
    assert before.startswith("adapter-my-run:")
    assert replace(artifact, label="3_lr=é,m").name == "adapter-3_lr---m"
    assert len(replace(artifact, label="x" * 300).name) < 128
    (tmp_path / "train.log").write_text("more")
    assert replace(artifact).reference == before
    (tmp_path / "a.json").write_text("other")
    assert replace(artifact).reference != before


# What verbs made


def test_what_verbs_made(quick: Path) -> None:
    library = of_library(TrainLibraryConfig(run_dir=str(quick / "library")))
    assert library.summary["adapters"] == len(library.tables["adapters"].rows) > 0
    (trained,) = of_training(
        TrainConfig(run_dir=str(quick / "reconstruction"), library=str(quick / "library"))
    ).artifacts
    assert trained.kind == "hypernetwork"
    assert [a.reference for a in trained.made_from] == [library.artifacts[0].reference]
    report = of_report(QuickstartConfig(run_dir=str(quick)))
    data = json.loads((quick / "report.json").read_text())
    assert len(report.tables["results"].rows) == len(report.summary) == len(data["results"]) > 0
    assert set(report.figures) == {p.stem for p in quick.glob("*.png")}
    assert not any(p.is_relative_to(quick / "library") for p in report.artifacts[0].files)
    made = GenerateConfig([small_run.DESCRIPTION], checkpoint=str(quick / "sft"), run_dir=str(quick / "generated"))
    (adapter,) = of_adapters(made).artifacts
    whole = of_quickstart(QuickstartConfig(run_dir=str(quick)))
    names = {a.reference: [s.reference for s in a.made_from] for a in whole.artifacts}
    assert [n.split("-")[0] for n in names] == ["library", "hypernetwork", "hypernetwork", "adapter", "report"]
    assert names[adapter.reference] == [adapter.made_from[0].reference]
    assert names[trained.reference] == [library.artifacts[0].reference]
    assert set(names[whole.artifacts[-1].reference]) == set(list(names)[:3])


# Weights & Biases


def test_offline_files_hold_all_that_was_told(quick: Path, tmp_path: Path) -> None:
    config = WandbConfig(mode="offline", project="mine", tags=["a"], notes="why", group="g")
    results = of_quickstart(QuickstartConfig(run_dir=str(quick)))
    with tracked(config, about(tmp_path)) as tracker:
        tracker.log_metrics("", 1, {"train/loss": 2.0})
        tracker.log_metrics("sft", 7, {"train/loss": 1.0})
        tracker.log_results(results)
    found = records(tmp_path)
    run = next(of_kind(found, "run"))
    assert (run.project, run.display_name, run.run_group, list(run.tags), run.notes, run.job_type) == (
        "mine", tmp_path.name, "g", ["a"], "why", "train",
    )  # fmt: skip
    settings = {}
    for r in (run, *of_kind(found, "run")):
        settings |= values(r.config.update)
    assert settings["seed"] == 3
    assert settings["trainer"] == {"lr": 0.1}
    history = [values(h.item) for h in of_kind(found, "history")]
    assert history[0]["train/loss"] == 2.0
    assert {"sft/step": 7, "sft/train/loss": 1.0}.items() <= history[1].items()
    shown = {item.key or item.nested_key[0] for h in of_kind(found, "history") for item in h.item}
    assert {"results", "by_task", *results.figures} <= shown
    summary: dict[str, Any] = {}
    for s in of_kind(found, "summary"):
        summary |= values(s.update)
    assert {k: summary[k] for k in results.summary} == results.summary
    made = {
        a.name: (a.type, [alias for alias in a.aliases if alias != "latest"], json.loads(a.metadata)["made_from"])
        for a in of_kind(found, "artifact")
        if a.type != "run_table"
    }
    assert made == {a.name: (a.kind, [a.version], [s.reference for s in a.made_from]) for a in results.artifacts}


def test_a_run_that_goes_on_is_the_same_run(tmp_path: Path) -> None:
    for step in (1, 2):
        with tracked(WandbConfig(mode="offline"), about(tmp_path)) as tracker:
            tracker.log_metrics("", step, {"train/loss": 1.0 / step})
    found = records(tmp_path)
    assert len({r.run_id for r in of_kind(found, "run")}) == 1
    assert next(of_kind(found, "run")).run_id == json.loads((tmp_path / "wandb.json").read_text())["id"]
    assert [values(h.item)["train/loss"] for h in of_kind(found, "history")] == [1.0, 0.5]


@pytest.mark.parametrize("stage", ["", "sft"])
def test_what_a_killed_process_lost_is_told_again(tmp_path: Path, stage: str) -> None:
    """Its file ends where the process did: the next one has everything up to the checkpoint, and what comes after."""
    with tracked(WandbConfig(mode="offline"), about(tmp_path)) as tracker:
        tracker.go_on(stage, {5: {"train/loss": 3.0}, 10: {"train/loss": 2.0}})
        tracker.log_metrics(stage, 15, {"train/loss": 1.0})
    key = f"{stage}/train/loss" if stage else "train/loss"
    steps = f"{stage}/step" if stage else "_step"
    history = [values(h.item) for h in of_kind(records(tmp_path), "history")]
    assert [(line[steps], line[key]) for line in history] == [(5, 3.0), (10, 2.0), (15, 1.0)]


@pytest.mark.parametrize(
    ("stage", "known", "sent"), [("", 11, [15]), ("sft", 10, [15]), ("", 0, [5, 10, 15]), ("sft", None, [5, 10, 15])]
)
def test_what_the_server_has_is_not_sent_again(tmp_path: Path, stage: str, known: int | None, sent: list[int]) -> None:
    """`known` is what Weights & Biases says of a run that it goes on with: its next step, or a stage's last one."""
    with tracked(WandbConfig(mode="disabled"), about(tmp_path)):
        tracker = active()._tracker  # type: ignore[union-attr]
        told: list[int] = []
        tracker._run = SimpleNamespace(
            step=known, summary={} if known is None else {f"{stage}/step": known}, finish=lambda **_: None
        )
        tracker.log_metrics = lambda stage, step, metrics: told.append(step)
        tracker.go_on(stage, {step: {"train/loss": 1.0} for step in (5, 10, 15)})
    assert told == sent


def test_what_weights_and_biases_refuses_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "short")
    with (
        pytest.raises(ValueError, match=r"^logger=wandb: .*\(without a network: logger=wandb_offline\)$") as caught,
        tracked(WandbConfig(), about(tmp_path)),
    ):
        pass
    assert "\n" not in str(caught.value)
    assert "short" not in str(caught.value)
    with pytest.raises(ValueError, match=r"^logger=wandb: Invalid project name[^\n]*$"):
        WandbTracker(WandbConfig(mode="offline", project="a/b"), about(tmp_path))
    assert not (tmp_path / "wandb.json").exists()


def test_a_disabled_run_takes_everything(quick: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with tracked(WandbConfig(mode="disabled"), about(tmp_path)) as tracker:
        tracker.log_metrics("sft", 1, {"train/loss": 1.0})
        tracker.log_results(of_quickstart(QuickstartConfig(run_dir=str(quick))))
    assert "told no more" not in caplog.text


def test_the_readmes_sweep_is_of_keys_that_there_are() -> None:
    """`wandb agent` starts `t2l train KEY=VALUE...`: each value composes, and the metric is one that training logs."""
    readme = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    sweep = yaml.safe_load(
        next(block for block in re.findall(r"```yaml\n(.*?)```", readme, re.DOTALL) if "args_no_hyphens" in block)
    )
    choices = [list(p.get("values") or [p.get("value", p.get("min"))]) for p in sweep["parameters"].values()]
    for values_ in product(*choices):
        words = [f"{key}={value}" for key, value in zip(sweep["parameters"], values_, strict=True)]
        (settings,) = read_command("train", command_words("train", [*words, "logger=wandb"])).settings
        assert isinstance(settings.logger, WandbConfig)
        assert sweep["metric"]["name"] == settings.trainer.select_by


def test_values_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"logger\.mode must be"):
        WandbConfig(mode="on")
    with pytest.raises(ValueError, match=r"logger\.artifacts: unknown 'x'; choose from base_model, library"):
        WandbConfig(artifacts=["x"])


# TensorBoard


def test_tensorboard_files_hold_all_that_was_told(tmp_path: Path) -> None:
    from PIL import Image
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    Image.new("RGB", (4, 3)).save(tmp_path / "figure.png")
    results = Results(
        {"score": 0.5, "verdict": "sound"}, {"t": Table(("a", "b"), [(1, "x|y")])}, {"f": tmp_path / "figure.png"}
    )
    with tracked(TensorBoardConfig(), about(tmp_path)) as tracker:
        for step in (1, 3, 4):
            tracker.log_metrics("sft", step, {"train/loss": 1.0 / step})
        tracker.go_on("sft", {1: {"train/loss": 1.0}, 2: {"train/loss": 0.5}})  # 2 was lost, 3 and 4 come again
        tracker.log_metrics("sft", 3, {"train/loss": 9.0})
        tracker.log_results(results)
    whole = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert whole.Scalars("summary/score")[0].value == 0.5
    assert {"config/text_summary", "summary/verdict/text_summary", "t/text_summary"} <= set(whole.Tags()["tensors"])
    assert b"| 1 | x\\|y |" in whole.Tensors("t/text_summary")[0].tensor_proto.string_val[0]
    assert (whole.Images("f")[0].width, whole.Images("f")[0].height) == (4, 3)
    curve = EventAccumulator(str(tmp_path / "tensorboard/sft")).Reload().Scalars("train/loss")
    assert [(e.step, e.value) for e in curve] == [(1, 1.0), (2, 0.5), (3, 9.0)]


# From the command line


def test_a_verb_tells_its_tracker_what_it_made(root: Path, tmp_path: Path, told: list[tuple[Any, ...]]) -> None:
    config = GenerateConfig(["Keep only the animals."], checkpoint=str(root / "sft"), run_dir=str(tmp_path / "a"))
    config.logger = ListConfig()
    run_verb("generate", config)
    assert told[0][1].summary == {"adapters": 1}
    assert told[1] == ("finished",)
    told.clear()
    config.descriptions = ["Count."]  # beside the first, which is no result of this command
    run_verb("generate", config)
    assert told[0][1].summary == {"adapters": 1}
    assert {p.parent.name for p in told[0][1].artifacts[0].files} == {"count"}
    told.clear()
    config.logger = JsonlConfig()
    run_verb("generate", config)
    assert not told


def test_a_base_that_is_pretrained_is_tracked(
    tmp_path: Path, told: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "t2l.verbs.pretrain_base._skill", lambda base: {"formal_code": {"train": 0.5}, "base": {"train": 0.1}}
    )
    config = PretrainBaseConfig(run_dir=str(tmp_path / "base"), steps=12, batch_size=2, hidden_size=16, layers=1)
    config.intermediate_size, config.logger = 16, ListConfig()
    run_verb("pretrain_base", config)
    *curve, (_, results), end = told
    assert [(stage, step) for stage, step, _ in curve] == [("", 1), ("", 11), ("", 12)]
    assert all(metrics["train/loss"] > 0 for *_, metrics in curve)
    assert end == ("finished",)
    assert results.summary == {"formal_code/train": 0.5, "base/train": 0.1}
    assert {"config.json", "model.safetensors", "README.md"} <= {p.name for p in results.artifacts[0].files}
    assert results.artifacts[0].kind == "base_model"
    assert "logger" not in (tmp_path / "base/README.md").read_text()


def test_descriptions_that_are_written_are_tracked(
    tmp_path: Path, told: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Writer(Describer):
        concurrency, model, origin = 1, "none", "here"

        def settings(self) -> dict[str, Any]:
            return {}

        def stop(self) -> None:
            return None

        def reply(self, prompt: str, seed: int) -> str:
            return json.dumps(sentences(seed))

    monkeypatch.setattr("t2l.verbs.describe.describing.build", lambda config: Writer())
    suite = WordListConfig(train_examples=8, test_examples=2, train_compositions=2)
    config = DescribeConfig(suite, None, tasks=["keep_animals", "reverse"], n=6, run_dir=str(tmp_path / "told"))
    config.logger = ListConfig()
    run_verb("describe", config)
    *curve, (_, results), end = told
    assert end == ("finished",)
    assert [line[2]["describe/descriptions"] for line in curve][-1] == results.summary["descriptions"] == 12
    assert results.summary["tasks"] == len(results.tables["descriptions"].rows) == 2
    (made,) = results.artifacts
    assert (made.kind, {p.name for p in made.files}) == ("descriptions", {"metadata.yaml", "prompt.txt"})


def test_generate_keeps_trackers_files_out_of_the_adapter(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    main(["generate", "Keep only the animals.", f"checkpoint={root / 'sft'}", "run_dir=a", "logger=wandb_offline"])
    assert not list((tmp_path / "a").glob("wandb*"))
    found = records(tmp_path)
    assert next(of_kind(found, "run")).job_type == "generate"


def test_jobs_of_a_sweep_are_a_group(
    tmp_path: Path, told: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr("t2l.cli.job.tracked", lambda config, about: seen.append(about) or tracked(config, about))
    monkeypatch.setattr("t2l.cli.job.verb_named", lambda name: Fake())
    (tmp_path / "sweep/0").mkdir(parents=True)
    (tmp_path / "sweep/multirun.yaml").touch()
    for folder in ("sweep/0", "alone"):
        run_verb("train", TrainConfig(run_dir=str(tmp_path / folder), logger=ListConfig()))
    assert [(a.group, a.folder.name) for a in seen] == [("sweep", "0"), (None, "alone")]


@pytest.mark.parametrize("code", [0, 1, None])
def test_results_are_told_whatever_the_verb_ends_with(
    tmp_path: Path, told: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch, code: int | None
) -> None:
    """An incomplete library ends with code 1; None here: it ends without one."""
    fake = Fake(code, lambda settings: Results({"adapters": 2}))
    monkeypatch.setattr("t2l.cli.job.verb_named", lambda name: fake)
    with pytest.raises(SystemExit) if code is not None else nullcontext():
        run_verb("train", TrainConfig(run_dir=str(tmp_path), logger=ListConfig()))
    assert told == [("results", Results({"adapters": 2})), ("failed",) if code else ("finished",)]


def test_a_tracker_that_fails_fails_no_run(
    tmp_path: Path, told: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(ListTracker, "log_metrics", full)
    run = Run(tmp_path, "train", {})
    with tracked(ListConfig(), about()) as tracker:
        for step in (1, 2):
            run.log_metrics(step, {"train/loss": 1.0})
        tracker.log_results(Results())
    assert told == [("finished",)]
    assert caplog.text.count("ListTracker failed and is told no more: OSError: no space left") == 1
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2


def test_results_that_cannot_be_read_fail_no_run(
    tmp_path: Path, told: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fake = Fake(None, lambda settings: (_ for _ in ()).throw(OSError("no space left")))
    monkeypatch.setattr("t2l.cli.job.verb_named", lambda name: fake)
    run_verb("train", TrainConfig(run_dir=str(tmp_path), logger=ListConfig()))
    assert "the tracker is told no results: OSError: no space left" in caplog.text
    assert told == [("finished",)]


def test_a_key_of_a_logger_without_keys_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for key in ("wandb=offline", "project=mine"):
        with pytest.raises(SystemExit) as caught:
            main(["train", f"logger.{key}"])
        assert caught.value.code == 2
        assert "what is chosen for logger has no keys; choose another (logger=NAME)" in capsys.readouterr().err


@dataclass
class Fake:
    """A verb that does nothing, and ends with an exit code or without."""

    code: int | None = None
    results: Any = None
    is_parallel: bool = False
    keeps_records: bool = True

    def run(self, settings: Any) -> None:
        assert active() is not None
        if self.code is not None:
            raise SystemExit(self.code)


@pytest.mark.slow
def test_an_offline_quickstart_is_one_run(tmp_path: Path) -> None:
    """Stopped after its first hypernetwork and begun again: curves of both, the board, and what was made of what."""
    brief = [
        f"{part}.{key}"
        for part in ("library_training", "multi_task")
        for key in ("steps=2", "rows_per_task=2", "cycles=1")
    ]
    brief += [
        f"{part}.{key}"
        for part in ("sft_trainer", "reconstruction_trainer")
        for key in ("steps=12", "tasks_per_step=8")
    ]
    brief += [
        f"evaluation.{key}"
        for key in ("tasks_per_split=3", "examples_per_task=2", "descriptions_per_task=1", "bootstrap_samples=20")
    ]
    words = [
        "quickstart",
        *small_run.SMALL,
        *brief,
        "descriptions_per_task=2",
        "hypernetwork=l",
        "library_training.tasks_at_once=64",
    ]
    words += ["contenders=[base,oracle,generated]", "logger=wandb_offline", f"run_dir={tmp_path}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("t2l.verbs.quickstart.evaluate", lambda config: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            main(words)
    main(words)
    found = records(tmp_path)
    assert len({run.run_id for run in of_kind(found, "run")}) == 1
    ends = [end.exit_code for end in of_kind(found, "exit")]
    assert ends == [1, 0]
    config = values(next(of_kind(found, "run")).config.update)
    assert config["suite"]["train_examples"] == 16
    history = [values(h.item) for h in of_kind(found, "history")]
    for name in ("sft", "reconstruction"):
        assert any({f"{name}/step", f"{name}/train/loss"} <= set(line) for line in history)
    shown = {item.key or item.nested_key[0] for h in of_kind(found, "history") for item in h.item}
    assert {"results", "by_task", "scores", "controls"} <= shown
    report = json.loads((tmp_path / "report.json").read_text())
    summary: dict[str, Any] = {}
    for line in of_kind(found, "summary"):
        summary |= values(line.update)
    assert {f"{r['contender']}/{r['split']}": r["mean"] for r in report["results"]}.items() <= summary.items()
    made = {a.name: json.loads(a.metadata)["made_from"] for a in of_kind(found, "artifact") if a.type != "run_table"}
    before = {name: [source.split(":")[0] for source in sources] for name, sources in made.items()}
    assert before == {
        "library-library": [],
        "hypernetwork-reconstruction": ["library-library"],
        "hypernetwork-sft": [],
        "adapter-generated": ["hypernetwork-sft"],
        f"report-{tmp_path.name}": ["hypernetwork-sft", "hypernetwork-reconstruction", "library-library"],
    }
