"""Adapters on a loaded base model: injection that asks for nothing but the two."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor

from t2l.base_model.files import check_fingerprint
from t2l.base_model.loading import BaseModel
from t2l.lora import AdapterBatch
from t2l.lora.injection import inject as inject_weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@contextmanager
def inject(
    model: PreTrainedModel | BaseModel, adapters: AdapterBatch, adapter_index: Tensor | None = None
) -> Iterator[None]:
    """Within the block, row i of every batch runs under its adapter (Hu et al. 2021, arXiv:2106.09685, eq. 3); afterwards the
    base is bare again.

        with t2l.inject(model, generator(["Keep only the animals.", "Count the tools."])):
            logits = model(**batch).logits  # the first half of the rows under the first adapter, the second under the other

    Args:
        model: a causal LM of Hugging Face, or what `t2l.load_base_model` returned.
        adapters: what a generator of `t2l.load`, or `t2l.load_library(...)[task]`, returned; they are put where the model
            is, in float32 as they are. Without `adapter_index` the rows of a batch fall into as many equal consecutive
            groups as there are adapters.
        adapter_index: [rows], which adapter each row uses, if groups are uneven.

    Raises:
        ValueError: plain `LoraWeights`, adapters for another base model (of a Hugging Face model only its modules and
            shapes are known), or rows that the adapters cannot share evenly.
    """
    if not isinstance(adapters, AdapterBatch):
        raise ValueError(
            "these adapters do not say what they are for: give what a generator or a library returned, or use "
            "t2l.lora.inject(model, spec, weights)"
        )
    network: Any = model
    if isinstance(model, BaseModel):
        check_fingerprint("the adapters are for", adapters.base_fingerprint, model.fingerprint)
        network = model.model
    there = adapters.to(next(network.parameters()).device)
    with inject_weights(network, adapters.spec, there, adapter_index):
        yield
