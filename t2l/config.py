"""Root config of each verb, and their registration with Hydra, as that of all components.

Components own their dataclasses; a root only composes them. A component has the schema `NAME_schema`, and can be chosen
by its name also without a YAML of its own, with the values of its dataclass. YAML gives values; composition is checked
against these types, and `OmegaConf.to_object` turns the result into them once, in the CLI.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from t2l.registry import PACKAGES, Component, components
from t2l.verbs import VERBS, verb_named

ROOTS = {name: verb_named(name).config for name in VERBS}


def config_folder() -> Path:
    """Folder of the YAML configs, from a checkout or an installed wheel."""
    package = Path(__file__).parent
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


def register() -> None:
    """Registers schemas, and components that have no YAML, with Hydra; safe to call again."""
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    for kind in PACKAGES:  # before the roots, some of whose defaults are the components' names
        for found in components(kind).values():
            if found.config is not None:
                _store(store, found)
    for verb, root in ROOTS.items():
        store.store(name=f"{verb}_schema", node=root)


def _store(store: Any, found: Component) -> None:
    """A component's schema, with its name if it shares that with others; and the component itself if it has no YAML."""
    config: Any = found.config
    node = config(architecture=found.name) if "architecture" in (f.name for f in fields(config)) else config
    store.store(group=found.group, name=f"{found.name}_schema", node=node)
    if not (config_folder() / found.group / f"{found.name}.yaml").is_file():
        store.store(group=found.group, name=found.name, node=node)
