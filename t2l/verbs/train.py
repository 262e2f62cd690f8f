"""`t2l train`: a hypernetwork, by any objective."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from t2l import encoder as encoders
from t2l import hypernetwork as hypernetworks
from t2l.base_model import BaseModel, BaseModelConfig, LoraConfig, load_base_model, lora_spec, verify_frozen
from t2l.checks import at_least
from t2l.distributed import World
from t2l.encoder import TaskEncoder
from t2l.evaluation.conditions import conditions_of
from t2l.evaluation.validation import VALIDATION_SPLIT, ValidationPart, Validator, distance_to, held_out, parts_of
from t2l.hypernetwork import Hypernetwork
from t2l.hypernetwork.checkpoint import (
    CheckpointRecord,
    TrainingData,
    latest_checkpoint,
    load_record,
    load_training_data,
)
from t2l.hypernetwork.confidence import task_centres
from t2l.library import library_record, open_library, training_tasks_in
from t2l.library.trained_on import targets_trained_on
from t2l.lora import AdapterKind, LoraSpec
from t2l.lora.source import AdapterSource, digest_of
from t2l.objectives import Materials, Objective, Steps, name_of, needs_of, objective_of
from t2l.registry import component_of
from t2l.run.continuation import defaults_of, settings_of
from t2l.run.record import Run
from t2l.tasks import PromptConfig, Task, TaskSuite, suites
from t2l.tasks.manifest import Manifest
from t2l.training import Validation
from t2l.training import train as run_training
from t2l.training.checkpoint import check_goes_on
from t2l.training.going_on import is_finished, settings_may_change
from t2l.training.loop import TrainerConfig
from t2l.training.origin import Origin, where_from
from t2l.verbs import Verb
from t2l.verbs.results import of_training
from t2l.verbs.shared import folder_of

log = logging.getLogger(__name__)


@dataclass
class TrainConfig:
    """`t2l train`: a hypernetwork."""

    base_model: BaseModelConfig = field(default_factory=BaseModelConfig)
    """the frozen base that the adapters are for"""
    encoder: Any = None
    """what embeds the descriptions"""
    suite: Any = None
    """where the tasks come from; those of its split train are trained on"""
    lora: LoraConfig = field(default_factory=LoraConfig)
    """geometry of the adapters"""
    hypernetwork: Any = None
    """what turns an embedding into an adapter"""
    objective: Any = None
    """what it is trained to do"""
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    """the training loop"""
    prompt: PromptConfig = field(default_factory=PromptConfig)
    """what the base reads beside a question"""
    logger: Any = None
    """where metrics and results go besides the run's own files"""
    library: str | None = None
    """folder of `t2l train_library`; the reconstruction objective needs it, alone or in a sum"""
    descriptions_per_task: int = 48
    """training descriptions of each task that are used; validation looks at those beyond"""
    init_from: str | None = None
    """run or checkpoint folder of `t2l train` (or RUN:best, RUN:last) whose weights and statistics this run starts from,
    with a fresh optimiser; None: fresh weights"""
    seed: int = 0
    """decides initial weights and sampling"""
    run_dir: str | None = None
    """folder of the run; None makes a dated one in runs/"""

    def __post_init__(self) -> None:
        at_least(self, 1, "descriptions_per_task")
        if self.objective is not None:
            self._check_objective()
        if self.hypernetwork is not None:
            hypernetworks.check_emits(self.hypernetwork, self.lora.kind)
        self._check_encoder()

    def _check_objective(self) -> None:
        chosen, needs = component_of("objective", self.objective), needs_of(self.objective)
        if needs.library and not self.library:
            raise ValueError(f"objective={name_of(self.objective)} needs library=DIR, a folder of `t2l train_library`")
        if self.trainer.select_by == "validation/distance" and not needs.library:
            raise ValueError("trainer.select_by=validation/distance is for objective=reconstruction")
        if needs.library and self.lora.kind is not AdapterKind.lora:
            raise ValueError(
                f"objective={name_of(self.objective)} learns the adapters of a library, which are LoRAs, and lora.kind={self.lora.kind} "
                "generates others: choose another objective, like sft"
            )
        chosen.make.check_settings(self.objective, self.trainer, self.prompt)

    def _check_encoder(self) -> None:
        chosen = encoders.kind_of(self.encoder)
        if not chosen.make.can_be_whitened and self.trainer.description_whitening is not None:
            raise ValueError(
                f"encoder={chosen.name} embeds every description of a task alike, so there is nothing to whiten by: set "
                "trainer.description_whitening=null"
            )
        if chosen.make.needs_base and self.base_model.shard:
            raise ValueError(
                f"encoder={chosen.name} describes tasks in one process, so the base cannot be spread over several: set "
                "base_model.shard=false, or use encoder=causal_lm with a copy of its own"
            )


@dataclass(frozen=True)
class _Setting:
    """What everything in a run of training is made of."""

    config: TrainConfig
    suite: TaskSuite
    tasks: Sequence[Task]
    base: BaseModel
    encoder: TaskEncoder
    spec: LoraSpec
    world: World

    def embed(self, groups: Sequence[Sequence[str]]) -> list[Float[Tensor, "descriptions d_embedding"]]:
        """Embeddings of groups of descriptions, one tensor each; the main process fills the cache first."""
        if not self.world.is_main:
            self.world.wait()
        embedded = self.encoder.encode_groups(groups, progress=self.world.is_main)
        if self.world.is_main:
            self.world.wait()
        return embedded


def _library_adapters(setting: _Setting) -> AdapterSource | None:
    """What is to be learnt of a library; None if nothing is. Raises ValueError for a library of another geometry."""
    config = setting.config
    if not needs_of(config.objective).library:
        return None
    library = open_library(Path(config.library or ""), setting.base)
    if library.spec != setting.spec:
        raise ValueError(f"library={config.library} has adapters of another geometry than lora.* asks for")
    return library.adapters.source([t.name for t in setting.tasks])


def _objective(setting: _Setting, adapters: AdapterSource | None) -> Objective:
    config = setting.config
    shown = [config.prompt.apply(t) for t in setting.tasks]
    return objective_of(config.objective).make(
        config.objective, Materials(config.trainer, setting.base, shown, adapters)
    )


def _distance(setting: _Setting, objective: Objective) -> Callable[[Hypernetwork], float] | None:
    """The distance to library adapters of validation tasks; None if there are none.

    Raises ValueError if the best checkpoint is to be chosen by it, and there are none.
    """
    trainer, found = setting.config.trainer, None
    if objective.needs_library and setting.encoder.reads_any_text:
        library = open_library(Path(setting.config.library or ""), setting.base).adapters
        held = held_out(setting.suite, setting.tasks, library, trainer.validation_tasks)
        known = setting.embed([t.descriptions["train"][:1] for t in held]) if held else []
        found = distance_to(library, held, known, objective, trainer.tasks_per_step) if held else None
    if found is None and trainer.select_by == "validation/distance":
        raise ValueError(
            "trainer.select_by=validation/distance compares with library adapters of the suite's validation tasks, and "
            "there are none: name some in suite.validation_tasks and train the library on them, or select by another metric"
        )
    return found


def check_parts(parts: Sequence[ValidationPart], trainer: TrainerConfig, suite: str) -> None:
    """Says what a validation set cannot show; with no rows at all there is none.

    Raises ValueError if it is empty and training asks it for more than to watch.
    """
    missing = (
        f"suite {suite} has no validation rows: set suite.dealt_validation=NUMBER or suite.validation_tasks=[...], or "
        "trainer.validate_every=null"
    )
    if not parts and (trainer.patience is not None or trainer.validate_score):
        raise ValueError(f"trainer.patience and trainer.validate_score need validation, and {missing}")
    if not parts:
        log.warning("training is not validated, and its last checkpoint is the one that counts: %s", missing)
    elif any(p.name == "seen_descriptions" for p in parts):
        log.warning(
            "every description of the training tasks is trained on, so validation sees new rows under old descriptions: "
            "lower descriptions_per_task to validate on descriptions that are left out"
        )


def _validation(setting: _Setting, objective: Objective) -> Validation | None:
    """What the loop asks while it trains; None if nothing is validated."""
    config, trainer, encoder = setting.config, setting.config.trainer, setting.encoder
    if trainer.validate_every is None:
        return None
    shape = (config.descriptions_per_task, trainer.validation_tasks, trainer.validation_rows)
    parts = parts_of(setting.suite, setting.tasks, *shape, encoder.reads_any_text)
    check_parts(parts, trainer, setting.suite.name)
    if not parts:
        return None
    distance = _distance(setting, objective)
    validator = Validator(
        parts,
        setting.base,
        setting.embed([[r.description for r in p.rows] for p in parts]),
        min(trainer.tasks_per_step, trainer.rows_per_pass or trainer.tasks_per_step),
        trainer.max_length,
        getattr(torch, trainer.adapter_dtype),
        trainer.validate_score,
        config.prompt.is_shown,
        distance,
        setting.world,
        config.base_model.shard,
    )
    return Validation(validator, validator.on)


@dataclass(frozen=True)
class _LearntFrom:
    """What a hypernetwork learns from, for its record."""

    conditions: dict[str, Any] | None
    """under which conditions; None if they are not known"""
    manifest: Manifest
    is_whole: bool = True
    """whether the manifest is all"""


def _learnt_from(config: TrainConfig, suite: TaskSuite, tasks: Sequence[Task]) -> _LearntFrom:
    """Reads records alone.

    A hypernetwork that learns a library's adapters learns what they were trained on, under the conditions they were trained
    under; if it goes through the base as well, the conditions are its own.
    """
    validated_on = {t.name: t for t in tasks} if config.trainer.validate_every is not None else {}
    if validated_on and VALIDATION_SPLIT in suite.splits:
        validated_on |= {t.name: t for t in suite.select(suite.split(VALIDATION_SPLIT).tasks)}
    manifest = Manifest.of(tasks, config.descriptions_per_task, list(validated_on.values()))
    definition, needs = config.prompt.definition, needs_of(config.objective)
    own = conditions_of(config.base_model, definition)
    if not needs.library:
        return _LearntFrom(own, manifest)
    folder = Path(config.library or "")
    targets = targets_trained_on(folder, tasks, suite, definition)
    known = [t for t in targets if t is not None]
    if len(known) < len(tasks):
        log.warning("library=%s does not say what %d of its adapters were trained on", folder, len(tasks) - len(known))
    record = library_record(folder)
    if (record.get("suite") or {}).get("sha256") not in (None, suite.content_hash()):
        log.warning("library=%s was trained on a suite of other content, though on this one's training rows", folder)
    conditions = record.get("conditions")
    if needs.base and conditions is not None:
        other = [key for key in own if key in conditions and conditions[key] != own[key]]
        if other:
            log.warning("library=%s was trained under another base_model.%s than this run", folder, ", ".join(other))
    return _LearntFrom(own if needs.base else conditions, Manifest.union([manifest, *known]), len(known) == len(tasks))


def _training_tasks(config: TrainConfig, suite: TaskSuite, world: World) -> list[Task]:
    """Those of the suite; of an objective that learns a library's adapters, those that the library is of.

    Raises ValueError if there are none, or processes cannot share them.
    """
    tasks = suite.select(suite.split("train").tasks)
    if not tasks:
        raise ValueError(f"suite {suite.name!r} has no training tasks: none of its tasks is left for the split train")
    if needs_of(config.objective).library and config.library:
        names = training_tasks_in(library_record(Path(config.library)), [t.name for t in tasks], config.library)
        if len(names) < len(tasks):
            log.warning(
                "library=%s is of a sample: %d of %d training tasks are trained on",
                config.library,
                len(names),
                len(tasks),
            )
        tasks = suite.select(names)
    world.share(min(config.trainer.tasks_per_step, len(tasks)), "trainer.tasks_per_step")
    return tasks


def _hypernetwork(setting: _Setting, embeddings: Sequence[Tensor], origin: Origin | None) -> Hypernetwork:
    """A fresh one, or with the weights and statistics of `origin`."""
    config = setting.config
    made = hypernetworks.build(config.hypernetwork, setting.spec, embeddings[0].shape[1], config.seed)
    made = made.to(setting.base.device)
    whitening = config.trainer.description_whitening
    if origin is not None:
        origin.load_into(made, whitening is not None)
    elif whitening is not None:
        made.set_description_statistics(embeddings, whitening)
    return made


def _record(
    setting: _Setting, hypernetwork: Hypernetwork, learnt: _LearntFrom, told: dict[str, Any], library_sha256: str | None
) -> CheckpointRecord:
    """The record of a run before its first step; `told` adds to what it was trained on."""
    config, base, suite, encoder = setting.config, setting.base, setting.suite, setting.encoder
    return CheckpointRecord(
        step=0,
        objective=name_of(config.objective),
        hypernetwork=config.hypernetwork,
        spec=setting.spec,
        d_embedding=hypernetwork.d_embedding,
        encoder_identity=encoder.identity,
        encoder=encoder.to_json(),
        base_fingerprint=base.fingerprint,
        base_name=base.name,
        conditions=learnt.conditions,
        trained_on={
            "suite": suite.name,
            "suite_sha256": suite.content_hash(),
            "tasks": [t.name for t in setting.tasks],
            "phrasing": "train",
            "definition": config.prompt.definition,
            "descriptions_per_task": config.descriptions_per_task,
            "seed": config.seed,
            **({} if learnt.is_whole else {"unchecked": config.library}),
            **({} if library_sha256 is None else {"library_sha256": library_sha256}),
            **told,
        },
    )


def _training_data(
    setting: _Setting, data: TrainingData, origin: Origin | None, latest: Path | None
) -> TrainingData | None:
    """What the run is trained on: `data`, and what the checkpoint that it started from was trained on."""
    if origin is not None:
        return origin.training_data(data)
    if latest is not None and setting.config.init_from is not None:
        return load_training_data(latest)
    return data


def train(config: TrainConfig, world: World | None = None) -> Path:
    """Trains a hypernetwork on the suite's train split. Returns the run's folder.

    Raises ValueError for a run folder of another configuration, or a library or checkpoint that does not fit.
    """
    world, folder = world or World(), folder_of(config.run_dir)
    objective_of(config.objective)
    latest = latest_checkpoint(folder)
    newest = load_record(latest) if latest is not None else None
    if is_finished(config, folder, newest):
        return folder
    suite = suites.build(config.suite)
    tasks = _training_tasks(config, suite, world)
    encoders.check(config.encoder)
    is_fresh = config.init_from is not None and newest is None
    origin = Origin.find(config.init_from or "", config.hypernetwork) if is_fresh else None
    learnt = _learnt_from(config, suite, tasks)
    base = load_base_model(config.base_model)
    encoder = TaskEncoder(config.encoder, base, config.base_model, tasks)
    setting = _Setting(config, suite, tasks, base, encoder, lora_spec(base.model, config.lora), world)
    if origin is not None:
        origin.check(setting.spec, base.fingerprint, encoder.identity)
    adapters = _library_adapters(setting)
    library_sha256 = None if adapters is None else digest_of(adapters.recipe())
    if newest is not None:
        learns = suite.content_hash(), [t.name for t in tasks], library_sha256
        check_goes_on(newest, base.fingerprint, encoder.identity, *learns, folder)
    embeddings = setting.embed([t.descriptions["train"][: config.descriptions_per_task] for t in tasks])
    hypernetwork = _hypernetwork(setting, embeddings, origin)
    objective = _objective(setting, adapters)
    if origin is None:
        objective.prepare(hypernetwork)
    steps = Steps(objective, embeddings, config.trainer, config.seed, world)
    validation = _validation(setting, objective)
    record = _record(setting, hypernetwork, learnt, where_from(origin, newest), library_sha256)
    centres = task_centres(hypernetwork, [e.to(base.device) for e in embeddings])
    data = _training_data(setting, TrainingData(learnt.manifest, centres), origin, latest)
    may_change = settings_may_change(config, newest)
    run = Run(folder, "train", settings_of(config), world.is_main, defaults_of(config), may_change)
    with verify_frozen(base.model) as parameters:
        end = run_training(config.trainer, steps, hypernetwork, run, record, config.seed, world, data, validation)
    if world.is_main:
        early = {"stopped_early": True} if end.step < config.trainer.steps else {}
        run.record(base_parameters_sha256=parameters, finished=True, steps=end.step, **early)
    log.info("hypernetwork of %d parameters in %s", sum(p.numel() for p in hypernetwork.parameters()), folder)
    return folder


VERB = Verb(TrainConfig, train, is_parallel=True, results=of_training)
