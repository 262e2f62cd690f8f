"""What the adapters of a library were trained on: as they recorded it, or as equal hashes of the data tell."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from t2l.files import FileProblemError, read_tensors
from t2l.library.folder import library_record
from t2l.lora.peft_folder import PROVENANCE_FILE, TRAINING_DATA_FILE, load_provenance
from t2l.seeding import generator_for
from t2l.tasks import PromptConfig, Task, TaskSuite
from t2l.tasks.manifest import Manifest


def joint_hash(tasks: Sequence[Task]) -> str:
    """A hash over the examples of several tasks, in their order: what a multi-task LoRA's provenance records."""
    return generator_for("+".join(t.examples_hash() for t in tasks)).bytes(16).hex()


def adapter_manifest(tasks: Sequence[Task], prompt: PromptConfig, is_validated: bool) -> Manifest:
    """What an adapter trained on these tasks is trained on.

    Args:
        tasks: without their definitions in the inputs.
        is_validated: whether their validation examples decide when training stops.
    """
    shown = max((len(t.descriptions["train"]) for t in tasks), default=0) if prompt.is_shown else 0
    return Manifest.of(tasks, shown, validated_on=tasks if is_validated else ())


def trained_on(folder: Path, suites: Sequence[TaskSuite], definition: str) -> Manifest | None:
    """What one adapter of a library was trained on; None if nothing at all is recorded about it.

    Adapters made before rows were recorded have a hash over all examples of their task. Where a suite deals the task
    the same examples, these are the rows; if not, which rows it were cannot be told.

    Args:
        folder: of the adapter, in `adapters/` or `static/`.
        suites: whose tasks it may have been trained on.
        definition: hidden or shown, as the library was trained.

    Raises ValueError for an adapter of other data whose rows are not recorded.
    """
    if (folder / TRAINING_DATA_FILE).is_file():
        return Manifest.from_tensors(read_tensors(folder / TRAINING_DATA_FILE))
    record = load_provenance(folder) if (folder / PROVENANCE_FILE).is_file() else {}
    recorded, names = record.get("data_sha256"), record.get("tasks")
    if recorded is None:
        return None
    prompt, own = PromptConfig(definition), [record.get("task", folder.name)]
    for suite in suites:
        if set(names or own) <= set(suite.tasks):
            tasks = suite.select(names or own)
            shown = [prompt.apply(t) for t in tasks]
            if recorded == (joint_hash(shown) if names else shown[0].examples_hash()):
                return adapter_manifest(tasks, prompt, is_validated=not names)
    raise ValueError(
        f"{folder} was trained on other data than suite {suites[-1].name} has for it, and does not say on which rows, so "
        "whether they are scored cannot be told: take the suite (and suite.seed) it was trained on, or train it again"
    )


def targets_trained_on(
    library: Path, tasks: Sequence[Task], suite: TaskSuite, definition: str
) -> list[Manifest | None]:
    """What each task's adapter, as a target of reconstruction, was trained on; None if nothing is recorded.

    Args:
        library: folder of `t2l train_library`.
        suite: the tasks' own.
        definition: hidden or shown, as the hypernetwork is trained.

    Raises:
        FileProblemError: it is no library, or lacks a task's adapter.
        ValueError: an adapter was trained on other rows of its task than the suite has for it, or with the definition
            otherwise in the prompt.
    """
    own = library_record(library).get("definition", "hidden")
    if own != definition:
        raise ValueError(
            f"library={library} was trained with prompt.definition={own}: pass that, or train a library with "
            f"prompt.definition={definition}"
        )
    found = []
    for task in tasks:
        folder = library / "adapters" / task.name
        if not folder.is_dir():
            raise FileProblemError(f"library={library} has no adapter for task {task.name!r}: run `t2l train_library`")
        manifest = trained_on(folder, [suite], own)
        if manifest is not None and not manifest.is_within(task):
            raise ValueError(
                f"{folder} was trained on other rows than suite {suite.name} has for training: take the suite (and "
                "suite.seed) that the library was trained on, or train a library on this one"
            )
        found.append(manifest)
    return found
