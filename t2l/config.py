"""Root config of each verb, and their registration with Hydra.

Components own their dataclasses; a root only composes them. YAML gives values; composition is checked
against these types, and `OmegaConf.to_object` turns the result into them once, in the CLI.
"""

from __future__ import annotations

from pathlib import Path

from t2l import methods
from t2l.describe import DescribeConfig, EndpointConfig, LocalModelConfig
from t2l.encoder import BaseModelEncoderConfig, CausalLMEncoderConfig, EncoderConfig, OneHotConfig, OwnEncoderConfig
from t2l.evaluation.config import EvaluateConfig
from t2l.evaluation.harness.harness import HarnessConfig
from t2l.hypernetwork import ResidualConfig, TextToLoraConfig
from t2l.objectives import ReconstructionConfig, SftConfig
from t2l.tasks.suites import FolderSuiteConfig, HubSuiteConfig, WordListConfig
from t2l.training.pretrain_base import PretrainBaseConfig
from t2l.verbs.compare_methods import CompareMethodsConfig
from t2l.verbs.generate import GenerateConfig
from t2l.verbs.plan import PlanConfig
from t2l.verbs.quickstart import QuickstartConfig
from t2l.verbs.train import TrainConfig
from t2l.verbs.train_library import TrainLibraryConfig

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
