"""`t2l generate`: descriptions to adapter folders."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from t2l.checks import in_range
from t2l.hypernetwork.checkpoint import SHIPPED, find_checkpoint, load_record
from t2l.hypernetwork.generator import Confidence, folders_for, load, missing_base, read_descriptions, write_adapters
from t2l.verbs import Verb
from t2l.verbs.results import of_adapters


@dataclass
class GenerateConfig:
    """`t2l generate`: descriptions to adapter folders."""

    descriptions: list[str] = field(default_factory=list)
    """the tasks, one description for each adapter"""
    file: str | None = None
    """text file with more descriptions, one per line"""
    encoder: Any = None
    """what embeds the descriptions; None, like encoder=own, means the checkpoint's own"""
    checkpoint: str = SHIPPED
    """run or checkpoint folder of `t2l train`, or RUN:best or RUN:last; smollm2 is the one that comes with t2l"""
    run_dir: str = ""
    """folder that adapters go into, each into one of its own, named after its description"""
    base: str | None = None
    """base model the adapters are for, a folder or hub id; None means the checkpoint's own"""
    warn_below: float = 0.5
    """expected score below which `t2l generate` warns about a description"""
    logger: Any = None
    """where metrics and results go besides the run's own files"""
    licence: str | None = None
    """licence of the adapters, as the hub spells it (apache-2.0, mit...), for their cards; None states none"""

    def __post_init__(self) -> None:
        if self.licence is not None and not self.licence.strip():
            raise ValueError("licence is empty: name one, like apache-2.0, or leave it out")
        in_range(self, "[0, 1]", "warn_below")

    def all_descriptions(self) -> list[str]:
        """Those given, and those in the file. Raises FileProblemError if that is missing or holds none."""
        return [*self.descriptions, *(read_descriptions(Path(self.file)) if self.file is not None else [])]


def generate(config: GenerateConfig) -> list[tuple[Path, Confidence | None]]:
    """Writes an adapter folder for each description. Returns the folders, and how sure each adapter is.

    Raises ValueError for an empty description, an unfit checkpoint, or nothing to describe.
    """
    if not config.checkpoint or not config.run_dir:
        raise ValueError(
            "generate needs --run-dir DIR, and --checkpoint DIR (a run of `t2l train`) unless it is the one that comes with t2l"
        )
    texts = config.all_descriptions()
    if not texts:
        raise ValueError("nothing to generate from: give a description, or --file with one per line")
    if any(not t.strip() for t in texts):
        raise ValueError("a description is empty: write at least a word about the task")
    folders_for(Path(config.run_dir), texts)  # said before anything loads
    generator = load(config.checkpoint, config.base, config.encoder)
    return write_adapters(generator, texts, Path(config.run_dir), config.licence)


def run(config: GenerateConfig) -> None:
    """Prints the folders that it writes, and on standard error how sure each adapter is."""
    for folder, confidence in generate(config):
        print(folder)
        if confidence is not None and confidence.expected_score is not None:
            print(f"t2l: confidence {confidence.expected_score:.2f}: {folder}", file=sys.stderr)
        if confidence is not None and (warning := confidence.warning(config.warn_below)):
            print(f"t2l: warning: {folder}: {warning}", file=sys.stderr)
    base = config.base or load_record(find_checkpoint(Path(config.checkpoint))).base_name
    if missing := missing_base(base):
        print(f"t2l: warning: {missing}", file=sys.stderr)


VERB = Verb(GenerateConfig, run, words=("descriptions",), keeps_records=False, results=of_adapters)
