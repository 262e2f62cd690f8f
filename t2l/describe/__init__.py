"""Descriptions of tasks, written by a language model: prompts, replies on disk, and what of them is kept."""

from __future__ import annotations

from t2l.describe.describers import Describer, EndpointConfig, LocalModelConfig, build
from t2l.describe.describing import DescribeConfig, describe_tasks
from t2l.describe.judging import REJECTIONS, AcceptConfig, Judge, parse_descriptions

__all__ = [
    "REJECTIONS",
    "AcceptConfig",
    "DescribeConfig",
    "Describer",
    "EndpointConfig",
    "Judge",
    "LocalModelConfig",
    "build",
    "describe_tasks",
    "parse_descriptions",
]
