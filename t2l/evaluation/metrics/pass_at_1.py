"""pass@1: whether the program in an answer does what its tests ask.

The program is a whole function, code in a Markdown fence, or text that goes on from a given beginning.
"""

from __future__ import annotations

import ast
import re
import textwrap
import warnings

from t2l.evaluation.metrics.code_runner import passes
from t2l.evaluation.metrics.interface import Metric, Probe
from t2l.registry import register
from t2l.tasks.suites.rows import split_prompt

_FENCE = re.compile(r"^[ \t]*```[^\n`]*\n(.*?)(?:^[ \t]*```|\Z)", re.MULTILINE | re.DOTALL)
_CODE_LINE = re.compile(r"^(?:def |class |async def |import |from \w+ import |@)", re.MULTILINE)


@register("metric", "pass_at_1")
class PassAt1(Metric):
    """1 if the answer's program passes the reference's assertions (Chen et al. 2021), in a process of its own.

    The answer may be a whole function, fenced code, or go on from the beginning that the reference holds (`program`).
    """

    probes = (
        Probe("def f(x):\n    return x + 1", "assert f(1) == 2", 1),
        Probe("def f(x):\n    return x", "assert f(1) == 2", 0),
    )
    against, runs_code = "tests", True
    aliases = ("pass@1",)

    def score(self, answer: str, reference: str) -> float:
        """1 or 0."""
        return float(passes(program(answer, reference), reference))


def program(answer: str, tests: str) -> str:
    """The Python program that an answer stands for, to be run before the assertions of `tests`.

    Of a fenced answer the first block with a function counts (else the first block); of one without a fence the text from
    its first line of code, as far as it is Python. Where `tests` holds the beginning of a function (`mark_prompt`), an
    answer without that function goes on from it, up to the first line that is not indented, which ends the function (the
    stop sequences of Chen et al. 2021 do the same); an answer with it stands after the beginning, whose imports and
    helpers it may use.
    """
    blocks = _FENCE.findall(answer)
    whole = (code for block in blocks if _functions(code := textwrap.dedent(block)))
    fenced = next(whole, blocks[0] if blocks else None)
    prompt, _ = split_prompt(tests)
    code = fenced if fenced is not None else _python_part(answer)
    if not prompt:
        return code
    wanted = _functions(prompt)[-1:]
    if wanted and wanted[0] in _functions(code):
        return f"{prompt}\n{code}"
    return _continued(prompt, answer if fenced is None else fenced)


def _is_python(code: str) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        try:
            compile(code, "answer", "exec", dont_inherit=True)
        except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError):
            return False
    return True


def _functions(code: str) -> list[str]:
    """Names of the functions that a piece of Python defines at its top, in order."""
    if not _is_python(code):
        return []
    return [n.name for n in ast.parse(code).body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]


def _python_part(text: str) -> str:
    """The longest beginning of a text, from its first line of code on, that is Python; the text if there is none."""
    if _is_python(text):
        return text
    start = _CODE_LINE.search(text)
    lines = text[start.start() :].splitlines() if start else []
    return next((c for end in range(len(lines), 0, -1) if _is_python(c := "\n".join(lines[:end]))), text)


def _continued(prompt: str, text: str) -> str:
    """A function's beginning with the text that goes on from it; of an answer whose indentation was lost, mended."""
    lines = text.strip("\n").splitlines() or [""]
    stop = next((i for i, line in enumerate(lines) if i and line.strip() and not line[0].isspace()), len(lines))
    body, start = "\n".join(lines[:stop]), prompt.rstrip("\n") + "\n"
    if body[:1].isspace():
        return f"{start}{body}\n"
    whole, first = textwrap.indent("\n".join(lines), "    "), f"    {body}"
    return f"{start}{whole if _is_python(f'{start}{whole}') else first}\n"
