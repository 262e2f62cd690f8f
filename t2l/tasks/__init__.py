"""Tasks and suites: descriptions, examples and splits, prompts and batches. Where tasks come from is in suites/."""

from __future__ import annotations

from t2l.tasks.prompting import (
    IGNORE_INDEX,
    CutCount,
    PromptConfig,
    TokenizedExample,
    render_prompts,
    show_definition,
    tokenize_examples,
    tokenize_prompts,
)
from t2l.tasks.task import Example, Split, Task, TaskSuite

__all__ = [
    "IGNORE_INDEX",
    "CutCount",
    "Example",
    "PromptConfig",
    "Split",
    "Task",
    "TaskSuite",
    "TokenizedExample",
    "render_prompts",
    "show_definition",
    "tokenize_examples",
    "tokenize_prompts",
]
