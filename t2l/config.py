"""Root config of each verb, and their registration with Hydra, as that of all components.

Components own their dataclasses; a root only composes them. A component has the schema `NAME_schema`, and can be chosen
by its name also without a YAML of its own, with the values of its dataclass. YAML gives values; composition is checked
against these types, and `OmegaConf.to_object` turns the result into them once, in the CLI.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

from t2l.registry import PACKAGES, Component, components
from t2l.verbs import VERBS, verb_named


def roots(verbs: Iterable[str] = VERBS) -> dict[str, type]:
    """Root config of each verb."""
    return {name: verb_named(name).config for name in verbs}


def config_folder() -> Path:
    """Folder of the YAML configs, from a checkout or an installed wheel."""
    package = Path(__file__).parent
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


def choices(group: str, folder: str | None = None) -> list[str]:
    """What can be chosen for a group: its files in conf/ and in `folder`, and components that have none."""
    files = {p.stem for f in (config_folder(), folder) if f for p in Path(f, group).glob("*.yaml")}
    if group not in PACKAGES:
        return sorted({*files, *(_parts() if group == "objective_part" else ())})
    return sorted({*files, *(name for name, found in components(group).items() if found.config is not None)})


def register(verbs: Iterable[str] = VERBS, groups: Iterable[str] = tuple(PACKAGES)) -> None:
    """Registers schemas, and components that have no YAML, with Hydra; safe to call again.

    Args:
        verbs: those whose roots are registered.
        groups: those whose components are.
    """
    from hydra.core.config_store import ConfigStore

    store, groups = ConfigStore.instance(), set(groups)
    for kind in filter(groups.__contains__, PACKAGES):  # before the roots, some of whose defaults are components' names
        for found in components(kind).values():
            if found.config is not None:
                _store(store, found)
    if "objective" in groups:
        _parts()
    for verb, root in roots(verbs).items():
        store.store(name=f"{verb}_schema", node=root)


def _store(store: Any, found: Component, group: str | None = None) -> None:
    """A component's schema, with its name if it shares that with others; and the component itself if it has no YAML.

    Args:
        group: where it is chosen, if that is not its own group.
    """
    config: Any = found.config
    node = config(architecture=found.name) if "architecture" in (f.name for f in fields(config)) else config
    place = group or found.group
    store.store(group=place, name=f"{found.name}_schema", node=node)
    if not (config_folder() / found.group / f"{found.name}.yaml").is_file():
        store.store(group=place, name=found.name, node=node)


def _parts() -> set[str]:
    """Stores every objective once more as a part of a sum of objectives: its schema, and itself by the names of its YAMLs.

    Returns what can be chosen.
    """
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf

    from t2l.objectives.joint import GROUP as PARTS
    from t2l.objectives.joint import part_config

    store, known = ConfigStore.instance(), set[str]()
    for found in components("objective").values():
        kind = part_config(found.config) if found.config is not None else None
        if kind is not None:
            _store(store, Component("objective", found.name, found.make, kind), PARTS)
            known |= {f"{found.name}_schema", found.name}
    files = {f.stem: OmegaConf.load(f) for f in sorted((config_folder() / "objective").glob("*.yaml"))}
    while usable := [name for name, node in files.items() if _defaults(node) <= known]:
        for name in usable:
            store.store(group=PARTS, name=name, node=files.pop(name))
            known.add(name)
    return {name for name in known if not name.endswith("_schema")}


def _defaults(node: Any) -> set[str]:
    """What a config of a group is based on, in the same group."""
    return {entry for entry in node.get("defaults", []) if isinstance(entry, str)} - {"_self_"}
