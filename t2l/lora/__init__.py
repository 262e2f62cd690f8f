"""LoRA and (IA)3: the geometry and weights of adapters, injection into a frozen base, PEFT folders, model cards."""

from __future__ import annotations

from t2l.lora.injection import inject
from t2l.lora.weights import AdapterBatch, AdapterKind, LoraSpec, LoraWeights, ModuleGroup, Scaling

__all__ = ["AdapterBatch", "AdapterKind", "LoraSpec", "LoraWeights", "ModuleGroup", "Scaling", "inject"]
