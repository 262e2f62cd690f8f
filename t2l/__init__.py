"""t2l: text to LoRA. From the description of a task to a LoRA adapter for a frozen language model.

    generator = t2l.load("runs/quickstart/sft")
    adapters = generator(["Keep only the animals."])
    with t2l.inject(model, adapters):
        ...

Names are imported when they are asked for: `import t2l` alone loads nothing heavy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from t2l.base_model import BaseModelConfig as BaseModelConfig
    from t2l.base_model import load_base_model as load_base_model
    from t2l.base_model.injection import inject as inject
    from t2l.evaluation.report.saved import load_report as load_report
    from t2l.hypernetwork.generator import load as load
    from t2l.library import load_library as load_library
    from t2l.lora import LoraSpec as LoraSpec
    from t2l.lora import LoraWeights as LoraWeights

__version__ = "0.1.0"
_MODULES = {
    "BaseModelConfig": "t2l.base_model",
    "LoraSpec": "t2l.lora",
    "LoraWeights": "t2l.lora",
    "inject": "t2l.base_model.injection",
    "load": "t2l.hypernetwork.generator",
    "load_base_model": "t2l.base_model",
    "load_library": "t2l.library",
    "load_report": "t2l.evaluation.report.saved",
}
__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
