"""An adapter added to its base's full-precision weights, saved as a model of its own.

W + scaling * B A (LoRA, Hu et al. 2021, arXiv:2106.09685, section 4.1), or W with its rows or columns scaled ((IA)3, Liu
et al. 2022, arXiv:2205.05638, section 3.3), is computed by PEFT in float32, whatever the base is stored in, and then
rounded once. A base that was quantised when it was loaded for training is merged unquantised; of
a folder whose own files are quantised by bitsandbytes the weights are dequantised first, which gives what the
quantised base computes with. An output embedding that is tied to the input embedding is untied if the adapter
changes it. The model is kept only if its files, read again, give the logits of base and adapter.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from t2l.base_model.files import cached_snapshot, earlier_fingerprint_hint, file_fingerprint, model_config, resolve_path
from t2l.base_model.gguf import PACKAGES
from t2l.base_model.loading import DTYPES, BaseModel, BaseModelConfig, freeze, load_base_model
from t2l.files import FileProblemError, atomic_folder, read_tensors, write_json, write_text
from t2l.lora.card import MINI_BASE, merged_card
from t2l.lora.peft_folder import (
    CARD_FILE,
    PROVENANCE_FILE,
    WEIGHTS_FILE,
    adapted_module,
    exotic_features,
    find_adapter,
    is_ia3,
    load_provenance,
    read_adapter_config,
)

SAMPLE_TOKENS = 16
"""tokens on which a merged model is compared with what it should be"""
TOLERANCE = 1e-3
"""largest difference of logits, relative to the largest logit, that rounding may make in float32"""


@dataclass(frozen=True)
class Merged:
    """A merged model on disk."""

    folder: Path
    was_quantised: bool
    """whether the base's own files are quantised, and were dequantised"""


def merge(
    adapter: Path,
    out: Path,
    base_model: str | None = None,
    dtype: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> Merged:
    """Merges a plain LoRA or (IA)3 folder, t2l's or any other of PEFT's, into its base, and saves model, tokenizer and card.

    Args:
        adapter: PEFT folder of LoRA or (IA)3, or a folder that holds one.
        out: folder to write, whole or not at all.
        base_model: folder or hub id of the base, or `mini`; None for the one that the adapter names.
        dtype: what the merged weights are stored in; None for what the base is stored in.
        revision: commit, tag or branch of a base on the hub; None for the one that the adapter names, if any.
        trust_remote_code: whether code that comes with the base may run.

    Raises:
        FileProblemError: a file is missing or damaged.
        ValueError: more than plain LoRA or (IA)3, another base than the adapter was made for, tensors that do not fit the base,
            a dtype that is not known, or an `out` that holds something.
    """
    from transformers import AutoTokenizer

    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, not {dtype!r}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"run_dir={out} exists and is not empty: choose another")
    config = read_adapter_config(adapter := find_adapter(adapter))
    if exotic := exotic_features(config):
        raise ValueError(f"{adapter}: the adapter uses {', '.join(exotic)}: only plain LoRA or (IA)3 can be merged")
    provenance = load_provenance(adapter) if (adapter / PROVENANCE_FILE).is_file() else {}
    name = base_model or named_base(adapter, config, provenance)
    revision = revision or (None if base_model else config.get("revision"))
    source = BaseModelConfig(path=name, revision=revision, trust_remote_code=trust_remote_code)
    base, was_quantised, stored = _load_base(adapter, source, provenance.get("base_fingerprint"))
    dtype = dtype or stored
    record = {
        **_about(adapter, config, provenance),
        "base_model": name,
        "base_fingerprint": base.fingerprint,
        "was_quantised": was_quantised,
        "dtype": dtype,
    }
    (model, record["untied"]), path = _add(base.model, adapter), base.path
    del base  # of a large model, one copy has to do when the saved one is read
    _round(model, dtype)
    expected, device = sample_logits(model), model.device
    with atomic_folder(out) as temporary:
        # transformers cannot yet undo the conversion by which it read bitsandbytes' tensors, and need not.
        model.to(getattr(torch, dtype)).save_pretrained(temporary, save_original_format=not was_quantised)
        del model
        # read again: loading for t2l may have given the tokenizer a padding token
        options: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
        AutoTokenizer.from_pretrained(path, **options).save_pretrained(temporary)
        write_json(temporary / PROVENANCE_FILE, record)
        write_text(temporary / CARD_FILE, merged_card(record, out))
        _check_saved(temporary, expected, device, adapter, trust_remote_code)
    return Merged(out, was_quantised)


def _about(adapter: Path, config: Mapping[str, Any], provenance: Mapping[str, Any]) -> dict[str, Any]:
    """What a merged model's record says of the adapter."""
    scaled_by: dict[str, Any] = {"kind": "ia3"}
    if not is_ia3(config):
        scaled_by = {"rank": config["r"], "alpha": config["lora_alpha"], "use_rslora": bool(config.get("use_rslora"))}
    return {"merged_by": "t2l merge", "adapter_folder": str(adapter), **scaled_by, "adapter": provenance}


def named_base(adapter: Path, config: Mapping[str, Any], provenance: Mapping[str, Any]) -> str:
    """The name an adapter gives for its base: a folder that is here before a hub id.

    Raises ValueError if it is not on this machine; of a packaged base, with what to install.
    """
    names = [str(n) for n in (provenance.get("base_model"), config.get("base_model_name_or_path")) if n]
    for name in sorted(names, key=lambda n: not (n == MINI_BASE or Path(n).is_dir())):
        try:
            resolve_path(name)
        except ValueError:
            if name in PACKAGES:
                raise
            continue  # a folder of another machine
        return name
    raise ValueError(f"{adapter}: the base it names is not on this machine: give it with --base-model")


def check_base(adapter: Path, name: str, made_for: str | None, found: str | None) -> None:
    """Raises ValueError if an adapter was made for a base with another fingerprint than the one found; None: not known."""
    if made_for and found and made_for != found:
        raise ValueError(
            f"{adapter} was made for another base model (fingerprint {made_for[:12]}); {name} has {found[:12]}: "
            f"name the right one with --base-model{earlier_fingerprint_hint(made_for, found)}"
        )


def _load_base(adapter: Path, source: BaseModelConfig, made_for: str | None) -> tuple[BaseModel, bool, str]:
    """The adapter's base in float32, whether its files are quantised, and the dtype they are in."""
    name, path = source.path, resolve_path(source.path)
    check_base(adapter, name, made_for, file_fingerprint(cached_snapshot(path, source.revision) or path))
    settings = model_config(path, source.trust_remote_code, source.revision)
    quantised = getattr(settings, "quantization_config", None)
    if quantised:
        method = quantised.get("quant_method") if isinstance(quantised, Mapping) else quantised.quant_method
        if method != "bitsandbytes":
            raise ValueError(
                f"{name} holds weights quantised by {method}: merge into the model that they were made from"
            )
    # bitsandbytes dequantises where it loaded the weights, which is the GPU if there is one.
    base = load_base_model(replace(source, device="auto" if quantised else "cpu"))
    check_base(adapter, name, made_for, base.fingerprint)
    if quantised:
        base.model.dequantize(torch.float32)
    stored = str(getattr(settings, "dtype", None) or "float32").removeprefix("torch.")
    return base, bool(quantised), stored if stored in DTYPES else "float32"


def _add(model: Any, adapter: Path) -> tuple[Any, bool]:
    """The model with the adapter in its weights, and whether its output embedding had to be untied for that.

    Raises ValueError unless every tensor of the folder found its place, and merged weights do what the adapter does.
    """
    tensors = own_tensors(model, adapter)
    foreign = sorted(key for key in tensors if adapted_module(key) is None)
    if foreign:
        raise FileProblemError(
            f"{adapter}: {foreign[0]!r} is not a LoRA weight of a linear module, nor its (IA)3 vector: it cannot be merged"
        )
    is_untied = _untie(model, {path for key in tensors if (path := adapted_module(key))}, adapter)
    wrapped = load_strictly(model, adapter, tensors)
    adapted = sample_logits(wrapped.get_base_model())
    merged = wrapped.merge_and_unload()
    apart = _apart(sample_logits(merged), adapted)
    if bool(adapted.isfinite().all()) and apart > TOLERANCE:
        raise ValueError(
            f"{adapter}: merged, the model does not do what the adapter does (logits off by {apart:.2g} of the largest)"
        )
    return merged, is_untied


def own_tensors(model: Any, adapter: Path) -> dict[str, Tensor]:
    """What of a PEFT folder's weights belongs to the adapter: not the copies of the base's that PEFT may save with it."""
    return {k: t for k, t in read_tensors(adapter / WEIGHTS_FILE).items() if not _is_copy_of_base(k, t, model)}


def load_strictly(model: Any, adapter: Path, tensors: Mapping[str, Tensor]) -> Any:
    """A model with a PEFT folder's adapter on it, as PEFT loads it; a key too many, too few or changed is an error.

    Args:
        tensors: of `own_tensors`.

    Raises ValueError if the adapter does not fit the model.
    """
    from peft import PeftModel, get_peft_model_state_dict

    try:
        with warnings.catch_warnings(action="ignore"):  # of missing keys, which are errors below
            wrapped = PeftModel.from_pretrained(model, str(adapter), torch_device="cpu")
    except (RuntimeError, KeyError) as error:  # other shapes; names that do not fit
        raise ValueError(f"{adapter} does not fit the base: {str(error).strip().splitlines()[-1]}") from error
    held = get_peft_model_state_dict(wrapped, save_embedding_layers=False)
    strays = sorted(held.keys() ^ tensors.keys())
    if strays:
        side = "the base has no such module" if strays[0] in tensors else "the adapter lacks it"
        raise ValueError(f"{adapter} does not fit the base: {len(strays)} keys, first {strays[0]!r} ({side})")
    wrong = sorted(
        k for k in held if not torch.allclose(held[k].float().cpu(), tensors[k].float(), 0, 0, equal_nan=True)
    )
    if wrong:
        raise ValueError(f"{adapter}: PEFT did not load {wrong[0]!r} as it is on disk")
    return wrapped


def _is_copy_of_base(key: str, tensor: Tensor, model: Any) -> bool:
    """Whether a tensor of an adapter is the base's own weight, which PEFT saves with adapters of the output embedding."""
    found = re.fullmatch(r"base_model\.model\.(.+)\.base_layer\.(weight|bias)", key)
    modules = dict(model.named_modules())
    own = getattr(modules.get(found[1]), found[2], None) if found else None
    if own is None or own.shape != tensor.shape:
        return False
    return torch.equal(own.detach().cpu().to(tensor.dtype), tensor)


def _untie(model: Any, targets: Collection[str], adapter: Path) -> bool:
    """Gives an adapted output embedding weights of its own, if it shares those of the input embedding.

    In memory the adapter of a tied `lm_head` leaves the input embedding alone; added to the weights they share, it would
    change both. Returns whether it did. Raises ValueError if a target shares its weights with anything else.
    """
    head, is_untied = model.get_output_embeddings(), False
    for path, module in model.named_modules():
        if path not in targets:
            continue
        sharers = [n for n, p in model.named_parameters(remove_duplicate=False) if p is module.weight]
        if len(sharers) < 2:
            continue
        if module is not head:
            other = next(n for n in sharers if n != f"{path}.weight")
            raise ValueError(f"{adapter}: {path} shares its weights with {other}, so that it cannot be merged alone")
        head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=False)
        for config in {id(c): c for c in (model.config, model.config.get_text_config())}.values():
            config.tie_word_embeddings = False
        is_untied = True
    return is_untied


def _round(model: Any, dtype: str) -> None:
    """Rounds float32 weights to a dtype, in place. Raises ValueError if that leaves values that are not finite."""
    for key, parameter in model.named_parameters():
        parameter.data = parameter.data.to(getattr(torch, dtype)).float()
        if not parameter.isfinite().all():
            raise ValueError(f"merged, {key} is not finite in {dtype}: the adapter is broken, or the dtype too small")


@torch.no_grad()
def sample_logits(model: Any) -> Tensor:
    """A causal LM's logits [tokens, vocabulary] on a few tokens from all over its vocabulary, on the CPU."""
    size = model.get_input_embeddings().weight.shape[0]
    ids = torch.linspace(0, size - 1, SAMPLE_TOKENS, device=model.device).long()[None]
    return model(input_ids=ids, use_cache=False).logits[0].float().cpu()


def _apart(found: Tensor, expected: Tensor) -> float:
    """The largest difference of logits, relative to the largest logit."""
    if found.shape != expected.shape:
        return math.inf
    difference = (found - expected).abs().max() / expected.abs().max().clamp_min(1e-30)
    return difference.item() if difference.isfinite() else math.inf


def _check_saved(folder: Path, expected: Tensor, device: torch.device, adapter: Path, trust_remote_code: bool) -> None:
    """Raises ValueError unless the model in a folder gives the logits of the one that was to be saved."""
    from transformers import AutoModelForCausalLM

    options: dict[str, Any] = {"dtype": torch.float32, "trust_remote_code": trust_remote_code}
    model = AutoModelForCausalLM.from_pretrained(folder, **options).to(device)
    apart = _apart(sample_logits(freeze(model)), expected)
    if apart > TOLERANCE:
        raise ValueError(
            f"{adapter}: the merged model, read again from its files, is another one (logits off by {apart:.2g} of the "
            "largest), so nothing was kept: the base's architecture ties or converts weights in a way that saving loses"
        )
