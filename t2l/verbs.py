"""What each verb does: composes the rooms, in the order of the one picture. No training logic lives here."""

from __future__ import annotations

import json
import logging
import tempfile
import time
from collections.abc import Collection, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from t2l import describe as describing
from t2l import encoder as encoders
from t2l import hypernetwork as hypernetworks
from t2l import methods, suites
from t2l.base_model import BaseModel, BaseModelConfig, LoraConfig, load_base_model, lora_spec, verify_frozen
from t2l.checkpoint import (
    CheckpointRecord,
    TrainingData,
    check_goes_on,
    find_checkpoint,
    latest_checkpoint,
    load_record,
    load_training_data,
    own_encoder,
)
from t2l.conditions import conditions_of, conditions_to_record
from t2l.confidence import task_centres
from t2l.config import (
    GenerateConfig,
    TrainConfig,
    TrainLibraryConfig,
)
from t2l.continuation import defaults_of, settings_of
from t2l.distributed import World
from t2l.encoder import TaskEncoder
from t2l.evaluation.board import Board, BoardConfig, view_split
from t2l.evaluation.contenders import Base, FormalCode
from t2l.files import check_own, move_into, read_json, write_json
from t2l.generate import Confidence, base_for, folders_for, load_generator, read_descriptions, write_adapters
from t2l.library import LIBRARY_RECORD, MULTI_TASK, LibraryFolder, library_record, open_library
from t2l.library_data import targets_trained_on
from t2l.library_report import training_outcome
from t2l.library_training import train_library as train_adapters_of
from t2l.library_training import train_multi_task
from t2l.lora import LoraSpec
from t2l.manifest import Manifest
from t2l.method_training import make_method_library
from t2l.methods.library import RECORD_FILE, MethodLibrary
from t2l.origin import Origin
from t2l.pretrain_base import BASE_FILES, PretrainBaseConfig, pretrain, save_base
from t2l.run import Run, environment, environments, environments_of, say_finished
from t2l.soundness import target_norm
from t2l.tasks import CutCount, Task, TaskSuite, tokenize_examples
from t2l.train_run import is_finished, settings_may_change, where_from
from t2l.training import (
    Objective,
    ReconstructionConfig,
    ReconstructionObjective,
    SftObjective,
    Validation,
    objective_of,
)
from t2l.training import train as run_training
from t2l.validation import VALIDATION_SPLIT, Validator, check_parts, distance_to, held_out, parts_of

log = logging.getLogger(__name__)


def _folder(run_dir: str | None) -> Path:
    if not run_dir:
        raise ValueError("run_dir is empty: give the folder to write")
    return Path(run_dir)


def _tasks_of(suite: TaskSuite, splits: Sequence[str] | None, names: Sequence[str] | None) -> list[Task]:
    if names is not None:
        return suite.select(names)
    chosen = [suite.split(s) for s in (splits if splits is not None else list(suite.splits))]
    return suite.select(dict.fromkeys(name for split in chosen for name in split.tasks))


def _trainable(suite: TaskSuite, splits: Sequence[str] | None, names: Sequence[str] | None) -> list[Task]:
    """Those with training examples. Raises ValueError where one that is asked for by name or split has none."""
    asked = _tasks_of(suite, splits, names)
    found = [t for t in asked if t.examples.get("train")]
    if len(found) < len(asked):
        bare = next(t.name for t in asked if not t.examples.get("train"))
        if names is not None or splits is not None:
            raise ValueError(f"task {bare!r} has no training examples: it can only be evaluated")
        log.info("%d tasks have no training examples and get no adapter, %s among them", len(asked) - len(found), bare)
    return found


def train_library(config: TrainLibraryConfig, world: World | None = None) -> Path:
    """Trains the missing oracle adapters and the multi-task LoRA. Returns the library's folder.

    With another method than batched_lora, trains that on each task instead, and no multi-task LoRA. What failed is in
    the library's record (`library_report.training_outcome`), the rest is there.

    Raises ValueError for an unknown task or split, or an adapter there that was made otherwise.
    """
    if not isinstance(config.method, methods.BatchedLoraConfig | None):
        if world is not None and world.size > 1:
            raise ValueError("method: only batched_lora runs in several processes; start the others without torchrun")
        return _train_method_library(config)
    world = world or World()
    if world.size > 1 and config.base_model.shard:
        raise ValueError(
            "base_model.shard=true: processes of train_library train different tasks, each at its own pace, so each needs "
            "the whole base: base_model.shard=false"
        )
    folder, suite = _folder(config.run_dir), suites.build(config.suite)
    tasks = _trainable(suite, config.splits, config.tasks)
    training_tasks = suite.select(suite.split("train").tasks)
    conditions = conditions_to_record(folder / LIBRARY_RECORD, config.base_model, config.prompt.definition)
    base = load_base_model(config.base_model)
    libraries = LibraryFolder.of(folder, lora_spec(base.model, config.lora), base)
    record: dict[str, Any] = {
        "spec": libraries.spec.to_json(),
        "base_model": base.name,
        "base_fingerprint": base.fingerprint,
        "base_norm": target_norm(base.model, libraries.spec),
        "suite": {"name": suite.name, "sha256": suite.content_hash()},
        "definition": config.prompt.definition,
        "conditions": conditions,
    }
    if (folder / LIBRARY_RECORD).is_file() and open_library(folder, base).spec != libraries.spec:
        raise ValueError(f"{folder} holds adapters of another geometry: choose another run_dir, or remove that folder")
    if (folder / RECORD_FILE).is_file():
        raise ValueError(f"{folder} holds another method's adapters: choose another run_dir, or remove that folder")
    missing = {t.name for t in tasks} - set(libraries.adapters.tasks())
    if config.tasks is None and training_tasks:
        missing |= {MULTI_TASK} - set(libraries.static.tasks())
    world.wait()
    if world.is_main:
        folder.mkdir(parents=True, exist_ok=True)
        record["environments"] = _working_on(folder / LIBRARY_RECORD, missing)
        write_json(folder / LIBRARY_RECORD, record)
    with verify_frozen(base.model) as parameters:
        failed = train_adapters_of(
            libraries.adapters, base, tasks, config.training, config.seed, world, prompt=config.prompt
        )
        record["failed"] = failed
        if world.is_main:
            write_json(folder / LIBRARY_RECORD, record)
        if config.tasks is None and training_tasks and world.is_main:
            static, settings = libraries.static, config.multi_task
            train_multi_task(static, base, training_tasks, settings, config.seed, MULTI_TASK, config.prompt)
    if world.is_main:
        write_json(folder / LIBRARY_RECORD, {**record, "base_parameters_sha256": parameters, "finished": True})
        if not missing:
            say_finished(folder, record, f"its {len(tasks)} adapters")
    world.wait()
    log.info("library of %d adapters in %s", len(libraries.adapters.tasks()), folder)
    if world.is_main:
        training_outcome(folder).log()
    return folder


def _working_on(record: Path, missing: Collection[str]) -> list[dict[str, Any]]:
    """The environments that worked on a folder: this one, too, if anything is left to do."""
    if missing or not record.is_file():
        return environments(record)
    return environments_of(read_json(record))


def _train_method_library(config: TrainLibraryConfig) -> Path:
    folder, suite = _folder(config.run_dir), suites.build(config.suite)
    if (folder / LIBRARY_RECORD).is_file():
        raise ValueError(f"{folder} holds a library of LoRAs: choose another run_dir, or remove that folder")
    tasks = _trainable(suite, config.splits, config.tasks)
    method = methods.build(config.method)
    conditions = conditions_to_record(folder / RECORD_FILE, config.base_model, config.prompt.definition)
    base = load_base_model(method.base_config(config.base_model))
    missing = {t.name for t in tasks} - set(MethodLibrary(folder, method, base.fingerprint).tasks())
    record = {
        "base_model": base.name,
        "suite": {"name": suite.name, "sha256": suite.content_hash()},
        "definition": config.prompt.definition,
        "conditions": conditions,
        "environments": _working_on(folder / RECORD_FILE, missing),
    }
    make_method_library(folder, method, base, tasks, config.seed, record, config.prompt)
    training_outcome(folder).log()
    if not missing:
        say_finished(folder, record, f"what {method.name} learnt for {len(tasks)} tasks")
    return folder


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
    folder = _folder(config.run_dir)
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


def _encoder_for(config: GenerateConfig, record: CheckpointRecord, base_name: str) -> TaskEncoder:
    """The encoder asked for, else the checkpoint's own; where that is its base model, the base of that name."""
    chosen = config.encoder
    if chosen is None or isinstance(chosen, encoders.OwnEncoderConfig):
        chosen = own_encoder(record, chosen)
    names = (record.base_name, str(Path(record.base_name).resolve()))
    if isinstance(chosen, encoders.CausalLMEncoderConfig) and chosen.model.path in names:
        chosen = replace(chosen, model=replace(chosen.model, path=base_name))
    return TaskEncoder(chosen, base_config=BaseModelConfig(path=base_name))


def generate(
    config: GenerateConfig, descriptions: Sequence[str], file: Path | None
) -> list[tuple[Path, Confidence | None]]:
    """Writes an adapter folder for each description. Returns the folders, and how sure each adapter is.

    Raises ValueError for an empty description, an unfit checkpoint, or nothing to describe.
    """
    if not config.checkpoint or not config.out:
        raise ValueError("generate needs --checkpoint DIR (a run of `t2l train`) and --out DIR")
    texts = [*descriptions, *(read_descriptions(file) if file is not None else [])]
    if not texts:
        raise ValueError("nothing to generate from: give a description, or --file with one per line")
    if any(not t.strip() for t in texts):
        raise ValueError("a description is empty: write at least a word about the task")
    folders_for(Path(config.out), len(texts))  # said before anything loads
    record = load_record(find_checkpoint(Path(config.checkpoint)))
    base_name, fingerprint = base_for(record.base_name, config.base_model)
    generator = load_generator(Path(config.checkpoint), _encoder_for(config, record, base_name), fingerprint)
    return write_adapters(generator, texts, Path(config.out), base_name, config.licence)


def describe(config: describing.DescribeConfig) -> Path:
    """Writes descriptions of the suite's tasks with a language model. Returns their folder.

    Raises ValueError for an unknown task or split, a describer that fails, or a task left incomplete.
    """
    describer = describing.build(config.describer)
    suite = suites.build(config.suite)
    describing.describe_tasks(config, suite, _tasks_of(suite, config.splits, config.tasks), describer)
    return Path(config.out)


def pretrain_base(config: PretrainBaseConfig) -> dict[str, float]:
    """Pretrains the mini base model, scores it with and without its formal code, and writes it with a card.

    Returns exact match per split with the code.

    Raises FileProblemError, before anything is trained, where `out` holds files of these names that t2l did not write.
    """
    start, out = time.perf_counter(), Path(config.out)
    check_own(out, BASE_FILES)
    model, tokenizer = pretrain(config)
    minutes = (time.perf_counter() - start) / 60
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".base.", dir=out) as name:
        temporary = Path(name)
        save_base(model, tokenizer, temporary)
        base = load_base_model(BaseModelConfig(path=str(temporary), device="cpu"))
        scores = _skill(base)
        (temporary / "README.md").write_text(_card(config, scores, base, minutes))
        move_into(temporary, out, last="config.json")  # the run's own records are there, and whatever else
    log.info("mini base model in %s (%.1f minutes): %s", out, minutes, scores["formal_code"])
    return scores["formal_code"]


def _skill(base: BaseModel) -> dict[str, dict[str, float]]:
    suite, board = suites.build(suites.WordListConfig()), BoardConfig(tasks_per_split=240, bootstrap_samples=1)
    views = [view_split(suite, name, board, 0) for name, s in suite.splits.items() if s.phrasing == "train"]
    spec = lora_spec(base.model, LoraConfig())
    cells = Board(base, spec, board, 0).score([FormalCode(), Base()], views)
    scores: dict[str, dict[str, float]] = {"formal_code": {}, "base": {}}
    for cell in cells:
        scores[cell.contender][cell.split] = round(cell.estimate.mean, 4)
    return scores


def _card(config: PretrainBaseConfig, scores: dict[str, dict[str, float]], base: BaseModel, minutes: float) -> str:
    defaults = PretrainBaseConfig()
    changed = [f"{k}={v}" for k, v in asdict(config).items() if k != "out" and v != getattr(defaults, k)]
    lines = [
        "# Mini base model",
        "",
        "A small Llama-architecture causal LM that knows the skills of the word-list suite and follows an opaque",
        "formal code in its prompt. It has seen no English description of any task, and without its code it cannot",
        "know which skill is wanted. Made for developing and demonstrating t2l; it is good for nothing else.",
        "",
        f"- Made by: `t2l pretrain_base out=DIR {' '.join(changed)}`".rstrip("` ") + "`",
        f"- Seed {config.seed}, {config.steps} steps of {config.batch_size} sequences, {minutes:.1f} minutes",
        f"- Code: {json.dumps(environment()['code'])}",
        f"- Parameters: {sum(p.numel() for p in base.model.parameters()):,}, float32",
        f"- sha256 over the weight files: {base.fingerprint}",
        "- Data: generated by `t2l/suites/word_lists.py`; no outside source. Licence: that of the repository.",
        "",
        "| split | exact match with formal code | without |",
        "|---|---|---|",
    ]
    lines += [f"| {s} | {v:.3f} | {scores['base'][s]:.3f} |" for s, v in scores["formal_code"].items()]
    return "\n".join(lines) + "\n"
