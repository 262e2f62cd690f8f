"""Suites as others publish them: every row is read, and every metric gives right answers their score and wrong ones chance.

The same tests read rows made here (`small_suites.py`) and, if they are at hand, the published files, which are not part of
this repository.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from conftest import SHARED
from small_suites import SUITES, make_suites
from test_config import composed

from t2l.evaluation.metrics.code_runner import passes
from t2l.evaluation.scoring import Question, questions_for
from t2l.tasks import Task, TaskSuite, tokenize_examples
from t2l.tasks.suites import FolderSuiteConfig, build
from t2l.tasks.suites.hub_rendering import Renderer
from t2l.tasks.suites.rows import split_prompt

DATA, MODEL = SHARED / "data", SHARED / "models/TinyStories-656K"
PUBLISHED = {
    "function_vectors": 46,
    "instruction_induction": 19,
    "l3_string_edit": 1798,
    "sni_subset": 70,
    "t2l_benchmarks": 10,
}
"""how many tasks there are"""
pytestmark = pytest.mark.usefixtures("code_allowed")


@pytest.fixture(scope="module", params=["made", "published"])
def counts(request: pytest.FixtureRequest) -> dict[str, int]:
    """By suite, how many tasks it has; first of the suites made here, then of the published ones."""
    if request.param == "made":
        return {name: len(tasks()) for name, tasks in SUITES.items()}
    if not all((DATA / name).is_dir() for name in PUBLISHED):
        pytest.skip(f"needs the suites of {DATA.parent.name}/data beside the repository")
    return PUBLISHED


@pytest.fixture(scope="module")
def suites(counts: dict[str, int], tmp_path_factory: pytest.TempPathFactory) -> dict[str, TaskSuite]:
    """Every suite as it is; of the benchmarks all test rows."""
    data = DATA if counts is PUBLISHED else make_suites(tmp_path_factory.mktemp("data"))
    limits = dict.fromkeys(counts, 20) | {"t2l_benchmarks": 1000}
    return {n: build(FolderSuiteConfig(path=str(data / n), test_examples=limits[n])) for n in counts}


@pytest.fixture(scope="module")
def benchmarks(suites: dict[str, TaskSuite]) -> dict[str, Task]:
    return dict(suites["t2l_benchmarks"].tasks)


@pytest.fixture(scope="module")
def reader(counts: dict[str, int], tokenizer: Any) -> Any:
    """What tokenizes rows: the mini base's tokenizer, or that of a published model."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(MODEL) if counts is PUBLISHED else tokenizer


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_suite_loads_renders_and_yields_questions(
    name: str, suites: dict[str, TaskSuite], counts: dict[str, int], reader: Any
) -> None:
    suite = suites[name]
    assert len(suite.tasks) == counts[name]
    for task in suite.tasks.values():
        rows = [e for examples in task.examples.values() for e in examples[:2]]
        assert all(t.prompt_ids and len(t.response_ids) > 1 for t in tokenize_examples(reader, rows))
        assert len(questions_for([task], 2)) == 2
    trained = suite.split("train").tasks
    assert all(t.examples["train"] for t in suite.select(trained))
    dealt = [n for s in suite.splits.values() if s.phrasing == "train" for n in s.tasks]
    assert sorted(dealt) == sorted(suite.tasks)


@pytest.mark.parametrize("name", [n for n in PUBLISHED if n != "t2l_benchmarks"])
def test_right_answers_of_every_suite_are_right(name: str, suites: dict[str, TaskSuite]) -> None:
    for task in suites[name].tasks.values():
        for question, example in zip(questions_for([task], 3), task.examples["test"], strict=False):
            assert question.score(example.output) == 1, (task.name, example)


def test_benchmarks_have_the_papers_roles(benchmarks: dict[str, Task], suites: dict[str, TaskSuite]) -> None:
    """Three publish no training rows here, HumanEval has none; BoolQ's validation rows are its test rows."""
    rows = {
        name: tuple(len(task.examples[k]) for k in ("train", "validation", "test")) for name, task in benchmarks.items()
    }
    assert rows["boolq"] == rows["arc_easy"] == (300, 0, 300)
    assert rows["winogrande"] == rows["hellaswag"] == rows["piqa"] == (0, 0, 300)
    assert rows["humaneval"] == (0, 0, 164)
    assert rows["mbpp"][1:] == (64, 300)
    evaluated = suites["t2l_benchmarks"].split("evaluation_only").tasks
    assert set(evaluated) == {"winogrande", "hellaswag", "piqa", "humaneval"}


CHOICES = {"arc_challenge": 4, "arc_easy": 4, "openbookqa": 4, "winogrande": 2, "boolq": 2, "piqa": 2, "hellaswag": 4}
"""choices that a question offers (a few of ARC offer three or five)"""
SENTENCES: Sequence[Callable[[str], str]] = (
    lambda a: a,
    lambda a: f"{a}.",
    lambda a: f"({a})",
    lambda a: f"**{a}**\n",
    lambda a: f"The answer is {a}.",
    lambda a: f"Answer: {a}\n\nQuestion: another one?",
    lambda a: f"Let me think. It cannot be otherwise, so the correct answer is **{a}**.",
)


def shuffled_score(questions: Sequence[Question], answers: Sequence[str], seed: int) -> float:
    """The mean score where every question gets another question's right answer."""
    order = list(answers)
    random.Random(seed).shuffle(order)
    return sum(q.score(a) for q, a in zip(questions, order, strict=True)) / len(questions)


@pytest.mark.parametrize("name", CHOICES)
@pytest.mark.parametrize("by", ["exact_match", "choice_label"])
def test_multiple_choice_gold_is_right_and_shuffled_gold_is_chance(
    name: str, by: str, benchmarks: dict[str, Task]
) -> None:
    """Chance is the share of pairs of rows with the same label: 1 / choices, and a little more where labels are uneven.

    Over five shuffles of 300 rows the mean's standard deviation is below 0.013; four of them are allowed.
    """
    task, examples = benchmarks[name], benchmarks[name].examples["test"]
    assert task.metric == "exact_match"
    questions = [q.__class__(**{**vars(q), "metric": by}) for q in questions_for([task], 300)]
    gold = [e.output for e in examples]
    for say in SENTENCES if by == "choice_label" else SENTENCES[:1]:
        assert all(q.score(say(a)) == 1 for q, a in zip(questions, gold, strict=True))
    chance = sum((n / len(gold)) ** 2 for n in Counter(gold).values())
    assert chance == pytest.approx(1 / CHOICES[name], abs=0.035)
    found = sum(shuffled_score(questions, gold, seed) for seed in range(5)) / 5
    assert found == pytest.approx(chance, abs=0.05)


def test_gsm8k_gold_is_right_and_shuffled_gold_is_wrong(benchmarks: dict[str, Task]) -> None:
    """Chance is that two problems have the same number: below 0.02."""
    task, examples = benchmarks["gsm8k"], benchmarks["gsm8k"].examples["test"]
    assert task.metric == "final_number"
    questions = questions_for([task], 300)
    numbers = [e.output.rsplit("#### ", 1)[1] for e in examples]
    for answers in ([e.output for e in examples], numbers, [f"It makes ${n}." for n in numbers]):
        assert all(q.score(a) == 1 for q, a in zip(questions, answers, strict=True))
        assert shuffled_score(questions, answers, 0) < 0.05
    chance = sum((n / 300) ** 2 for n in Counter(numbers).values())
    assert chance < 0.02


def scores(questions: Sequence[Question], answers: Sequence[str]) -> list[float]:
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda pair: pair[0].score(pair[1]), zip(questions, answers, strict=True)))


def test_humaneval_solutions_pass_however_they_are_written(benchmarks: dict[str, Task]) -> None:
    """Chance is nil: another problem's solution does not pass."""
    task, examples = benchmarks["humaneval"], benchmarks["humaneval"].examples["test"][:60:6]
    assert task.metric == "pass_at_1"
    questions = [questions_for([task], 60)[i] for i in range(0, 60, 6)]
    body = [e.output for e in examples]
    whole = [split_prompt(e.tests)[0] + e.output for e in examples]
    written = {
        "continued": body,
        "continued without its first indentation": [b.lstrip() for b in body],
        "and it runs on": [f"{b}\n\ndef main():\n    print(" for b in body],
        "whole": whole,
        "fenced in prose": [f"Here you are:\n\n```python\n{w}```\nIt loops over the list." for w in whole],
        "fenced without the imports": [f"```\n{re.sub('^from typing.*', '', w)}```" for w in whole],
    }
    for how, answers in written.items():
        assert scores(questions, answers) == [1.0] * 10, how
    assert scores(questions[:4], [*body[1:4], body[0]]) == [0.0] * 4
    broken = [re.sub(r"return .*", "return 'nothing of the kind'", b) for b in body[:3]]
    assert scores(questions[:3], [*broken[:2], "    return ("]) == [0.0] * 3


def test_a_solution_that_never_ends_is_stopped(benchmarks: dict[str, Task]) -> None:
    example = benchmarks["humaneval"].examples["test"][0]
    prompt, _ = split_prompt(example.tests)
    assert not passes(f"{prompt}    while True:\n        pass\n", example.tests, time_limit_s=1)
    assert not passes(f"{prompt}    import time\n    time.sleep(60)\n", example.tests, time_limit_s=1)
    assert passes(prompt + example.output, example.tests, time_limit_s=1)


def test_mbpp_solutions_pass_and_other_problems_solutions_do_not(benchmarks: dict[str, Task]) -> None:
    task, examples = benchmarks["mbpp"], benchmarks["mbpp"].examples["test"][:60:6]
    questions = [questions_for([task], 60)[i] for i in range(0, 60, 6)]
    code = [e.output for e in examples]
    assert scores(questions, code) == [1.0] * 10
    assert scores(questions, [f"Sure!\n```python\n{c}\n```\nThis works." for c in code]) == [1.0] * 10
    assert scores(questions, [*code[1:], code[0]]) == [0.0] * 10


COLUMNS: dict[str, str] = {
    "arc_easy": r"(?P<question>.*)\n(?P<choices>[A1]: .*)",
    "arc_challenge": r"(?P<question>.*)\n(?P<choices>[A1]: .*)",
    "openbookqa": r"(?P<question_stem>.*)\n(?P<choices>A: .*)",
    "boolq": r"question: (?P<question>.*?)\npassage: (?P<passage>.*)",
    "gsm8k": r"(?P<question>.*)",
    "hellaswag": r"(?P<activity_label>[^:]*): (?P<ctx>.*?)\n(?P<endings>0: .*)",
    "piqa": r"(?P<goal>.*?)\n0: (?P<sol1>.*)\n1: (?P<sol2>.*)",
    "winogrande": r"(?P<sentence>.*)\nA: (?P<option1>.*)\nB: (?P<option2>.*)",
    "humaneval": r"(?P<prompt>.*)",
}
ANSWERS: dict[str, Callable[[str], Any]] = {
    "boolq": lambda a: {"answer": a == "true"},
    "gsm8k": lambda a: {"answer": a},
    "hellaswag": lambda a: {"label": a},
    "piqa": lambda a: {"label": int(a)},
    "winogrande": lambda a: {"answer": {"A": "1", "B": "2"}[a]},
    "humaneval": lambda a: {"canonical_solution": a, "test": "pass", "entry_point": "f"},
}


@pytest.mark.parametrize("name", COLUMNS)
def test_hub_columns_render_to_the_published_prompts(name: str, benchmarks: dict[str, Task]) -> None:
    """Real rows taken apart into the hub's columns, rendered by conf/suite/benchmarks.yaml, are the rows again."""
    config: Any = composed("train", "suite=benchmarks").suite  # type: ignore[attr-defined]
    renderer = Renderer(config.task(name))
    rows = [e for examples in benchmarks[name].examples.values() for e in examples]
    apart = 0
    for example in rows:
        found = re.fullmatch(COLUMNS[name], example.input, re.DOTALL)
        if found is None:
            continue
        row: dict[str, Any] = {**found.groupdict(), **ANSWERS.get(name, lambda a: {"answerKey": a})(example.output)}
        listed = [line.split(": ", 1) for line in (row.get("choices") or row.get("endings") or "").split("\n") if line]
        if any(len(pair) < 2 for pair in listed):
            continue
        if "choices" in row:
            row["choices"] = {"label": [k for k, _ in listed], "text": [text for _, text in listed]}
        elif "endings" in row:
            row["endings"] = [text for _, text in listed]
        made = renderer.example(row)
        assert (made.input, made.output) == (example.input, example.output)
        apart += 1
    assert apart > 0.9 * len(rows)
