"""Sentence encoders small enough to make in a test."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch


def tiny_bert(folder: Path, tokenizer: Any) -> Path:
    """A BERT of 64 positions in Hugging Face format, that says nothing of pooling."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=400, max_position_embeddings=64, pad_token_id=0, **sizes)).save_pretrained(folder)
    bare = copy.deepcopy(tokenizer)
    bare.chat_template = None  # with one, sentence-transformers would save a model of chats
    bare.save_pretrained(folder)
    return folder


def sentence_transformer(plain: Path, folder: Path, mode: Any, normalize: bool = False, **prompts: Any) -> Path:
    """The tiny BERT with a sentence-transformers config."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    modules = [Transformer(str(plain)), Pooling(8, mode), *([Normalize()] if normalize else [])]
    SentenceTransformer(modules=modules, **prompts).save(str(folder))
    return folder
