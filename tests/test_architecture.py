"""The order of packages: imports go one way, and nothing reaches up."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "t2l"
ORDER = (
    "checks", "registry", "seeding", "distributed", "own_files", "files", "tracking", "run", "lora", "tasks", "base_model", "encoder", "hypernetwork", "objectives",
    "training", "library", "methods", "evaluation", "describe", "verbs", "config", "cli", "__main__",
)  # fmt: skip
"""what stands in `t2l/`, by need: nothing imports what comes after it"""
FILES = sorted(PACKAGE.rglob("*.py"))
LONGEST_FILE, LONGEST_FUNCTION = 400, 60


def _name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_name(path): path for path in FILES}


def _imports(nodes: Iterable[ast.AST]) -> set[str]:
    """The modules of t2l that import statements name."""
    found = set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "t2l":
            names = {f"{node.module}.{a.name}" for a in node.names}
            found |= {name if name in MODULES else node.module for name in names}
        elif isinstance(node, ast.Import):
            found |= {a.name for a in node.names if a.name.startswith("t2l.")}
    return found - {"t2l"}


def _ids(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


@pytest.mark.parametrize("path", [p for p in FILES if p.parent != PACKAGE or p.name != "__init__.py"], ids=_ids)
def test_imports_go_one_way(path: Path) -> None:
    own = path.relative_to(PACKAGE).with_suffix("").parts[0]
    assert own in ORDER, f"{own} has no place in the order: say where it stands"
    for module in _imports(ast.walk(ast.parse(path.read_text()))):
        other = module.split(".")[1]
        assert ORDER.index(other) <= ORDER.index(own), f"{own} imports {module}, which comes after it"


def test_the_order_lists_what_is_there() -> None:
    there = {p.stem for p in PACKAGE.iterdir() if (p / "__init__.py").is_file() or p.suffix == ".py"} - {"__init__"}
    assert there == set(ORDER)


@pytest.mark.parametrize("package", ["evaluation/metrics", "objectives", "hypernetwork", "encoder", "base_model"])
def test_metrics_objectives_and_models_know_nothing_of_training_and_evaluation(package: str) -> None:
    paths = list((PACKAGE / package).rglob("*.py"))
    assert paths
    for path in paths:
        others = {
            m for m in _imports(ast.walk(ast.parse(path.read_text()))) if m.split(".")[1] in ("training", "evaluation")
        }
        assert all(m.startswith(f"t2l.{package.replace('/', '.')}") for m in others), (path, others)


def test_evaluation_never_imports_training() -> None:
    paths = list((PACKAGE / "evaluation").rglob("*.py"))
    assert paths
    for path in paths:
        assert not {m for m in _imports(ast.walk(ast.parse(path.read_text()))) if m.split(".")[1] == "training"}, path


def test_no_module_imports_itself_by_a_detour() -> None:
    graph = {name: _imports(ast.parse(path.read_text()).body) for name, path in MODULES.items()}
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " -> ".join((*above[above.index(name) :], name))
        if name in done:
            return
        for other in sorted(graph.get(name, set()) - {name}):
            visit(other, (*above, name))
        done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize("path", FILES, ids=_ids)
def test_files_and_functions_are_short(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= LONGEST_FILE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < LONGEST_FUNCTION, node.name


def test_only_peft_folder_spells_pefts_key_names() -> None:
    for path in FILES:
        # AdaLoRA's penalty reads the factors from PEFT's layers.
        if path.name not in ("peft_folder.py", "low_rank.py"):
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
