"""A row of published data as an example, and what its metric needs of it."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

from t2l.tasks.task import Example

METRIC_NEEDS: dict[str, tuple[str, ...]] = {
    "exact_match": (),
    "normalised_match": (),
    "contains_any": (),
    "exact_set": (),
    "choice_label": (),
    "final_number": (),
    "rouge_l": (),
    "multiple_choice": ("choices",),
    "multiple_choice_normalised": ("choices",),
    "pass_at_1": ("tests",),
}
"""Metrics that a task may name, each with the fields of an example it cannot do without. The metrics themselves are in
`t2l.evaluation.metrics`, which stands above this room; a test holds the two together."""
METRIC_ALIASES = {"rougeL": "rouge_l", "pass@1": "pass_at_1"}
"""other names that published suites use; what follows a name after a blank is a remark"""
PROMPT_MARK = "#| "
"""begins the lines of a code task's assertions that hold the code an answer may go on from"""


def without_remark(name: str) -> str:
    """A metric's own name: without what follows a blank, and for an alias what it stands for."""
    first = name.strip().split(" ")[0]
    return METRIC_ALIASES.get(first, first)


def canonical_metric(name: object) -> str:
    """The own name of a metric that there is. Raises ValueError with the names there are."""
    if not isinstance(name, str):
        raise ValueError(f"metric must be one of {', '.join(METRIC_NEEDS)}, not {name!r}")
    known = without_remark(name)
    if known not in METRIC_NEEDS:
        raise ValueError(f"unknown metric {name!r}: choose from {', '.join(METRIC_NEEDS)}")
    return known


def mark_prompt(prompt: str, tests: str) -> str:
    """Assertions that also hold the code an answer may go on from, as comments before them (`split_prompt`)."""
    marked = "".join(f"{PROMPT_MARK}{line}\n" for line in prompt.splitlines())
    return marked + tests


def split_prompt(tests: str) -> tuple[str, str]:
    """The code an answer may go on from (empty where there is none), and the assertions."""
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

    Raises ValueError where the row has not what its metric (by its canonical name) needs.
    """
    if not isinstance(row, Mapping):
        raise ValueError(f"a row is an object with input and output, not {str(row)[:60]!r}")
    source, output = _text(row, "input", may_be_blank=True), _text(row, "output")
    example = Example(source, output, _texts(row, "references", drops_blank=True), _texts(row, "choices"), _tests(row))
    check_needs(example, metric)
    return example


def check_needs(example: Example, metric: str) -> None:
    """Raises ValueError where an example lacks what its metric cannot do without."""
    for field in METRIC_NEEDS[metric]:
        if not getattr(example, field):
            said = "test or test_list" if field == "tests" else field
            raise ValueError(f"metric {metric} needs {said}, and the row has none")
    if "choices" in METRIC_NEEDS[metric]:
        offered = {" ".join(c.split()) for c in example.choices}
        if not any(" ".join(answer.split()) in offered for answer in (example.output, *example.references)):
            raise ValueError(f"metric {metric}: the output {example.output[:60]!r} is none of the choices")
