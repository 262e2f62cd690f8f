"""Tasks, suites and splits, and how an example becomes a prompt and labels.

A suite is a set of tasks plus named splits. A split names the tasks it covers and the *phrasing set*
their descriptions come from, so that each split can change exactly one thing relative to training.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

IGNORE_INDEX = -100
"""Label value that the loss ignores (the value `torch.nn.functional.cross_entropy` ignores by default)."""


def _sha256(payload: Any) -> str:
    return hashlib.sha256(json.dumps(payload, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Example:
    """One question of a task and its right answer, both plain text.

    `references` are further right answers; `choices` what a multiple-choice question lets one choose from (the right
    one among them); `tests` are assertions that right code passes.
    """

    input: str
    output: str
    references: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    tests: str = ""

    def content(self) -> tuple[Any, ...]:
        """What makes it this example: input and output, and the rest where there is any."""
        rest = (self.references, self.choices, self.tests)
        return (self.input, self.output, *rest) if any(rest) else (self.input, self.output)


@dataclass(frozen=True)
class Task:
    """A task: what it asks for in words, and examples of it.

    `descriptions` maps a phrasing set ("train", "test") to descriptions; `examples` maps an example
    split ("train", "validation", "test") to examples. `formal_code` is the code of a base model that
    was pretrained to follow one; it is None for natural suites. `max_new_tokens` is the longest answer in
    tokens, where the task says.

    Raises ValueError for a `max_new_tokens` that is no whole number of at least 1.
    """

    name: str
    descriptions: Mapping[str, tuple[str, ...]]
    examples: Mapping[str, tuple[Example, ...]]
    metric: str = "exact_match"
    family: str = ""
    formal_code: str | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)
    max_new_tokens: int | None = None

    def __post_init__(self) -> None:
        longest = self.max_new_tokens
        if longest is not None and (not isinstance(longest, int) or longest < 1):
            raise ValueError(
                f"task {self.name!r}: max_new_tokens must be a whole number of at least 1, not {longest!r}"
            )

    def examples_hash(self) -> str:
        """Sha256 over the examples: what a trained adapter's provenance records."""
        return _sha256({k: [e.content() for e in v] for k, v in self.examples.items()})

    def content_hash(self) -> str:
        """Sha256 over examples and descriptions."""
        return _sha256([self.examples_hash(), {k: list(v) for k, v in self.descriptions.items()}])


@dataclass
class PromptConfig:
    """What the base model reads beside a question."""

    definition: str = "hidden"
    """hidden or shown: whether a description of the task also stands in the prompt, before the input. Hidden by default,
    since a base that reads the definition needs no adapter made from it"""

    def __post_init__(self) -> None:
        if self.definition not in ("hidden", "shown"):
            raise ValueError(f"prompt.definition must be hidden or shown, not {self.definition!r}")

    @property
    def is_shown(self) -> bool:
        """Whether the definition stands in the prompt."""
        return self.definition == "shown"

    def apply(self, task: Task) -> Task:
        """The task as it is trained on: where the definition is shown, with a training description before every input."""
        return show_definition(task) if self.is_shown else task


def show_definition(task: Task) -> Task:
    """The task with its training descriptions, which take turns, before the inputs of its examples."""
    texts = task.descriptions["train"]
    examples = {
        split: tuple(replace(e, input=f"{texts[i % len(texts)]}\n{e.input}") for i, e in enumerate(rows))
        for split, rows in task.examples.items()
    }
    return replace(task, examples=examples)


@dataclass(frozen=True)
class Split:
    """The tasks of a split and the phrasing set their descriptions are taken from."""

    tasks: tuple[str, ...]
    phrasing: str = "train"


@dataclass(frozen=True)
class TaskSuite:
    """Tasks by name and splits by name. `train` is the only split a hypernetwork may be trained on."""

    name: str
    tasks: Mapping[str, Task]
    splits: Mapping[str, Split]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for split_name, split in self.splits.items():
            unknown = [t for t in split.tasks if t not in self.tasks]
            if unknown:
                raise ValueError(f"split {split_name!r} of suite {self.name!r} names unknown tasks: {unknown[:5]}")

    def select(self, names: Iterable[str]) -> list[Task]:
        """Tasks by name, in the order given. Raises ValueError for a name the suite does not have."""
        names = list(names)
        unknown = [n for n in names if n not in self.tasks]
        if unknown:
            raise ValueError(
                f"unknown task {unknown[0]!r} in suite {self.name!r}: it has {len(self.tasks)} tasks, "
                f"for example {', '.join(list(self.tasks)[:5])}"
            )
        return [self.tasks[n] for n in names]

    def split(self, name: str) -> Split:
        """A split by name. Raises ValueError with the names allowed."""
        if name not in self.splits:
            raise ValueError(f"unknown split {name!r} of suite {self.name!r}: choose from {sorted(self.splits)}")
        return self.splits[name]

    def content_hash(self) -> str:
        """Sha256 over every task and split: two suites with the same hash hold the same data."""
        digest = hashlib.sha256()
        for name in sorted(self.tasks):
            digest.update(f"{name}:{self.tasks[name].content_hash()}\n".encode())
        for name in sorted(self.splits):
            digest.update(f"{name}:{self.splits[name]}\n".encode())
        return digest.hexdigest()


@dataclass(frozen=True)
class TokenizedExample:
    """Token ids of the rendered prompt and of the response (with the end-of-sequence token)."""

    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]

    @property
    def length(self) -> int:
        """Tokens of prompt and response together."""
        return len(self.prompt_ids) + len(self.response_ids)


def render_prompts(tokenizer: Any, contents: Sequence[str]) -> list[str]:
    """User turns as the text of prompts that end where the assistant's answer begins.

    Uses the tokenizer's own chat template; a tokenizer without one gets `content` and a newline.
    """
    if getattr(tokenizer, "chat_template", None) is None:
        return [f"{tokenizer.bos_token or ''}{content}\n" for content in contents]
    return [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        for content in contents
    ]


def tokenize_prompts(tokenizer: Any, contents: Sequence[str]) -> list[tuple[int, ...]]:
    """Rendered prompts as token ids; special tokens come from the template alone."""
    if not contents:
        return []
    ids = tokenizer(render_prompts(tokenizer, contents), add_special_tokens=False)["input_ids"]
    return [tuple(row) for row in ids]


def header_length(tokenizer: Any) -> int:
    """Number of tokens that every prompt begins with: what the template puts before the user's turn."""
    one, other = tokenize_prompts(tokenizer, ["0", "a"])
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def cut_prompt(prompt: Sequence[int], room: int, header: int) -> tuple[int, ...]:
    """A prompt in at most `room` tokens: the user's turn loses its beginning, the template's `header` before it stays."""
    if len(prompt) <= room:
        return tuple(prompt)
    kept = header if header < room else 0
    return (*prompt[:kept], *prompt[len(prompt) - (room - kept) :])


def tokenize_examples(
    tokenizer: Any, examples: Sequence[Example], prefix: str = "", max_length: int | None = None
) -> list[TokenizedExample]:
    """Examples as prompt and response token ids.

    Args:
        prefix: text put before every input, on a line of its own (a description, a formal code);
            empty for a prompt that does not state the task.
        max_length: user turns lose their beginning so that prompt + response fit in this many tokens.
    """
    contents = [f"{prefix}\n{e.input}" if prefix else e.input for e in examples]
    prompts = tokenize_prompts(tokenizer, contents)
    if not examples:
        return []
    responses = tokenizer([e.output for e in examples], add_special_tokens=False)["input_ids"]
    tokenized, header = [], header_length(tokenizer)
    for prompt, response in zip(prompts, responses, strict=True):
        response = [*response, tokenizer.eos_token_id]
        if max_length is not None:
            response = response[: max_length // 2] if len(response) > max_length // 2 else response
            prompt = cut_prompt(prompt, max_length - len(response), header)
        tokenized.append(TokenizedExample(tuple(prompt), tuple(response)))
    return tokenized
