"""What `t2l evaluate` takes: contenders, splits, and how they are scored."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from t2l.base_model import BaseModelConfig, LoraConfig
from t2l.checks import at_least, one_of
from t2l.evaluation.board import BoardConfig
from t2l.evaluation.conditions import RULES, ScoredPromptConfig
from t2l.evaluation.contenders.composition import CompositionConfig
from t2l.evaluation.contenders.few_shot import FewShotConfig
from t2l.evaluation.contenders.interface import kinds
from t2l.evaluation.report.forms import VECTOR_FORMS
from t2l.registry import component_of


@dataclass
class EvaluateConfig:
    """`t2l evaluate`: contenders on splits, and the report."""

    base_model: BaseModelConfig = field(default_factory=BaseModelConfig)
    """the frozen base that answers"""
    encoder: Any = None
    """what embeds the descriptions; None, like encoder=own, means each checkpoint's own (and without checkpoints
    minilm_layers)"""
    suite: Any = None
    """where the scored tasks come from"""
    training_suite: Any = None
    """suite whose split train was trained on, if it is not the scored one: suite@training_suite=NAME"""
    lora: LoraConfig = field(default_factory=LoraConfig)
    """geometry of adapters that are trained here"""
    evaluation: BoardConfig = field(default_factory=BoardConfig)
    """how much is scored, and how"""
    few_shot: FewShotConfig = field(default_factory=FewShotConfig)
    """contenders that learn from a few examples"""
    composition: CompositionConfig = field(default_factory=CompositionConfig)
    """contenders that combine the library's adapters"""
    prompt: ScoredPromptConfig = field(default_factory=ScoredPromptConfig)
    """what the base reads beside a question"""
    conditions: str = "trained"
    """trained: what was trained is scored with the template values, dtype, quantization, date and definition of its training,
    whatever base_model says; given: as configured, and the report lists what is otherwise than in training"""
    library: str | None = None
    """folder of `t2l train_library`, for contenders made of its adapters"""
    checkpoints: list[str] = field(default_factory=list)
    """run or checkpoint folders of `t2l train`, RUN:best and RUN:last, a folder of runs (a sweep) or a pattern like runs/m*;
    each is a contender named by its objective and by what it differs in from others, with its controls, and those that
    differ in nothing but their seed are one"""
    method_libraries: list[str] = field(default_factory=list)
    """folders of `t2l train_library method=...`; each is a contender oracle_METHOD"""
    contenders: list[str] | None = None
    """which contenders to score; None: all that suite, library and checkpoints allow, or of a harness the base, and what
    library and checkpoints offer without more (multi_task, oracle, generated)"""
    harness: Any = None
    """None for t2l's own board, or the lm-evaluation-harness (harness=lm_eval) on `tasks`, whose keys
    `t2l evaluate harness=lm_eval --help` shows"""
    tasks: list[str] = field(default_factory=list)
    """tasks of the harness; each is the task of that name in library and suite, or what harness.library_tasks names"""
    allow_code_execution: bool = False
    """whether the code that the model writes may run, for tasks that are scored by running it (pass@1, and the harness's
    humaneval and mbpp); such
    code can do harm, so give it a sandbox"""
    splits: list[str] | None = None
    """splits to score; None means all"""
    robustness_split: str | None = "unseen_combination"
    """split whose descriptions are rewritten in other styles and whose adapters are scaled; None for neither"""
    confidence: bool = True
    """whether to calibrate the confidence of generated adapters, for the report"""
    keep_calibration: bool = False
    """whether to leave that with each checkpoint for `t2l generate`; one of fewer tasks never replaces one of more"""
    validation_split: str | None = None
    """split that checkpoints or settings were chosen on, if they were; it is not scored"""
    descriptions_per_task: int = 48
    """training descriptions of each task that tell where it lies (nearest, static, shuffled_nearest)"""
    vector_figures: str | None = None
    """pdf or svg: the report's figures in this form, too, beside their PNGs; None: PNGs alone"""
    logger: Any = None
    """where metrics and results go besides the run's own files"""
    seed: int = 0
    """decides which tasks, descriptions and shuffles are scored"""
    run_dir: str | None = None
    """folder of the report; None makes a dated one in runs/"""

    def __post_init__(self) -> None:
        self._check_harness()
        chosen = kinds(self.contenders if self.contenders is not None else self.offered())
        needy = [name for name, kind in chosen.items() if kind.needs.library]
        if needy and not self.library:
            raise ValueError(f"contenders {', '.join(needy)} need library=DIR, a folder of `t2l train_library`")
        needy = [name for name, kind in chosen.items() if kind.needs.checkpoints]
        if needy and not self.checkpoints:
            raise ValueError(f"contenders {', '.join(needy)} need checkpoints=[DIR], run folders of `t2l train`")
        if self.validation_split is not None and self.validation_split in (self.splits or [self.validation_split]):
            raise ValueError(
                f"validation_split={self.validation_split} was chosen on, so it cannot be scored: name the others in splits=[...]"
            )
        at_least(self, 1, "descriptions_per_task")
        one_of(self, RULES, "conditions")
        one_of(self, VECTOR_FORMS, "vector_figures")
        is_generated = any(kind.is_generated for kind in chosen.values())
        calibrates = self.confidence and is_generated and self.harness is None
        if self.keep_calibration and not calibrates:
            raise ValueError(
                "keep_calibration=true keeps what is calibrated on generated adapters: it needs confidence=true, generated "
                "among the contenders, and t2l's own board (no harness)"
            )

    def offered(self) -> list[str]:
        """The contenders that library and checkpoints allow."""
        return [
            name for name, kind in kinds().items()
            if (self.library or not kind.needs.library) and (self.checkpoints or not kind.needs.checkpoints)
        ]  # fmt: skip

    def _check_harness(self) -> None:
        if self.harness is None:
            if self.tasks:
                raise ValueError("tasks=[...] are tasks of the harness: add harness=lm_eval, or give splits=[...]")
            return
        name = component_of("harness", self.harness).name
        if not self.tasks:
            raise ValueError(f"harness={name} scores tasks=[...]: name at least one, like tasks=[arc_easy]")
        if self.splits:
            raise ValueError(f"harness={name} scores tasks=[...], no splits: leave out splits=[...]")
        known = kinds()
        if self.contenders is None:
            self.contenders = [name for name in self.offered() if known[name].is_harness_default]
        fitting = [name for name, kind in known.items() if kind.needs.is_met_by_harness]
        other = [name for name in self.contenders if name in known and name not in fitting]
        if other:
            raise ValueError(
                f"contenders: {other[0]} cannot be scored by the harness; choose from {', '.join(fitting)}"
            )
