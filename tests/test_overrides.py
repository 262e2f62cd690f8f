"""Paths on the command line may hold what Hydra's grammar has other uses for."""

from __future__ import annotations

import ast
import inspect
import itertools
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from t2l.cli.overrides import names_a_path, quote_paths
from t2l.cli.settings import compose_settings
from t2l.config import register, roots
from t2l.tasks.suites.hub_rendering import HubTaskConfig

PATHS = [
    "runs/train_library/seed=1", "a b", "it's", 'say "hi"', "a\\", "a'\\", "(a)", "{a}", "[a", "a[1]", "5", "1e3", "007",
    "true", "null_", "~/x", "./x", "..", "C:\\x", "pypi:x-y", "ü/é", "a#b", "a&b;c", "%a", "@x", "-x", "a:b=c", ".5", "=",
]  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_any_path_comes_through(path: str) -> None:
    word = quote_paths([f"run_dir={path}"])[0]
    value = OverridesParser.create().parse_override(word).value()
    assert value == path
    assert quote_paths([word]) == [word]
    if "," not in path:
        listed = quote_paths([f"checkpoints=[x/y=z,{path}]"])[0] if path.count("[") == path.count("]") else None
        assert listed is None or OverridesParser.create().parse_override(listed).value() == ["x/y=z", path]


@pytest.mark.parametrize(
    ("word", "quoted"),
    [
        ("library='a=b'", "library='a=b'"),
        ('library="a b"', 'library="a b"'),
        ("library=null", "library=null"),
        ("library=", "library="),
        ("checkpoints=[]", "checkpoints=[]"),
        ("library=a=b,c", "library='a=b',c"),
        ("library='a,b',c=d", "library='a,b','c=d'"),
        ("library=choice(a,b)", "library=choice(a,b)"),
        ("run_dir=runs/${seed}", "run_dir='runs/${seed}'"),
        ("base_model=mini", "base_model=mini"),
        ("trainer.steps=3", "trainer.steps=3"),
        ("--cfg", "--cfg"),
        ("+suite.datasets.x.dataset=a=b", "+suite.datasets.x.dataset='a=b'"),
        ("hydra.sweep.dir=a=b", "hydra.sweep.dir='a=b'"),
    ],
)
def test_what_needs_no_quotes_stays(word: str, quoted: str) -> None:
    assert quote_paths([word]) == [quoted]


def test_verbs_take_paths_with_signs_and_blanks() -> None:
    words = ["library=runs/train_library/seed=1", "checkpoints=[a b/c=d,e]", "run_dir=x y"]
    made = compose_settings("evaluate", words)
    assert (made.library, made.checkpoints, made.run_dir) == ("runs/train_library/seed=1", ["a b/c=d", "e"], "x y")
    made = compose_settings("train", ["base_model.path=a=b", "suite=folder", "suite.path=c d=e", "encoder.path=f=g"])
    assert (made.base_model.path, made.suite.path, made.encoder.path) == ("a=b", "c d=e", "f=g")


def _dataclasses() -> set[type]:
    """Every config that a verb can hold."""
    register()
    found: set[type] = {HubTaskConfig}
    waiting: list[Any] = [*roots().values()]
    repo = ConfigStore.instance().repo
    for group in repo.values():
        nodes = group.values() if isinstance(group, dict) else []
        waiting += [OmegaConf.get_type(n.node) for n in nodes if hasattr(n, "node")]
    while waiting:
        kind = waiting.pop()
        if is_dataclass(kind) and isinstance(kind, type) and kind.__module__.startswith("t2l") and kind not in found:
            found.add(kind)
            waiting += [type(v) for f in fields(kind) if (v := _default(kind, f.name)) is not None]
    return found


def _default(kind: type, name: str) -> Any:
    found = next(f for f in fields(kind) if f.name == name)
    return found.default_factory() if callable(found.default_factory) else found.default


def _documented(kind: type) -> dict[str, str]:
    """What the line below each field says; of a class that is made of others, nothing: those are looked at themselves."""
    if hasattr(kind, "_of"):
        return {}
    body = ast.parse(inspect.getsource(kind)).body[0].body  # type: ignore[attr-defined]
    return {
        field.target.id: line.value.value
        for field, line in itertools.pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(line, ast.Expr)
        if "str" in ast.unparse(field.annotation) and isinstance(line.value, ast.Constant)
    }  # fmt: skip


def test_every_field_that_holds_a_path_is_known_as_one() -> None:
    missed, seen = [], 0
    for kind in _dataclasses():
        for name, line in _documented(kind).items():
            first = line.split(";")[0].split(":")[0].lower()
            if any(word in first.split() for word in ("folder", "folders", "file", "path")) and "dict[" not in line:
                seen += 1
                missed += [] if names_a_path(name) else [f"{kind.__name__}.{name}"]
    assert seen > 15
    assert not missed, "add their last part to PATH_KEYS of t2l/cli/overrides.py, or name them like one of PATH_ENDINGS"


def test_folders_of_configs_are_paths() -> None:
    assert Path(compose_settings("train", ["run_dir=2026"]).run_dir) == Path("2026")
