"""Solved examples in the prompt: rendered by the base's own template or as text, whichever is stronger, and said."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from t2l.base_model import BaseModel, LoraConfig, lora_spec
from t2l.evaluation.board import Board, BoardConfig, view_split
from t2l.evaluation.contenders import in_context
from t2l.evaluation.contenders.base import Base
from t2l.evaluation.contenders.in_context import FORMATS, InContext, PromptedInContext, formats_for
from t2l.evaluation.contenders.interface import SplitView
from t2l.evaluation.report.findings import Findings
from t2l.evaluation.report.report import report_data
from t2l.evaluation.report.text import report_text
from t2l.evaluation.scoring import Answer, Question, greedy_answers
from t2l.tasks import Example, Task, render_prompts, tokenize_prompts
from t2l.tasks.suites import WordListConfig, build

BOARD = BoardConfig(
    tasks_per_split=3, examples_per_task=3, descriptions_per_task=2, max_new_tokens=4, bootstrap_samples=20
)
TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}</{{ m['role'] }}>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="module")
def view() -> SplitView:
    suite = build(WordListConfig(train_examples=10, validation_examples=4, test_examples=4))
    return view_split(suite, "unseen_combination", BOARD, 0)


def with_template(base: BaseModel, template: str | None) -> BaseModel:
    tokenizer = copy.deepcopy(base.tokenizer)
    tokenizer.chat_template = template
    return replace(base, tokenizer=tokenizer)


class Trial:
    """Stands for decoding: records what was asked, and is right on one format alone."""

    def __init__(self, best: str) -> None:
        self.best, self.asked = best, list[Question]()

    def __call__(self, base: BaseModel, questions: Sequence[Question], *_rest: Any) -> list[Answer]:
        self.asked += questions
        kinds = {"chat turns": lambda q: bool(q.shots), "labelled text": lambda q: q.content.endswith("\nOutput:")}
        kinds["bare lines"] = lambda q: not q.shots and "Input:" not in q.content
        return [Answer(q, "", float(kinds[self.best](q))) for q in questions]


@pytest.mark.parametrize("best", FORMATS)
@pytest.mark.parametrize("told", [False, True])
def test_the_format_that_scores_highest_on_rows_that_are_not_scored_is_used(
    best: str, told: bool, tiny_base: BaseModel, view: SplitView, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = Trial(best)
    monkeypatch.setattr(in_context, "greedy_answers", trial)
    base = with_template(tiny_base, TEMPLATE)
    contender = (PromptedInContext if told else InContext)(base, 2, BOARD, 6)
    entry = contender.enter(view)
    validation = {e.input for t in view.tasks for e in t.examples["validation"]}
    assert {q.input for q in trial.asked} <= validation
    assert len(trial.asked) == 3 * 6
    (condition,) = entry.conditions
    assert condition.startswith(f"2 solved examples as {best} (of 6 rows that are not scored: ")
    assert f"{best} 1.000" in condition
    assert contender.enter(view).fingerprint() == entry.fingerprint()
    assert len(trial.asked) == 3 * 6  # chosen once
    for q in entry.questions:
        task = next(t for t in view.tasks if t.name == q.task)
        assert q.input in {e.input for e in task.examples["test"]}
        (text,) = render_prompts(base.tokenizer, [q.content], [q.shots])
        places = [text.index(part) for e in task.examples["train"][:2] for part in (e.input, e.output)]
        assert places == sorted(places)
        assert text.rindex(q.input) > places[-1]
        texts = view.descriptions[[t.name for t in view.tasks].index(q.task)]
        assert any(text.index(d) < places[0] for d in texts if d in text) == told
        assert q.prefix.count("\n") >= 3


def test_turns_are_rendered_by_the_template_token_for_token(tiny_base: BaseModel) -> None:
    solved = (Example("dog cat", "cat"), Example("cow 7", "7"))
    shown = FORMATS["chat turns"]("Say the last.", solved, "lion dog", True)
    base = with_template(tiny_base, TEMPLATE)
    text = (
        "<user>Say the last.\ndog cat</user><assistant>cat</assistant><user>cow 7</user><assistant>7</assistant>"
        "<user>lion dog</user><assistant>"
    )
    assert render_prompts(base.tokenizer, [shown.content], [shown.shots]) == [text]
    chat = [
        {"role": role, "content": content}
        for asked, answered in (*shown.shots, (shown.content, ""))
        for role, content in (("user", asked), ("assistant", answered))
    ][:-1]
    ids = base.tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    assert list(tokenize_prompts(base.tokenizer, [shown.content], [shown.shots])[0]) == ids
    asked = Question("t", "lion dog", shown.content, "dog", shots=shown.shots)
    (answer,) = greedy_answers(base, [asked], None, None, 2, 1)
    assert answer.prompt_tokens == len(ids)
    # Without a template each turn is a line.
    bare = with_template(tiny_base, None)
    assert render_prompts(bare.tokenizer, [shown.content], [shown.shots]) == [
        "<s>Say the last.\ndog cat\ncat\ncow 7\n7\nlion dog\n"
    ]


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (TEMPLATE, list(FORMATS)),
        (None, ["labelled text", "bare lines"]),
        ("{{ messages[-1].content }}", ["labelled text", "bare lines"]),
        ("{% if messages|length > 1 %}{{ raise_exception('one turn') }}{% endif %}x", ["labelled text", "bare lines"]),
    ],
    ids=["chat", "none", "last_message", "refuses"],
)
def test_turns_are_offered_where_the_template_shows_them(
    template: str | None, expected: list[str], tiny_base: BaseModel
) -> None:
    assert formats_for(with_template(tiny_base, template).tokenizer) == expected


def test_text_answers_end_where_the_text_would_go_on(tiny_base: BaseModel) -> None:
    one, many = (Example("dog", "cat"),), (Example("dog", "cat\ncow"),)
    labelled, lines = FORMATS["labelled text"], FORMATS["bare lines"]
    assert labelled("", one, "cow", True).content == "Input: dog\nOutput: cat\n\nInput: cow\nOutput:"
    assert labelled("Do.", one, "cow", False).content == "Do.\n\nInput: dog\nOutput:\ncat\n\nInput: cow\nOutput:"
    assert lines("Do.", one, "cow", True).content == "Do.\ndog\ncat\ncow"
    question = Question("t", "cow", "", "lion", stop=labelled("", one, "cow", True).stop)
    assert question.ended("\nlion\n\nInput: 7") == "lion"
    several = Question("t", "cow", "", "lion\ncow", stop=labelled("", many, "cow", True).stop)
    assert several.ended(" lion\ncow\nInput: 7") == "lion\ncow"
    assert lines("", many, "cow", True).stop == ""
    assert Question("t", "", "", "").ended("lion\ncow") == "lion\ncow"


def a_task(**examples: tuple[Example, ...]) -> SplitView:
    task = Task("t", {"train": ("Do.",)}, {"test": (Example("t0", "a"),), **examples})
    return SplitView("s", [task], [["Do."]], 1)


def test_without_validation_rows_later_training_rows_are_tried_and_never_those_shown(
    tiny_base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = Trial("bare lines")
    monkeypatch.setattr(in_context, "greedy_answers", trial)
    rows = tuple(Example(f"r{i}", "a") for i in range(5))
    InContext(tiny_base, 2, BOARD, 9).enter(a_task(train=rows))
    assert {q.input for q in trial.asked} == {"r2", "r3", "r4"}
    trial.asked.clear()
    entry = InContext(tiny_base, 5, BOARD, 9).enter(a_task(train=rows))
    assert not trial.asked
    assert entry.conditions == ["5 solved examples as chat turns (there are no rows to try others on)"]
    with pytest.raises(ValueError, match="has 5 training examples, 6 shots are asked for"):
        InContext(tiny_base, 6, BOARD, 9).enter(a_task(train=rows))


def test_the_report_says_how_examples_were_put(tiny_base: BaseModel, view: SplitView) -> None:
    """From a real run; and what the base reads is what is counted."""
    spec = lora_spec(tiny_base.model, LoraConfig(rank=2))
    contenders = [Base(), *(kind(tiny_base, 2, BOARD, 3) for kind in (InContext, PromptedInContext))]
    cells = Board(tiny_base, spec, BOARD, 0).score(contenders, [view])
    found = Findings(cells, "exact_match", 20, 0)
    data = report_data(found)
    assert set(data["in_context"]) == {"icl", "prompted_icl"}
    condition = data["in_context"]["icl"]["unseen_combination"]
    assert condition.startswith("2 solved examples as ")
    assert f"- icl on unseen_combination: {condition}" in report_text(data)
    usage = {c.contender: c.runs[0].usage.prompt_tokens for c in cells}
    assert usage["base"] < usage["icl"] < usage["prompted_icl"]
