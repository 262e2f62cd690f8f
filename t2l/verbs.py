"""What each verb does: composes the rooms, in the order of the one picture. No training logic lives here."""

from __future__ import annotations

import json
import logging
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from t2l import describe as describing
from t2l import encoder as encoders
from t2l import hypernetwork as hypernetworks
from t2l import methods, suites
from t2l.base_model import BaseModel, BaseModelConfig, LoraConfig, load_base_model, lora_spec, verify_frozen
from t2l.checkpoint import CheckpointRecord, TrainingData, find_checkpoint, load_record, own_encoder
from t2l.conditions import conditions_of, conditions_to_record
from t2l.confidence import task_centres
from t2l.config import (
    GenerateConfig,
    TrainConfig,
    TrainLibraryConfig,
)
from t2l.distributed import World
from t2l.encoder import TaskEncoder
from t2l.evaluation.board import Board, BoardConfig, view_split
from t2l.evaluation.contenders import Base, FormalCode
from t2l.files import check_own, move_into, write_json
from t2l.generate import Confidence, base_for, folders_for, load_generator, read_descriptions, write_adapters
from t2l.library import LIBRARY_RECORD, MULTI_TASK, LibraryFolder, library_record, open_library
from t2l.library_data import targets_trained_on
from t2l.library_report import training_outcome
from t2l.library_training import train_library as train_adapters_of
from t2l.library_training import train_multi_task
from t2l.lora import LoraSpec
from t2l.manifest import Manifest
from t2l.method_training import make_method_library
from t2l.methods.library import RECORD_FILE
from t2l.pretrain_base import BASE_FILES, PretrainBaseConfig, pretrain, save_base
from t2l.run import Run, environment, environments
from t2l.soundness import target_norm
from t2l.tasks import CutCount, Task, TaskSuite, tokenize_examples
from t2l.training import Objective, ReconstructionConfig, ReconstructionObjective, SftObjective
from t2l.training import train as run_training

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
    folder, suite = _folder(config.run_dir), suites.build(config.suite)
    tasks = _trainable(suite, config.splits, config.tasks)
    training_tasks = suite.select(suite.split("train").tasks)
    conditions = conditions_to_record(folder / LIBRARY_RECORD, config.base_model, config.prompt.definition)
    base = load_base_model(config.base_model)
    libraries = LibraryFolder.of(folder, lora_spec(base.model, config.lora), base)
    record = {
        "spec": libraries.spec.to_json(),
        "base_model": base.name,
        "base_fingerprint": base.fingerprint,
        "base_norm": target_norm(base.model, libraries.spec),
        "suite": {"name": suite.name, "sha256": suite.content_hash()},
        "definition": config.prompt.definition,
        "conditions": conditions,
        "environments": environments(folder / LIBRARY_RECORD),
    }
    if (folder / LIBRARY_RECORD).is_file() and open_library(folder, base).spec != libraries.spec:
        raise ValueError(f"{folder} holds adapters of another geometry: choose another run_dir, or remove that folder")
    if (folder / RECORD_FILE).is_file():
        raise ValueError(f"{folder} holds another method's adapters: choose another run_dir, or remove that folder")
    world.wait()
    if world.is_main:
        folder.mkdir(parents=True, exist_ok=True)
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
        write_json(folder / LIBRARY_RECORD, {**record, "base_parameters_sha256": parameters})
    world.wait()
    log.info("library of %d adapters in %s", len(libraries.adapters.tasks()), folder)
    if world.is_main:
        training_outcome(folder).log()
    return folder


def _train_method_library(config: TrainLibraryConfig) -> Path:
    folder, suite = _folder(config.run_dir), suites.build(config.suite)
    if (folder / LIBRARY_RECORD).is_file():
        raise ValueError(f"{folder} holds a library of LoRAs: choose another run_dir, or remove that folder")
    tasks = _trainable(suite, config.splits, config.tasks)
    method = methods.build(config.method)
    conditions = conditions_to_record(folder / RECORD_FILE, config.base_model, config.prompt.definition)
    base = load_base_model(method.base_config(config.base_model))
    record = {
        "base_model": base.name,
        "suite": {"name": suite.name, "sha256": suite.content_hash()},
        "definition": config.prompt.definition,
        "conditions": conditions,
        "environments": environments(folder / RECORD_FILE),
    }
    make_method_library(folder, method, base, tasks, config.seed, record, config.prompt)
    training_outcome(folder).log()
    return folder


def _embed(encoder: TaskEncoder, tasks: Sequence[Task], count: int, world: World) -> list[Tensor]:
    if not world.is_main:
        world.wait()  # the main process fills the cache first
    groups = encoder.encode_groups([t.descriptions["train"][:count] for t in tasks], progress=world.is_main)
    if world.is_main:
        world.wait()
    return groups


def _objective(
    config: TrainConfig, base: BaseModel, tasks: Sequence[Task], embeddings: list[Tensor], spec: LoraSpec, world: World
) -> Objective:
    if isinstance(config.objective, ReconstructionConfig):
        library = open_library(Path(config.library or ""), base)
        if library.spec != spec:
            raise ValueError(f"library={config.library} has adapters of another geometry than lora.* asks for")
        weights = library.adapters.load([t.name for t in tasks]).to(base.device)
        return ReconstructionObjective(config.objective, config.trainer, config.seed, weights, embeddings, world)
    shown = [config.prompt.apply(t) for t in tasks]
    cuts, longest = CutCount(), config.trainer.max_length
    rows = [tokenize_examples(base.tokenizer, t.examples["train"], "", longest, t.name, cuts) for t in shown]
    cuts.warn(longest)
    return SftObjective(config.objective, config.trainer, config.seed, base, rows, embeddings, world)


def _learnt_from(
    config: TrainConfig, suite: TaskSuite, tasks: Sequence[Task]
) -> tuple[dict[str, Any] | None, Manifest, bool]:
    """Under which conditions a hypernetwork learns, from what, and whether that is all; reads records alone.

    One that learns a library's adapters learns what they were trained on, under the conditions they were trained under.
    """
    manifest, definition = Manifest.of(tasks, config.descriptions_per_task), config.prompt.definition
    if not isinstance(config.objective, ReconstructionConfig):
        return conditions_of(config.base_model, definition), manifest, True
    folder = Path(config.library or "")
    targets = targets_trained_on(folder, tasks, suite, definition)
    known = [t for t in targets if t is not None]
    if len(known) < len(tasks):
        log.warning("library=%s does not say what %d of its adapters were trained on", folder, len(tasks) - len(known))
    return library_record(folder).get("conditions"), Manifest.union([manifest, *known]), len(known) == len(tasks)


def train(config: TrainConfig, world: World | None = None) -> Path:
    """Trains a hypernetwork on the suite's train split. Returns the run's folder.

    Raises ValueError for a run folder of another configuration, or a library that does not fit.
    """
    world = world or World()
    folder, suite = _folder(config.run_dir), suites.build(config.suite)
    tasks = suite.select(suite.split("train").tasks)
    if not tasks:
        raise ValueError(f"suite {suite.name!r} has no training tasks: none of its tasks is left for the split train")
    world.share(min(config.trainer.tasks_per_step, len(tasks)), "trainer.tasks_per_step")
    encoders.check(config.encoder)
    conditions, manifest, is_known = _learnt_from(config, suite, tasks)
    base = load_base_model(config.base_model)
    encoder = TaskEncoder(config.encoder, base, config.base_model, tasks)
    spec = lora_spec(base.model, config.lora)
    settings = {k: v for k, v in asdict(config).items() if k not in ("run_dir", "logger")}
    run = Run(folder, "train", settings, config.logger, writes=world.is_main)
    embeddings = _embed(encoder, tasks, config.descriptions_per_task, world)
    d_embedding = embeddings[0].shape[1]
    hypernetwork = hypernetworks.build(config.hypernetwork, spec, d_embedding, config.seed).to(base.device)
    if config.trainer.description_whitening is not None:
        hypernetwork.set_description_statistics(embeddings, config.trainer.description_whitening)
    objective = _objective(config, base, tasks, embeddings, spec, world)
    if isinstance(objective, ReconstructionObjective):
        objective.prepare(hypernetwork)
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
        },
    )
    centres = task_centres(hypernetwork, [e.to(base.device) for e in embeddings])
    training_data = TrainingData(manifest, centres)
    with verify_frozen(base.model) as parameters:
        run_training(config.trainer, objective, hypernetwork, run, record, config.seed, world, training_data)
    if world.is_main:
        run.record(base_parameters_sha256=parameters)
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
