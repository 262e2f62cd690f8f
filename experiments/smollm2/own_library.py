"""A library of a hypernetwork's own adapters: for each training task the mean over the adapters of all its training descriptions.

python -m experiments.smollm2.own_library runs/sft:last --out runs/own

Reconstruction on it (`t2l train experiment=everyday_reconstruction library=runs/own`) changes how descriptions are read and nothing
else: the targets are adapters that one network has made already, not ones that were trained apart. So it tells what description
noise does from what oracles do.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from t2l.files import FileProblemError, atomic_folder, write_json
from t2l.hypernetwork.checkpoint import TrainingData, load_training_data
from t2l.hypernetwork.generator import Generator, load
from t2l.library import LIBRARY_RECORD, LibraryFolder
from t2l.lora import LoraWeights
from t2l.run.console import fail
from t2l.tasks import Task
from t2l.tasks.manifest import Manifest
from t2l.tasks.suites import build
from t2l.tasks.suites.everyday.suite import EverydayConfig


def mean_adapter(generator: Generator, task: Task, count: int) -> LoraWeights:
    """A batch of one: the means of A and of B over the task's first `count` training descriptions.

    One network emits all of them, so rank r of one description's adapter is rank r of another's, and means of factors mean something.
    """
    made = generator(task.descriptions["train"][:count])
    return made.map(lambda t: t.mean(0, keepdim=True))


def training_tasks(generator: Generator) -> list[Task]:
    """Of the checkpoint. Raises ValueError if they are not those of suite=everyday as it is."""
    told, suite = generator.record.trained_on, build(EverydayConfig())
    if told["suite_sha256"] != suite.content_hash():
        raise ValueError(
            f"{generator.checkpoint} was trained on suite {told['suite']} of other content than suite=everyday has"
        )
    return suite.select(told["tasks"])


def own_library(checkpoint: str, out: Path) -> Iterator[str]:
    """Writes the library, whole or not at all; yields each task when its adapter is done.

    Raises ValueError for a checkpoint of other tasks, or one that does not say what it was trained on, or a folder that is there.
    """
    if out.exists():
        raise FileProblemError(f"--out {out} is there already: choose another folder")
    generator = load(checkpoint)
    record, data = generator.record, load_training_data(generator.checkpoint)
    tasks = training_tasks(generator)
    if data is None:
        raise ValueError(f"{generator.checkpoint} does not say what it was trained on")
    about = {
        "spec": generator.hypernetwork.spec.to_json(),
        "base_model": record.base_name,
        "base_fingerprint": record.base_fingerprint,
        "suite": {"name": record.trained_on["suite"], "sha256": record.trained_on["suite_sha256"]},
        "definition": record.trained_on["definition"],
        "conditions": record.conditions,
        "generated_by": str(generator.checkpoint),
    }
    with atomic_folder(out) as folder:
        library = LibraryFolder.recorded(folder, about)
        for task in tasks:
            weights = mean_adapter(generator, task, record.trained_on["descriptions_per_task"])
            provenance = {"generated_by": str(generator.checkpoint), "step": record.step}
            library.adapters.save(task.name, weights, provenance, _seen(data, task))
            yield task.name
        write_json(folder / LIBRARY_RECORD, {**about, "finished": True})


def _seen(data: TrainingData, task: Task) -> Manifest:
    """What of a task the checkpoint was trained on."""
    parts = vars(data.manifest).items()
    return Manifest(**{kind: {n: hashes for n, hashes in part.items() if n == task.name} for kind, part in parts})


def main() -> None:
    """Prints how many adapters there are now."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.smollm2.own_library", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("checkpoint", help="run or checkpoint folder of `t2l train` on suite=everyday")
    parser.add_argument("--out", required=True, type=Path, help="folder to write, which must not be there")
    asked = parser.parse_args()
    try:
        count = sum(1 for _ in own_library(asked.checkpoint, asked.out))
    except ValueError as error:
        fail(str(error))
    print(f"{count} adapters in {asked.out}")


if __name__ == "__main__":
    main()
