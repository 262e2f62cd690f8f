from __future__ import annotations

from pathlib import Path
from typing import Any, get_type_hints

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from t2l.config import config_folder, register, roots
from t2l.verbs import VERBS
from t2l.verbs.shared import settings_from

CONF = config_folder()
GROUPS = sorted(p.relative_to(CONF) for p in CONF.glob("*/*.yaml") if p.parent.name != "experiment")
PACKAGED = {"library_training": "library_training@training"}
USERS = {
    "base_model": "train", "encoder": "evaluate", "suite": "train", "lora": "train", "hypernetwork": "train",
    "objective": "train", "trainer": "train", "logger": "train", "evaluation": "evaluate",
    "library_training": "train_library", "method": "train_library", "harness": "evaluate", "describer": "describe",
}  # fmt: skip
OTHER_VERBS = {
    "methods_table": "compare_methods", "sni_tinystories": "quickstart", "everyday_library": "train_library",
    "everyday_board": "evaluate", "other_tasks_board": "evaluate",
}  # fmt: skip
"""Experiments of other verbs than train."""
NEEDED = {
    "evaluate": ["library=DIR", "checkpoints=[DIR]"],
    "describe": ["run_dir=DIR", "describer.url=http://localhost/v1", "describer.model=MODEL"],
    "local_model": ["run_dir=DIR"],
    "objective": ["library=DIR"],
    "harness": ["tasks=[arc_easy]"],
    "suite": ["suite.path=DIR"],
    "everyday_board": ["library=DIR", "checkpoints=[DIR]"],
    "other_tasks_board": ["library=DIR", "checkpoints=[DIR]", "suite.path=DIR"],
    "other_tasks_sft": ["suite.path=DIR"],
    "sni_tinystories": ["suite.path=DIR"],
    "sni_validation": ["suite.path=DIR"],
}


def composed(verb: str, *overrides: str) -> object:
    register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return OmegaConf.to_object(compose(verb, overrides=list(overrides)))


@pytest.mark.parametrize("verb", VERBS)
def test_every_root_composes_into_its_dataclass(verb: str) -> None:
    assert isinstance(composed(verb, *NEEDED.get(verb, [])), roots()[verb])


@pytest.mark.parametrize("path", GROUPS, ids=str)
def test_every_group_file_composes(path: Path) -> None:
    group, name = path.parts[0], path.stem
    verb = USERS[group]
    of_group = NEEDED.get(group, []) if group in ("objective", "harness") or name == "folder" else []
    extra = [*NEEDED.get(name, NEEDED.get(verb, [])), *of_group]
    composed(verb, f"{PACKAGED.get(group, group)}={name}", *extra)


@pytest.mark.parametrize("name", [p.stem for p in (CONF / "experiment").glob("*.yaml")])
def test_every_experiment_composes(name: str) -> None:
    if name in OTHER_VERBS:
        composed(OTHER_VERBS[name], f"experiment={name}", *NEEDED.get(name, []))
    else:
        composed("train", f"experiment={name}", "library=DIR", *NEEDED.get(name, []))


@pytest.mark.parametrize("name", [p.stem for p in (CONF / "hydra/launcher").glob("*.yaml")])
def test_every_launcher_composes(name: str) -> None:
    register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", overrides=[f"hydra/launcher={name}"], return_hydra_config=True)
    assert "hydra_plugins" in config.hydra.launcher["_target_"]


def test_no_config_names_a_python_object() -> None:
    for path in CONF.rglob("*.yaml"):
        assert "_target_" not in path.read_text()


@pytest.mark.parametrize(
    ("verb", "to"),
    [("quickstart", "train"), ("quickstart", "train_library"), ("compare_methods", "train_library"), ("compare_methods", "evaluate")],
)  # fmt: skip
def test_settings_that_verbs_hand_on_mean_the_same_to_both(verb: str, to: str) -> None:
    ours, theirs = (get_type_hints(roots()[name]) for name in (verb, to))
    shared = {key for key in ours if key in theirs}
    assert {"base_model", "suite", "lora", "seed", "run_dir"} <= shared
    different = {key for key in shared if ours[key] != theirs[key]}
    assert different <= {"splits", "contenders"}  # None means all to one of them
    config: Any = composed(verb, "seed=7", "contenders=[base]")
    made = settings_from(roots()[to], config, run_dir="elsewhere")
    assert {key for key in shared if getattr(made, key) != getattr(config, key)} == {"run_dir"}
    assert made.run_dir == "elsewhere"
