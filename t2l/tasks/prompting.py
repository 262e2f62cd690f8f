"""How an example becomes a prompt and labels: the chat template, token ids, and what is cut to a length."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from t2l.checks import one_of
from t2l.tasks.task import Example, Task

log = logging.getLogger(__name__)

IGNORE_INDEX = -100
"""Label value that the loss ignores (the value `torch.nn.functional.cross_entropy` ignores by default)."""


@dataclass
class PromptConfig:
    """What the base model reads beside a question."""

    definition: str = "hidden"
    """hidden or shown: whether a description of the task also stands in the prompt, before the input. Hidden by default,
    since a base that reads the definition needs no adapter made from it"""

    def __post_init__(self) -> None:
        one_of(self, ("hidden", "shown"), "definition", under="prompt")

    @property
    def is_shown(self) -> bool:
        """Whether the definition stands in the prompt."""
        return self.definition == "shown"

    def apply(self, task: Task) -> Task:
        """The task as it is trained on: if the definition is shown, with a training description before every input."""
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
class TokenizedExample:
    """Token ids of the rendered prompt and of the response (with the end-of-sequence token)."""

    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]

    @property
    def length(self) -> int:
        """Tokens of prompt and response together."""
        return len(self.prompt_ids) + len(self.response_ids)


Shots = Sequence[tuple[str, str]]
"""Solved examples as turns of a chat before the question: what the user says, what the assistant answers."""


PLAIN_TEMPLATE = "{{ bos_token }}{% for m in messages %}{{ m['content'] + '\\n' }}{% endfor %}"
"""How a chat reads if the tokenizer has no template, as `render_prompts` writes it: each turn and a line break."""


def render_prompts(tokenizer: Any, contents: Sequence[str], shots: Sequence[Shots] | None = None) -> list[str]:
    """User turns as the text of prompts that end where the assistant's answer begins.

    Uses the tokenizer's own chat template; a tokenizer without one gets `content` and a newline.

    Args:
        shots: for each content, earlier turns of the same chat.
    """
    rendered = []
    for content, before in zip(contents, shots or [()] * len(contents), strict=True):
        said = [text for shot in before for text in shot] + [content]
        if getattr(tokenizer, "chat_template", None) is None:
            rendered.append((tokenizer.bos_token or "") + "".join(f"{text}\n" for text in said))
            continue
        chat = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(said)]
        rendered.append(tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True))
    return rendered


def tokenize_prompts(
    tokenizer: Any, contents: Sequence[str], shots: Sequence[Shots] | None = None
) -> list[tuple[int, ...]]:
    """Rendered prompts as token ids; special tokens come from the template alone."""
    if not contents:
        return []
    ids = tokenizer(render_prompts(tokenizer, contents, shots), add_special_tokens=False)["input_ids"]
    return [tuple(row) for row in ids]


def template_lengths(tokenizer: Any) -> tuple[int, int]:
    """Numbers of tokens that every prompt begins and ends with: what the template puts around the user's turn."""
    one, other = tokenize_prompts(tokenizer, ["0", "a"])
    if one == other:  # both unknown to it
        return 0, 0
    before = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    ends = zip(one[before:][::-1], other[before:][::-1], strict=False)
    return before, next((i for i, (a, b) in enumerate(ends) if a != b), 0)


def cut_prompt(prompt: Sequence[int], room: int, header: int) -> tuple[int, ...]:
    """A prompt in at most `room` tokens: the user's turn loses its beginning, the template's `header` before it stays."""
    if len(prompt) <= room:
        return tuple(prompt)
    kept = header if header < room else 0
    return (*prompt[:kept], *prompt[len(prompt) - (room - kept) :])


@dataclass
class CutCount:
    """How many rows were cut to a length, over several calls of `tokenize_examples`, for one warning."""

    rows: int = 0
    """looked at"""
    prompts: int = 0
    """that lost the beginning of the user's turn"""
    responses: int = 0
    """that lost their end, and with it the end-of-sequence token"""

    def warn(self, max_length: int | None) -> None:
        """Says so in one line of the log, if any was cut."""
        if self.prompts or self.responses:
            log.warning(
                "of %d rows, %d prompts lost their beginning and %d responses their end, to fit into max_length=%s tokens",
                self.rows, self.prompts, self.responses, max_length,
            )  # fmt: skip


def _fitted(
    prompt: Sequence[int], response: Sequence[int], max_length: int | None, around: tuple[int, int]
) -> TokenizedExample | None:
    """A row in at most `max_length` tokens, if there is a limit; None if nothing of the user's turn would be left.

    A response that leaves no room for the user's turn loses its end, so that at least half of what the template
    leaves is the prompt's (less if it needs less).
    """
    if max_length is None or len(prompt) + len(response) <= max_length:
        return TokenizedExample(tuple(prompt), tuple(response))
    room, content = max_length - sum(around), max(0, len(prompt) - sum(around))
    if room < 2:
        return None
    if room - len(response) < min(1, content):
        response = response[: room - min(content, room - room // 2)]
    return TokenizedExample(cut_prompt(prompt, max_length - len(response), around[0]), tuple(response))


def tokenize_examples(
    tokenizer: Any,
    examples: Sequence[Example],
    prefix: str = "",
    max_length: int | None = None,
    task: str = "",
    cuts: CutCount | None = None,
) -> list[TokenizedExample]:
    """Examples as prompt and response token ids.

    Args:
        prefix: text put before every input, on a line of its own (a description, a formal code);
            empty for a prompt that does not state the task.
        max_length: most tokens of prompt and response together. Of rows that are longer, the user's turn loses its
            beginning. Only a response that leaves no room for any of it is cut, too, at its end; it then has no
            end-of-sequence token, since the answer does not end there.
        task: whose examples they are, for messages.
        cuts: counts what was cut, for a caller that says so once; without it, a warning does.

    Raises ValueError if `max_length` leaves nothing of a prompt's own text.
    """
    contents = [f"{prefix}\n{e.input}" if prefix else e.input for e in examples]
    prompts = tokenize_prompts(tokenizer, contents)
    if not examples:
        return []
    responses = tokenizer([e.output for e in examples], add_special_tokens=False)["input_ids"]
    tokenized, around, counted = [], template_lengths(tokenizer), cuts if cuts is not None else CutCount()
    for prompt, response, example in zip(prompts, responses, examples, strict=True):
        ended = [*response, tokenizer.eos_token_id]
        row = _fitted(prompt, ended, max_length, around)
        if row is None:
            where = f"task {task!r}: " if task else ""
            raise ValueError(
                f"{where}max_length={max_length} leaves nothing of the prompt {example.input[:60]!r}: the template alone "
                f"takes {sum(around)} tokens; raise max_length"
            )
        counted.rows += 1
        counted.prompts += len(row.prompt_ids) < len(prompt)
        counted.responses += len(row.response_ids) < len(ended)
        tokenized.append(row)
    if cuts is None:
        counted.warn(max_length)
    return tokenized
