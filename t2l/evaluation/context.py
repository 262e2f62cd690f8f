"""What contenders are made from: the models, adapters and checkpoints of an evaluation."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from t2l.base_model import BaseModel, load_base_model, lora_spec
from t2l.encoder import TaskEncoder
from t2l.evaluation.checkpoints import ScoredCheckpoint, load_checkpoints
from t2l.evaluation.config import EvaluateConfig
from t2l.evaluation.contenders.interface import Contender, kinds
from t2l.evaluation.contenders.oracle import MethodOracle
from t2l.evaluation.encoders import Encoders
from t2l.evaluation.identity import library_recipe
from t2l.evaluation.scope import Scope
from t2l.evaluation.scoring import check_scorable
from t2l.hypernetwork.checkpoint import find_checkpoint, load_record
from t2l.library import MULTI_TASK, LibraryFolder, library_record, open_library, training_tasks_in
from t2l.lora import LoraSpec

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Context:
    """What contenders are made from."""

    scope: Scope
    base: BaseModel
    spec: LoraSpec
    """geometry of the library's adapters, or as configured"""
    opened: LibraryFolder | None
    """the library, if there is one"""
    encoders: Encoders
    checkpoints: list[ScoredCheckpoint]

    @classmethod
    def load(cls, scope: Scope) -> Context:
        """Loads the base model, opens the library, and loads encoders and checkpoints.

        Raises ValueError (or FileProblemError) for what is not there or does not belong together.
        """
        config = scope.config
        base = load_base_model(config.base_model)
        library = open_library(Path(config.library), base) if config.library else None
        spec = library.spec if library is not None else lora_spec(base.model, config.lora)
        tasks = scope.trained.select(scope.training_tasks)
        encoders = Encoders(config, base, tasks)
        return cls(scope, base, spec, library, encoders, load_checkpoints(config, encoders))

    @property
    def config(self) -> EvaluateConfig:
        """The evaluation's configuration, with the conditions of training restored."""
        return self.scope.config

    @property
    def training_tasks(self) -> list[str]:
        """Names of the training tasks."""
        return self.scope.training_tasks

    @property
    def library_tasks(self) -> list[str]:
        """Names of the training tasks that the library is of: all, or a sample."""
        path = self.config.library or ""
        return training_tasks_in(library_record(Path(path)), self.training_tasks, path)

    @property
    def scored_tasks(self) -> list[str]:
        """Names of the scored tasks, split by split."""
        return [task.name for view in self.scope.views for task in view.tasks]

    @property
    def library(self) -> LibraryFolder:
        """The library, for contenders that say they need it."""
        assert self.opened is not None  # the configuration has checked it
        return self.opened

    @property
    def encoder(self) -> TaskEncoder:
        """What compares descriptions for contenders without a checkpoint: the encoder asked for, else the first one's own."""
        paths = self.config.checkpoints
        return self.encoders.of(load_record(find_checkpoint(Path(paths[0]))) if paths else None)

    def contenders(self) -> list[Contender]:
        """Everything asked for, in the order of the configuration; then what other methods learned."""
        known = kinds()
        made = [c for name in self.scope.contenders for c in known[name].make(self)]
        return [*made, *MethodOracle.make(self)]

    def check_tasks(self) -> None:
        """Raises ValueError if the scored tasks lack what their metric or an encoder needs. Nothing is scored before."""
        scope, config = self.scope, self.config
        encoders = [e for e in self._reading_encoders() if not e.reads_any_text]
        for view in scope.views:
            for encoder in encoders:
                encoder.encode_groups(view.descriptions)
            for task in view.tasks:
                check_scorable(task)
        split = config.robustness_split
        if split is not None and split not in scope.suite.splits:
            log.warning(
                "robustness_split=%s is no split of suite %s: styles and scales are left out", split, scope.suite.name
            )

    def _reading_encoders(self) -> list[TaskEncoder]:
        """Those that embed descriptions of the scored tasks."""
        needs = [kind.needs for kind in kinds(self.scope.contenders).values()]
        found = [c.encoder for c in self.checkpoints] if any(n.checkpoints for n in needs) else []
        return list(dict.fromkeys([*found, *([self.encoder] if any(n.encoder for n in needs) else [])]))

    def checkpoint_of(self, contender: Contender) -> ScoredCheckpoint | None:
        """The checkpoint that a generated contender comes from; None for any other contender."""
        return next((c for c in self.checkpoints if any(g is contender for g in c.generated)), None)

    def library_recipe(self, part: str) -> dict[str, Any]:
        """What a part of the library was trained on, and how.

        Args:
            part: as in `Needs.library`.
        """
        tasks = {"own": self.scored_tasks, "training_tasks": self.library_tasks, "multi_task": [MULTI_TASK]}[part]
        folder = self.library.static if part == "multi_task" else self.library.adapters
        return library_recipe(folder, sorted(set(tasks)))
