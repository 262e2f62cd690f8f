"""Rows of a published dataset rendered to examples by the templates of a config.

Templates and expressions are Jinja's, in its sandbox. They see a row's columns by their names, and the whole row as
`row`, for names that are no identifiers: `{{ row['my.column'] }}`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from t2l.checks import at_least
from t2l.tasks.suites.row_splits import ROW_SPLITS
from t2l.tasks.suites.rows import canonical_metric, example_of, mark_prompt
from t2l.tasks.task import Example


@dataclass
class HubTaskConfig:
    """One task from one dataset."""

    dataset: str = ""
    """id on the Hugging Face hub, or a local folder with the same files"""
    subset: str | None = None
    """name of the dataset's configuration, if it has several"""
    revision: str | None = None
    """commit, tag or branch of the dataset on the hub; a commit pins what is read"""
    splits: dict[str, str] = field(default_factory=lambda: {"train": "train", "test": "test"})
    """train, validation, test to the dataset's own split, or a slice of one like train[:80%]"""
    where: str = ""
    """expression over the columns; rows for which it is false are left out"""
    input: str = ""
    """template of the question"""
    output: str = ""
    """template of the right answer"""
    labels: dict[str, str] = field(default_factory=dict)
    """what the rendered output stands for, if it is an index or a code; with any, all must be named"""
    references: str = ""
    """expression: list of more right answers"""
    choices: str = ""
    """expression: list of what a multiple-choice question lets one choose from"""
    tests: str = ""
    """template: assertions that right code passes"""
    code_prompt: str = ""
    """template: code that an answer may go on from"""
    metric: str = "exact_match"
    """how answers are scored"""
    descriptions: list[str] = field(default_factory=list)
    """descriptions of the task"""
    description: str = ""
    """template: every row's description; the distinct ones are added to `descriptions`"""
    family: str | None = None
    """near-duplicate tasks share one; None: the task's name"""
    max_rows: int | None = None
    """rows read per split, the first ones; None: all"""
    max_new_tokens: int | None = None
    """longest answer in tokens; None: as evaluation.max_new_tokens says"""

    def check(self) -> None:
        """Raises ValueError if something is missing or not allowed."""
        for key in ("dataset", "input", "output", "splits"):
            if not getattr(self, key):
                raise ValueError(f"{key} is empty")
        unknown = [s for s in self.splits if s not in ROW_SPLITS]
        if unknown:
            raise ValueError(f"splits: {unknown[0]!r} must be one of {', '.join(ROW_SPLITS)}")
        at_least(self, 1, "max_rows")
        canonical_metric(self.metric)


TEMPLATES = ("input", "output", "tests", "code_prompt", "description")
EXPRESSIONS = ("where", "references", "choices")


@cache
def _compiled(source: str, is_template: bool) -> Callable[[Mapping[str, Any]], Any]:
    """A template or an expression as a function of the names it may use; those of many tasks are the same."""
    from jinja2 import StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True, finalize=_known)
    if is_template:
        return environment.from_string(source).render
    return environment.compile_expression(source, undefined_to_none=False)


class Renderer:
    """Makes examples of rows, as a task's config says.

    Raises ValueError, when made, for a template or expression that is not Jinja.
    """

    def __init__(self, config: HubTaskConfig) -> None:
        from jinja2 import TemplateSyntaxError

        self.config, self.metric = config, canonical_metric(config.metric)
        self._made: dict[str, Callable[[Mapping[str, Any]], Any]] = {}
        for key in (*TEMPLATES, *EXPRESSIONS):
            if source := getattr(config, key):
                try:
                    self._made[key] = _compiled(source, key in TEMPLATES)
                except TemplateSyntaxError as error:
                    raise ValueError(f"{key}: {source!r} is not Jinja: {error.message}") from None

    def _value(self, key: str, row: Mapping[str, Any]) -> Any:
        """A template's text or an expression's value; None if the config has neither."""
        from jinja2 import TemplateError, Undefined

        if key not in self._made:
            return None
        names = {k: v for k, v in row.items() if k.isidentifier()} | {"row": row}
        try:
            value = self._made[key](names)
            return str(value) if isinstance(value, Undefined) else value
        except (TemplateError, LookupError, TypeError, ValueError) as error:
            raise ValueError(f"{key}: {error}; the columns are {', '.join(row)}") from None

    def is_wanted(self, row: Mapping[str, Any]) -> bool:
        """Whether `where` keeps a row."""
        return not self.config.where or bool(self._value("where", row))

    def description(self, row: Mapping[str, Any]) -> str:
        """A row's description, empty if the config has no template for it."""
        return (self._value("description", row) or "").strip()

    def example(self, row: Mapping[str, Any]) -> Example:
        """The example of a row. Raises ValueError if it cannot be rendered, or lacks what the metric needs."""
        made = {k: self._value(k, row) for k in ("input", "output", "references", "choices", "tests", "code_prompt")}
        if self.config.labels:
            if made["output"] not in self.config.labels:
                raise ValueError(f"output {made['output']!r} is none of the labels {', '.join(self.config.labels)}")
            made["output"] = self.config.labels[made["output"]]
        for key in ("references", "choices"):
            if isinstance(made[key], Iterable) and not isinstance(made[key], str | Mapping):
                made[key] = [str(v) for v in made[key]]
        if made["tests"]:
            made["test"] = mark_prompt(made["code_prompt"] or "", made["tests"])
        return example_of(made, self.metric)


def _known(value: Any) -> Any:
    """A value that stands in a template. Raises ValueError for a column that is null."""
    if value is None:
        raise ValueError("a column that it needs is null")
    return value
