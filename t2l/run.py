"""A run's folder: what was run, with which code and data, and what it measured while running."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import platform
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from t2l.files import check_own, read_json, write_json, write_text
from t2l.run_folder import overrides_of

log = logging.getLogger(__name__)
PACKAGES = ("torch", "transformers", "peft", "sentence-transformers", "hydra-core", "numpy")


@dataclass
class LoggerConfig:
    """Where metrics go besides metrics.jsonl."""

    wandb: str = "disabled"
    """Weights & Biases mode: disabled, offline or online"""
    project: str = "t2l"
    """Weights & Biases project"""

    def __post_init__(self) -> None:
        if self.wandb not in ("disabled", "offline", "online"):
            raise ValueError(f"logger.wandb must be disabled, offline or online, not {self.wandb!r}")


def code_version() -> dict[str, str]:
    """t2l's version and, in a checkout, the commit (with `+changes` where the tree differs from it)."""
    version = {"t2l": importlib.metadata.version("t2l")} if _installed("t2l") else {}
    root = Path(__file__).parent.parent
    try:
        git = ["git", "-C", str(root)]
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True)
        status = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return version
    return {**version, "commit": commit.stdout.strip() + ("+changes" if status.stdout.strip() else "")}


def _installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def environment() -> dict[str, Any]:
    """Versions of the code, Python and the packages that results depend on."""
    packages = {p: importlib.metadata.version(p) for p in PACKAGES if _installed(p)}
    return {"code": code_version(), "python": platform.python_version(), "packages": packages}


def environments(record: Path) -> list[dict[str, Any]]:
    """The environments that a JSON record names under `environments`, and this one: all that worked on a folder."""
    before = read_json(record).get("environments", []) if record.is_file() else []
    now = environment()
    return before if now in before else [*before, now]


class Run:
    """One run: `run.json` (config, versions), `metrics.jsonl`, and Weights & Biases where asked.

    Metrics hold no wall-clock times, so that two runs of one seed can be compared line by line; times
    are in `timings.jsonl`.
    """

    def __init__(
        self, folder: Path, verb: str, config: Mapping[str, Any], logger: LoggerConfig, writes: bool = True
    ) -> None:
        """Opens or continues the run in `folder`; `writes` is false in processes that leave files to the main one.

        Raises ValueError where the folder holds a run of another configuration.
        """
        self.folder = folder
        self._metrics, self._timings = folder / "metrics.jsonl", folder / "timings.jsonl"
        self._wandb: Any = None
        self._start = time.perf_counter()
        if not writes:
            return
        record = folder / "run.json"
        if record.is_file():
            found = read_json(record)
            if not isinstance(found, dict) or not isinstance(found.get("config"), dict):
                raise ValueError(f"{record} is no record of a run of t2l's: choose another run_dir")
            _check_same_config(folder, found["config"], json.loads(json.dumps(config)))
        else:
            check_own(folder, [self._metrics.name, self._timings.name])
            folder.mkdir(parents=True, exist_ok=True)
            about = {} if (typed := overrides_of(folder)) is None else {"overrides": typed}
            write_json(record, {"verb": verb, **about, "config": config, "environment": environment()})
        self._wandb = self._start_wandb(logger, config)

    def _start_wandb(self, logger: LoggerConfig, config: Mapping[str, Any]) -> Any:
        if logger.wandb == "disabled":
            return None
        import wandb

        mode: Any = logger.wandb
        return wandb.init(
            project=logger.project, dir=str(self.folder), mode=mode, config=dict(config), reinit="create_new"
        )

    def log_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Appends one line of metrics for a step."""
        with self._metrics.open("a") as stream:
            stream.write(json.dumps({"step": step, **metrics}) + "\n")
        with self._timings.open("a") as stream:
            stream.write(json.dumps({"step": step, "time_s": round(time.perf_counter() - self._start, 3)}) + "\n")
        if self._wandb is not None:
            self._wandb.log(dict(metrics), step=step)

    def forget_after(self, step: int) -> None:
        """Drops lines of later steps, which a resumed run is about to write again (or a half line)."""
        for path in (self._metrics, self._timings):
            if not path.is_file():
                continue
            kept = []
            for line in path.read_text().splitlines():
                try:
                    if json.loads(line)["step"] <= step:
                        kept.append(line + "\n")
                except json.JSONDecodeError:
                    break
            write_text(path, "".join(kept))

    def record(self, **entries: Any) -> None:
        """Adds entries to run.json."""
        path = self.folder / "run.json"
        write_json(path, {**read_json(path), **entries})

    def finish(self) -> None:
        """Closes what the run opened."""
        if self._wandb is not None:
            self._wandb.finish()


def _check_same_config(folder: Path, found: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    if found == config:
        return
    different = sorted(k for k in {*found, *config} if found.get(k) != config.get(k))
    raise ValueError(
        f"{folder} holds a run with another configuration (different: {', '.join(different)}): "
        "choose another run_dir, or remove that folder"
    )
