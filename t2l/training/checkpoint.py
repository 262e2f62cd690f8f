"""Checkpoints of a run in training: written whole or not at all, and taken up exactly."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from t2l.files import atomic_folder, read_tensors, remove_folder, write_json, write_tensors
from t2l.hypernetwork import Hypernetwork
from t2l.hypernetwork.checkpoint import (
    OWN_FILES,
    RECORD,
    TRAINER,
    TRAINING_DATA,
    WEIGHTS,
    CheckpointRecord,
    TrainingData,
    check_fits,
    complete_checkpoints,
    load_record,
    load_strictly,
)
from t2l.objectives.soundness import refuse_wild
from t2l.seeding import generator_for
from t2l.training import random_state

log = logging.getLogger(__name__)


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The state of every parameter; counts that are plain integers become integer tensors without dimensions."""
    # Not state_dict(): bitsandbytes nests its 8-bit moments there. Their code books (qmap) are shared, a file's tensors not.
    return {
        f"optimizer.{i}.{name}": value.clone() if name.startswith("qmap") else torch.as_tensor(value)
        for i, p in enumerate(_parameters(optimizer))
        for name, value in optimizer.state[p].items()
    }


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    parameters = _parameters(optimizer)
    for key, value in tensors.items():
        if not key.startswith("optimizer."):
            continue
        _, index, name = key.split(".", 2)
        p = parameters[int(index)]
        is_count = value.ndim == 0 and not value.is_floating_point()
        on_device = value if name == "step" else value.to(p.device)
        optimizer.state[p][name] = int(value) if is_count else on_device


def save_checkpoint(
    run_folder: Path,
    record: CheckpointRecord,
    hypernetwork: Hypernetwork,
    optimizer: torch.optim.Optimizer,
    training_data: TrainingData | None = None,
    states: Sequence[Mapping[str, Tensor]] = (),
) -> Path:
    """Writes the checkpoint of a step and removes earlier ones, except for the best. Returns its folder.

    Args:
        states: of the random generators (`random_state.capture`), of each process; empty for this one's.

    Raises ValueError if the weights have exploded; what was written before stays.
    """
    refuse_wild(hypernetwork.parameters(), "trainer.lr")
    folder = run_folder / "checkpoints" / f"step-{record.step:06d}"
    of_ranks = [*states] or [random_state.capture()]
    with atomic_folder(folder, OWN_FILES) as temporary:
        write_tensors(temporary / WEIGHTS, hypernetwork.state_dict())
        random = {f"random.{rank}.{key}": state for rank, kept in enumerate(of_ranks) for key, state in kept.items()}
        write_tensors(temporary / TRAINER, {**random, **_optimizer_tensors(optimizer)})
        if training_data is not None:
            tensors = {**training_data.manifest.tensors(), "centres": training_data.centres}
            write_tensors(temporary / TRAINING_DATA, tensors)
        write_json(temporary / RECORD, record.to_json())
    best = record.selection.best_step if record.selection is not None else None
    for step, older in complete_checkpoints(run_folder).items():
        if step not in (record.step, best):
            remove_folder(older, OWN_FILES)
    return folder


def resume(
    folder: Path,
    hypernetwork: Hypernetwork,
    optimizer: torch.optim.Optimizer,
    rank: int = 0,
    size: int = 1,
    seed: int = 0,
) -> CheckpointRecord:
    """Restores hypernetwork, optimiser and this process's random generators. Returns the checkpoint's record."""
    record = load_record(folder)
    load_strictly(hypernetwork, folder)
    trainer = read_tensors(folder / TRAINER)
    _restore_random(trainer, rank, size, f"{seed}:{record.step}")
    _restore_optimizer(optimizer, trainer)
    return record


def _restore_random(trainer: Mapping[str, Tensor], rank: int, size: int, key: str) -> None:
    """The random states of a process; checkpoints of earlier versions have torch's, of the CPU, of one process alone."""
    states: dict[int, dict[str, Tensor]] = (
        {0: {"torch": trainer["torch_generator"]}} if "torch_generator" in trainer else {}
    )
    for name, state in trainer.items():
        if name.startswith("random."):
            _, owner, what = name.split(".", 2)
            states.setdefault(int(owner), {})[what] = state
    if len(states) != size and rank == 0:
        log.warning(
            "the checkpoint was written by %d process(es), and %d go on: dropout differs from an uninterrupted run",
            len(states), size,
        )  # fmt: skip
    if rank in states:
        random_state.restore(states[rank])
    else:
        torch.manual_seed(int(generator_for("process", key, rank).integers(2**62)))


def check_goes_on(
    record: CheckpointRecord,
    base_fingerprint: str,
    encoder_identity: str,
    suite_sha256: str,
    tasks: Sequence[str],
    library_sha256: str | None,
    run_folder: Path,
) -> None:
    """Raises ValueError unless a run's checkpoint was trained on this base, encoder and data: settings name them alike.

    Args:
        library_sha256: of the adapters that it learns; None if it learns none.
    """
    check_fits(record, base_fingerprint, encoder_identity, f"what {run_folder} goes on from")
    found = record.trained_on.get("suite_sha256", suite_sha256)
    if found != suite_sha256:
        raise ValueError(
            f"{run_folder} was trained on other data under the same settings (suite {found[:12]}, now {suite_sha256[:12]}): "
            "choose another run_dir, or restore the data"
        )
    if (learnt := record.trained_on.get("tasks", list(tasks))) != list(tasks):
        raise ValueError(
            f"{run_folder} was trained on {len(learnt)} tasks, and its library is one of {len(tasks)} training tasks now, or of "
            "others: choose another run_dir, or restore the library"
        )
    if record.trained_on.get("library_sha256", library_sha256) != library_sha256:
        raise ValueError(
            f"{run_folder} has learnt other adapters than its library holds now (it was trained again since): choose another "
            "run_dir, or restore the library"
        )
