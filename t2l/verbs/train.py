"""`t2l train`: a hypernetwork, by any objective."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from t2l import encoder as encoders
from t2l import hypernetwork as hypernetworks
from t2l.base_model import (
    BaseModel,
    BaseModelConfig,
    LoraConfig,
    load_base_model,
    lora_spec,
    verify_frozen,
)
from t2l.distributed import World
from t2l.encoder import (
    BaseModelEncoderConfig,
    OneHotConfig,
    TaskEncoder,
)
from t2l.evaluation.conditions import conditions_of
from t2l.evaluation.validation import VALIDATION_SPLIT, ValidationPart, Validator, distance_to, held_out, log, parts_of
from t2l.files import read_json
from t2l.hypernetwork.checkpoint import (
    CheckpointRecord,
    TrainingData,
    latest_checkpoint,
    load_record,
    load_training_data,
)
from t2l.hypernetwork.confidence import task_centres
from t2l.library import library_record, open_library
from t2l.library.trained_on import targets_trained_on
from t2l.lora import LoraSpec
from t2l.objectives import (
    Objective,
    ReconstructionConfig,
    ReconstructionObjective,
    SftObjective,
    objective_of,
)
from t2l.run.continuation import Change, defaults_of, settings_of
from t2l.run.record import LoggerConfig, Run, check_settings, say_finished
from t2l.tasks import CutCount, PromptConfig, Task, TaskSuite, suites, tokenize_examples
from t2l.tasks.manifest import Manifest
from t2l.training import TrainerConfig, Validation, is_trained
from t2l.training import train as run_training
from t2l.training.checkpoint import check_goes_on
from t2l.training.loop import TrainerConfig
from t2l.training.origin import Origin
from t2l.verbs.shared import folder_of

log = logging.getLogger(__name__)


@dataclass
class TrainConfig:
    """`t2l train`: a hypernetwork."""

    base_model: BaseModelConfig = field(default_factory=BaseModelConfig)
    encoder: Any = None
    suite: Any = None
    lora: LoraConfig = field(default_factory=LoraConfig)
    hypernetwork: Any = None
    objective: Any = None
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    prompt: PromptConfig = field(default_factory=PromptConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    library: str | None = None
    """folder of `t2l train_library`; the reconstruction objective needs it"""
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
        if self.descriptions_per_task < 1:
            raise ValueError(f"descriptions_per_task must be at least 1, not {self.descriptions_per_task}")
        if isinstance(self.objective, ReconstructionConfig) and not self.library:
            raise ValueError("objective=reconstruction needs library=DIR, a folder of `t2l train_library`")
        if self.trainer.select_by == "validation/distance" and not isinstance(self.objective, ReconstructionConfig):
            raise ValueError("trainer.select_by=validation/distance is for objective=reconstruction")
        self._check_encoder()

    def _check_encoder(self) -> None:
        if isinstance(self.encoder, OneHotConfig) and self.trainer.description_whitening is not None:
            raise ValueError(
                "encoder=one_hot embeds every description of a task alike, so there is nothing to whiten by: set "
                "trainer.description_whitening=null"
            )
        if isinstance(self.encoder, BaseModelEncoderConfig) and self.base_model.shard:
            raise ValueError(
                "encoder=base_model describes tasks in one process, so the base cannot be spread over several: set "
                "base_model.shard=false, or use encoder=causal_lm with a copy of its own"
            )


def _embed(encoder: TaskEncoder, groups: Sequence[Sequence[str]], world: World) -> list[Tensor]:
    if not world.is_main:
        world.wait()  # the main process fills the cache first
    embedded = encoder.encode_groups(groups, progress=world.is_main)
    if world.is_main:
        world.wait()
    return embedded


def _objective(
    config: TrainConfig, base: BaseModel, tasks: Sequence[Task], embeddings: list[Tensor], spec: LoraSpec, world: World
) -> Objective:
    kind = objective_of(config.objective)
    if kind is ReconstructionObjective:
        library = open_library(Path(config.library or ""), base)
        if library.spec != spec:
            raise ValueError(f"library={config.library} has adapters of another geometry than lora.* asks for")
        adapters = library.adapters.source([t.name for t in tasks])
        return ReconstructionObjective(config.objective, config.trainer, config.seed, adapters, embeddings, world)
    if kind is SftObjective:
        shown = [config.prompt.apply(t) for t in tasks]
        cuts, longest = CutCount(), config.trainer.max_length
        rows = [tokenize_examples(base.tokenizer, t.examples["train"], "", longest, t.name, cuts) for t in shown]
        cuts.warn(longest)
        return SftObjective(config.objective, config.trainer, config.seed, base, rows, embeddings, world)
    raise ValueError(f"objective: `t2l train` does not know how to make {kind.__name__}")


def _validation(
    config: TrainConfig,
    objective: Objective,
    suite: TaskSuite,
    tasks: Sequence[Task],
    base: BaseModel,
    encoder: TaskEncoder,
    world: World,
) -> Validation | None:
    """What the loop asks while it trains; None where nothing is validated."""
    trainer = config.trainer
    if trainer.validate_every is None:
        return None
    shape = (config.descriptions_per_task, trainer.validation_tasks, trainer.validation_rows)
    parts = parts_of(suite, tasks, *shape, encoder.reads_any_text)
    check_parts(parts, trainer, suite.name)
    if not parts:
        return None
    distance = None
    if isinstance(objective, ReconstructionObjective) and encoder.reads_any_text:
        library = open_library(Path(config.library or ""), base).adapters
        held = held_out(suite, tasks, library, trainer.validation_tasks)
        known = _embed(encoder, [t.descriptions["train"][:1] for t in held], world) if held else []
        distance = distance_to(library, held, known, objective, trainer.tasks_per_step) if held else None
    if distance is None and trainer.select_by == "validation/distance":
        raise ValueError(
            "trainer.select_by=validation/distance compares with library adapters of the suite's validation tasks, and "
            "there are none: name some in suite.validation_tasks and train the library on them, or select by another metric"
        )
    embeddings = _embed(encoder, [[r.description for r in p.rows] for p in parts], world)
    validator = Validator(
        parts,
        base,
        embeddings,
        min(trainer.tasks_per_step, trainer.rows_per_pass or trainer.tasks_per_step),
        trainer.max_length,
        getattr(torch, trainer.adapter_dtype),
        trainer.validate_score,
        config.prompt.is_shown,
        distance,
        world,
        config.base_model.shard,
    )
    return Validation(validator, validator.on)


def _learnt_from(
    config: TrainConfig, suite: TaskSuite, tasks: Sequence[Task]
) -> tuple[dict[str, Any] | None, Manifest, bool]:
    """Under which conditions a hypernetwork learns, from what, and whether that is all; reads records alone.

    One that learns a library's adapters learns what they were trained on, under the conditions they were trained under.
    """
    validated_on = {t.name: t for t in tasks} if config.trainer.validate_every is not None else {}
    if validated_on and VALIDATION_SPLIT in suite.splits:
        validated_on |= {t.name: t for t in suite.select(suite.split(VALIDATION_SPLIT).tasks)}
    manifest = Manifest.of(tasks, config.descriptions_per_task, list(validated_on.values()))
    definition = config.prompt.definition
    if not isinstance(config.objective, ReconstructionConfig):
        return conditions_of(config.base_model, definition), manifest, True
    folder = Path(config.library or "")
    targets = targets_trained_on(folder, tasks, suite, definition)
    known = [t for t in targets if t is not None]
    if len(known) < len(tasks):
        log.warning("library=%s does not say what %d of its adapters were trained on", folder, len(tasks) - len(known))
    record = library_record(folder)
    if (record.get("suite") or {}).get("sha256") not in (None, suite.content_hash()):
        log.warning("library=%s was trained on a suite of other content, though on this one's training rows", folder)
    return record.get("conditions"), Manifest.union([manifest, *known]), len(known) == len(tasks)


def train(config: TrainConfig, world: World | None = None) -> Path:
    """Trains a hypernetwork on the suite's train split. Returns the run's folder.

    Raises ValueError for a run folder of another configuration, or a library or checkpoint that does not fit.
    """
    world = world or World()
    objective_of(config.objective)
    folder = folder_of(config.run_dir)
    latest = latest_checkpoint(folder)
    newest = load_record(latest) if latest is not None else None
    if is_finished(config, folder, newest):
        return folder
    suite = suites.build(config.suite)
    tasks = suite.select(suite.split("train").tasks)
    if not tasks:
        raise ValueError(f"suite {suite.name!r} has no training tasks: none of its tasks is left for the split train")
    world.share(min(config.trainer.tasks_per_step, len(tasks)), "trainer.tasks_per_step")
    encoders.check(config.encoder)
    is_fresh = config.init_from is not None and newest is None
    origin = Origin.find(config.init_from or "", config.hypernetwork) if is_fresh else None
    conditions, manifest, is_known = _learnt_from(config, suite, tasks)
    base = load_base_model(config.base_model)
    encoder = TaskEncoder(config.encoder, base, config.base_model, tasks)
    spec = lora_spec(base.model, config.lora)
    if origin is not None:
        origin.check(spec, base.fingerprint, encoder.identity)
    if newest is not None:
        check_goes_on(newest, base.fingerprint, encoder.identity, suite.content_hash(), folder)
    embeddings = _embed(encoder, [t.descriptions["train"][: config.descriptions_per_task] for t in tasks], world)
    d_embedding = embeddings[0].shape[1]
    hypernetwork = hypernetworks.build(config.hypernetwork, spec, d_embedding, config.seed).to(base.device)
    is_whitening = config.trainer.description_whitening is not None
    if origin is not None:
        origin.load_into(hypernetwork, is_whitening)
    elif is_whitening:
        hypernetwork.set_description_statistics(embeddings, config.trainer.description_whitening or 0.0)
    objective = _objective(config, base, tasks, embeddings, spec, world)
    if isinstance(objective, ReconstructionObjective) and origin is None:
        objective.prepare(hypernetwork)
    validation = _validation(config, objective, suite, tasks, base, encoder, world)
    record = CheckpointRecord(
        step=0,
        objective=config.objective.name,
        hypernetwork=config.hypernetwork,
        spec=spec,
        d_embedding=d_embedding,
        encoder_identity=encoder.identity,
        encoder=encoder.to_json(),
        base_fingerprint=base.fingerprint,
        base_name=base.name,
        conditions=conditions,
        trained_on={
            "suite": suite.name,
            "suite_sha256": suite.content_hash(),
            "tasks": [t.name for t in tasks],
            "phrasing": "train",
            "definition": config.prompt.definition,
            "descriptions_per_task": config.descriptions_per_task,
            "seed": config.seed,
            **({} if is_known else {"unchecked": config.library}),
            **where_from(origin, newest),
        },
    )
    centres = task_centres(hypernetwork, [e.to(base.device) for e in embeddings])
    training_data: TrainingData | None = TrainingData(manifest, centres)
    if origin is not None and training_data is not None:
        training_data = origin.training_data(training_data)
    elif latest is not None and config.init_from is not None:
        training_data = load_training_data(latest)
    may_change = settings_may_change(config, newest)
    run = Run(folder, "train", settings_of(config), config.logger, world.is_main, defaults_of(config), may_change)
    with verify_frozen(base.model) as parameters:
        end = run_training(
            config.trainer, objective, hypernetwork, run, record, config.seed, world, training_data, validation
        )
    if world.is_main:
        early = {"stopped_early": True} if end.step < config.trainer.steps else {}
        run.record(base_parameters_sha256=parameters, finished=True, steps=end.step, **early)
        run.finish()
    log.info("hypernetwork of %d parameters in %s", sum(p.numel() for p in hypernetwork.parameters()), folder)
    return folder


def settings_may_change(config: TrainConfig, newest: CheckpointRecord | None) -> Callable[[Change], str | None]:
    """What speaks against going on with another value of a setting that may change the result."""

    def why_not(change: Change) -> str | None:
        if change.key != "trainer.steps":
            return "it changes the result"
        if newest is None:
            return None
        if config.trainer.steps < newest.step:
            return f"{newest.step} steps are done"
        before = replace(config.trainer, steps=int(change.before))
        if any(before.learning_rate(i) != config.trainer.learning_rate(i) for i in range(newest.step)):
            return (
                f"it changes the learning rate of the {newest.step} steps that are done (more steps go with "
                "trainer.schedule=constant and trainer.warmup_steps, chosen when a run is begun)"
            )
        return None

    return why_not


def is_finished(config: TrainConfig, folder: Path, newest: CheckpointRecord | None) -> bool:
    """Whether there is nothing left to train, which is then said. Raises ValueError for a run of another configuration."""
    check_settings(folder, settings_of(config), defaults_of(config), settings_may_change(config, newest))
    record = read_json(folder / "run.json") if (folder / "run.json").is_file() else {}
    # Runs of earlier versions say no more of their end than that the base was verified.
    has_ended = record.get("finished", "base_parameters_sha256" in record)
    if newest is None or not has_ended or not is_trained(config.trainer, newest):
        return False
    say_finished(folder, record, f"its {newest.step} steps")
    return True


def where_from(origin: Origin | None, newest: CheckpointRecord | None) -> dict[str, Any]:
    """What a record's `trained_on` says of the checkpoint that a run started from; nothing where there was none.

    Args:
        newest: the record that the run goes on from; it says it already.
    """
    if origin is not None:
        return {"init_from": origin.to_json()}
    told = None if newest is None else newest.trained_on.get("init_from")
    return {} if told is None else {"init_from": told}


def check_parts(parts: Sequence[ValidationPart], trainer: TrainerConfig, suite: str) -> None:
    """Says what a validation set cannot show; with no rows at all there is none.

    Raises ValueError where it is empty and training asks it for more than to watch.
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
