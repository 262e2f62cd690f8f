"""EleutherAI's lm-evaluation-harness (Gao et al. 2021) over a base model and adapters held in memory.

Tasks are loaded once and scored in passes. A pass is one task under one adapter, which serves every row of
every batch, so all kinds of requests (likelihoods, generation) run as they do for any other model.
"""

from __future__ import annotations

import copy
import difflib
import hashlib
import importlib.metadata
import importlib.util
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from t2l.base_model import BaseModel
from t2l.base_model.decoding import plain_decoding
from t2l.checks import at_least, positive
from t2l.evaluation.metrics.code_runner import check_allowed, is_allowed
from t2l.evaluation.settings import INDECISIVE
from t2l.files import FileProblemError
from t2l.registry import register
from t2l.tasks import Task
from t2l.tasks.prompting import PLAIN_TEMPLATE
from t2l.tasks.suites.descriptions import METADATA_FILE, check_descriptions, read_descriptions

log = logging.getLogger(__name__)


@dataclass
class HarnessConfig:
    """How the lm-evaluation-harness scores, and what tells its tasks to adapters. hydra.verbose=true shows its own messages."""

    name: str = "lm_eval"
    """fixed"""
    include_path: str | None = None
    """folder of more task YAMLs, which go before the harness's own of the same names"""
    limit: float | None = None
    """most examples per task, from 1 on, or the part of them, below 1; None for all"""
    num_fewshot: int | None = None
    """solved examples in the prompt, for tasks that do not forbid it; None leaves it to each task"""
    batch_size: int = 16
    """requests run together"""
    apply_chat_template: bool = True
    """whether prompts go through the base's chat template, or through t2l's own if it has none, as adapters are trained;
    false: as the harness writes them for bases without one, which published numbers are about"""
    library_tasks: dict[str, str] = field(default_factory=dict)
    """harness task to the task of library and suite that it is (+harness.library_tasks.TASK=NAME); a task that is not here
    has the same name there"""
    descriptions: dict[str, list[str]] = field(default_factory=dict)
    """harness task to descriptions of it (+harness.descriptions.TASK=[...])"""
    descriptions_folder: str | None = None
    """folder with TASK/metadata.yaml, whose list `descriptions` describes the harness task TASK"""
    descriptions_per_task: int = 1
    """descriptions used per task; each costs a pass over the task for each contender made from descriptions"""
    random_seed: int = 0
    """seed of Python's random numbers (the harness's default)"""
    numpy_seed: int = 1234
    """seed of numpy's (the harness's default)"""
    torch_seed: int = 1234
    """seed of torch's (the harness's default)"""
    fewshot_seed: int = 1234
    """decides which solved examples stand in the prompt (the harness's default)"""

    def __post_init__(self) -> None:
        if self.name != "lm_eval":
            raise ValueError(f"harness.name must be 'lm_eval', not {self.name!r}")
        positive(self, "limit", under="harness")
        at_least(self, 0, "num_fewshot", under="harness")
        at_least(self, 1, "batch_size", "descriptions_per_task", under="harness")
        for task, texts in self.descriptions.items():
            try:
                check_descriptions(texts)
            except ValueError as error:
                raise ValueError(f"harness.descriptions: task {task!r}: {error}") from None


@contextmanager
def quiet(level: int = logging.WARNING) -> Iterator[None]:
    """Within the block, harness, datasets and metrics log nothing below a level, and show no bars beside t2l's own.

    With hydra.verbose=true they do.
    """
    from tqdm import tqdm

    if log.isEnabledFor(logging.DEBUG):
        yield
        return
    loggers, made = [logging.getLogger(name) for name in ("lm_eval", "datasets", "evaluate", "absl")], tqdm.__init__
    before = [logger.level for logger in loggers]

    def hidden(self: Any, *args: Any, **options: Any) -> None:
        made(self, *args, **{**options, "disable": True})

    for logger in loggers:
        logger.setLevel(level)
    tqdm.__init__ = hidden
    try:
        yield
    finally:
        tqdm.__init__ = made
        for logger, was in zip(loggers, before, strict=True):
            logger.setLevel(was)


@register("harness", "lm_eval", HarnessConfig)
class Harness:
    """Tasks of the harness, ready to be scored under one adapter after another.

    `tasks` maps names to what the harness loaded: a task, or a group with a score of its own. A tag, or a group
    without one, stands for its tasks.
    """

    def __init__(self, config: HarnessConfig, names: Sequence[str]) -> None:
        """Loads the tasks.

        Raises ValueError if the harness is not installed, has no task of a name, cannot load a dataset, or
        would run code without leave.
        """
        if importlib.util.find_spec("lm_eval") is None:
            raise ValueError("harness=lm_eval needs the lm-evaluation-harness: pip install 't2l[eval]'")
        if config.include_path is not None and not Path(config.include_path).is_dir():
            raise FileProblemError(f"harness.include_path={config.include_path}: no such folder")
        if is_allowed():
            os.environ.setdefault("HF_ALLOW_CODE_EVAL", "1")
        self.config = config
        self.tasks: dict[str, Any] = {}
        with quiet():
            self._manager = self._index(names)
            settings = {name: self._settings(name) for name in names}
            for name in names:
                self.tasks.update(self._load(name, settings[name]))
        # Before anything is scored, which changes the tasks' own settings.
        self.task_identities = {name: _task_identity(task) for name, task in self.tasks.items()}
        """sha256 over each task's settings and the examples that are scored"""

    def _index(self, names: Sequence[str]) -> Any:
        from lm_eval.tasks import TaskManager

        if self.config.include_path is not None:
            own = TaskManager(include_path=self.config.include_path, include_defaults=False)
            if set(names) <= set(own.all_subtasks):
                return own  # without reading the thousands of YAMLs that come with the harness
        return TaskManager(include_path=self.config.include_path)

    def _settings(self, name: str) -> Mapping[str, Any]:
        """What the YAML of a name says. Raises ValueError for an unknown name, and for code that may not run."""
        entry = self._manager.task_index.get(name)
        if entry is None and not Path(name).is_file():
            near = difflib.get_close_matches(name, self._manager.all_tasks, n=3)
            hint = f"did you mean {', '.join(near)}?" if near else "`lm-eval ls tasks` lists what there is"
            raise ValueError(f"tasks: the harness has no task {name!r}; {hint}")
        settings = (entry.cfg if entry is not None else None) or {}
        for part, inner in self._parts(name, set()):
            if inner.get("unsafe_code"):
                within = "" if part == name else f", which holds {part!r},"
                check_allowed(f"harness task {name!r}{within}")
        return settings

    def _parts(self, name: str, seen: set[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """What the YAMLs say of a name and of everything inside it: the tasks of a group, of its groups, of a tag."""
        entry = self._manager.task_index.get(name)
        if entry is None or name in seen:
            return
        seen.add(name)
        settings = entry.cfg or {}
        yield name, settings
        inside = settings.get("task") if settings else sorted(entry.tags)
        for part in inside if isinstance(inside, list) else []:
            if isinstance(part, Mapping):
                named = str(part.get("task") or part.get("group"))
                yield named, part
                inner = part.get("task")
                for own in [str(p) for p in inner] if isinstance(inner, list) else [named]:
                    yield from self._parts(own, seen)
            else:
                yield from self._parts(str(part), seen)

    def _load(self, name: str, settings: Mapping[str, Any]) -> Mapping[str, Any]:
        from datasets.exceptions import DatasetsError

        try:
            found = self._manager.load([name])
        except ImportError as error:
            raise ValueError(f"harness task {name!r} needs a package that is not installed: {error}") from error
        except (OSError, ValueError, DatasetsError) as error:
            parts = [str(settings[k]) for k in ("dataset_path", "dataset_name") if settings.get(k)]
            dataset = f"its dataset {' '.join(parts)} (or a metric)" if parts else "its data"
            raise ValueError(
                f"harness task {name!r}: {dataset} could not be loaded: {(str(error).strip() or repr(error)).splitlines()[0]}; "
                "fetch it once while online, or give a task YAML over local files in harness.include_path"
            ) from error
        group = found.get("groups", {}).get(name)
        return {name: group} if group is not None and group.has_aggregation else found["tasks"]

    @property
    def identity(self) -> dict[str, Any]:
        """What decides scores beside the task, the base model and its adapter."""
        settings = {k: v for k, v in vars(self.config).items() if k not in INDECISIVE["harness"]}
        return {"lm_eval": importlib.metadata.version("lm_eval"), **settings}

    def wrap(self, base: BaseModel) -> Any:
        """A base model as the harness wants it; adapters injected later work on it, too.

        With `apply_chat_template` the base reads the very tokens that it reads on t2l's own board: prompts of a base
        without a chat template are t2l's (`tasks.PLAIN_TEMPLATE`), special tokens come from the template alone, and
        prompt and answer are tokenized apart.
        """
        from lm_eval.models.huggingface import HFLM

        as_trained, tokenizer = self.config.apply_chat_template, base.tokenizer
        if as_trained and getattr(tokenizer, "chat_template", None) is None:
            tokenizer = copy.deepcopy(tokenizer)
            tokenizer.chat_template = PLAIN_TEMPLATE
        with quiet(logging.ERROR):
            lm = HFLM(
                pretrained=base.model,
                tokenizer=tokenizer,
                backend="causal",
                batch_size=self.config.batch_size,
                add_bos_token=False if as_trained else None,
            )
        if as_trained:
            lm._encode_pair = partial(_encoded_apart, lm)
        return lm

    def score(self, lm: Any, task: str, prefix: str = "") -> dict[str, Any]:
        """One pass over a task: what `lm_eval.simple_evaluate` returns, of each sample its answer and scores.

        Args:
            lm: what `wrap` made, with whatever adapter is injected into its model.
            prefix: text before the first user turn, on a line of its own (a description).
        """
        from lm_eval import simple_evaluate

        config = self.config
        in_chat = bool(prefix) and config.apply_chat_template
        with (
            quiet(),
            plain_decoding(lm.model),
            _first_turn_prefixed(lm, prefix) if in_chat else nullcontext(),
        ):
            found = simple_evaluate(
                model=lm,
                tasks=[self.tasks[task]],
                task_manager=self._manager,
                num_fewshot=config.num_fewshot,
                batch_size=config.batch_size,
                limit=config.limit,
                apply_chat_template=config.apply_chat_template,
                system_instruction=f"{prefix}\n" if prefix and not in_chat else None,
                confirm_run_unsafe_code=is_allowed(),
                random_seed=config.random_seed,
                numpy_random_seed=config.numpy_seed,
                torch_random_seed=config.torch_seed,
                fewshot_random_seed=config.fewshot_seed,
            )
        samples = {name: [_answered(s) for s in of_task] for name, of_task in found["samples"].items()}
        return {**found, "samples": samples}


def _encoded_apart(lm: Any, context: str, continuation: str) -> tuple[list[int], list[int]]:
    """Prompt and continuation as token ids; the harness would move the prompt's last blanks to the continuation."""
    return lm.tok_encode(context, add_special_tokens=False), lm.tok_encode(continuation, add_special_tokens=False)


def what_differs(config: HarnessConfig, tokenizer: Any) -> str:
    """One line on how the base's prompts differ from those on t2l's own board; empty if they do not."""
    if config.apply_chat_template:
        return ""
    own = "the base's chat template" if getattr(tokenizer, "chat_template", None) else (
        "a line break after the prompt" + (f" and {tokenizer.bos_token} before it" if tokenizer.bos_token else "")
    )  # fmt: skip
    return f"Prompts are the harness's own (harness.apply_chat_template=false); adapters are trained with {own}."


def _task_identity(task: Any) -> str:
    """Sha256 over settings and examples of a task, or of all tasks of a group."""
    parts = task.get_all_tasks() if hasattr(task, "get_all_tasks") else [task]
    digest = hashlib.sha256()
    for part in parts:
        settings = json.dumps(part.dump_config(), sort_keys=True, default=str)
        digest.update(re.sub(r" at 0x[0-9a-f]+", "", settings).encode())
        for doc in part.eval_docs:
            digest.update(json.dumps(doc, sort_keys=True, default=str).encode())
    return digest.hexdigest()


def _answered(sample: Mapping[str, Any]) -> dict[str, Any]:
    """A sample without its document and prompts, which are the same in every pass."""
    kept = {key: sample[key] for key in ("doc_id", "doc_hash", "filter", "target")}
    return {**kept, "answer": sample["filtered_resps"], "scores": {m: sample[m] for m in sample["metrics"]}}


@contextmanager
def _first_turn_prefixed(lm: Any, prefix: str) -> Iterator[None]:
    """Within the block, chats begin with a text, inside the first user turn.

    The harness would put it into a system turn, which some chat templates refuse and the harness then drops.
    """
    render = lm.apply_chat_template

    def prefixed(history: Sequence[Mapping[str, str]], **options: Any) -> str:
        turns = [dict(turn) for turn in history]
        first = next(turn for turn in turns if turn["role"] == "user")
        first["content"] = f"{prefix}\n{first['content']}"
        return render(turns, **options)

    lm.apply_chat_template = prefixed
    try:
        yield
    finally:
        lm.apply_chat_template = render


def descriptions_of(config: HarnessConfig, name: str, tasks: Mapping[str, Task]) -> tuple[list[str], str]:
    """The descriptions of a harness task that are used, and where they come from.

    They come from `harness.descriptions`, from `harness.descriptions_folder`, or from the suite's task of that
    name; of the suite's, phrasings kept for tests go first.

    Args:
        tasks: of the suite, by name.

    Raises ValueError if there are none, and FileProblemError for a folder or file that is not what it should be.
    """
    folder = None if config.descriptions_folder is None else Path(config.descriptions_folder)
    if folder is not None and not folder.is_dir():
        raise FileProblemError(f"harness.descriptions_folder={folder}: no such folder")
    own = config.library_tasks.get(name, name)
    if name in config.descriptions:
        found, source = tuple(config.descriptions[name]), "harness.descriptions"
    elif folder is not None and (folder / name / METADATA_FILE).is_file():
        found, source = read_descriptions(folder, name), str(folder / name / METADATA_FILE)
    elif own in tasks:
        phrasing = "test" if tasks[own].descriptions.get("test") else "train"
        found, source = tasks[own].descriptions[phrasing], f"task {own} of the suite, phrasing set {phrasing}"
    else:
        raise ValueError(
            f"harness task {name!r} has no description: give +harness.descriptions.{name}=[...], "
            f"harness.descriptions_folder=DIR with {name}/{METADATA_FILE}, or a suite with a task of that name "
            f"(called otherwise there: +harness.library_tasks.{name}=NAME)"
        )
    return list(found[: config.descriptions_per_task]), source
