"""What vLLM asks of an adapter folder, checked without vLLM.

The rules are those of vLLM 0.33.0: `vllm/lora/peft_helper.py` (config), `vllm/lora/lora_model.py` and `vllm/lora/utils.py`
(keys of the tensors, which alone say what modules there are; `target_modules` is not compared with anything),
`vllm/config/lora.py` (ranks). Whether vLLM's implementation of the base supports LoRA is not among them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from t2l.files import read_tensors
from t2l.lora.peft_folder import PLAIN_INITS, WEIGHTS_FILE, parse_key, read_adapter_config

MAX_LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""what `--max-lora-rank` may be (`vllm/config/lora.py`; vLLM 0.33.0 also takes 1, which earlier versions do not)"""
REFUSED = (
    "use_dora", "lora_bias", "modules_to_save", "alora_invocation_tokens", "layer_replication", "use_bdlora", "use_qalora",
)  # fmt: skip
"""features that `vllm/lora/peft_helper.py` refuses (of modules_to_save, all but a classifier's head)"""

SERVED_INITS = (*PLAIN_INITS, "mica", "lora_ga")
"""initial values, beside True and False, that vLLM takes an adapter with"""


def max_lora_rank(rank: int) -> int | None:
    """The smallest `--max-lora-rank` that takes adapters of a rank; None where there is none.

    vLLM pads A and B with zeros up to it, so a rank in between costs memory and nothing else.
    """
    return next((r for r in MAX_LORA_RANKS if r >= rank), None)


def serving_problems(folder: Path) -> list[str]:
    """Why vLLM would not serve a PEFT LoRA folder as it is; empty where it meets every rule.

    Raises FileProblemError where the folder is not a LoRA adapter with safetensors weights.
    """
    config = read_adapter_config(folder)
    shapes = {key: tuple(tensor.shape) for key, tensor in read_tensors(folder / WEIGHTS_FILE).items()}
    return problems_of(config, shapes)


def problems_of(config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """`serving_problems` of an `adapter_config.json` and the shapes of the tensors by key."""
    return [*_config_problems(config), *_tensor_problems(config, shapes)]


def _config_problems(config: Mapping[str, Any]) -> list[str]:
    found = [f"adapter_config.json lacks {k}, which vLLM requires" for k in _missing(config)]
    found += [f"vLLM refuses {key}={config[key]!r} (vllm/lora/peft_helper.py)" for key in REFUSED if config.get(key)]
    if config.get("bias", "none") != "none":
        found.append(f"vLLM refuses trained biases, bias={config['bias']!r} (vllm/lora/peft_helper.py)")
    init = config.get("init_lora_weights", True)
    if isinstance(init, str) and init.lower() not in SERVED_INITS:
        found.append(
            f"init_lora_weights={init!r} changes the base's weights when PEFT loads the adapter, and vLLM does not "
            "(vllm/lora/peft_helper.py)"
        )
    for key in ("rank_pattern", "alpha_pattern"):
        if config.get(key):
            found.append(
                f"{key} is set: vLLM 0.33.0 reads it, versions before it knew the key use r and lora_alpha for all"
            )
    return found


def _missing(config: Mapping[str, Any]) -> list[str]:
    return [key for key in ("r", "lora_alpha", "target_modules") if config.get(key) is None]


def _tensor_problems(config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    foreign = sorted(key for key in shapes if parse_key(key) is None)
    found = [f"key {foreign[0]!r} is not a LoRA weight of a linear module (vllm/lora/utils.py)"] if foreign else []
    modules: dict[str, dict[str, tuple[int, ...]]] = defaultdict(dict)
    for key, shape in shapes.items():
        if parsed := parse_key(key):
            modules[parsed[0]][parsed[1]] = shape
    if not modules:
        return [*found, "there is no LoRA weight"]
    halves = sorted(path for path, sides in modules.items() if len(sides) < 2)
    if halves:
        return [*found, f"{halves[0]} has only one of A and B"]
    experts = sorted(path for path in modules if ".experts" in path)
    if experts:
        found.append(
            f"{experts[0]} is of a routed expert, where what loads depends on the model (vllm/lora/lora_model.py)"
        )
    ranks = sorted({r for sides in modules.values() for r in (sides["A"][0], sides["B"][1])})
    if ranks != [config.get("r")] and not config.get("rank_pattern"):
        found.append(f"ranks of the tensors are {ranks}, the config says {config.get('r')}: vLLM reserves r for each")
    if max_lora_rank(ranks[-1]) is None:
        found.append(
            f"rank {ranks[-1]} is above {MAX_LORA_RANKS[-1]}, the greatest --max-lora-rank (vllm/config/lora.py)"
        )
    return found
