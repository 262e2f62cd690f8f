"""A trained hypernetwork as something to hand on: one folder, half the size, with a card."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from t2l.files import (
    FileProblemError,
    atomic_folder,
    check_finite,
    file_sha256,
    read_json,
    read_tensors,
    write_json,
    write_tensors,
    write_text,
)
from t2l.hypernetwork.checkpoint import (
    RECORD,
    STATISTICS,
    TRAINING_DATA,
    WEIGHTS,
    CheckpointRecord,
    find_checkpoint,
    how_chosen,
    load_record,
)
from t2l.hypernetwork.generator import adapter_name
from t2l.hypernetwork.kept_calibration import CONFIDENCE_FILE, kept_calibration
from t2l.lora.card import portable
from t2l.lora.weights import AdapterKind
from t2l.run.folder import command_of

CARD = "README.md"
FILES = (RECORD, WEIGHTS, TRAINING_DATA, CONFIDENCE_FILE, CARD)
"""what an exported checkpoint holds: not the optimiser, without which training does not go on"""


def halved(tensors: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Tensors with float32 stored in 16 bits (float16), the others as they are.

    Raises FileProblemError if a value is beyond what float16 holds.
    """
    small = {k: t.half() if t.dtype is torch.float32 else t for k, t in tensors.items()}
    check_finite(small, f"{where}, stored in 16 bits")
    return small


def without_statistics(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A hypernetwork's state without the statistics of adapters, if it has none: loading fills them in."""
    if tensors["has_statistics"]:
        return dict(tensors)
    return {k: t for k, t in tensors.items() if not k.startswith(STATISTICS)}


def export(
    checkpoint: Path,
    out: Path,
    report: Mapping[str, Any] | None = None,
    licence: str | None = None,
    scored_by: str | None = None,
) -> Path:
    """Writes a checkpoint without its optimiser, in 16 bits, with a card. Returns the folder.

    It is a checkpoint like any other wherever one is read; training does not go on from it.

    Args:
        checkpoint: run or checkpoint folder, RUN:best or RUN:last.
        report: what `report.json` of an evaluation of this checkpoint holds, for the card; None: the card has no scores.
        licence: as the hub spells it; None states none.
        scored_by: the command of that evaluation, for the card.

    Raises FileProblemError for a checkpoint that is not there or does not fit into 16 bits, an `out` that holds what t2l
    did not write, and a report that scores other checkpoints.
    """
    folder = find_checkpoint(checkpoint)
    record = load_record(folder)
    if report is not None:
        check_report(report, record, folder)
    weights = halved(without_statistics(read_tensors(folder / WEIGHTS)), f"{folder / WEIGHTS}")
    with atomic_folder(out, only=FILES) as temporary:
        write_json(temporary / RECORD, record.to_json())
        write_tensors(temporary / WEIGHTS, weights)
        if (folder / TRAINING_DATA).is_file():
            write_tensors(
                temporary / TRAINING_DATA, halved(read_tensors(folder / TRAINING_DATA), f"{folder / TRAINING_DATA}")
            )
        if (calibration := kept_calibration(folder, record.step)) is not None:
            own = {**calibration.to_json(), "checkpoint_sha256": file_sha256(temporary / WEIGHTS)}
            write_json(temporary / CONFIDENCE_FILE, own)
        write_text(temporary / CARD, card(folder, record, weights, report, licence, scored_by, out))
    return out


def check_report(report: Mapping[str, Any], record: CheckpointRecord, folder: Path) -> None:
    """Raises FileProblemError unless a report scores a checkpoint of this step, seed and data."""
    wanted = record.to_json()
    scored = report.get("provenance", {}).get("checkpoints", {})
    if not any(all(c.get(k) == wanted[k] for k in ("step", "trained_on", "base_fingerprint")) for c in scored.values()):
        raise FileProblemError(f"that report does not score {folder}: it scores {', '.join(scored) or 'no checkpoint'}")


def card(
    folder: Path,
    record: CheckpointRecord,
    weights: Mapping[str, Tensor],
    report: Mapping[str, Any] | None,
    licence: str | None,
    scored_by: str | None = None,
    out: Path = Path("hypernetwork"),
) -> str:
    """The `README.md` of an exported hypernetwork: what it is, how it was made, how to use it, what it scores.

    Args:
        out: where it will lie, as the user gave it.
    """
    trained_on = record.trained_on
    run = folder.parent.parent / "run.json"
    config = read_json(run)["config"] if run.is_file() else {}
    sizes = [
        f"Writes: {adapter_text(record)}",
        f"For the base model `{record.base_name}`, fingerprint `{record.base_fingerprint}`; {conditions_text(record)}",
        f"{sum(t.numel() for t in weights.values()):,} values in 16 bits (trained in 32)",
        f"Reads descriptions by {(record.encoder or {}).get('path', 'an encoder of its own')}",
    ]
    made = [
        f"Objective {record.objective}, step {record.step} ({how_chosen(folder)}), seed {trained_on.get('seed')}",
        f"Suite `{trained_on.get('suite')}` (sha256 `{trained_on.get('suite_sha256')}`), {len(trained_on['tasks'])} training tasks",
        *(f"Code: t2l {c['t2l']}, commit {c.get('commit', 'not known')}" for c in code_of(run)),
    ]
    if trained_by := command_of(run.parent, "train"):
        made.insert(0, f"`{trained_by}`")
    settings = json.dumps({k: config[k] for k in ("objective", "trainer", "hypernetwork") if k in config}, indent=1)
    sections = [
        f"# A hypernetwork that writes adapters for {record.base_name} from a sentence",
        "Made by t2l (Text-to-LoRA, Charakorn et al. 2025, arXiv:2506.06105). It does not contain the base model.",
        _list("What it is", sizes),
        _list("How it was made", made),
        f"```json\n{settings}\n```" if config else "",
        _use(record, portable(out)),
        scores_text(report, scored_by) if report is not None else "## Scores\n\nIt was exported without a report.",
        f"## Licence\n\n{licence or 'None was stated.'}",
    ]
    return "\n\n".join(s for s in sections if s) + "\n"


def _use(record: CheckpointRecord, folder: str) -> str:
    """Commands that run as they stand, on the first task that it was trained on."""
    task = record.trained_on["tasks"][0]
    reads_names = (record.encoder or {}).get("kind") == "one_hot"
    description = task if reads_names else task.replace("_", " ")
    lines = [
        f"t2l generate {shlex.quote(description)} --checkpoint {shlex.quote(folder)} --out adapters",
        f"t2l try adapters/{adapter_name(description)} 'an input of that task'",
    ]
    where = f"With `{folder}` as it was given when it was written, of an absolute path the last part; any other description goes as well:"
    return "\n\n".join(["## Use", where, "```sh\n" + "\n".join(lines) + "\n```"])


def _list(title: str, lines: Sequence[str]) -> str:
    return f"## {title}\n\n" + "\n".join(f"- {line}" for line in lines)


def adapter_text(record: CheckpointRecord) -> str:
    """What adapters it writes, in words."""
    spec = record.spec
    layers = f"layers {spec.layers[0]} to {spec.layers[-1]}"
    if spec.kind is AdapterKind.ia3:
        return f"(IA)3 on {', '.join(spec.target_modules)} in {layers}"
    return f"LoRA of rank {spec.rank}, alpha {spec.alpha:g}, on {', '.join(spec.target_modules)} in {layers}"


def conditions_text(record: CheckpointRecord) -> str:
    """How the base was loaded and prompted in training, in words."""
    conditions = record.conditions or {}
    said = f"loaded in {conditions.get('dtype', 'a storage that was not recorded')}"
    if template := conditions.get("chat_template"):
        said += f", prompted by the chat template `{template}`"
    return said


def code_of(run: Path) -> list[Mapping[str, str]]:
    """The versions of t2l that worked on a run."""
    return [e["code"] for e in read_json(run).get("environments", [])] if run.is_file() else []


def scores_text(report: Mapping[str, Any], command: str | None = None) -> str:
    """The scores and controls of a report, as Markdown tables."""
    results, splits = report["results"], list(dict.fromkeys(r["split"] for r in report["results"]))
    by = {(r["contender"], r["split"]): r for r in results}
    rows = [
        [name, *(_cell(by.get((name, s))) for s in splits)] for name in dict.fromkeys(r["contender"] for r in results)
    ]
    table = ["contender", *splits]
    lines = [f"| {' | '.join(row)} |" for row in (table, ["---"] * len(table), *rows)]
    tasks = ", ".join(f"{s} {max(r['n_tasks'] for r in results if r['split'] == s)}" for s in splits)
    intro = (
        f"Mean over tasks and its 95 % bootstrap interval. Tasks: {tasks}. Of {report['provenance']['suite']['name']}."
    )
    by_command = "" if command is None else f"\n\n```sh\n{command}\n```"
    return "## Scores\n\n" + intro + by_command + "\n\n" + "\n".join(lines)


def _cell(result: Mapping[str, Any] | None) -> str:
    if result is None:
        return ""
    low, high = result["ci95"]
    return f"{result['mean']:.2f} [{low:.2f}, {high:.2f}]"
