"""Components by group and name: each registers itself in the file that defines it, and nothing else lists it.

    @register("hypernetwork", "residual", ResidualConfig)
    class ResidualHypernetwork(Hypernetwork): ...

Found are the modules of each group's package, those that the environment variable T2L_COMPONENTS names (with commas), and
entry points of the group `t2l.components`. A component with a config dataclass can be chosen on the command line by its
name, like hypernetwork=residual: from conf/GROUP/NAME.yaml if there is one, else with the dataclass's own values.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

PACKAGES = {
    "hypernetwork": "t2l.hypernetwork",
    "objective": "t2l.objectives",
    "encoder": "t2l.encoder",
    "suite": "t2l.tasks.suites",
    "method": "t2l.methods",
    "describer": "t2l.describe",
    "contender": "t2l.evaluation.contenders",
    "metric": "t2l.evaluation.metrics",
    "harness": "t2l.evaluation.harness",
    "logger": "t2l.tracking",
}
"""where the components of a group are"""
MODULES_VARIABLE, ENTRY_POINTS = "T2L_COMPONENTS", "t2l.components"
Made = TypeVar("Made")


@dataclass(frozen=True)
class Component:
    """Something that can be chosen by name."""

    group: str
    name: str
    make: Any
    """the class or function itself"""
    config: type | None = None
    """dataclass of its settings"""


_COMPONENTS: dict[str, dict[str, Component]] = {group: {} for group in PACKAGES}
_FOUND: set[str] = set()


def register(group: str, name: str, config: type | None = None) -> Callable[[Made], Made]:
    """Decorates the class or function of a component.

    Args:
        config: dataclass of its settings; several names of one group may share it if it has a field `architecture`, which
            then holds the name.

    Raises ValueError for an unknown group, or a name that another component has.
    """
    if group not in _COMPONENTS:
        raise ValueError(f"there is no group of components {group!r}: choose from {', '.join(_COMPONENTS)}")

    def keep(made: Made) -> Made:
        there = _COMPONENTS[group].get(name)
        if there is not None and _place(there.make) != _place(made):
            raise ValueError(f"{group} {name!r} is registered already, by {_place(there.make)}: choose another name")
        _COMPONENTS[group][name] = Component(group, name, made, config)
        return made

    return keep


def _place(made: Any) -> str:
    return f"{made.__module__}.{made.__qualname__}"


def _find(group: str) -> None:
    """Imports what may register components of a group."""
    if group in _FOUND:
        return
    _FOUND.add(group)  # before the imports, which may ask for components themselves
    try:
        _import_all(group)
    except BaseException:
        _FOUND.discard(group)  # whoever asks next is told as well
        raise


def _import_all(group: str) -> None:
    package = importlib.import_module(PACKAGES[group])
    for found in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        importlib.import_module(found.name)
    if MODULES_VARIABLE in _FOUND:
        return
    _FOUND.add(MODULES_VARIABLE)  # what comes from outside may be of any group, and is imported once
    try:
        _import_outside()
    except BaseException:
        _FOUND.discard(MODULES_VARIABLE)
        raise


def _import_outside() -> None:
    for module in filter(None, os.environ.get(MODULES_VARIABLE, "").split(",")):
        try:
            importlib.import_module(module.strip())
        except ModuleNotFoundError as error:
            raise ValueError(f"{MODULES_VARIABLE} names {module!r}, which cannot be imported ({error})") from None
    for point in importlib.metadata.entry_points(group=ENTRY_POINTS):
        point.load()


def components(group: str) -> dict[str, Component]:
    """The components of a group by name, in alphabetical order."""
    _find(group)
    return dict(sorted(_COMPONENTS[group].items()))


def component(group: str, name: str) -> Component:
    """A component by its name. Raises ValueError with the names that there are."""
    found = components(group)
    if name not in found:
        raise ValueError(f"unknown {group} {name!r}: choose from {', '.join(found)}")
    return found[name]


def component_of(group: str, config: Any) -> Component:
    """The component that a config is of. Raises ValueError if it is of none."""
    fitting = {name: c for name, c in components(group).items() if c.config is type(config)}
    name = getattr(config, "architecture", None) if len(fitting) > 1 else next(iter(fitting), None)
    if name in fitting:
        return fitting[name]
    if fitting:
        raise ValueError(f"{group}.architecture must be one of {', '.join(fitting)} here, not {name!r}")
    raise ValueError(
        f"{group}: there is none for the config {type(config).__name__}; choose one, like "
        f"{group}={next(iter(components(group)), 'NAME')}"
    )
