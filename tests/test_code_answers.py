from __future__ import annotations

import pytest

from t2l.evaluation.metrics.code_runner import passes
from t2l.evaluation.metrics.pass_at_1 import program
from t2l.tasks.suites.rows import mark_prompt, split_prompt

HEAD = 'from typing import List\n\ndef half(x):\n    return x / 2\n\ndef mean(xs: List[int]):\n    """The mean."""\n'
TESTS = mark_prompt(HEAD, "assert mean([1, 3]) == 2\nassert half(4) == 2")
pytestmark = pytest.mark.usefixtures("code_allowed")
BODY = "    total = 0\n    for x in xs:\n        total += x\n    return total / len(xs)\n"
WHOLE = f"def mean(xs: List[int]):\n{BODY}"


def test_the_prompt_travels_with_the_assertions() -> None:
    assert split_prompt(TESTS) == (HEAD, "assert mean([1, 3]) == 2\nassert half(4) == 2")
    assert split_prompt("assert True") == ("", "assert True")
    assert split_prompt(mark_prompt("", "assert True")) == ("", "assert True")


RIGHT = {
    "continued": BODY,
    "continued, and runs on": f"{BODY}\nprint(mean([1]))\n\ndef other(:\n",
    "continued, first indentation lost": BODY.lstrip(),
    "continued, all indentation lost": "total = 0\nfor x in xs:\n    total += x\nreturn total / len(xs)",
    "whole, without imports and helpers": WHOLE,
    "whole, after prose": f"Here is the function.\n\n{WHOLE}\nIt adds the numbers up.",
    "fenced": f"Sure:\n```python\n{WHOLE}```\nAnd how to use it:\n```python\nprint(mean([1, 2]))\n```",
    "fenced body": f"```\n{BODY}```",
    "fence indented": "1. Write\n   ```python\n" + "".join(f"   {line}\n" for line in WHOLE.splitlines()) + "   ```\n",
    "fence never closed": f"```py\n{WHOLE}",
    "fence after another": f"```bash\npip install it\n```\n```python\n{WHOLE}```",
}
WRONG = {
    "empty": "",
    "prose": "I cannot do that.",
    "another value": "    return 3\n",
    "no python": "    return (\n",
    "unfinished": "def mean(xs: List[int]):\n    total = (",
}


@pytest.mark.parametrize("how", RIGHT)
def test_right_answers_pass_however_they_are_written(how: str) -> None:
    assert passes(program(RIGHT[how], TESTS), TESTS)


@pytest.mark.parametrize("how", WRONG)
def test_wrong_answers_fail(how: str) -> None:
    assert not passes(program(WRONG[how], TESTS), TESTS)


def test_without_a_prompt_the_program_is_the_answers_code() -> None:
    assert program("x = 1", "assert x == 1") == "x = 1"
    assert program("Look:\nimport os\nx = 1\nThat is all.", "assert x == 1") == "import os\nx = 1"
    assert program("no code at all", "assert x == 1") == "no code at all"


def test_limits_can_be_lowered() -> None:
    assert not passes("while True: pass", "assert True", time_limit_s=1)
    assert passes("x = sum(range(10**5))", "assert x", time_limit_s=1)
