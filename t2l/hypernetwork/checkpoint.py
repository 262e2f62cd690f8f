"""Checkpoints of hypernetworks: safetensors and JSON, written whole or not at all, loaded strictly.

A run keeps `checkpoints/step-000200/` with `hypernetwork.safetensors`, `trainer.safetensors` (optimiser
moments and the states of all random generators, of every process) and `checkpoint.json` (architecture, spec, what it was
trained on, which step is the best so far). A step's folder appears under its name only when it is complete. There are
at most two: the last, from which a run goes on, and the best, if the run is validated.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from t2l import encoder as encoders
from t2l import hypernetwork as hypernetworks
from t2l.base_model.files import earlier_fingerprint_hint, shipped_folder
from t2l.encoder.saved_config import in_words
from t2l.files import FileProblemError, read_json, read_tensors
from t2l.hypernetwork import Hypernetwork
from t2l.hypernetwork.selection import Selection
from t2l.lora import LoraSpec
from t2l.run.overview import SWEEP, best_run, find_runs
from t2l.tasks.manifest import Manifest

log = logging.getLogger(__name__)
RECORD, WEIGHTS, TRAINER = "checkpoint.json", "hypernetwork.safetensors", "trainer.safetensors"
TRAINING_DATA = "training_data.safetensors"
"""hashes of what was trained on, and where each training task's descriptions lie"""
SHIPPED = "smollm2"
"""name of the checkpoint that comes with t2l, in data/smollm2"""
STATISTICS = ("mean_A_", "mean_B_", "std_A_", "std_B_")
"""how the statistics of adapters are called in a hypernetwork's state (`Hypernetwork`)"""
OWN_FILES = (RECORD, WEIGHTS, TRAINER, TRAINING_DATA)
"""what a checkpoint's folder holds"""


@dataclass(frozen=True)
class CheckpointRecord:
    """What a checkpoint says about itself; `load` refuses what does not fit."""

    step: int
    objective: str
    hypernetwork: Any
    spec: LoraSpec
    d_embedding: int
    encoder_identity: str
    base_fingerprint: str
    base_name: str
    trained_on: dict[str, Any]
    """suite, its content hash, tasks and phrasing set that training used"""
    encoder: dict[str, Any] | None = None
    """config of the encoder (`TaskEncoder.to_json`); None in checkpoints made before it was recorded"""
    conditions: dict[str, Any] | None = None
    """how the base was loaded and prompted (`conditions.conditions_of`); None in checkpoints made before it was recorded"""
    selection: Selection | None = None
    """which step is the best so far, by what and on what; None if nothing was validated"""

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dict."""
        return {
            **vars(self),
            "hypernetwork": hypernetworks.config_to_json(self.hypernetwork),
            "spec": self.spec.to_json(),
            "selection": None if self.selection is None else self.selection.to_json(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> CheckpointRecord:
        """The record that `to_json` described."""
        return cls(
            **{
                **data,
                "hypernetwork": hypernetworks.config_from_json(data["hypernetwork"]),
                "spec": LoraSpec.from_json(data["spec"]),
                "selection": Selection.from_json(data["selection"]) if data.get("selection") else None,
            }
        )


@dataclass(frozen=True)
class TrainingData:
    """What a hypernetwork was trained on, for judging it later."""

    manifest: Manifest
    centres: Float[Tensor, "tasks d_embedding"]
    """of each training task, in the order of the record's `trained_on` (`confidence.task_centres`)"""


def load_training_data(folder: Path) -> TrainingData | None:
    """What a checkpoint was trained on; None for one that does not say."""
    if not (folder / TRAINING_DATA).is_file():
        return None
    tensors = read_tensors(folder / TRAINING_DATA)
    centres = tensors.pop("centres").float()  # 16 bits in an exported one
    return TrainingData(Manifest.from_tensors(tensors), centres)


def complete_checkpoints(run_folder: Path) -> dict[int, Path]:
    """The complete checkpoints of a run by their step, in ascending order."""
    found = ((re.fullmatch(r"step-(\d+)", p.parent.name), p.parent) for p in run_folder.glob(f"checkpoints/*/{RECORD}"))
    return dict(sorted((int(name[1]), folder) for name, folder in found if name is not None))


def latest_checkpoint(run_folder: Path) -> Path | None:
    """The complete checkpoint of a run with the most steps, or None: the one that a run goes on from."""
    return next(reversed(complete_checkpoints(run_folder).values()), None)


def _best_checkpoint(run_folder: Path, latest: Path) -> Path | None:
    """The checkpoint that validation chose, or None if nothing was validated."""
    selection = load_record(latest).selection
    if selection is None or selection.best_step is None:
        return None
    best = complete_checkpoints(run_folder).get(selection.best_step)
    if best is None:
        raise FileProblemError(
            f"checkpoint {run_folder}: the best one, step {selection.best_step}, is not there any more; "
            f"for the last write {run_folder}:last"
        )
    return best


def find_checkpoint(folder: Path) -> Path:
    """A checkpoint folder from itself or from its run's folder: wherever a checkpoint is asked for, this is what is meant.

    A run's folder means the checkpoint that validation chose if there was validation, else the last one. `RUN:best` and
    `RUN:last` ask for one of the two, and a checkpoint's own folder (`RUN/checkpoints/step-000200`) for that very one.

    The folder of a sweep means its finished run with the best validation score.

    `smollm2` is the one that comes with t2l, unless there is a folder of that name here.

    Raises FileProblemError if there is neither.
    """
    if str(folder) == SHIPPED and not folder.exists():
        shipped = shipped_folder(SHIPPED)
        if shipped is None:
            raise FileProblemError(
                f"there is no checkpoint in data/{SHIPPED} of this copy of t2l: give one with --checkpoint DIR, a run of `t2l train`"
            )
        folder = shipped
    if (folder / RECORD).is_file():
        return folder
    name, _, which = str(folder).rpartition(":")
    run, which = (Path(name), which) if which in ("best", "last") and not folder.exists() else (folder, "")
    if not (run / "checkpoints").is_dir() and (run / SWEEP).is_file():
        run = _best_of_sweep(run)
    latest = latest_checkpoint(run)
    if latest is None:
        reason = "holds no checkpoint" if run.is_dir() else "does not exist"
        raise FileProblemError(
            f"checkpoint {folder} {reason}: give a run folder of `t2l train`, RUN:best, RUN:last, or a checkpoint folder"
        )
    best = _best_checkpoint(run, latest) if which != "last" else None
    if best is None and which == "best":
        raise FileProblemError(f"checkpoint {folder}: nothing was validated in that run, so no checkpoint is its best")
    return best or latest


_SAID: set[Path] = set()
"""best runs of sweeps that were told of: a checkpoint is looked for again and again"""


def _best_of_sweep(sweep: Path) -> Path:
    """The run of a sweep with the best score. Raises FileProblemError if there is none."""
    runs = find_runs(sweep)
    best = best_run(runs)
    if best is None:
        raise FileProblemError(
            f"checkpoint {sweep}: of the {len(runs)} runs of that sweep no finished one has the best validation score: give one of them (`t2l runs {sweep}`)"
        )
    if best.folder.absolute() not in _SAID:
        _SAID.add(best.folder.absolute())
        log.warning("%s is a sweep: %s, %s %.4g, is its best run", sweep, best.folder, best.metric, best.score)
    return best.folder


def how_chosen(folder: Path) -> str:
    """How a checkpoint folder relates to the others of its run, in words: the best by what, or the last."""
    record = load_record(folder)
    of_run = complete_checkpoints(folder.parent.parent) if folder.parent.name == "checkpoints" else {}
    newest = load_record(next(reversed(of_run.values()))) if folder in of_run.values() else record
    if newest.selection is None:
        which = "the last" if record.step == newest.step else "an earlier one"
        return f"{which}, step {record.step} (nothing was validated)"
    return newest.selection.text(record.step, newest.step)


def load_record(folder: Path) -> CheckpointRecord:
    """The record of a checkpoint folder. Raises FileProblemError if it is damaged."""
    data = read_json(folder / RECORD)
    try:
        return CheckpointRecord.from_json(data)
    except (KeyError, TypeError) as error:
        raise FileProblemError(f"{folder / RECORD} is not a checkpoint record of this version ({error})") from None


def load_hypernetwork(folder: Path, record: CheckpointRecord) -> Hypernetwork:
    """The hypernetwork of a checkpoint, in eval mode; every key must match.

    Raises FileProblemError if the weights are missing, damaged or for another architecture.
    """
    model = hypernetworks.build(record.hypernetwork, record.spec, record.d_embedding, seed=0)
    load_strictly(model, folder)
    return model.eval()


def load_strictly(model: Hypernetwork, folder: Path) -> None:
    """Fills a hypernetwork with a checkpoint's weights. Raises FileProblemError if they are not its own."""
    found = read_tensors(folder / WEIGHTS)
    if "has_statistics" in found and not found["has_statistics"]:  # an exported one leaves out what it has not
        found = {**{k: t for k, t in model.state_dict().items() if k.startswith(STATISTICS)}, **found}
    try:
        model.load_state_dict(found, strict=True)
    except RuntimeError as error:
        raise FileProblemError(f"{folder / WEIGHTS} does not fit its record: {str(error).splitlines()[0]}") from None


def check_fits(record: CheckpointRecord, base_fingerprint: str, encoder_identity: str, where: str) -> None:
    """Raises ValueError unless a checkpoint was made for this base model and this encoder."""
    if record.base_fingerprint != base_fingerprint:
        raise ValueError(
            f"{where} was trained for another base model ({record.base_name}, fingerprint "
            f"{record.base_fingerprint[:12]}); this base has fingerprint {base_fingerprint[:12]}"
            f"{earlier_fingerprint_hint(record.base_fingerprint, base_fingerprint)}"
        )
    if record.encoder_identity != encoder_identity:
        how = "it does not say which: pass the encoder=... it was trained with"
        if record.encoder is not None:
            how = f"for its own pass {in_words(record.encoder)}, or encoder=own"
        raise ValueError(
            f"{where} was trained with another sentence encoder (identity {record.encoder_identity[:12]}); "
            f"this encoder has {encoder_identity[:12]}; {how}"
        )


def own_encoder(record: CheckpointRecord, here: encoders.OwnEncoderConfig | None = None) -> Any:
    """The config of the encoder that a checkpoint was trained with, with what depends on this machine.

    Checkpoints that do not say were trained with conf/encoder/minilm_layers.yaml, unless told otherwise.
    Raises ValueError for a config that this version does not have.
    """
    return encoders.config_from_json(record.encoder or {"kind": "sentence", "layers": [0, 2, 4, 6]}, here)


def with_base_at(encoder: Any, record: CheckpointRecord, path: str) -> Any:
    """An encoder's config that reads a checkpoint's base model, if it does, from where that is now."""
    model = getattr(encoder, "model", None)
    if model is None or model.path not in (record.base_name, str(Path(record.base_name).resolve())):
        return encoder
    return replace(encoder, model=replace(model, path=path))
