"""Where checkpoints are asked for: a run, one of its checkpoints, a folder of runs (a sweep), or a pattern of names."""

from __future__ import annotations

import glob
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from t2l.files import FileProblemError
from t2l.hypernetwork.checkpoint import RECORD, SHIPPED, complete_checkpoints
from t2l.run.overview import find_runs

NAMED = 8
"""runs that are left out and named"""
log = logging.getLogger(__name__)


def scored_folders(asked: Sequence[str]) -> list[str]:
    """The runs and checkpoints that are meant: `find_checkpoint` takes each.

    A folder that holds runs means every finished run of `t2l train` in it or below it; what is left out of it is said. A name with
    *, ? or [...] means the folders that it matches. Of both, `:best` and `:last` at the end go to each run. What is found twice
    counts once.

    Raises FileProblemError for a pattern that matches no folder, or a folder of runs of which none is finished.
    """
    return list(dict.fromkeys(path for one in asked for path in _meant(one)))


def _meant(asked: str) -> Iterator[str]:
    if not asked or asked == SHIPPED or _is_single(Path(asked)):
        yield asked
        return
    named = re.fullmatch(r"(.+?)(:best|:last)?", asked, re.DOTALL)
    assert named is not None, "a path is not empty"
    name, which = named[1], named[2] or ""
    matched = [name] if Path(name).exists() or not glob.has_magic(name) else sorted(filter(_is_folder, glob.glob(name)))
    if not matched:
        raise FileProblemError(f"checkpoints: no folder is called like {asked}")
    for path in matched:
        if _is_single(Path(path)) or not _is_folder(path):
            yield f"{path}{which}"
        else:
            yield from (f"{run}{which}" for run in _finished_in(Path(path)))


def _is_folder(path: str) -> bool:
    return Path(path).is_dir()


def _is_single(folder: Path) -> bool:
    """Whether a folder is a checkpoint, or of a run that has some."""
    return (folder / RECORD).is_file() or bool(complete_checkpoints(folder))


def _finished_in(folder: Path) -> Iterator[Path]:
    runs = []
    with suppress(ValueError):  # it holds no run at all
        runs = [run for run in find_runs(folder) if run.verb in ("train", "")]
    if not runs:
        yield folder  # `find_checkpoint` says what is wrong
        return
    whole = [run.folder for run in runs if run.state == "finished" and complete_checkpoints(run.folder)]
    left_out = [f"{run.folder.relative_to(folder)} ({run.state})" for run in runs if run.folder not in whole]
    if left_out:
        more = [f"and {len(left_out) - NAMED} more"] if len(left_out) > NAMED else []
        told = ", ".join([*left_out[:NAMED], *more])
        log.warning("%s: %d of %d runs are scored, without %s", folder, len(whole), len(runs), told)
    if not whole:
        raise FileProblemError(f"checkpoint {folder}: none of its {len(runs)} runs of `t2l train` is finished")
    yield from whole
