"""The model cards of a generated adapter and of a base with an adapter merged into it, as Hugging Face's hub reads them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from t2l.lora.weights import AdapterKind, LoraSpec

TAGS = ["text-to-lora", "t2l"]
NAMES = {AdapterKind.lora: ("a", "LoRA"), AdapterKind.ia3: ("an", "(IA)3")}
"""of kinds of adapters, after their article"""
MINI_BASE = "mini"
MAX_LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""what vLLM's `--max-lora-rank` may be (vLLM 0.33.0, `vllm/config/lora.py`)"""


def max_lora_rank(rank: int) -> int | None:
    """The smallest `--max-lora-rank` that takes adapters of a rank; None if there is none.

    vLLM pads A and B with zeros up to it, so a rank in between costs memory and nothing else.
    """
    return next((r for r in MAX_LORA_RANKS if r >= rank), None)


def portable(path: str | Path, keep: int = 1) -> str:
    """A path as a reader elsewhere can use it: relative paths as given, of absolute ones the last `keep` parts.

    An absolute path below the working directory becomes relative to it.
    """
    path = Path(path)
    if not path.is_absolute():
        return str(path)
    if path.is_relative_to(Path.cwd()):
        return str(path.relative_to(Path.cwd()))
    return str(Path(*path.parts[-keep:]))


ASKED = {
    "hidden": "It was trained to do without its description: ask questions in the suite's format, and leave the description out.",
    "shown": "It was trained with a description before each question: put it there, on a line of its own, as in the suite.",
}
"""how an adapter wants to be asked, by `prompt.definition`"""


def adapter_card(spec: LoraSpec, provenance: Mapping[str, Any], folder: Path) -> str:
    """The `README.md` of a generated adapter: where it comes from, what to expect of it, how to load it.

    Args:
        provenance: what `t2l.json` records of the adapter.
        folder: where the adapter will lie, as the user gave it.
    """
    base, (article, name) = portable(provenance["base_model"]), NAMES[spec.kind]
    sections = [
        f"# {name} adapter generated from a description",
        f"{article.capitalize()} {name} adapter for `{base}`, made by t2l in one forward pass of a hypernetwork from this "
        "text alone:",
        _quote(provenance["description"]),
        _section(
            "Base model",
            [f"Name: `{base}`", f"Fingerprint of its weight files (sha256): `{provenance['base_fingerprint']}`"],
        ),
        _section("Where it comes from", _origin(provenance)),
        _section("What to expect of it", _confidence(provenance.get("confidence"))),
        _section("Geometry", _geometry(spec)),
        _loading(spec, provenance["base_model"], portable(folder)),
        _section(
            "Limits", [*_limits(provenance.get("definition", "hidden")), *_conditions(provenance.get("conditions"))]
        ),
        _licence(provenance.get("licence")),
    ]
    return _card("peft", base, provenance.get("licence"), [spec.kind.value, *TAGS], sections)


def merged_card(record: Mapping[str, Any], folder: Path) -> str:
    """The `README.md` of a base model with an adapter merged into its weights.

    Args:
        record: what `t2l.json` of the merged model says.
        folder: where the model will lie, as the user gave it.
    """
    base, adapter = portable(record["base_model"]), record["adapter"]
    kind = AdapterKind(record.get("kind", AdapterKind.lora))
    facts = [
        f"Base model: `{base}`, fingerprint of its weight files (sha256): `{record['base_fingerprint']}`",
        f"Adapter: `{portable(record['adapter_folder'])}`, " + _how_scaled(kind, record),
        f"Merged in float32, stored in {record['dtype']}",
        "The base's own files are quantised (bitsandbytes): its weights were dequantised, its rounding is in them"
        if record["was_quantised"]
        else "A base that was quantised only while the adapter was trained is not quantised here: its rounding is gone",
    ]
    if record.get("untied"):
        facts.append(
            "The base's output embedding was its input embedding; the adapter changes only the output, so here they are two"
        )
    sections = [f"# Base model with {' '.join(NAMES[kind])} adapter merged into its weights"]
    tags = [kind.value, "merge"]
    if adapter.get("description"):
        tags = [kind.value, *TAGS, "merge"]
        sections += ["The adapter was made by t2l from this text alone:", _quote(adapter["description"])]
    if adapter.get("checkpoint"):
        facts += _origin(adapter)
    code = [
        "from transformers import AutoModelForCausalLM",
        f"model = AutoModelForCausalLM.from_pretrained({json.dumps(portable(folder))})",
    ]
    limits = ["Nothing was scored after merging, neither the adapter's task nor what else the base could do."]
    if "definition" in adapter:
        limits.append(ASKED[adapter["definition"]])
    if "conditions" in adapter:
        limits += _conditions(adapter["conditions"])
    sections += [
        _section("What it is", facts),
        "## How to load it",
        _block("python", code),
        _section("Limits", limits),
        _licence(adapter.get("licence")),
    ]
    return _card("transformers", base, adapter.get("licence"), tags, sections)


def _how_scaled(kind: AdapterKind, record: Mapping[str, Any]) -> str:
    """What a merged model's record says of the adapter's size, in words."""
    if kind is AdapterKind.ia3:
        return "(IA)3: rows or columns of weights are scaled, and biases of scaled outputs"
    rule = ", scaled by alpha / sqrt(rank)" if record["use_rslora"] else ""
    return f"rank {record['rank']}, alpha {record['alpha']:g}{rule}"


def _card(library: str, base: str, licence: str | None, tags: Sequence[str], sections: Sequence[str]) -> str:
    from huggingface_hub import ModelCard, ModelCardData

    data = ModelCardData(
        base_model=base,
        library_name=library,
        license=licence or "unknown",
        pipeline_tag="text-generation",
        tags=list(tags),
    )
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(sections) + "\n"))


def _section(title: str, items: Sequence[str]) -> str:
    return f"## {title}\n\n" + "\n".join(f"- {item}" for item in items)


def _quote(text: str) -> str:
    return "\n".join(f"> {line}".rstrip() for line in text.splitlines())


def _block(language: str, lines: Sequence[str]) -> str:
    return "\n".join([f"```{language}", *lines, "```"])


def _origin(provenance: Mapping[str, Any]) -> list[str]:
    checkpoint = portable(provenance["checkpoint"], keep=3)
    return [
        f"Hypernetwork: `{checkpoint}`, trained by {provenance['generated_by']} for {provenance['step']} steps, "
        f"seed {provenance.get('seed', 'unknown')}",
        f"Suite it was trained on: {provenance.get('suite', 'unknown')}",
    ]


def _confidence(confidence: Mapping[str, Any] | None) -> list[str]:
    if confidence is None:
        return ["Confidence: unknown; the checkpoint does not say what it was trained on"]
    where = (
        f"Distance of the description from the nearest training task (`{confidence['nearest_task']}`): "
        f"{confidence['distance']:.3g}"
    )
    if confidence["expected_score"] is None:
        return ["Expected score: not calibrated (`t2l evaluate keep_calibration=true` calibrates a checkpoint)", where]
    score = f"{confidence['expected_score']:.2f} of 1"
    return [f"Expected score: {score}, calibrated on descriptions of held-out tasks", where]


def _geometry(spec: LoraSpec) -> list[str]:
    layers = spec.layers
    is_unbroken = layers == tuple(range(layers[0], layers[-1] + 1))
    shown = f"{layers[0]} to {layers[-1]}" if is_unbroken else ", ".join(map(str, layers))
    what = f"Rank {spec.rank}, alpha {spec.alpha:g}, scaling {spec.scaling:g} ({spec.scaling_rule.value})"
    if spec.kind is AdapterKind.ia3:
        inputs = ", ".join(f"`{m}`" for m in sorted({g.module for g in spec.groups if g.scales_input}))
        what = f"A vector for each module that scales its output, or its input ({inputs or 'none'})"
    return [
        what,
        f"Target modules: {', '.join(f'`{m}`' for m in spec.target_modules)}, in layers {shown}",
        f"Parameters: {spec.parameters_per_adapter:,}",
    ]


def _loading(spec: LoraSpec, base_model: str, adapter: str) -> str:
    base = portable(base_model)
    if Path(base_model).is_absolute() and (Path.cwd() / base) != Path(base_model):  # where it lies, its config says
        named = [
            "from peft import PeftConfig",
            "",
            f"base = PeftConfig.from_pretrained({json.dumps(adapter)}).base_model_name_or_path",
        ]
        found = (
            f"from peft import PeftConfig as c; print(c.from_pretrained({json.dumps(adapter)}).base_model_name_or_path)"
        )
        shell = f'"$(python -c {shlex.quote(found)})"'
    elif base == MINI_BASE or base.startswith("pypi:") or base.endswith(".gguf"):  # what t2l alone knows by name
        named = ["from t2l.base_model.files import resolve_path", "", f"base = resolve_path({json.dumps(base)})"]
        found = f"from t2l.base_model.files import resolve_path as p; print(p({json.dumps(base)}))"
        shell = f'"$(python -c {shlex.quote(found)})"'
    else:
        named, shell = ["", f"base = {json.dumps(base)}"], shlex.quote(base)
    load = "model = AutoModelForCausalLM.from_pretrained(base)"
    plain = ["from transformers import AutoModelForCausalLM", *named, load]
    peft = ["from peft import PeftModel", *plain]
    return "\n\n".join(
        [
            "## How to load it",
            f"Paths are as given when the adapter was made; of an absolute one the last part is left, so start where `{adapter}` lies. "
            "With PEFT:",
            _block("python", [*peft, f"model = PeftModel.from_pretrained(model, {json.dumps(adapter)})"]),
            "With transformers (PEFT is installed, but not named):",
            _block("python", [*plain, f"model.load_adapter({json.dumps(adapter)})"]),
            *_vllm(spec, shell, adapter),
            "As a model of its own, merged into the base's full-precision weights:",
            _block("sh", [f"t2l merge {shlex.quote(adapter)} --run-dir {shlex.quote(f'{adapter}_merged')}"]),
        ]
    )


def _vllm(spec: LoraSpec, base: str, adapter: str) -> list[str]:
    if spec.kind is AdapterKind.ia3:
        return ["With vLLM: merged into the base, as below; adapters that it serves as they are have to be LoRAs."]
    rank = max_lora_rank(spec.rank)
    if rank is None:
        return [
            f"With vLLM: not as it is, since rank {spec.rank} is above {MAX_LORA_RANKS[-1]}, the greatest --max-lora-rank."
        ]
    named = shlex.quote(f"{Path(adapter).name}={adapter}")
    command = f"vllm serve {base} --enable-lora --max-lora-rank {rank} --lora-modules {named}"
    return ["With vLLM, if its implementation of the base supports LoRA (vLLM was not run):", _block("sh", [command])]


def _limits(definition: str) -> list[str]:
    return [
        "No example of the task was seen when it was made, and it was not tried on any: score it before relying on it.",
        "It belongs to the base with the fingerprint above. On another base of the same shapes it loads without a word and "
        "means nothing.",
        ASKED[definition],
    ]


def _conditions(conditions: Mapping[str, Any] | None) -> list[str]:
    """How the base was loaded and prompted when the hypernetwork, or its library, was trained."""
    if conditions is None:
        return [
            "How the base was loaded when it was trained (dtype, quantisation, values of its chat template): not recorded."
        ]
    storage = conditions.get("dtype", "float32")
    if conditions.get("quantization", "none") != "none":
        storage += f", quantised ({conditions['quantization']})"
    said = [f"It was trained on the base in {storage}; under another storage scores may differ."]
    if conditions.get("chat_template"):
        said.append(f"Prompts were written by this chat template, not the base's own: `{conditions['chat_template']}`.")
    if conditions.get("template_values"):
        values = ", ".join(f"`{k}={json.dumps(v)}`" for k, v in conditions["template_values"].items())
        said.append(f"The base's chat template was given {values}: give it the same.")
    if conditions.get("date"):
        said.append(f"Where the base's chat template prints a date, it printed {conditions['date']}.")
    return said


def _licence(licence: str | None) -> str:
    said = f"{licence}." if licence else "None was stated."
    return f"## Licence\n\n{said} The licence of the base model applies to whatever is used with it."
