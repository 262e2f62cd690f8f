"""Pages of help and completions without torch: configs stand beside the code that they are of, and that imports it.

Importing torch takes longer than all the rest. So a process that only shows what can be typed imports a stand-in for it, and for
numpy and the types of arrays, as Sphinx does to read docstrings (`autodoc_mock_imports`): its names can be called, subscripted, inherited from and used as decorators,
and do nothing. Such a process ends without having run anything else.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NoReturn

STANDS_IN_FOR = ("torch", "jaxtyping", "numpy")
"""packages that only what runs has a use for"""
VARIABLE = "T2L_WITH_TORCH"
"""environment variable of a process that has to import the real one"""


class _Kind(type):
    """Of a class any attribute of which is that class again."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything

    def __getitem__(cls, key: Any) -> Any:
        return Anything

    def __or__(cls, other: Any) -> Any:
        return Anything

    __ror__ = __or__


class Anything(metaclass=_Kind):
    """What stands for a class, a function or a value: called with a function, as decorators are, it returns that."""

    def __new__(cls, *args: Any, **options: Any) -> Any:
        """An instance, or the function to decorate."""
        return args[0] if len(args) == 1 and callable(args[0]) and not options else super().__new__(cls)

    def __init__(self, *args: Any, **options: Any) -> None:
        """Takes anything."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        """As a decorator with settings: what it decorates."""
        return args[0] if args else self

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything


class _Module(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds a stand-in for every module of the packages."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name.partition(".")[0] not in STANDS_IN_FOR:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        return None


def stand_in() -> bool:
    """From now on the process imports stand-ins, unless torch is there already. Returns whether it does."""
    if os.environ.get(VARIABLE) or "torch" in sys.modules:
        return False
    sys.meta_path.insert(0, _Finder())
    return True


def show(arguments: Sequence[str], page: Callable[[], str]) -> NoReturn:
    """Prints what a function makes, with a stand-in for torch; ends the process, in which nothing else can run after it.

    If it fails, be it for want of the real torch, the command runs again with that, and says what is wrong.

    Args:
        arguments: those of the command.
    """
    is_standing_in = stand_in()
    try:
        text = page()
    except Exception:  # whatever a component from elsewhere does with what it imports
        if not is_standing_in:
            raise
        again = [sys.executable, "-m", "t2l", *arguments]
        raise SystemExit(subprocess.run(again, env={**os.environ, VARIABLE: "1"}, check=False).returncode) from None
    sys.stdout.write(text)
    raise SystemExit(0)
