"""`t2l train_library`: an oracle adapter per task, and the multi-task LoRA; or another method per task."""

from __future__ import annotations

import logging
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from t2l import methods
from t2l.base_model import BaseModel, BaseModelConfig, LoraConfig, load_base_model, lora_spec, verify_frozen
from t2l.checks import at_least
from t2l.distributed import World
from t2l.evaluation.conditions import conditions_to_record
from t2l.files import read_json, write_json
from t2l.library import LIBRARY_RECORD, MULTI_TASK, LibraryFolder, library_record, open_library
from t2l.library.training import LibraryTrainingConfig, train_multi_task
from t2l.library.training import train_library as train_adapters_of
from t2l.lora import LoraSpec
from t2l.methods.folder import RECORD_FILE, MethodLibrary
from t2l.methods.low_rank import check_layers
from t2l.methods.training import make_method_library
from t2l.objectives.soundness import target_norm
from t2l.run.record import environments, environments_of, say_finished
from t2l.seeding import generator_for
from t2l.tasks import PromptConfig, Task, TaskSuite, suites
from t2l.verbs import Verb
from t2l.verbs.library import training_outcome
from t2l.verbs.results import of_library
from t2l.verbs.shared import folder_of, tasks_of

log = logging.getLogger(__name__)


@dataclass
class TrainLibraryConfig:
    """`t2l train_library`: an oracle adapter per task, and the multi-task LoRA; or another method per task."""

    base_model: BaseModelConfig = field(default_factory=BaseModelConfig)
    """the frozen base that the adapters are for"""
    suite: Any = None
    """where the tasks come from"""
    lora: LoraConfig = field(default_factory=LoraConfig)
    """geometry of the adapters"""
    method: Any = None
    """what is trained: batched_lora (also None), or one of the methods it is compared with, without multi-task LoRA"""
    training: LibraryTrainingConfig = field(default_factory=LibraryTrainingConfig)
    """how method=batched_lora is trained; other methods bring `method.optimization`"""
    multi_task: LibraryTrainingConfig = field(default_factory=LibraryTrainingConfig)
    """how the multi-task LoRA is trained"""
    prompt: PromptConfig = field(default_factory=PromptConfig)
    """what the base reads beside a question"""
    splits: list[str] | None = None
    """splits whose tasks get an adapter; None means all"""
    tasks: list[str] | None = None
    """names of single tasks instead of splits"""
    sample: int | None = None
    """training tasks, drawn by the seed, that get an adapter in place of all; contenders and objectives that use the
    training tasks' adapters then use theirs. Named tasks come on top"""
    train_multi_task: bool | None = None
    """whether the multi-task LoRA is trained, on the tasks of split `train`; None: unless `tasks` names single ones"""
    logger: Any = None
    """where metrics and results go besides the run's own files"""
    seed: int = 0
    """decides initial weights and data order"""
    run_dir: str | None = None
    """folder of the library; None makes a dated one in runs/"""

    def __post_init__(self) -> None:
        check_layers(self.lora, {"method": self.method})
        if self.train_multi_task and not methods.is_batched(self.method):
            raise ValueError("train_multi_task=true: only method=batched_lora has a multi-task LoRA: leave it out")
        at_least(self, 1, "sample")
        if self.sample is not None and not methods.is_batched(self.method):
            raise ValueError("sample: only for method=batched_lora: name the tasks of other methods by tasks=[...]")


def _sample(config: TrainLibraryConfig, suite: TaskSuite) -> list[str] | None:
    """Names of the training tasks that are drawn, in the suite's order; None without drawing."""
    if config.sample is None:
        return None
    names = suite.split("train").tasks
    if config.sample > len(names):
        raise ValueError(f"sample={config.sample} is more than suite {suite.name} has training tasks ({len(names)})")
    drawn = generator_for("library sample", config.seed).permutation(len(names))[: config.sample]
    return [names[i] for i in sorted(drawn)]


def _sample_of(config: TrainLibraryConfig, folder: Path, suite: TaskSuite, drawn: list[str] | None) -> list[str] | None:
    """What the library's record says from now on: names of the training tasks that it is a library of; None for all.

    Raises ValueError for another sample than the library there is of: what was made of it would change its meaning.
    """
    if not (folder / LIBRARY_RECORD).is_file():
        return drawn
    before: list[str] | None = library_record(folder).get("sample")
    if drawn is None:
        is_of_all = config.tasks is None and (config.splits is None or "train" in config.splits)
        return None if is_of_all else before
    adapters = {p.name for p in (folder / "adapters").glob("[!.]*")}
    if drawn != before and (before is not None or set(suite.split("train").tasks) <= adapters):
        kind = "all" if before is None else "another sample of the"
        raise ValueError(
            f"sample={config.sample}: {folder} is a library of {kind} training tasks: choose another run_dir"
        )
    return drawn


def _asked(config: TrainLibraryConfig, suite: TaskSuite, sample: Sequence[str] | None) -> list[Task]:
    asked = tasks_of(suite, config.splits, config.tasks)
    if sample is None:
        return asked
    training = set(suite.split("train").tasks) if config.tasks is None else set()
    return suite.select(dict.fromkeys([*(t.name for t in asked if t.name not in training), *sample]))


def _trainable(config: TrainLibraryConfig, suite: TaskSuite, sample: Sequence[str] | None = None) -> list[Task]:
    """Those with training examples. Raises ValueError if one that is asked for by name or split has none."""
    splits, names, asked = config.splits, config.tasks, _asked(config, suite, sample)
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
    world = world or World()
    _check_processes(config, world)
    if not methods.is_batched(config.method):
        return _train_method_library(config)
    folder, suite = folder_of(config.run_dir), suites.build(config.suite)
    drawn = _sample(config, suite)
    tasks, sample = _trainable(config, suite, drawn), _sample_of(config, folder, suite, drawn)
    with_multi_task = config.tasks is None if config.train_multi_task is None else config.train_multi_task
    joint_tasks = suite.select(suite.split("train").tasks) if with_multi_task else []
    conditions = conditions_to_record(folder / LIBRARY_RECORD, config.base_model, config.prompt.definition)
    base = load_base_model(config.base_model)
    libraries = LibraryFolder.of(folder, lora_spec(base.model, config.lora), base)
    record: dict[str, Any] = {
        "spec": libraries.spec.to_json(),
        "base_model": base.name,
        "base_fingerprint": base.fingerprint,
        "base_norm": target_norm(base.model, libraries.spec),
        "suite": {"name": suite.name, "sha256": suite.content_hash()},
        **({} if sample is None else {"sample": sample}),
        "definition": config.prompt.definition,
        "conditions": conditions,
    }
    _check_folder(folder, base, libraries.spec)
    missing = {t.name for t in tasks} - set(libraries.adapters.tasks())
    if joint_tasks:
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
        if joint_tasks and world.is_main:
            static, settings = libraries.static, config.multi_task
            train_multi_task(static, base, joint_tasks, settings, config.seed, MULTI_TASK, config.prompt)
    if world.is_main:
        write_json(folder / LIBRARY_RECORD, {**record, "base_parameters_sha256": parameters, "finished": True})
        if not missing:
            say_finished(folder, record, f"its {len(tasks)} adapters")
    world.wait()
    log.info("library of %d adapters in %s", len(libraries.adapters.tasks()), folder)
    if world.is_main:
        training_outcome(folder).log()
    return folder


def _check_processes(config: TrainLibraryConfig, world: World) -> None:
    """Raises ValueError for what cannot run in several processes."""
    if world.size == 1:
        return
    if not methods.is_batched(config.method):
        raise ValueError("method: only batched_lora runs in several processes; start the others without torchrun")
    if config.base_model.shard:
        raise ValueError(
            "base_model.shard=true: processes of train_library train different tasks, each at its own pace, so each needs "
            "the whole base: base_model.shard=false"
        )


def _check_folder(folder: Path, base: BaseModel, spec: LoraSpec) -> None:
    """Raises ValueError for a folder whose adapters are of another geometry or method."""
    if (folder / LIBRARY_RECORD).is_file() and open_library(folder, base).spec != spec:
        raise ValueError(f"{folder} holds adapters of another geometry: choose another run_dir, or remove that folder")
    if (folder / RECORD_FILE).is_file():
        raise ValueError(f"{folder} holds another method's adapters: choose another run_dir, or remove that folder")


def _working_on(record: Path, missing: Collection[str]) -> list[dict[str, Any]]:
    """The environments that worked on a folder: this one, too, if anything is left to do."""
    if missing or not record.is_file():
        return environments(record)
    return environments_of(read_json(record))


def _train_method_library(config: TrainLibraryConfig) -> Path:
    folder, suite = folder_of(config.run_dir), suites.build(config.suite)
    if (folder / LIBRARY_RECORD).is_file():
        raise ValueError(f"{folder} holds a library of LoRAs: choose another run_dir, or remove that folder")
    tasks = _trainable(config, suite)
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


def run(config: TrainLibraryConfig, world: World) -> None:
    """Trains a library. Ends with exit code 1 and one line if a task failed or there is no adapter at all."""
    outcome = training_outcome(train_library(config, world))
    if outcome.is_complete:
        return
    if world.is_main:
        print(f"t2l: incomplete: {outcome.summary}", file=sys.stderr)
    raise SystemExit(1)


VERB = Verb(TrainLibraryConfig, run, is_parallel=True, results=of_library)
