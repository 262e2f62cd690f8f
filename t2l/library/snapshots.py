"""Snapshots of a slot trainer: what a killed run of library training goes on from.

The settings by which training shares a machine (how many slots there are, how they share passes, whether activations
are recomputed) may differ between a snapshot and the run that takes it up: jobs that had begun and find no slot wait
for one with all that they have. An adapter does not depend on its neighbours beyond the rounding of float32; under
unchanged settings it comes out bit for bit.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from t2l.files import atomic_folder, read_json, read_tensors, remove_folder, write_json, write_tensors
from t2l.library.slots import Slot, SlotTrainer, TrainingJob, WaitingSlot, initial_adapter
from t2l.lora import LoraWeights
from t2l.lora.weights import concatenate

_PROGRESS = ("end", "start", "step", "cycles", "time_s", "checks_since_best", "best_loss")


def take_snapshot(trainer: SlotTrainer) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Everything that `restore` needs: a JSON-able record, and tensors with one row for each job that has begun."""
    tensors = {
        name: torch.cat([t.detach(), *(w.state[k].to(t.device)[None] for w in trainer.waiting)])
        for k, (name, t) in enumerate(trainer.state().items())
    }
    slots = []
    for i, slot in enumerate([*trainer.slots, *(w.slot for w in trainer.waiting)]):
        progress = {key: getattr(slot, key) for key in _PROGRESS}
        slots.append({"name": slot.job.name, **progress, "has_best": slot.best is not None})
        if slot.tail:
            tensors[f"tail.{i}"] = torch.stack(list(slot.tail))
        if slot.best is not None:
            tensors |= {f"best.{i}.{k}": t for k, t in enumerate(slot.best.tensors())}
    return {"slots": slots, "queue": [j.name for j in trainer.queue]}, tensors


def restore(
    trainer: SlotTrainer, record: Mapping[str, Any], tensors: Mapping[str, Tensor], jobs: Sequence[TrainingJob]
) -> None:
    """Takes up a snapshot in place of a trainer's own beginning, in as many slots as the trainer has.

    The trainer has the spec and seed of the snapshot's, and a config that differs at most in how it shares the machine.
    """
    by_name = {j.name: j for j in jobs}
    begun = [_slot(trainer, by_name, tensors, i, entry) for i, entry in enumerate(record["slots"])]
    trainer.queue = deque(by_name[name] for name in record["queue"])
    running, weights = begun[: trainer.capacity], _weights(trainer, tensors, "weights")
    fresh = [trainer.queue.popleft() for _ in range(min(trainer.capacity - len(running), len(trainer.queue)))]
    start = (initial_adapter(trainer.spec, trainer.seed, j.name, trainer.config.shared_a) for j in fresh)
    trainer.adopt(concatenate([weights[: len(running)], *start]).to(trainer.base.device))
    state = trainer.state()
    with torch.no_grad():
        for name, ours in state.items():
            ours[: len(running)] = tensors[name][: len(running)].to(ours.device)
    trainer.slots = [*running, *(trainer.occupy(job) for job in fresh)]
    trainer.waiting = deque(
        WaitingSlot(begun[i], [tensors[name][i] for name in state]) for i in range(len(running), len(begun))
    )


def _slot(
    trainer: SlotTrainer,
    jobs: Mapping[str, TrainingJob],
    tensors: Mapping[str, Tensor],
    i: int,
    entry: Mapping[str, Any],
) -> Slot:
    slot = trainer.occupy(jobs[entry["name"]])
    for key in _PROGRESS:
        setattr(slot, key, entry[key])
    slot.tail.extend(tensors[f"tail.{i}"].to(trainer.base.device) if f"tail.{i}" in tensors else [])
    slot.best = _weights(trainer, tensors, f"best.{i}") if entry["has_best"] else None
    return slot


def _weights(trainer: SlotTrainer, tensors: Mapping[str, Tensor], prefix: str) -> LoraWeights:
    names = trainer.spec.group_names
    A, B = ({name: tensors[f"{prefix}.{first + i}"] for i, name in enumerate(names)} for first in (0, len(names)))
    return LoraWeights(A, B)


SNAPSHOT_FILES = ("trainer.safetensors", "trainer.json")
"""what a snapshot's folder holds"""


class Snapshots:
    """The state of a trainer on disk, whole or absent.

    Args:
        identity: what decides the adapters of the jobs; a snapshot of another identity is not taken up.
        every_steps: steps of the trainer after which the next one is due.
        every_minutes: minutes after which it is due in any case.
    """

    def __init__(
        self, folder: Path, identity: Mapping[str, Any], every_steps: int = 200, every_minutes: float = 10.0
    ) -> None:
        self.folder, self.identity = folder, json.loads(json.dumps(identity))
        self._every_steps, self._every_s = every_steps, 60 * every_minutes
        self._steps, self._saved_at = 0, time.monotonic()

    def after_step(self, trainer: SlotTrainer) -> None:
        """Counts a step of the trainer, and saves if it is time."""
        self._steps += 1
        is_due = self._steps >= self._every_steps or time.monotonic() - self._saved_at >= self._every_s
        if is_due and not trainer.done:
            self.save(trainer)

    def save(self, trainer: SlotTrainer) -> None:
        """Writes the trainer's state in place of an earlier one."""
        record, tensors = take_snapshot(trainer)
        with atomic_folder(self.folder, SNAPSHOT_FILES) as temporary:
            # An adapter that diverges is told from the others when it ends, and until then it is none of their business.
            write_tensors(temporary / "trainer.safetensors", tensors, finite=False)
            write_json(temporary / "trainer.json", {"identity": self.identity, **record})
        self._steps, self._saved_at = 0, time.monotonic()

    def names(self) -> list[str]:
        """Jobs of the snapshot, begun or queued; none if there is no snapshot of this identity."""
        if not (self.folder / "trainer.json").is_file():
            return []
        record = read_json(self.folder / "trainer.json")
        if record["identity"] != self.identity:
            return []
        return [*(s["name"] for s in record["slots"]), *record["queue"]]

    def resume(self, trainer: SlotTrainer, jobs: Sequence[TrainingJob]) -> None:
        """Brings a trainer of exactly these jobs to the snapshot's state, if there is one."""
        if set(self.names()) == {j.name for j in jobs}:
            record = read_json(self.folder / "trainer.json")
            restore(trainer, record, read_tensors(self.folder / "trainer.safetensors", finite=False), jobs)

    def remove(self) -> None:
        """Deletes the snapshot: there is nothing left to go on with."""
        remove_folder(self.folder, SNAPSHOT_FILES)
