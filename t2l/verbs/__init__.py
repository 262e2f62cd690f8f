"""What `t2l` does, one file per verb: its root config, the function that runs it, and `VERB`, which names both.

To add a verb: a module here, its line in VERBS, and conf/VERB.yaml.
"""

from __future__ import annotations

import importlib
import keyword
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from t2l.tracking import Results

VERBS = {
    "quickstart": "the whole path in one run, on the embedded world by default",
    "train_library": "train an oracle LoRA per task, and the multi-task LoRA",
    "train": "train a hypernetwork by SFT, distillation, reconstruction",
    "evaluate": "score contenders on every split and write a report",
    "compare_methods": "train every adaptation method on the same tasks, one table",
    "describe": "write descriptions of tasks with a language model",
    "pretrain_base": "pretrain the mini base model from scratch",
    "generate": "turn descriptions into PEFT adapter folders",
    "try": "answers of the base and of an adapter, side by side",
    "library": "verify and summarise the adapters of a library",
    "runs": "runs and sweeps in one table: state, scores over seeds, time",
    "report": "a report's tables as LaTeX, CSV..., its figures as PDF or SVG",
    "compare": "reports side by side, with differences paired by example",
    "export": "a trained hypernetwork in one folder to hand on, with a card",
    "merge": "add an adapter to its base's weights and save the model",
    "plan": "what `t2l train` would train, its sizes, whether a step fits",
}
"""what each does; importing this imports none of them"""


@dataclass(frozen=True)
class Verb:
    """What the command line knows of a verb."""

    config: type
    """root config, composed from conf/VERB.yaml"""
    run: Callable[..., Any]
    """does the work on the composed config; if `is_parallel`, on the `World` of processes as well. Raises ValueError for
    what the user can mend"""
    words: tuple[str, ...] = ()
    """keys of the config that take the command's other words by their place: one word each, the last all that are left if
    it is a list"""
    is_parallel: bool = False
    """whether torchrun may run it in several processes"""
    keeps_records: bool = True
    """whether a run has a folder (run_dir) for its configuration and log, and can be swept over with -m"""
    results: Callable[[Any], Results] | None = None
    """what came out, for the tracker (`logger=NAME`) of a config that has the key `logger`"""


def verb_named(name: str) -> Verb:
    """The verb of this name, imported with everything it needs."""
    module = f"{name}_" if keyword.iskeyword(name) else name
    return importlib.import_module(f"{__name__}.{module}").VERB
