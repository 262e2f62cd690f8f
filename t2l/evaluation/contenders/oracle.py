"""What training on examples gives: a LoRA for each task, one for all, and what other methods learned of each task."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from t2l.base_model import BaseModel, load_base_model
from t2l.evaluation.contenders.interface import Contender, Entry, Needs, SplitView
from t2l.evaluation.costs import Costs, Making, mean_costs
from t2l.evaluation.identity import identity, method_recipe
from t2l.library import MULTI_TASK, AdapterLibrary
from t2l.lora.peft_folder import WEIGHTS_FILE
from t2l.methods.folder import MethodLibrary
from t2l.registry import register

if TYPE_CHECKING:
    from t2l.evaluation.context import Context


@register("contender", "oracle")
class Oracle(Contender):
    """Each task's own library adapter, trained on that task's examples."""

    name, place = "oracle", 120
    needs = Needs(library="own")
    is_harness_default = True

    def __init__(self, library: AdapterLibrary) -> None:
        self._library = library

    @classmethod
    def make(cls, context: Context) -> list[Contender]:
        """From the library's adapters."""
        return [cls(context.library.adapters)]

    def enter(self, view: SplitView) -> Entry:
        """Bare inputs, one adapter per task. Raises FileProblemError for a task the library lacks."""
        return Entry(view.questions(lambda t, e: t), self._library.source([t.name for t in view.tasks]))

    def costs(self, making: Making) -> Costs:
        """Means over the library; the time is there only if training recorded it."""
        return mean_costs([_adapter_costs(self._library, task) for task in self._library.tasks()])


@register("contender", "multi_task")
class MultiTask(Contender):
    """One static LoRA trained on all training tasks."""

    name, place = "multi_task", 70
    needs = Needs(library="multi_task")
    is_harness_default = True

    def __init__(self, library: AdapterLibrary, adapter_name: str) -> None:
        self._library, self._adapter = library, adapter_name
        self._adapters = library.source([adapter_name])

    @classmethod
    def make(cls, context: Context) -> list[Contender]:
        """From the library's multi-task LoRA."""
        return [cls(context.library.static, MULTI_TASK)]

    def enter(self, view: SplitView) -> Entry:
        """Bare inputs, the same adapter everywhere."""
        return Entry(view.questions(), self._adapters)

    def costs(self, making: Making) -> Costs:
        """Of the one adapter; its time is shared by all tasks."""
        return mean_costs([_adapter_costs(self._library, self._adapter)])


def _adapter_costs(library: AdapterLibrary, task: str) -> dict[str, object]:
    """What one adapter of a library cost, as `mean_costs` wants it."""
    size = (library.path(task) / WEIGHTS_FILE).stat().st_size
    own = {"trainable_parameters": library.spec.parameters_per_adapter, "adapter_bytes": size}
    return {"training_time_s": None, **library.provenance(task), **own}


class MethodOracle(Contender):
    """What another adaptation method than the library's LoRA learned from each task's own examples.

    It is asked for by a folder (`method_libraries`), not by its name, so it is not registered.
    """

    def __init__(self, library: MethodLibrary, base: BaseModel, name: str) -> None:
        """Raises ValueError if the library was trained on another base.

        Args:
            base: loaded as the method wants it (`Method.base_config`).
        """
        library.check_base(base)
        self.name = f"oracle_{name}"
        self.library, self._base = library, base

    @classmethod
    def make(cls, context: Context) -> list[Contender]:
        """One per method library; a method that was trained several times gets numbers."""
        names: list[str] = []
        made: list[Contender] = []
        for folder in context.config.method_libraries:
            library = MethodLibrary.open(Path(folder))
            wanted = library.method.base_config(context.config.base_model)
            fitting = context.base if wanted == context.config.base_model else load_base_model(wanted)
            names.append(library.method.name)
            same = names.count(library.method.name)
            made.append(cls(library, fitting, library.method.name + (f"_{same}" if same > 1 else "")))
        return made

    def identity(self, context: Context) -> dict[str, Any]:
        """What was learned of the scored tasks, and how."""
        learned = method_recipe(self.library, context.scored_tasks)
        what = {"contender": self.name, "base": context.base.fingerprint, "library": learned}
        return identity(what, f"adapters of {self.library.folder}")

    def enter(self, view: SplitView) -> Entry:
        """Bare inputs, one task after another. Raises FileProblemError for a task the library lacks."""
        for task in view.tasks:
            self.library.provenance(task.name)
        return Entry(
            view.questions(lambda t, e: t),
            attached=lambda t: self.library.restore(self._base, view.tasks[t].name),
            attached_key=lambda t: self.library.content_digest(view.tasks[t].name),
        )

    def costs(self, making: Making) -> Costs:
        """Means over the library."""
        return mean_costs([self.library.provenance(task) for task in self.library.tasks()])
