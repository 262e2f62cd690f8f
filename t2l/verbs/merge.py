"""`t2l merge ADAPTER`: an adapter added to its base's weights, saved as a model of its own."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from t2l.base_model.merge import merge
from t2l.verbs import Verb


@dataclass
class MergeConfig:
    """`t2l merge`: adds a plain LoRA or (IA)3 adapter to the full-precision weights of its base and saves model, tokenizer and card.

    It is done in float32, in four bytes of memory per parameter. A base that was quantised only for training is merged
    unquantised; files quantised by bitsandbytes are dequantised.
    """

    adapter: str = ""
    """PEFT adapter folder, of `t2l generate` or any other, or a folder that holds one"""
    run_dir: str = ""
    """folder to write; it must be empty or not there"""
    base: str | None = None
    """folder or hub id of the base model; None: the one that the adapter names"""
    dtype: str | None = None
    """float32, bfloat16 or float16; None: what the base is stored in"""
    revision: str | None = None
    """commit, tag or branch of a base on the hub; None: the one that the adapter names, if any"""
    trust_remote_code: bool = False
    """whether Python code that comes with the base may run"""


def run(config: MergeConfig) -> None:
    """Merges, and prints the folder of the new model."""
    if not config.adapter or not config.run_dir:
        raise ValueError("merge needs an adapter and a folder to write: t2l merge ADAPTER --run-dir DIR")
    of_base = (config.base, config.dtype, config.revision, config.trust_remote_code)
    merged = merge(Path(config.adapter), Path(config.run_dir), *of_base)
    print(merged.folder)
    if merged.was_quantised:
        print("t2l: the base's files are quantised: its weights were dequantised before merging", file=sys.stderr)


VERB = Verb(MergeConfig, run, words=("adapter",), keeps_records=False)
