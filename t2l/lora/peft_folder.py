"""LoraWeights to and from PEFT adapter folders. The only room that spells PEFT's key names.

A folder written here loads with `peft.PeftModel.from_pretrained(base, folder)` and with transformers'
`base.load_adapter(folder)`, and gives the logits that injection gives. Loading is strict: PEFT only warns
about keys that do not match, here they are errors.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from t2l.files import (
    FileProblemError,
    atomic_folder,
    read_json,
    read_tensors,
    write_json,
    write_tensors,
    write_text,
)
from t2l.lora.weights import AdapterKind, LoraSpec, LoraWeights, Scaling

WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"
PROVENANCE_FILE = "t2l.json"
CARD_FILE = "README.md"
GENERATED_FILES = (WEIGHTS_FILE, CONFIG_FILE, PROVENANCE_FILE, CARD_FILE)
"""what the folder of a generated adapter holds"""
TRAINING_DATA_FILE = "training_data.safetensors"
"""hashes of the rows that a library's adapter was trained on (`manifest.Manifest`)"""
ORACLE_FILES = (*GENERATED_FILES, TRAINING_DATA_FILE)
"""what a library holds of each adapter"""

PLAIN_KEYS = frozenset(
    "peft_type peft_version task_type auto_mapping base_model_name_or_path revision inference_mode r lora_alpha use_rslora "
    "lora_dropout target_modules exclude_modules layers_to_transform layers_pattern fan_in_fan_out rank_pattern "
    "alpha_pattern bias init_lora_weights eva_config megatron_core qalora_group_size ensure_weight_tying".split()
)
"""keys of PEFT's config that leave y = W x + scaling * B A x as it is, if `bias` and `init_lora_weights` allow it"""
PLAIN_IA3_KEYS = frozenset(
    "peft_type peft_version task_type auto_mapping base_model_name_or_path revision inference_mode target_modules "
    "exclude_modules feedforward_modules fan_in_fan_out init_ia3_weights".split()
)
"""likewise of an (IA)3 config, which then only scales inputs and outputs of linear modules"""
PLAIN_INITS = ("gaussian", "orthogonal", "eva")
"""initial values, beside True and False, that touch no weight of the base"""


def _key(path: str, side: str) -> str:
    return f"base_model.model.{path}.lora_{side}.weight"


def _ia3_key(path: str) -> str:
    return f"base_model.model.{path}.ia3_l"


def adapted_module(key: str) -> str | None:
    """Path of the linear module whose LoRA weight or (IA)3 vector a key names; None for any other key."""
    found = re.fullmatch(r"base_model\.model\.(.+)\.(lora_[AB]\.weight|ia3_l)", key)
    return found[1] if found else None


def adapter_tensors(spec: LoraSpec, weights: LoraWeights) -> dict[str, Tensor]:
    """One adapter under PEFT's key names. Raises ValueError unless the batch holds exactly one."""
    weights.check(spec)
    if weights.batch_size != 1:
        raise ValueError(f"an adapter folder holds one adapter, not {weights.batch_size}: index the batch first")
    tensors = {}
    for g in spec.groups:
        for i, path in enumerate(g.paths):
            if spec.kind is AdapterKind.ia3:  # PEFT holds 1 + delta, as it multiplies the weight: a row or a column
                tensors[_ia3_key(path)] = (1 + weights.B[g.name][0, i]).unsqueeze(0 if g.scales_input else 1)
                continue
            tensors[_key(path, "A")] = weights.A[g.name][0, i]
            tensors[_key(path, "B")] = weights.B[g.name][0, i]
    return tensors


def peft_config(spec: LoraSpec, base_path: str) -> dict[str, Any]:
    """What `adapter_config.json` says of an adapter of this geometry."""
    common = {
        "peft_type": spec.kind.upper(),
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_path,
        "inference_mode": True,
    }
    # PEFT matches full module names exactly, so naming each one is right for any subset of layers; vLLM goes by the
    # tensors' keys alone.
    targets = sorted(path for g in spec.groups for path in g.paths)
    if spec.kind is AdapterKind.ia3:
        return {
            **common,
            "target_modules": targets,
            "feedforward_modules": sorted(path for g in spec.groups if g.scales_input for path in g.paths),
            "fan_in_fan_out": False,  # PEFT finds out where it has to be true
        }
    return {
        **common,
        "r": spec.rank,
        "lora_alpha": int(spec.alpha) if spec.alpha == int(spec.alpha) else spec.alpha,
        "use_rslora": spec.scaling_rule is Scaling.rslora,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": targets,
    }


def save_adapter(
    folder: Path,
    spec: LoraSpec,
    weights: LoraWeights,
    base_path: str,
    provenance: Mapping[str, Any],
    card: str | None = None,
    training_data: Mapping[str, Tensor] | None = None,
    replaces: Collection[str] = GENERATED_FILES,
) -> None:
    """Writes one adapter as a PEFT folder, whole or not at all; in place of one that t2l wrote and nobody changed.

    Args:
        weights: a batch of exactly one adapter.
        base_path: what `adapter_config.json` names as the base model: a hub id, or the absolute path of a folder, so
            that `AutoPeftModelForCausalLM.from_pretrained(folder)` finds it from any working directory of this machine.
        provenance: where the adapter comes from; kept beside it in `t2l.json`.
        card: text of the model card, `README.md`; None for none.
        training_data: what it was trained on, as hashes; None if it was not trained on rows.
        replaces: the names that a folder in whose place it is written may hold.

    Raises:
        FileProblemError: a value is not finite, or the folder holds what t2l did not write or what was changed since.
        ValueError: weights of another geometry, or of more than one adapter.
    """
    tensors = adapter_tensors(spec, weights)
    with atomic_folder(folder, only=replaces) as temporary:
        write_tensors(temporary / WEIGHTS_FILE, tensors, where=str(folder))
        write_json(temporary / CONFIG_FILE, peft_config(spec, base_path))
        write_json(temporary / PROVENANCE_FILE, dict(provenance))
        if card is not None:
            write_text(temporary / CARD_FILE, card)
        if training_data is not None:
            write_tensors(temporary / TRAINING_DATA_FILE, training_data)


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """The `adapter_config.json` of a PEFT folder.

    Raises FileProblemError if there is none, or it is neither LoRA's nor (IA)3's.
    """
    if not folder.is_dir():
        raise FileProblemError(f"no such adapter folder: {folder}")
    config = read_json(folder / CONFIG_FILE)
    kind, known = config.get("peft_type") if isinstance(config, dict) else None, [k.upper() for k in AdapterKind]
    if kind not in known:
        raise FileProblemError(f"{folder} holds a {kind!r} adapter, only {' and '.join(known)} can be read")
    return dict(config)


def is_ia3(config: Mapping[str, Any]) -> bool:
    """Whether an `adapter_config.json` is that of (IA)3."""
    return config.get("peft_type") == "IA3"


def exotic_features(config: Mapping[str, Any]) -> list[str]:
    """Keys of a LoRA config that make it more than y = W x + scaling * B A x, or of an (IA)3 config that make it more than
    scaling, sorted; a key not known here is one."""
    plain = PLAIN_IA3_KEYS if is_ia3(config) else PLAIN_KEYS
    found = {key for key, value in config.items() if value and key not in plain}
    if config.get("bias", "none") != "none":
        found.add("bias")
    init = config.get("init_lora_weights", True)
    if isinstance(init, str) and init not in PLAIN_INITS:
        found.add("init_lora_weights")  # PiSSA, OLoRA, LoftQ... change the base's weights when PEFT loads the adapter
    return sorted(found)


def check_keys(folder: Path, found: Iterable[str], wanted: Iterable[str], beyond: str = "too many") -> None:
    """Raises ValueError unless a folder's adapter has exactly the wanted keys; `beyond` says which ones it must not have."""
    missing, foreign = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
    if missing:
        raise ValueError(f"{folder}: the adapter lacks {len(missing)} keys, first {missing[0]!r}")
    if foreign:
        raise ValueError(f"{folder}: the adapter has {len(foreign)} keys {beyond}, first {foreign[0]!r}")


def find_adapter(folder: Path) -> Path:
    """The adapter's folder: the one named, or the only one in it.

    Raises FileProblemError if there is none, or one of several would have to be chosen.
    """
    if not folder.is_dir():
        raise FileProblemError(f"no such adapter folder: {folder}")
    if (folder / CONFIG_FILE).is_file():
        return folder
    inside = sorted(path.parent for path in folder.glob(f"*/{CONFIG_FILE}"))
    if not inside:
        raise FileProblemError(f"no adapter in {folder}: it has no {CONFIG_FILE}")
    if len(inside) > 1:
        raise FileProblemError(f"{folder} holds {len(inside)} adapters: name one of them, like {inside[0]}")
    return inside[0]


def load_adapter(folder: Path, spec: LoraSpec) -> LoraWeights:
    """Reads a PEFT folder as a batch of one adapter, float32.

    Raises:
        FileProblemError: no such folder, a file missing or damaged.
        ValueError: the adapter's kind, rank, scaling, keys or shapes are not the spec's; a key too few or
            too many is an error.
    """
    _check_config(folder, read_adapter_config(folder), spec)
    tensors = read_tensors(folder / WEIGHTS_FILE)
    if spec.kind is AdapterKind.ia3:
        return _ia3_weights(folder, tensors, spec)
    wanted = {_key(path, side) for g in spec.groups for path in g.paths for side in "AB"}
    check_keys(folder, tensors, wanted, "that the spec does not")
    sides: dict[str, dict[str, Tensor]] = {"A": {}, "B": {}}
    for g in spec.groups:
        for side, shape in (("A", (spec.rank, g.d_in)), ("B", (g.d_out, spec.rank))):
            layers = [tensors[_key(path, side)] for path in g.paths]
            wrong = [t.shape for t in layers if tuple(t.shape) != shape]
            if wrong:
                raise ValueError(f"{folder}: {side} of {g.name} has shape {tuple(wrong[0])}, the spec wants {shape}")
            sides[side][g.name] = torch.stack(layers).unsqueeze(0).float()
    return LoraWeights(sides["A"], sides["B"])


def _ia3_weights(folder: Path, tensors: Mapping[str, Tensor], spec: LoraSpec) -> LoraWeights:
    check_keys(folder, tensors, {_ia3_key(path) for g in spec.groups for path in g.paths}, "that the spec does not")
    deltas = {}
    for g in spec.groups:
        shape, vectors = (1, g.d_in) if g.scales_input else (g.d_out, 1), [tensors[_ia3_key(path)] for path in g.paths]
        wrong = [tuple(t.shape) for t in vectors if tuple(t.shape) != shape]
        if wrong:
            raise ValueError(f"{folder}: the vector of {g.name} has shape {wrong[0]}, the spec wants {shape}")
        deltas[g.name] = torch.stack([t.float().flatten() - 1 for t in vectors]).unsqueeze(0)
    return LoraWeights({}, deltas)


def _check_config(folder: Path, config: Mapping[str, Any], spec: LoraSpec) -> None:
    if config["peft_type"] != spec.kind.upper():
        raise ValueError(f"{folder} holds a {config['peft_type']} adapter, the spec wants {spec.kind.upper()}")
    if is_ia3(config):
        if exotic := exotic_features(config):
            raise ValueError(f"{folder}: the adapter uses {exotic}, which plain (IA)3 vectors cannot hold")
        return
    scaling_rule = Scaling.rslora if config.get("use_rslora") else Scaling.standard
    found = (config.get("r"), config.get("lora_alpha"), scaling_rule)
    wanted = (spec.rank, spec.alpha, spec.scaling_rule)
    if found != wanted:
        raise ValueError(f"{folder}: (rank, alpha, scaling) is {found}, the spec wants {wanted}")
    exotic = [*exotic_features(config), *(k for k in ("rank_pattern", "alpha_pattern") if config.get(k))]
    if exotic:
        raise ValueError(f"{folder}: the adapter uses {exotic}, which plain LoRA weights cannot hold")


def load_provenance(folder: Path) -> dict[str, Any]:
    """What `save_adapter` recorded about the adapter. Raises FileProblemError if there is none."""
    return read_json(folder / PROVENANCE_FILE)


def made_by(folder: Path, recipe: Mapping[str, Any]) -> bool:
    """Whether an adapter folder is there, whole, and was made by exactly this recipe.

    Raises ValueError if it was made otherwise: nothing is overwritten.
    """
    if not (folder / PROVENANCE_FILE).is_file():
        return False
    found = load_provenance(folder)
    for key, value in recipe.items():
        if found.get(key) != value:
            raise ValueError(
                f"{folder} was made with {key}={found.get(key)!r}, now it is {value!r}: "
                "choose another run_dir, or remove this one"
            )
    return True
