"""A row of published data as an example, and what its metric needs of it."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

from t2l.registry import component, components
from t2l.tasks.task import Example

PROMPT_MARK = "#| "
"""begins the lines of a code task's assertions that hold the code an answer may go on from"""


def canonical_metric(name: object) -> str:
    """A metric's own name: without what follows a blank, which is a remark, and for an alias what it stands for.

    Raises ValueError with the names there are.
    """
    known = components("metric")
    if not isinstance(name, str):
        raise ValueError(f"metric must be one of {', '.join(known)}, not {name!r}")
    first = name.strip().split(" ")[0]
    for own, found in known.items():
        if first in (own, *found.make.aliases):
            return own
    raise ValueError(f"unknown metric {name!r}: choose from {', '.join(known)}")


def mark_prompt(prompt: str, tests: str) -> str:
    """Assertions that also hold the code an answer may go on from, as comments before them (`split_prompt`)."""
    marked = "".join(f"{PROMPT_MARK}{line}\n" for line in prompt.splitlines())
    return marked + tests


def split_prompt(tests: str) -> tuple[str, str]:
    """The code an answer may go on from (empty if there is none), and the assertions."""
    lines = tests.splitlines(keepends=True)
    count = next((i for i, line in enumerate(lines) if not line.startswith(PROMPT_MARK)), len(lines))
    return "".join(line[len(PROMPT_MARK) :] for line in lines[:count]), "".join(lines[count:])


def _text(row: Mapping[str, Any], key: str, may_be_blank: bool = False) -> str:
    if key not in row:
        raise ValueError(f"{key!r} is missing; a row has at least input and output")
    value = row[key]
    if not isinstance(value, str) or not (value.strip() or may_be_blank):
        raise ValueError(f"{key!r} must be {'' if may_be_blank else 'non-empty '}text, not {str(value)[:60]!r}")
    return value


def _texts(row: Mapping[str, Any], key: str, drops_blank: bool = False) -> tuple[str, ...]:
    values = row.get(key)
    if values is None:
        return ()
    if drops_blank and isinstance(values, list):
        values = [v for v in values if v != ""]
    if not isinstance(values, list) or not all(isinstance(v, str) and v.strip() for v in values):
        raise ValueError(f"{key!r} must be a list of non-empty texts, not {str(values)[:60]!r}")
    return tuple(values)


def _defines(code: str, name: str) -> bool:
    try:
        nodes = ast.parse(code).body
    except SyntaxError:
        return False
    return any(isinstance(n, ast.FunctionDef) and n.name == name for n in nodes)


def _tests(row: Mapping[str, Any]) -> str:
    tests = _text(row, "test") if row.get("test") is not None else "\n".join(_texts(row, "test_list"))
    if not tests or row.get("entry_point") is None:
        return tests
    entry = _text(row, "entry_point")
    tests = f"{tests}\ncheck({entry})"
    return mark_prompt(row["input"], tests) if _defines(row["input"], entry) else tests


def example_of(row: object, metric: str) -> Example:
    """The example of a row.

    Reads "input" and "output", "references" (more right answers; an empty one is none), "choices", and of code tasks
    "test" or "test_list" (assertions) and "entry_point" (the function that "test" checks, as in HumanEval, Chen et al.
    2021); other keys are not looked at. Where the input is the beginning of that function, an answer may go on from it.

    Raises ValueError if the row has not what its metric (by its canonical name) needs.
    """
    if not isinstance(row, Mapping):
        raise ValueError(f"a row is an object with input and output, not {str(row)[:60]!r}")
    source, output = _text(row, "input", may_be_blank=True), _text(row, "output")
    example = Example(source, output, _texts(row, "references", drops_blank=True), _texts(row, "choices"), _tests(row))
    check_needs(example, metric)
    return example


def check_needs(example: Example, metric: str) -> None:
    """Raises ValueError if an example lacks what its metric cannot do without."""
    by = component("metric", metric).make
    if by.against == "tests" and not example.tests:
        raise ValueError(f"metric {metric} needs test or test_list, and the row has none")
    if not by.chooses:
        return
    if not example.choices:
        raise ValueError(f"metric {metric} needs choices, and the row has none")
    offered = {" ".join(c.split()) for c in example.choices}
    if not any(" ".join(answer.split()) in offered for answer in (example.output, *example.references)):
        raise ValueError(f"metric {metric}: the output {example.output[:60]!r} is none of the choices")
