"""Root config of each verb, and their registration with Hydra.

Components own their dataclasses; a root only composes them. YAML gives values; composition is checked
against these types, and `OmegaConf.to_object` turns the result into them once, in the CLI.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import Any

from t2l import methods
from t2l.base_model import BaseModelConfig, LoraConfig
from t2l.conditions import RULES, ScoredPromptConfig
from t2l.describe import DescribeConfig, EndpointConfig, LocalModelConfig
from t2l.encoder import (
    BaseModelEncoderConfig,
    CausalLMEncoderConfig,
    EncoderConfig,
    OneHotConfig,
    OwnEncoderConfig,
)
from t2l.evaluation.board import BoardConfig
from t2l.evaluation.harness import HarnessConfig
from t2l.few_shot import FewShotConfig
from t2l.hypernetwork import ResidualConfig, TextToLoraConfig
from t2l.library_training import LibraryTrainingConfig
from t2l.pretrain_base import PretrainBaseConfig
from t2l.run import LoggerConfig
from t2l.suites import FolderSuiteConfig, HubSuiteConfig, WordListConfig
from t2l.tasks import PromptConfig
from t2l.training import ReconstructionConfig, SftConfig, TrainerConfig

CONTENDERS = (
    "base", "prompted", "icl", "prompted_icl", "formal_code", "library_mean", "multi_task", "nearest", "arrow", "lorahub",
    "few_shot", "oracle", "generated", "refined",
)  # fmt: skip
HARNESS_CONTENDERS = (
    "base", "prompted", "library_mean", "multi_task", "nearest", "arrow", "oracle", "generated",
)  # fmt: skip
"""those that need no example of a task before it is scored"""
FROM_LIBRARY = ("library_mean", "multi_task", "nearest", "arrow", "lorahub", "oracle")


def check_layers(lora: LoraConfig, chosen: Mapping[str, Any]) -> None:
    """Raises ValueError where a low-rank method adapts other layers than lora.* says."""
    for key, method in chosen.items():
        if isinstance(method, methods.LowRankConfig) and method.layers != lora.layers:
            raise ValueError(f"{key}.layers is {method.layers}, lora.layers is {lora.layers}: set both to the same")


@dataclass
class TrainLibraryConfig:
    """`t2l train_library`: an oracle adapter per task, and the multi-task LoRA; or another method per task."""

    base_model: BaseModelConfig = field(default_factory=BaseModelConfig)
    suite: Any = None
    lora: LoraConfig = field(default_factory=LoraConfig)
    method: Any = None
    """what is trained: batched_lora (also None), or one of the methods it is compared with, without multi-task LoRA"""
    training: LibraryTrainingConfig = field(default_factory=LibraryTrainingConfig)
    """how method=batched_lora is trained; other methods bring `method.optimization`"""
    multi_task: LibraryTrainingConfig = field(default_factory=LibraryTrainingConfig)
    """how the multi-task LoRA is trained"""
    prompt: PromptConfig = field(default_factory=PromptConfig)
    splits: list[str] | None = None
    """splits whose tasks get an adapter; None means all"""
    tasks: list[str] | None = None
    """names of single tasks instead of splits"""
    seed: int = 0
    """decides initial weights and data order"""
    run_dir: str | None = None
    """folder of the library; None makes a dated one in runs/"""

    def __post_init__(self) -> None:
        check_layers(self.lora, {"method": self.method})


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


@dataclass
class PlanConfig(TrainConfig):
    """`t2l plan`: the sizes of a `t2l train` run, from the same configuration; neither suite nor library is read."""

    length: int = 512
    """tokens of a row, prompt and response, at most trainer.max_length"""
    response: int = 64
    """tokens of a row that are predicted"""
    d_embedding: int | None = None
    """width of the descriptions' embeddings; None reads it off the encoder's config"""
    memory_gb: float | None = None
    """memory (GiB) that a step should fit into; None: only say what it takes"""

    def __post_init__(self) -> None:
        if self.descriptions_per_task < 1:
            raise ValueError(f"descriptions_per_task must be at least 1, not {self.descriptions_per_task}")
        if not 1 <= self.response < self.length:
            raise ValueError(f"response must be in 1 to length - 1 = {self.length - 1}, not {self.response}")
        if self.memory_gb is not None and self.memory_gb <= 0:
            raise ValueError(f"memory_gb must be positive, not {self.memory_gb}")


@dataclass
class CompositionConfig:
    """Contenders made from several library adapters."""

    arrow_top_k: int = 3
    """adapters that Arrow routes a token to"""
    lorahub_adapters: int = 20
    """library adapters that LoraHub combines, drawn at random per task"""

    def __post_init__(self) -> None:
        if self.arrow_top_k < 1 or self.lorahub_adapters < 1:
            raise ValueError("composition: arrow_top_k and lorahub_adapters must be at least 1")


@dataclass
class EvaluateConfig:
    """`t2l evaluate`: contenders on splits, and the report."""

    base_model: BaseModelConfig = field(default_factory=BaseModelConfig)
    encoder: Any = None
    """what embeds the descriptions; None, like encoder=own, means each checkpoint's own (and without checkpoints
    minilm_layers)"""
    suite: Any = None
    training_suite: Any = None
    """suite whose split train was trained on, where it is not the scored one: suite@training_suite=NAME"""
    lora: LoraConfig = field(default_factory=LoraConfig)
    evaluation: BoardConfig = field(default_factory=BoardConfig)
    few_shot: FewShotConfig = field(default_factory=FewShotConfig)
    composition: CompositionConfig = field(default_factory=CompositionConfig)
    prompt: ScoredPromptConfig = field(default_factory=ScoredPromptConfig)
    conditions: str = "trained"
    """trained: what was trained is scored with the template values, dtype, quantization, date and definition of its training,
    whatever base_model says; given: as configured, and the report lists what is otherwise than in training"""
    library: str | None = None
    """folder of `t2l train_library`, for contenders made of its adapters"""
    checkpoints: list[str] = field(default_factory=list)
    """run or checkpoint folders of `t2l train`, or RUN:best and RUN:last (`checkpoint.find_checkpoint`); each is a contender
    named by its objective, with its controls, and those that differ in nothing but their seed are one"""
    method_libraries: list[str] = field(default_factory=list)
    """folders of `t2l train_library method=...`; each is a contender oracle_METHOD"""
    contenders: list[str] = field(default_factory=lambda: list(CONTENDERS))
    """which contenders to score; of a harness the default is base, with a library multi_task and oracle, with checkpoints
    generated"""
    harness: Any = None
    """None for t2l's own board, or the lm-evaluation-harness (harness=lm_eval) on `tasks`"""
    tasks: list[str] = field(default_factory=list)
    """tasks of the harness"""
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
    """split that checkpoints or settings were chosen on, where they were; it is not scored"""
    descriptions_per_task: int = 48
    """training descriptions of each task that tell where it lies (nearest, static, shuffled_nearest)"""
    seed: int = 0
    """decides which tasks, descriptions and shuffles are scored"""
    run_dir: str | None = None
    """folder of the report; None makes a dated one in runs/"""

    def __post_init__(self) -> None:
        self._check_harness()
        unknown = [c for c in self.contenders if c not in CONTENDERS]
        if unknown:
            raise ValueError(f"contenders: unknown {unknown[0]!r}; choose from {', '.join(CONTENDERS)}")
        needy = [c for c in self.contenders if c in FROM_LIBRARY]
        if needy and not self.library:
            raise ValueError(f"contenders {', '.join(needy)} need library=DIR, a folder of `t2l train_library`")
        if {"generated", "refined"} & set(self.contenders) and not self.checkpoints:
            raise ValueError("contenders generated and refined need checkpoints=[DIR], run folders of `t2l train`")
        if self.validation_split is not None and self.validation_split in (self.splits or [self.validation_split]):
            raise ValueError(
                f"validation_split={self.validation_split} was chosen on, so it cannot be scored: name the others in splits=[...]"
            )
        if self.descriptions_per_task < 1:
            raise ValueError(f"descriptions_per_task must be at least 1, not {self.descriptions_per_task}")
        if self.conditions not in RULES:
            raise ValueError(f"conditions must be trained or given, not {self.conditions!r}")
        calibrates = self.confidence and "generated" in self.contenders and self.harness is None
        if self.keep_calibration and not calibrates:
            raise ValueError(
                "keep_calibration=true keeps what is calibrated on generated adapters: it needs confidence=true, generated "
                "among the contenders, and t2l's own board (no harness)"
            )

    def _check_harness(self) -> None:
        if self.harness is not None and not isinstance(self.harness, HarnessConfig):
            raise ValueError(f"harness: there is none of the kind {type(self.harness).__name__}")
        if self.harness is None:
            if self.tasks:
                raise ValueError("tasks=[...] are tasks of the harness: add harness=lm_eval, or give splits=[...]")
            return
        if not self.tasks:
            raise ValueError("harness=lm_eval scores tasks=[...]: name at least one, like tasks=[arc_easy]")
        if self.splits:
            raise ValueError("harness=lm_eval scores tasks=[...], no splits: leave out splits=[...]")
        if self.contenders == list(CONTENDERS):
            of_library = ["multi_task", "oracle"] if self.library else []
            self.contenders = ["base", *of_library, *(["generated"] if self.checkpoints else [])]
        other = [c for c in self.contenders if c in CONTENDERS and c not in HARNESS_CONTENDERS]
        if other:
            raise ValueError(
                f"contenders: {other[0]} cannot be scored by the harness; choose from {', '.join(HARNESS_CONTENDERS)}"
            )


@dataclass
class GenerateConfig:
    """`t2l generate`: descriptions to adapter folders."""

    encoder: Any = None
    """what embeds the descriptions; None, like encoder=own, means the checkpoint's own"""
    checkpoint: str = ""
    """run or checkpoint folder of `t2l train`, or RUN:best or RUN:last"""
    out: str = ""
    """folder to write; several descriptions get numbered folders inside it"""
    base_model: str | None = None
    """base the adapters are for; None means the checkpoint's own"""
    warn_below: float = 0.5
    """expected score below which `t2l generate` warns about a description"""
    licence: str | None = None
    """licence of the adapters, as the hub spells it (apache-2.0, mit...), for their cards; None states none"""

    def __post_init__(self) -> None:
        if self.licence is not None and not self.licence.strip():
            raise ValueError("licence is empty: name one, like apache-2.0, or leave it out")
        if not 0 <= self.warn_below <= 1:
            raise ValueError(f"warn_below must be in [0, 1], not {self.warn_below}")


@dataclass
class CompareMethodsConfig:
    """`t2l compare_methods`: every method trained on the tasks that the board scores, and the table."""

    base_model: BaseModelConfig = field(default_factory=BaseModelConfig)
    encoder: Any = None
    suite: Any = None
    lora: LoraConfig = field(default_factory=LoraConfig)
    training: LibraryTrainingConfig = field(default_factory=LibraryTrainingConfig)
    """how the library's own batched LoRA is trained, the contender `oracle`"""
    methods: dict[str, Any] = field(default_factory=dict)
    """the methods by name; `~method@methods.NAME` leaves one out"""
    contenders: list[str] = field(default_factory=lambda: ["base", "formal_code", "oracle"])
    """which contenders of `t2l evaluate` are scored beside them: of base, prompted, formal_code, oracle"""
    evaluation: BoardConfig = field(default_factory=BoardConfig)
    splits: list[str] = field(default_factory=lambda: ["train"])
    """splits whose scored tasks are trained, on their own training examples"""
    allow_code_execution: bool = False
    """whether the code that the model writes may run, for tasks that are scored by running it (pass@1); such
    code can do harm, so give it a sandbox"""
    seed: int = 0
    """decides the tasks, initial values and data order"""
    run_dir: str | None = None
    """folder of everything the run makes"""

    def __post_init__(self) -> None:
        allowed = ("base", "prompted", "formal_code", "oracle")
        unknown = [c for c in self.contenders if c not in allowed]
        if unknown:
            raise ValueError(f"contenders: unknown {unknown[0]!r} here; choose from {', '.join(allowed)}")
        if not self.methods:
            raise ValueError("methods is empty: name at least one, like +method@methods.dora=dora")
        unknown = [name for name, m in self.methods.items() if not is_dataclass(m)]
        if unknown:
            raise ValueError(f"methods.{unknown[0]} is no method: choose one, like +method@methods.{unknown[0]}=dora")
        if any(isinstance(m, methods.BatchedLoraConfig) for m in self.methods.values()):
            raise ValueError("methods: batched_lora is the contender `oracle`, set by lora.* and training.*")
        check_layers(self.lora, {f"methods.{name}": method for name, method in self.methods.items()})


@dataclass
class QuickstartConfig:
    """`t2l quickstart`: the whole path, on the embedded world or with experiment=... on others."""

    base_model: BaseModelConfig = field(default_factory=BaseModelConfig)
    encoder: Any = None
    suite: Any = None
    lora: LoraConfig = field(default_factory=LoraConfig)
    hypernetwork: Any = None
    library_training: LibraryTrainingConfig = field(default_factory=LibraryTrainingConfig)
    multi_task: LibraryTrainingConfig = field(default_factory=LibraryTrainingConfig)
    sft: Any = None
    sft_trainer: TrainerConfig = field(default_factory=TrainerConfig)
    reconstruction: Any = None
    reconstruction_trainer: TrainerConfig = field(default_factory=TrainerConfig)
    evaluation: BoardConfig = field(default_factory=BoardConfig)
    few_shot: FewShotConfig = field(default_factory=FewShotConfig)
    prompt: PromptConfig = field(default_factory=PromptConfig)
    contenders: list[str] = field(
        default_factory=lambda: ["base", "prompted", "formal_code", "multi_task", "oracle", "generated"]
    )
    """which contenders to score"""
    allow_code_execution: bool = False
    """whether the code that the model writes may run, for tasks that are scored by running it (pass@1); such
    code can do harm, so give it a sandbox"""
    descriptions_per_task: int = 48
    """training descriptions of each task that are used"""
    seed: int = 0
    """the one seed of everything"""
    run_dir: str | None = None
    """folder of everything the run makes"""


ROOTS = {
    "train_library": TrainLibraryConfig,
    "train": TrainConfig,
    "evaluate": EvaluateConfig,
    "generate": GenerateConfig,
    "quickstart": QuickstartConfig,
    "compare_methods": CompareMethodsConfig,
    "describe": DescribeConfig,
    "plan": PlanConfig,
    "pretrain_base": PretrainBaseConfig,
}


def config_folder() -> Path:
    """Folder of the YAML configs, from a checkout or an installed wheel."""
    package = Path(__file__).parent
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


def register() -> None:
    """Registers schemas with Hydra; safe to call again."""
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    for verb, root in ROOTS.items():
        store.store(name=f"{verb}_schema", node=root)
    for group, name, node in (
        ("encoder", "sentence_schema", EncoderConfig),
        ("encoder", "base_model_schema", BaseModelEncoderConfig),
        ("encoder", "causal_lm_schema", CausalLMEncoderConfig),
        ("encoder", "one_hot_schema", OneHotConfig),
        ("encoder", "own_schema", OwnEncoderConfig),
        ("suite", "word_lists_schema", WordListConfig),
        ("suite", "folder_schema", FolderSuiteConfig),
        ("suite", "hub_schema", HubSuiteConfig),
        ("describer", "endpoint_schema", EndpointConfig),
        ("describer", "local_model_schema", LocalModelConfig),
        ("hypernetwork", "text_to_lora_schema", TextToLoraConfig),
        ("hypernetwork", "residual_schema", ResidualConfig),
        ("objective", "sft_schema", SftConfig),
        ("objective", "reconstruction_schema", ReconstructionConfig),
        ("harness", "lm_eval_schema", HarnessConfig),
        ("method", "batched_lora_schema", methods.BatchedLoraConfig),
        ("method", "lora_schema", methods.LoraMethodConfig),
        ("method", "rslora_schema", methods.RsLoraConfig),
        ("method", "dora_schema", methods.DoraConfig),
        ("method", "lora_plus_schema", methods.LoraPlusConfig),
        ("method", "adalora_schema", methods.AdaLoraConfig),
        ("method", "vera_schema", methods.VeraConfig),
        ("method", "qlora_schema", methods.QLoraConfig),
        ("method", "ia3_schema", methods.Ia3Config),
        ("method", "prefix_tuning_schema", methods.PrefixTuningConfig),
        ("method", "prompt_tuning_schema", methods.PromptTuningConfig),
        ("method", "bitfit_schema", methods.BitFitConfig),
        ("method", "bottleneck_adapter_schema", methods.BottleneckAdapterConfig),
        ("method", "full_fine_tuning_schema", methods.FullFineTuningConfig),
    ):
        store.store(group=group, name=name, node=node)
