"""Tiny models built in memory, and shapes checked by beartype wherever a function is annotated with them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Caches of the tests' own: what they leave in the user's would be read by the user's next run.
os.environ.setdefault("GIT_CONFIG_GLOBAL", os.path.expanduser("~/.gitconfig"))
os.environ["HOME"] = str(Path(__file__).resolve().parent.parent / ".pytest_cache" / "home")
os.makedirs(os.environ["HOME"], exist_ok=True)

from jaxtyping import install_import_hook  # noqa: E402

CHECKED = "lora.weights lora.injection objectives.losses tasks.batches hypernetwork.interface hypernetwork.residual \
    hypernetwork.text_to_lora"
install_import_hook([f"t2l.{module}" for module in CHECKED.split()], "beartype.beartype")

import absl.logging  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from transformers import (  # noqa: E402
    Gemma2Config,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PreTrainedModel,
    Qwen3Config,
)

from t2l.base_model import BaseModel, BaseModelConfig, freeze, load_base_model  # noqa: E402
from t2l.evaluation.metrics.code_runner import code_execution  # noqa: E402
from t2l.lora import LoraSpec, LoraWeights  # noqa: E402
from t2l.tasks.suites.word_list_tokenizer import build_tokenizer  # noqa: E402

# absl comes with rouge-score; when Hydra sets logging up, its handler closes the stream it was made with.
absl.logging.get_absl_handler().python_handler.stream = sys.__stderr__
SHARED = Path(__file__).resolve().parent.parent.parent / "shared"
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 400,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
CONFIGS = {
    "llama": (LlamaConfig(**SIZES, tie_word_embeddings=True), ["q_proj", "v_proj"]),
    "mistral": (MistralConfig(**SIZES, sliding_window=16), ["q_proj", "v_proj"]),
    "gemma2": (
        Gemma2Config(**SIZES, head_dim=8, sliding_window=16, query_pre_attn_scalar=8),
        ["k_proj", "o_proj", "q_proj"],
    ),
    "qwen3": (Qwen3Config(**SIZES, head_dim=8, tie_word_embeddings=True), ["down_proj", "q_proj", "v_proj"]),
    "phi3": (Phi3Config(**SIZES), ["gate_up_proj", "qkv_proj"]),
}


def tiny_model(name: str) -> PreTrainedModel:
    """A random, frozen model of an architecture."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    return freeze(AutoModelForCausalLM.from_config(CONFIGS[name][0]))  # type: ignore[return-value]


def tiny_gpt2() -> PreTrainedModel:
    """A random GPT-2, whose linears are Conv1D; not frozen."""
    from transformers import AutoModelForCausalLM, GPT2Config

    torch.manual_seed(0)
    sizes = {"n_embd": 32, "n_layer": 3, "n_head": 4, "vocab_size": 400, "n_positions": 128}
    special = {key: SIZES[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return AutoModelForCausalLM.from_config(GPT2Config(**sizes, **special))  # type: ignore[arg-type, no-any-return]


def random_adapters(spec: LoraSpec, batch: int, seed: int = 0, size: float = 0.3) -> LoraWeights:
    """Adapters with neither A nor B zero."""
    generator = torch.Generator().manual_seed(seed)
    A = {g.name: size * torch.randn(batch, len(g.layers), spec.rank, g.d_in, generator=generator) for g in spec.groups}
    B = {g.name: size * torch.randn(batch, len(g.layers), g.d_out, spec.rank, generator=generator) for g in spec.groups}
    return LoraWeights(A, B)


@pytest.fixture(scope="session")
def tokenizer() -> object:
    return build_tokenizer()


@pytest.fixture
def code_allowed() -> Iterator[None]:
    """Code that answers hold may run, as with `allow_code_execution=true`."""
    with code_execution(True):
        yield


@pytest.fixture
def tiny_base(tokenizer: object) -> BaseModel:
    return BaseModel(tiny_model("llama"), tokenizer, "tiny", "tiny", "fingerprint-of-tiny")


@pytest.fixture(scope="session")
def mini_base() -> BaseModel:
    return load_base_model(BaseModelConfig(device="cpu"))


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library, a reconstruction and an SFT checkpoint, a report, and a generated adapter."""
    import small_run
    from filelock import FileLock

    if "PYTEST_XDIST_WORKER" not in os.environ:
        return small_run.make(tmp_path_factory.mktemp("runs"))
    folder = tmp_path_factory.getbasetemp().parent / "runs"  # of all the processes: the first makes it
    with FileLock(f"{folder}.lock"):
        if not (folder / "one").is_dir():  # what is made last
            small_run.make(folder)
    return folder
