"""The whole path in one run: library, two hypernetworks, the board, one adapter at work."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from t2l.base_model import BaseModelConfig, LoraConfig, load_base_model
from t2l.evaluation.board import BoardConfig, view_split
from t2l.evaluation.conditions import conditions_for, trained_in
from t2l.evaluation.config import EvaluateConfig
from t2l.evaluation.contenders.few_shot import FewShotConfig
from t2l.evaluation.contenders.interface import SplitView, kinds
from t2l.evaluation.metrics.code_runner import as_configured
from t2l.evaluation.scope import chosen_contenders
from t2l.evaluation.scoring import check_code, greedy_answers
from t2l.library import open_library
from t2l.library.training import LibraryTrainingConfig
from t2l.lora.peft_folder import load_adapter
from t2l.methods.low_rank import check_layers
from t2l.objectives import objective_of
from t2l.run.console import print_table
from t2l.tasks import PromptConfig, TaskSuite, suites
from t2l.tracking import stage
from t2l.training.loop import TrainerConfig
from t2l.verbs import Verb
from t2l.verbs.evaluate import evaluate, print_report
from t2l.verbs.generate import GenerateConfig, generate
from t2l.verbs.results import of_quickstart
from t2l.verbs.shared import settings_from
from t2l.verbs.train import TrainConfig, train
from t2l.verbs.train_library import TrainLibraryConfig, train_library

log = logging.getLogger(__name__)
CONTENDERS = ("base", "prompted", "formal_code", "multi_task", "oracle", "generated")
"""what is scored unless something else is asked for"""


@dataclass
class QuickstartConfig:
    """`t2l quickstart`: the whole path, on the embedded world or with experiment=... on others."""

    base_model: BaseModelConfig = field(default_factory=BaseModelConfig)
    """the frozen base that the adapters are for"""
    encoder: Any = None
    """what embeds the descriptions"""
    suite: Any = None
    """where the tasks come from"""
    lora: LoraConfig = field(default_factory=LoraConfig)
    """geometry of the adapters"""
    hypernetwork: Any = None
    """what turns an embedding into an adapter"""
    library_training: LibraryTrainingConfig = field(default_factory=LibraryTrainingConfig)
    """how the library's adapters are trained"""
    multi_task: LibraryTrainingConfig = field(default_factory=LibraryTrainingConfig)
    """how the multi-task LoRA is trained"""
    sft: Any = None
    """objective of the hypernetwork that is trained through the base"""
    sft_trainer: TrainerConfig = field(default_factory=TrainerConfig)
    """its training loop"""
    reconstruction: Any = None
    """objective of the hypernetwork that is trained to reconstruct the library"""
    reconstruction_trainer: TrainerConfig = field(default_factory=TrainerConfig)
    """its training loop"""
    evaluation: BoardConfig = field(default_factory=BoardConfig)
    """how much is scored, and how"""
    few_shot: FewShotConfig = field(default_factory=FewShotConfig)
    """contenders that learn from a few examples"""
    prompt: PromptConfig = field(default_factory=PromptConfig)
    """what the base reads beside a question"""
    contenders: list[str] | None = None
    """which contenders to score; None: base, prompted, multi_task, oracle, generated, and formal_code if tasks have one"""
    allow_code_execution: bool = False
    """whether the code that the model writes may run, for tasks that are scored by running it (pass@1); such
    code can do harm, so give it a sandbox"""
    descriptions_per_task: int = 48
    """training descriptions of each task that are used"""
    logger: Any = None
    """where metrics and results go besides the run's own files"""
    seed: int = 0
    """the one seed of everything"""
    run_dir: str | None = None
    """folder of everything the run makes"""

    def __post_init__(self) -> None:
        check_layers(self.lora, {})  # it begins with a library
        for objective, trainer in ((self.reconstruction, self.reconstruction_trainer), (self.sft, self.sft_trainer)):
            if objective is not None:  # before the library is trained
                objective_of(objective).check_settings(objective, trainer, self.prompt)


def _unseen_split(suite: TaskSuite) -> str:
    """The first split whose tasks are not the training tasks; train if there is none."""
    trained = set(suite.split("train").tasks)
    return next((name for name, split in suite.splits.items() if split.tasks and not trained & {*split.tasks}), "train")


def _show_one(config: QuickstartConfig, folder: Path) -> None:
    """Generates an adapter for a task never trained on, loads it back from disk and lets it answer."""
    suite = suites.build(config.suite)
    split = _unseen_split(suite)
    conditions = conditions_for("trained", config.base_model, None, trained_in([str(folder / "sft")]))
    view = view_split(suite, split, config.evaluation, config.seed, conditions.definition == "shown")
    task, description = view.tasks[0], view.descriptions[0][0]
    made = GenerateConfig(checkpoint=str(folder / "sft"), run_dir=str(folder / "generated"), descriptions=[description])
    ((out, _),) = generate(made)
    base = load_base_model(conditions.base_model)
    spec = open_library(folder / "library", base).spec
    questions = [q for q in view.questions() if q.task == task.name][:4]
    limits = (config.evaluation.max_new_tokens, config.evaluation.batch_size)
    bare = greedy_answers(base, questions, None, None, *limits)
    adapted = greedy_answers(base, questions, spec, load_adapter(out, spec), *limits)
    pairs = zip(bare, adapted, strict=True)
    rows = [(before.question.input, before.answer, after.answer, after.question.reference) for before, after in pairs]
    header = ("input", "base alone", "with the generated adapter", "right answer")
    print_table(header, rows, f"generated from: {description!r} (split {split})")
    print(f"PEFT adapter folder: {out}")


def _contenders(config: QuickstartConfig, views: Sequence[SplitView]) -> list[str]:
    """Those asked for, else the usual ones that the tasks allow."""
    if config.contenders is not None:
        return config.contenders
    has_codes = all(task.formal_code is not None for view in views for task in view.tasks)
    return [name for name, kind in kinds(CONTENDERS).items() if has_codes or not kind.needs.formal_code]


def _evaluation(config: QuickstartConfig, contenders: list[str], folders: Mapping[str, str]) -> EvaluateConfig:
    """Of the last step but one. Spelled out: `prompt` and `descriptions_per_task` say something else there than in training."""
    return EvaluateConfig(
        base_model=config.base_model,
        encoder=config.encoder,
        suite=config.suite,
        lora=config.lora,
        evaluation=config.evaluation,
        library=folders["library"],
        contenders=contenders,
        few_shot=config.few_shot,
        allow_code_execution=config.allow_code_execution,
        robustness_split=None,
        keep_calibration=any(kind.is_generated for kind in kinds(contenders).values()),
        checkpoints=[folders["sft"], folders["reconstruction"]],
        seed=config.seed,
        run_dir=config.run_dir,
    )


def _planned(config: QuickstartConfig, folders: Mapping[str, str]) -> EvaluateConfig:
    """The evaluation, checked before anything is trained for it. Raises ValueError if the suite's tasks do not allow it."""
    suite = suites.build(config.suite)
    names = [name for name, split in suite.splits.items() if split.tasks]
    views = [view_split(suite, name, config.evaluation, config.seed) for name in names]
    for task in (task for view in views for task in view.tasks):
        check_code(task)
    planned = _evaluation(config, _contenders(config, views), folders)
    chosen_contenders(planned, views, suite.name, suite.split("train").tasks)
    return planned


@as_configured
def quickstart(config: QuickstartConfig) -> None:
    """Runs the whole path; what is already in the run folder is kept and not done again.

    Raises ValueError, before anything is trained, if a split has too few tasks for the controls, or a contender lacks something.
    """
    console, folder = Console(), Path(config.run_dir or "runs/quickstart")
    config = replace(config, run_dir=str(folder))
    folders = {name: str(folder / name) for name in ("library", "reconstruction", "sft")}
    planned = _planned(config, folders)
    console.rule("1/5 library: one LoRA per task, and the multi-task LoRA")
    library = {"training": config.library_training, "run_dir": folders["library"]}
    train_library(settings_from(TrainLibraryConfig, config, **library))
    console.rule("2/5 hypernetwork trained by reconstruction of the library")
    own = {"objective": config.reconstruction, "trainer": config.reconstruction_trainer, "library": folders["library"]}
    with stage("reconstruction"):
        train(settings_from(TrainConfig, config, **own, run_dir=folders["reconstruction"]))
    console.rule("3/5 hypernetwork trained by SFT through the frozen base")
    own = {"objective": config.sft, "trainer": config.sft_trainer, "run_dir": folders["sft"]}
    with stage("sft"):
        train(settings_from(TrainConfig, config, **own))
    console.rule("4/5 every contender on every split")
    cells = evaluate(planned)
    console.rule("5/5 one generated adapter at work")
    _show_one(config, folder)
    print_report(cells, folder)


VERB = Verb(QuickstartConfig, quickstart, results=of_quickstart)
