"""`t2l evaluate`: builds the contenders, scores them, and judges what the scores are worth."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from t2l.base_model import BaseModel, load_base_model, lora_spec
from t2l.base_model.decoding import describe_decoding
from t2l.encoder import TaskEncoder
from t2l.evaluation.adapter_map import adapter_map
from t2l.evaluation.board import Board, Cell, view_split
from t2l.evaluation.calibration import calibrate
from t2l.evaluation.checkpoint_names import recipe_names
from t2l.evaluation.conditions import ScoredPromptConfig, conditions_for, trained_in
from t2l.evaluation.config import FROM_LIBRARY, EvaluateConfig
from t2l.evaluation.contenders.composition import ArrowRouting, LibraryMean, LoraHub, NearestAdapter
from t2l.evaluation.contenders.few_shot import FewShot, Refined
from t2l.evaluation.contenders.generated import CONDITIONS, Generated
from t2l.evaluation.contenders.in_context import InContext
from t2l.evaluation.contenders.interface import (
    Base,
    Contender,
    FormalCode,
    MethodOracle,
    MultiTask,
    Oracle,
    Prompted,
    SplitView,
    training_examples,
)
from t2l.evaluation.costs import Making, cost_row, mean_usage
from t2l.evaluation.data_checks import DataChecks
from t2l.evaluation.encoders import Encoders
from t2l.evaluation.identity import identity, library_recipe, method_recipe, of_checkpoint
from t2l.evaluation.metrics.code_runner import as_configured
from t2l.evaluation.metrics.metrics import metric
from t2l.evaluation.report.findings import Findings
from t2l.evaluation.report.report import REPORT_FILES, write_report
from t2l.evaluation.report.summary import summary_lines
from t2l.evaluation.robustness import robustness
from t2l.evaluation.scoring import check_code, check_scorable
from t2l.evaluation.selected import selection_text, splits_to_score
from t2l.evaluation.settings import decisive_settings
from t2l.evaluation.store import CellStore, Ledger
from t2l.files import check_own, read_json
from t2l.hypernetwork.checkpoint import CheckpointRecord, TrainingData, find_checkpoint, load_record, load_training_data
from t2l.hypernetwork.confidence import Calibration
from t2l.hypernetwork.generator import load_generator
from t2l.hypernetwork.kept_calibration import check_writable, keep_calibration
from t2l.library import LIBRARY_RECORD, MULTI_TASK, LibraryFolder, library_record, open_library
from t2l.methods.folder import RECORD_FILE as METHOD_RECORD
from t2l.methods.folder import MethodLibrary
from t2l.run.record import environment
from t2l.tasks import TaskSuite, suites
from t2l.tasks.manifest import suite_manifest

log = logging.getLogger(__name__)
LEARN_FROM_TASK = ("icl", "prompted_icl", "few_shot", "refined", "lorahub")
"""contenders that are given a scored task's own training examples"""
FROM_TRAINING_TASKS = {"library_mean", "nearest", "arrow", "lorahub", "generated", "refined"}


@dataclass(frozen=True)
class _Checkpoint:
    """A checkpoint on the board: seeds of one recipe share a name."""

    path: str
    folder: Path
    record: CheckpointRecord
    training_data: TrainingData | None
    name: str
    encoder: TaskEncoder
    """its own, unless one is asked for"""
    generated: list[Generated]

    @property
    def matched(self) -> Generated:
        """The contender whose adapters come from the tasks' own descriptions."""
        return self.generated[0]


class Evaluation:
    """What the parts of one evaluation share."""

    def __init__(self, config: EvaluateConfig) -> None:
        self.suite = suites.build(config.suite)
        trained = trained_in(config.checkpoints, config.library, config.method_libraries)
        self.conditions = conditions_for(config.conditions, config.base_model, config.prompt.definition, trained)
        prompt = ScoredPromptConfig(self.conditions.definition)
        self.config = config = replace(config, base_model=self.conditions.base_model, prompt=prompt)
        names = splits_to_score(self.suite, config.splits, config.checkpoints)
        self.views = [
            view_split(self.suite, name, config.evaluation, config.seed, config.prompt.is_shown) for name in names
        ]
        for task in {t.name: t for view in self.views for t in view.tasks}.values():
            check_code(task)
        self.trained = suites.build(config.training_suite) if config.training_suite is not None else self.suite
        self.training_tasks = list(self.trained.split("train").tasks) if "train" in self.trained.splits else []
        self._check_training_tasks()
        self.data = self.check_data(self.suite, self.views)
        self.base = load_base_model(config.base_model)
        self.library = open_library(Path(config.library), self.base) if config.library else None
        self.spec = self.library.spec if self.library is not None else lora_spec(self.base.model, config.lora)
        tasks = self.trained.select(self.training_tasks)
        self.encoders = Encoders(config.encoder, self.base, config.base_model, tasks, config.descriptions_per_task)
        self.checkpoints = self._load_checkpoints() if config.checkpoints else []

    def _check_training_tasks(self) -> None:
        """Raises ValueError where contenders that come from training tasks are asked for, and there are none."""
        needy = sorted(FROM_TRAINING_TASKS & set(self.config.contenders))
        if not self.training_tasks and needy:
            raise ValueError(
                f"contenders {', '.join(needy)} and their controls come from training tasks, and suite {self.trained.name} "
                "has none: name the suite that was trained on, suite@training_suite=NAME"
            )

    def check_data(self, suite: TaskSuite, views: Sequence[SplitView], is_strict: bool = True) -> DataChecks:
        """What scored splits of a suite share with training. Raises ValueError where a split is not what it claims.

        Args:
            is_strict: whether what was trained on unknown rows of other data is refused, too.
        """
        config, few = self.config, self.config.few_shot
        checks = DataChecks(suite, self.trained, views, is_strict)
        for path in config.checkpoints:
            checks.checkpoint(path)
            if config.keep_calibration:
                check_writable(find_checkpoint(Path(path)))
        if config.library:
            checks.library(config.library, config.contenders, self.training_tasks)
        for path in config.method_libraries:
            checks.method_library(path)
        asked = {c: few.shots if c in ("icl", "prompted_icl") else few.examples for c in LEARN_FROM_TASK}
        checks.own_examples({c: n for c, n in asked.items() if c in config.contenders})
        return checks

    @property
    def encoder(self) -> TaskEncoder:
        """What compares descriptions for contenders without a checkpoint: the encoder asked for, else the first one's own."""
        paths = self.config.checkpoints
        return self.encoders.of(load_record(find_checkpoint(Path(paths[0]))) if paths else None)

    def _load_checkpoints(self) -> list[_Checkpoint]:
        paths = self.config.checkpoints
        used = [self.encoders.of(load_record(find_checkpoint(Path(path)))) for path in paths]
        loaded = zip(paths, used, strict=True)
        generators = [load_generator(Path(path), encoder, self.base.fingerprint) for path, encoder in loaded]
        names = recipe_names([(g.record, g.checkpoint) for g in generators])
        made = []
        for path, name, generator in zip(paths, names, generators, strict=True):
            hypernetwork, encoder = generator.hypernetwork.to(self.base.device), generator.encoder
            bank = self.encoders.bank(encoder)
            contenders = [
                Generated(f"generated_{name}", c, hypernetwork, encoder, bank, self.config.seed)
                for c in CONDITIONS
                if c != "random_text" or encoder.reads_any_text
            ]
            folder, record = generator.checkpoint, generator.record
            made.append(_Checkpoint(path, folder, record, load_training_data(folder), name, encoder, contenders))
        return made

    def contenders(self) -> list[Contender]:
        """Everything asked for, in the order of the board."""
        makers = self._makers()
        made: list[Contender] = []
        for name in self.config.contenders:
            made.extend(makers[name]())
        return [*made, *_method_oracles(self.config, self.base)]

    def _makers(self) -> dict[str, Callable[[], Sequence[Contender]]]:
        config, few, seed = self.config, self.config.few_shot, self.config.seed

        def library() -> LibraryFolder:
            assert self.library is not None  # the config says so
            return self.library

        return {
            "base": lambda: [Base()],
            "prompted": lambda: [Prompted()],
            "icl": lambda: [InContext(self.base, few.shots, False, config.evaluation, few.format_rows)],
            "prompted_icl": lambda: [InContext(self.base, few.shots, True, config.evaluation, few.format_rows)],
            "formal_code": lambda: [FormalCode()],
            "library_mean": lambda: [LibraryMean(library().adapters, self.training_tasks)],
            "multi_task": lambda: [MultiTask(library().static, MULTI_TASK)],
            "nearest": lambda: [NearestAdapter(library().adapters, self.encoders.bank(self.encoder), self.encoder)],
            "arrow": lambda: [
                ArrowRouting(library().adapters, self.training_tasks, self.base, config.composition.arrow_top_k)
            ],
            "lorahub": lambda: [
                LoraHub(
                    library().adapters,
                    self.training_tasks,
                    self.base,
                    config.composition.lorahub_adapters,
                    few.examples,
                    few.tasks_at_once,
                    seed,
                    few.max_length,
                )
            ],
            "few_shot": lambda: [FewShot(self.base, self.spec, few, seed)],
            "oracle": lambda: [Oracle(library().adapters)],
            "generated": lambda: [g for c in self.checkpoints for g in c.generated],
            "refined": lambda: [Refined(c.matched, self.base, few, seed) for c in self.checkpoints],
        }

    def check_tasks(self) -> None:
        """Raises ValueError where the scored tasks lack what their metric or a contender asked for needs.

        Nothing is scored before.
        """
        asked, few = set(self.config.contenders), self.config.few_shot
        shots = few.shots if asked & {"icl", "prompted_icl"} else 0
        examples = few.examples if asked & {"lorahub", "few_shot", "refined"} else 0
        for view in self.views:
            if "generated" in asked and len(view.tasks) < 2:
                raise ValueError(f"split {view.name!r} has {len(view.tasks)} task(s): shuffling descriptions needs two")
            for encoder in self._asked_encoders():
                if not encoder.reads_any_text:
                    encoder.encode_groups(view.descriptions)
            for task in view.tasks:
                check_scorable(task)
                if "formal_code" in asked and task.formal_code is None:
                    raise ValueError(
                        f"contender formal_code: task {task.name!r} has no formal code; take it out of contenders"
                    )
                training_examples(task, max(shots, examples))
        split = self.config.robustness_split
        if split is not None and split not in self.suite.splits:
            log.warning(
                "robustness_split=%s is no split of suite %s: styles and scales are left out", split, self.suite.name
            )

    def _asked_encoders(self) -> list[TaskEncoder]:
        """Those that embed descriptions of the scored tasks."""
        asked = set(self.config.contenders)
        of_checkpoints = [c.encoder for c in self.checkpoints] if asked & {"generated", "refined"} else []
        return list(dict.fromkeys([*of_checkpoints, *([self.encoder] if "nearest" in asked else [])]))

    def costs(self, contenders: Sequence[Contender], cells: Sequence[Cell]) -> list[dict[str, Any]]:
        """A row per contender."""
        by_name: dict[str, list[Contender]] = {}
        for contender in contenders:
            by_name.setdefault(contender.name, []).append(contender)
        rows = []
        for name, same in by_name.items():
            runs = [run for c in cells if c.contender == name for run in c.runs]
            making = sum((run.making for run in runs), Making())
            own = same[0].costs(making) if hasattr(same[0], "costs") else None
            usage = mean_usage([run.usage for run in runs])
            rows.append(cost_row(name, own, usage))
        return rows

    def identities(self, contenders: Sequence[Contender]) -> dict[str, list[dict[str, Any]]]:
        """What each run of each contender is, in the order of the answers' run numbers."""
        found: dict[str, list[dict[str, Any]]] = {}
        for contender in contenders:
            found.setdefault(contender.name, []).append(self._identity(contender))
        return found

    def _identity(self, contender: Contender) -> dict[str, Any]:
        config, few = self.config, {k: v for k, v in asdict(self.config.few_shot).items() if k != "tasks_at_once"}
        if isinstance(contender, Generated | Refined):
            matched = contender if isinstance(contender, Generated) else contender.generated
            of = next(c for c in self.checkpoints if any(g is matched for g in c.generated))
            role, settings = (matched.condition, {}) if matched is contender else ("refined", few)
            return of_checkpoint(of.record, of.folder, matched.fingerprint, role, settings)
        what: dict[str, Any] = {"contender": contender.name, "base": self.base.fingerprint}
        about = f"base {self.base.name}"
        if isinstance(contender, MethodOracle):
            what["library"] = method_recipe(contender.library, [t.name for v in self.views for t in v.tasks])
            about = f"adapters of {contender.library.folder}"
        elif contender.name in FROM_LIBRARY and self.library is not None:
            used = [t.name for v in self.views for t in v.tasks] if contender.name == "oracle" else self.training_tasks
            is_static = contender.name == "multi_task"
            folder = self.library.static if is_static else self.library.adapters
            what["library"] = library_recipe(folder, [MULTI_TASK] if is_static else sorted(set(used)))
            about = f"adapters of {config.library}"
        if contender.name in ("icl", "prompted_icl", "few_shot", "lorahub"):
            what["few_shot"] = few
        if contender.name in ("arrow", "lorahub"):
            what["composition"] = asdict(config.composition)
        return identity(what, about)

    def first_of_each(self) -> list[_Checkpoint]:
        """One checkpoint per name."""
        return list({c.name: c for c in reversed(self.checkpoints)}.values())[::-1]

    def robustness(self, board: Board) -> dict[str, Any]:
        """Styles and scales on the configured split."""
        view = next((v for v in self.views if v.name == self.config.robustness_split), None)
        readers = [c.matched for c in self.first_of_each() if c.encoder.reads_any_text]
        return robustness(board, readers, view) if view is not None and readers else {}

    def confidence(self, cells: Sequence[Cell]) -> dict[str, Any]:
        """Calibrates the confidence of every checkpoint that says where its training tasks lie."""
        found: dict[str, Any] = {}
        for checkpoint in self.checkpoints:
            data = checkpoint.training_data
            if data is None or not checkpoint.encoder.reads_any_text or not any(v.name != "train" for v in self.views):
                log.info("checkpoint %s: no confidence to calibrate (no held-out split, or no record)", checkpoint.path)
                continue
            number = [c for c in self.checkpoints if c.name == checkpoint.name].index(checkpoint)
            calibration = calibrate(
                checkpoint.matched, data.centres, checkpoint.record.step, cells, number, checkpoint.encoder,
                self.config.seed,
            )  # fmt: skip
            if self.config.keep_calibration:
                self._keep(checkpoint, calibration)
            found.setdefault(checkpoint.matched.name, dict(calibration.about))
        return found

    def _keep(self, checkpoint: _Checkpoint, calibration: Calibration) -> None:
        """Leaves a calibration with its checkpoint, unless the scores do not hold for how the adapters will be used."""
        if self.config.prompt.is_shown or not self.conditions.is_as_trained:
            why = (
                "the base read the descriptions, too"
                if self.config.prompt.is_shown
                else "scored otherwise than trained"
            )
            log.warning("calibration of %s not kept: %s", checkpoint.path, why)
            return
        suite = {"suite": self.suite.name, "suite_sha256": self.suite.content_hash()}
        date = datetime.now(UTC).isoformat(timespec="seconds")
        about = {**calibration.about, **suite, "date": date}
        log.info("%s", keep_calibration(checkpoint.folder, replace(calibration, about=about)))

    def map(self) -> dict[str, Any]:
        """Where each checkpoint's adapters lie beside the oracles of the same training tasks."""
        view = next((v for v in self.views if v.name == "train"), self.views[0])
        if self.library is None or not self._has_oracles(view):
            return {}
        oracles = self.library.adapters.source([t.name for t in view.tasks])
        texts = [[ds[0]] for ds in view.descriptions]
        labels = {
            "operation": [t.attributes.get("operation", t.family) or "(none)" for t in view.tasks],
            "category": [t.attributes.get("category", "(none)") for t in view.tasks],
        }
        return {
            c.matched.name: adapter_map(
                c.matched.adapters(texts),
                oracles,
                labels,
                c.matched.spec.scaling,
                self.config.evaluation.adapter_memory,
            )
            for c in self.first_of_each()
            if c.matched.spec == self.library.spec
        }

    def _has_oracles(self, view: SplitView) -> bool:
        there = set(self.library.adapters.tasks()) if self.library is not None else set()
        return all(t.name in there for t in view.tasks)

    def provenance(self) -> dict[str, Any]:
        """Everything that went in."""
        config, base, suite = self.config, self.base, self.suite
        return {
            "config": asdict(config),
            "base_model": {"name": base.name, "fingerprint": base.fingerprint},
            "suite": {"name": suite.name, "sha256": suite.content_hash(), **suite.provenance},
            "splits": {name: {"tasks": len(s.tasks), "phrasing": s.phrasing} for name, s in suite.splits.items()},
            "manifest": suite_manifest(suite),
            "library": library_record(Path(config.library)) if config.library else None,
            "checkpoints": {c.path: _checkpoint_provenance(c.record) for c in self.checkpoints},
            "unchecked": self.data.unchecked,
            "data_notes": self.data.notes,
            "conditions": self.conditions.to_json(),
            "method_libraries": {m: MethodLibrary.open(Path(m)).record() for m in config.method_libraries},
            "selection": selection_text({c.path: c.folder for c in self.checkpoints}, config.validation_split),
            "decoding": describe_decoding(base.overridden_decoding),
            "environment": environment(),
        }


def _checkpoint_provenance(record: CheckpointRecord) -> Mapping[str, Any]:
    keys = (
        "step", "objective", "hypernetwork", "base_fingerprint", "encoder_identity", "trained_on", "conditions", "selection",
    )  # fmt: skip
    return {k: record.to_json()[k] for k in keys}


def _method_oracles(config: EvaluateConfig, base: BaseModel) -> list[Contender]:
    names: list[str] = []
    made: list[Contender] = []
    for folder in config.method_libraries:
        library = MethodLibrary.open(Path(folder))
        wanted = library.method.base_config(config.base_model)
        fitting = base if wanted == config.base_model else load_base_model(wanted)
        names.append(library.method.name)
        same = names.count(library.method.name)
        made.append(MethodOracle(library, fitting, library.method.name + (f"_{same}" if same > 1 else "")))
    return made


@as_configured
def evaluate(config: EvaluateConfig) -> list[Cell]:
    """Scores contenders on splits and writes the report. Returns the scored cells.

    Raises ValueError for a checkpoint trained on what a split claims to be unseen, and for contenders that
    fed the base model the same.
    """
    if not config.run_dir:
        raise ValueError("run_dir is empty: give the folder to write")
    folder = Path(config.run_dir)
    check_report_folder(folder)
    check_own(folder, REPORT_FILES)
    torch.manual_seed(config.seed)
    ledger = Ledger(folder, decisive_settings(config))
    parts = Evaluation(config)
    config = parts.config
    parts.check_tasks()
    contenders = parts.contenders()
    ledger.start({"base_model": parts.base.fingerprint, "suite": parts.suite.content_hash()})
    store = CellStore(folder)
    if already := store.finished():
        log.info("%s has %d finished cells: what is asked for again is taken from there", config.run_dir, already)
    board = Board(parts.base, parts.spec, config.evaluation, config.seed, store)
    cells = board.score(contenders, parts.views)
    has_generated = "generated" in config.contenders
    variants = parts.robustness(board) if config.robustness_split and has_generated else {}
    if not store.written:
        log.info("%s was scored already: only the report is written again", config.run_dir)
    found = Findings(
        cells=cells,
        metric=metric_name(parts.views),
        samples=config.evaluation.bootstrap_samples,
        seed=config.seed,
        costs=parts.costs(contenders, cells),
        identities=parts.identities(contenders),
        overlaps=parts.data.overlaps,
        shows_description=config.prompt.is_shown,
        provenance={**parts.provenance(), "decoding_conditions": board.conditions},
        robustness=variants,
        confidence=parts.confidence(cells) if config.confidence and has_generated else {},
        map=parts.map() if has_generated else {},
    )
    write_report(folder, found)
    return cells


def check_report_folder(folder: Path) -> None:
    """Raises ValueError where a report would be written among the files of what another verb made."""
    for name, verb in (("run.json", "train"), (LIBRARY_RECORD, "train_library"), (METHOD_RECORD, "train_library")):
        if (folder / name).is_file():
            raise ValueError(f"run_dir={folder} is a folder of `t2l {verb}`: choose another for the report")


def metric_name(views: Sequence[SplitView]) -> str:
    """The metric of the scored tasks; `mixed` where they have several."""
    metrics = {metric(t.metric).name for v in views for t in v.tasks}
    return metrics.pop() if len(metrics) == 1 else "mixed"


def print_report(cells: Sequence[Cell], folder: Path) -> None:
    """Prints the means, how far controls are behind, and where the report is."""
    controls = read_json(folder / "report.json")["controls"]
    print("\n".join(["", *summary_lines(cells, controls), ""]))
    print(f"report, with intervals, controls and costs:\n  {folder / 'report.md'}\n  {folder / 'report.html'}")
