"""The order of rooms: imports go one way, and no room reaches up."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "t2l"
LEVELS = [
    {
        "adapters",
        "console",
        "continuation",
        "distributed",
        "files",
        "lora",
        "model_files",
        "out_of_memory",
        "overrides",
        "own_files",
        "progress",
        "random_state",
        "run_folder",
        "seeding",
        "selection",
        "targets",
        "tasks",
    },
    {"base_tokenizer", "decoding"},
    {
        "adapter_io",
        "adapter_card",
        "serving",
        "base_model",
        "injection",
        "hypernetwork",
        "objectives",
        "encoder",
        "suites",
        "run",
    },
    {"library", "batches", "methods", "pretrain_base", "manifest", "confidence", "soundness"},
    {"slots", "checkpoint", "memory", "library_data"},
    {"conditions", "kept_calibration", "snapshots"},
    {"library_training", "method_training", "origin", "trainer_config"},
    {"training", "generate", "evaluation", "describe"},
    {"few_shot", "validation"},
    {"config", "sweep"},
    {"settings"},
    {"library_report"},
    {"train_run"},
    {"verbs", "evaluate", "compare_reports", "plan", "merge"},
    {"evaluate_harness"},
    {"quickstart", "compare_methods"},
    {"command"},
    {"cli"},
    {"__main__"},
]
LEVEL_OF = {room: i for i, level in enumerate(LEVELS) for room in level}


def _room(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "t2l":
            names = [node.module] if "." in node.module else [f"t2l.{a.name}" for a in node.names]
        elif isinstance(node, ast.Import):
            names = [a.name for a in node.names if a.name.startswith("t2l.")]
        found |= {n.split(".")[1] for n in names}
    return found


FILES = sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_never_go_up(path: Path) -> None:
    room = _room(path)
    assert room in LEVEL_OF, f"{room} has no level: say where it stands"
    for other in _imports(path) - {room, "__version__"}:
        assert LEVEL_OF[other] <= LEVEL_OF[room], f"{room} imports {other}, which stands above it"


def test_evaluation_never_imports_training() -> None:
    for path in (PACKAGE / "evaluation").glob("*.py"):
        assert not _imports(path) & {"training", "library_training", "method_training", "slots"}


def test_only_adapter_io_spells_pefts_key_names() -> None:
    for path in FILES:
        # AdaLoRA's penalty reads the factors from PEFT's layers.
        if path.name not in ("adapter_io.py", "low_rank.py"):
            assert "lora_A" not in path.read_text()


def test_help_imports_nothing_heavy() -> None:
    import subprocess
    import sys

    code = (
        "import sys; from t2l.cli import main; main(['--help']); "
        "heavy = {'torch', 'transformers', 'peft', 'hydra', 'sentence_transformers'} & set(sys.modules); "
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "train_library" in done.stdout
