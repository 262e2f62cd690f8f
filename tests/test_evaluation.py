from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import random_adapters
from transformers import GPT2Config, GPT2LMHeadModel

from t2l.base_model import BaseModel, LoraConfig, freeze, lora_spec
from t2l.evaluation import board
from t2l.evaluation.board import BoardConfig, Cell, Run, paired_difference, scores_by_task, view_split
from t2l.evaluation.config import EvaluateConfig
from t2l.evaluation.contenders.base import Base, FormalCode, Prompted
from t2l.evaluation.contenders.generated import derangement, random_text
from t2l.evaluation.contenders.interface import Entry
from t2l.evaluation.costs import Costs, Usage, cost_row, multiplied_weights
from t2l.evaluation.report.against import differences
from t2l.evaluation.report.collect import metric_name
from t2l.evaluation.report.cost_text import cost_parts
from t2l.evaluation.report.findings import Findings
from t2l.evaluation.report.report import control_differences, headline, report_data, write_report
from t2l.evaluation.report.text import report_text, score_table
from t2l.evaluation.scoring import Answer, Question, check_scorable, choose_answers, greedy_answers, questions_for
from t2l.evaluation.statistics import Scores, estimate
from t2l.lora import inject
from t2l.lora.source import Held
from t2l.run.overview import time_to_step
from t2l.tasks import Example, Task, TaskSuite, tokenize_prompts
from t2l.tasks.suites import FolderSuiteConfig, WordListConfig, build
from t2l.verbs.evaluate import evaluate


@pytest.fixture(scope="module")
def suite() -> TaskSuite:
    return build(WordListConfig(train_examples=4, validation_examples=1, test_examples=8))


def test_mixed_batch_answers_equal_each_row_alone(tiny_base: BaseModel, suite: TaskSuite) -> None:
    """Batching, padding and neighbours change no answer."""
    spec = lora_spec(tiny_base.model, LoraConfig(rank=4))
    weights = random_adapters(spec, 3, size=0.8)
    questions = questions_for(suite.select(["keep_animals", "count_tools", "sort"]), 4, adapter_of=lambda t, e: t)
    mixed = greedy_answers(tiny_base, questions, spec, weights, max_new_tokens=6, batch_size=5)
    alone = [a for q in questions for a in greedy_answers(tiny_base, [q], spec, weights, 6, 1)]
    assert [a.answer for a in mixed] == [a.answer for a in alone]
    assert [a.question for a in mixed] == questions
    assert len({a.answer for a in mixed}) > 3


def test_derangement_moves_every_task() -> None:
    for count in range(2, 12):
        other = derangement(count, 0, "split")
        assert sorted(other) == list(range(count))
        assert all(i != o for i, o in enumerate(other))
    with pytest.raises(ValueError, match="needs at least two"):
        derangement(1, 0, "split")


def test_random_text_is_text_and_differs() -> None:
    texts = {random_text(0, task, i) for task in ("a", "b") for i in range(5)}
    assert len(texts) == 10
    assert random_text(0, "a", 0) == random_text(0, "a", 0)


def test_splits_that_share_tasks_score_the_same_tasks(suite: TaskSuite) -> None:
    config = BoardConfig(tasks_per_split=7)
    names = [[t.name for t in view_split(suite, s, config, 0).tasks] for s in ("train", "unseen_phrasing")]
    assert names[0] == names[1]
    assert len(names[0]) == 7


def test_views_take_descriptions_from_the_splits_phrasing_set(suite: TaskSuite) -> None:
    view = view_split(suite, "unseen_phrasing", BoardConfig(tasks_per_split=5, descriptions_per_task=3), 0)
    for task, descriptions in zip(view.tasks, view.descriptions, strict=True):
        assert len(set(descriptions)) == 3
        assert set(descriptions) <= set(task.descriptions["test"])


def test_prompts_of_contenders_differ_only_where_they_should(suite: TaskSuite) -> None:
    """The base sees bare inputs; `prompted` adds a description, `formal_code` the code, and nothing else does."""
    view = view_split(suite, "unseen_combination", BoardConfig(tasks_per_split=4, examples_per_task=4), 0)
    base, prompted, code = (c.enter(view).questions for c in (Base(), Prompted(), FormalCode()))
    assert [q.reference for q in base] == [q.reference for q in prompted] == [q.reference for q in code]
    for i, (b, p, c) in enumerate(zip(base, prompted, code, strict=True)):
        task = view.tasks[i // 4]
        assert b.content == b.input
        assert p.content == f"{view.descriptions[i // 4][i % 4]}\n{b.input}"
        assert c.content == f"{task.formal_code}\n{b.input}"


def _cell(contender: str, scores: list[list[float]]) -> Cell:
    answers = [
        Answer(Question(f"task{t}", f"in{e}", f"in{e}", "out"), "", s)
        for t, row in enumerate(scores)
        for e, s in enumerate(row)
    ]
    e = estimate(Scores.of([scores]), 200, 0, contender, bounds=(0.0, 1.0))
    return Cell(contender, "split", [Run(answers, [], Usage(1, 1, 1, 1, len(answers)), contender)], e)


def test_paired_difference_and_verdict() -> None:
    matched = _cell("generated_sft", [[1, 1, 1, 1]] * 8)
    shuffled = _cell("generated_sft_shuffled", [[0, 0, 0, 1]] * 8)
    same = _cell("generated_sft_random_text", [[1, 1, 1, 1]] * 8)
    assert paired_difference(matched, shuffled, 200, 0).mean == 0.75
    rows = {r["control"]: r for r in control_differences([matched, shuffled, same], 200, 0)}
    assert rows["shuffled"]["distinguishable"]
    assert not rows["random_text"]["distinguishable"]
    with pytest.raises(ValueError, match="did not answer the same examples"):
        paired_difference(matched, _cell("x", [[1, 1]]), 200, 0)


def test_a_difference_is_the_mirror_image_of_its_reverse() -> None:
    """Of two generated adapters a report shows both: they must not disagree about zero."""
    one, other = (
        _cell("a", [[1, 0, 1, 0], [1, 1, 1, 0], [0, 0, 1, 1]]),
        _cell("b", [[0, 1, 1, 0], [0, 1, 0, 0], [0, 0, 1, 0]]),
    )
    there, back = paired_difference(one, other, 100, 0), paired_difference(other, one, 100, 0)
    assert (there.mean, there.low, there.high) == (-back.mean, -back.high, -back.low)
    assert there.low < there.mean < there.high


def test_the_report_pairs_generated_adapters_with_every_other_contender() -> None:
    """With the base that reads the description, above all; not with controls, nor where seeds cannot be paired."""
    ours, shuffled = _cell("generated_sft", [[1, 1, 1, 0]] * 8), _cell("generated_sft_shuffled", [[0, 0, 0, 0]] * 8)
    prompted, oracle = _cell("prompted", [[1, 0, 0, 0]] * 8), _cell("oracle", [[1, 1, 1, 0]] * 8)
    three = replace(_cell("few_shot", [[1, 1, 1, 1]] * 8), runs=prompted.runs * 3)
    two = replace(ours, runs=ours.runs * 2)
    found = Findings([ours, shuffled, prompted, oracle, three], "exact_match", 200, 0)
    rows = {r["other"]: r for r in differences(found)}
    assert set(rows) == {"prompted", "oracle", "few_shot"}
    assert rows["prompted"]["difference"] == 0.5
    assert rows["prompted"]["distinguishable"]
    assert not rows["oracle"]["distinguishable"]
    assert {r["other"] for r in differences(replace(found, cells=[two, shuffled, prompted, three]))} == {"prompted"}
    text = report_text(report_data(found))
    assert re.search(r"\| generated_sft \| prompted \| 1 \| \+0\.50 \[\+0\.\d\d, \+0\.\d\d\] \* \|", text)
    assert "| generated_sft | oracle | 1 | +0.00 [+0.00, +0.00] |" in text


def test_figures_are_written_in_a_vector_form_beside(tmp_path: Path) -> None:
    cells = [_cell("base", [[1, 1, 1, 0]] * 3), _cell("prompted", [[1, 0, 0, 0]] * 3)]
    write_report(tmp_path / "both", Findings(cells, "exact_match", 20, 0), "svg")
    write_report(tmp_path / "one", Findings(cells, "exact_match", 20, 0))
    names = {p.stem for p in (tmp_path / "both").glob("*.png")}
    assert names == {p.stem for p in (tmp_path / "both").glob("*.svg")} == {"scores", "tasks"}
    assert not list((tmp_path / "one").glob("*.svg"))
    with pytest.raises(ValueError, match="vector_figures must be pdf or svg, or null, not 'eps'"):
        EvaluateConfig(contenders=["base"], vector_figures="eps")


def test_what_training_a_hypernetwork_comes_to_per_adapter(tmp_path: Path) -> None:
    """Its parameters stand in the table; a generated adapter is cheaper from the number on at which the totals cross."""
    lines = [(1, 1.0, 2.0), (2, 1.0, 5.0), (3, 9.0, 4.0), (4, 9.0, 40.0)]
    text = "".join(json.dumps({"step": s, "began": b, "time_s": t}) + "\n" for s, b, t in lines)
    (tmp_path / "timings.jsonl").write_text(text)
    assert time_to_step(tmp_path, 3) == 9.0
    assert time_to_step(tmp_path / "none", 3) is None
    usage = Usage(10, 2, 1e6, 0.1, 4)
    ours = Costs(0, None, 64, 0, 0.5, hypernetwork_parameters=1_234, hypernetwork_time_s=9.0)
    costs = [cost_row("generated_x", ours, usage), cost_row("oracle", Costs(8, 2.0, 64, 3), usage)]
    data = {"results": [], "controls": [{"contender": "generated_x"}], "costs": costs}
    table, _, about, amortised = cost_parts(data)
    assert "| generated_x | 1,234 | 0 |  | 500.00 | 64 |" in table
    assert "beside 2.00 s" in about
    assert "| generated_x | 1,234 | 9.0 | 0.5000 | 0.5900 | 0.5090 | 0.5009 | 7 adapters |" in amortised
    assert len(cost_parts({**data, "costs": [{**c, "hypernetwork_parameters": None} for c in costs]})) == 2


def test_each_recipe_is_preliminary_by_its_own_seeds() -> None:
    one = control_differences([_cell("generated_a", [[1, 1]] * 4), _cell("generated_a_static", [[0, 0]] * 4)], 50, 0)
    three = [{**row, "contender": "generated_b", "n_seeds": 3} for row in one]
    lines = headline({"controls": [*one, *three], "condition_redundant": False})
    assert [("Preliminary" in line, line.split()[0]) for line in lines] == [
        (True, "generated_a"),
        (False, "generated_b"),
    ]


def test_table_and_row_agree() -> None:
    cell = _cell("base", [[1, 0], [1, 1]])
    assert scores_by_task(cell.runs[0].answers) == {"task0": [1, 0], "task1": [1, 1]}
    row = cell.row("exact_match")
    assert row["mean"] == 0.75
    assert row["ci95"][0] <= 0.75 <= row["ci95"][1]
    assert (row["n_tasks"], row["n_examples"]) == (2, 4)
    assert "| base | 0.75 [" in score_table([row])


def test_the_mini_base_knows_its_skills_only_by_code(mini_base: BaseModel, suite: TaskSuite) -> None:
    """Ceiling near one with the formal code; near zero without it and with an English description."""
    config = BoardConfig(tasks_per_split=40, examples_per_task=4)
    for split in ("train", "unseen_composition", "unseen_category"):
        view = view_split(suite, split, config, 0)
        means = []
        for contender in (FormalCode(), Base(), Prompted()):
            answers = greedy_answers(mini_base, contender.enter(view).questions, None, None, 24, 256)
            means.append(np.mean([a.score for a in answers]))
        assert means[0] >= 0.95
        assert means[1] <= 0.15
        assert means[2] <= 0.15


def test_generation_leaves_no_hooks(tiny_base: BaseModel, suite: TaskSuite) -> None:
    spec = lora_spec(tiny_base.model, LoraConfig(rank=4))
    greedy_answers(tiny_base, questions_for(suite.select(["sort"]), 2), spec, random_adapters(spec, 1), 2, 2)
    assert not any(m._forward_hooks for m in tiny_base.model.modules())


def test_what_uses_no_description_is_asked_once(suite: TaskSuite, tiny_base: BaseModel) -> None:
    """Splits that differ in phrasing put the same questions to the base, and others to what reads the description."""
    config = BoardConfig(tasks_per_split=5, examples_per_task=3)
    views = [view_split(suite, name, config, 0) for name in ("train", "unseen_phrasing", "unseen_category")]
    base, prompted = ([c.enter(view).fingerprint() for view in views] for c in (Base(), Prompted()))
    assert base[0] == base[1] != base[2]
    assert len({*base, *prompted}) == 5
    adapters = random_adapters(lora_spec(tiny_base.model, LoraConfig(rank=4)), 2)
    questions = Base().enter(views[0]).questions
    one, same, other = (
        Entry(questions, Held(w)).fingerprint() for w in (adapters, adapters.map(lambda t: t.clone()), adapters[[1, 0]])
    )
    assert one == same
    assert len({one, other, base[0]}) == 3


@pytest.mark.parametrize(
    "name", ["multiple_choice", "multiple_choice_normalised", "multiple_choice_normalised (per byte)"]
)
def test_choices_are_weighed_by_their_likelihood(name: str, tiny_base: BaseModel, suite: TaskSuite) -> None:
    """Under each row's adapter, in a mixed batch: as computed one by one from all logits."""
    spec = lora_spec(tiny_base.model, LoraConfig(rank=4))
    weights = random_adapters(spec, 2, size=0.8)
    choices = ("dog", "dog cat hammer", "seven")
    texts = [e.input for e in suite.tasks["keep_animals"].examples["test"][:4]]
    questions = [
        Question("t", text, text, "dog", adapter=i % 2, metric=name, choices=choices) for i, text in enumerate(texts)
    ]
    plain = Question("t", texts[0], texts[0], "dog", adapter=1)
    mixed = greedy_answers(tiny_base, [plain, *questions], spec, weights, 4, 3)
    assert [a.answer for a in mixed[1:]] == [a.answer for a in choose_answers(tiny_base, questions, spec, weights, 2)]
    assert mixed[0] == greedy_answers(tiny_base, [plain], spec, weights, 4, 3)[0]
    for answer in mixed[1:]:
        q, found = answer.question, []
        for choice in choices:
            (prompt,) = tokenize_prompts(tiny_base.tokenizer, [q.content])
            end = tiny_base.tokenizer(choice, add_special_tokens=False)["input_ids"]
            with torch.no_grad(), inject(tiny_base.model, spec, weights[q.adapter]):
                logits = tiny_base.model(torch.tensor([[*prompt, *end]])).logits[0]
            chosen = logits.log_softmax(dim=-1)[len(prompt) - 1 : -1].gather(1, torch.tensor(end)[:, None]).sum().item()
            found.append(chosen / (len(choice.encode()) if "normalised" in name else 1))
        assert answer.answer == choices[int(np.argmax(found))]
        assert answer.score == float(answer.answer == "dog")
    with pytest.raises(ValueError, match="has no choices"):
        choose_answers(tiny_base, [Question("t", "dog", "dog", "dog", metric=name)], None, None, 2)


def test_any_of_several_right_answers_counts() -> None:
    question = Question("t", "in", "in", "dog", references=("hound", "puppy"))
    assert [question.score(a) for a in ("dog", "puppy", "cat")] == [1, 1, 0]


def _task(name: str, metric: str, *examples: Example, max_new_tokens: int | None = None) -> Task:
    return Task(name, {"train": ("Do it.",)}, {"test": examples}, metric, max_new_tokens=max_new_tokens)


CODE = "def one(): return 1"


@pytest.mark.usefixtures("code_allowed")
def test_code_is_held_against_its_tests_by_any_name_of_the_metric() -> None:
    example = Example("Write one().", CODE, tests="assert one() == 1")
    for name in ("pass_at_1", 'pass@1 (runs "test_list"; code execution)'):
        (question,) = questions_for([_task("code", name, example)], 1)
        assert question.reference == "assert one() == 1"
    (question,) = questions_for([_task("text", "exact_match", example)], 1)
    assert question.reference == CODE


@pytest.mark.parametrize(
    ("metric", "example", "says"),
    [
        ("bleu", Example("a", "b"), "unknown metric 'bleu': choose from choice_label"),
        ("pass@1 (runs code)", Example("a", CODE), "metric pass_at_1: the test example 'a' has no tests"),
        ("final_number", Example("a", "seven"), "needs a number as reference, not 'seven'"),
        ("final_number", Example("a", "7", references=("VII",)), "needs a number as reference, not 'VII'"),
        ("multiple_choice", Example("a", "b"), "the test example 'a' has no choices"),
        ("multiple_choice", Example("a", "b", choices=("b", "")), "the test example 'a' has no choices, or an empty"),
        ("multiple_choice_normalised", Example("a", "b", choices=("c", "d")), "no right answer among its choices"),
    ],
)
@pytest.mark.usefixtures("code_allowed")
def test_a_task_that_its_metric_cannot_score_is_refused(metric: str, example: Example, says: str) -> None:
    """Whichever of its test examples it is."""
    fine = Example("x", "1", choices=("1", "2"), tests="assert True")
    with pytest.raises(ValueError, match=f"task 'odd': .*{re.escape(says)}") as refused:
        check_scorable(_task("odd", metric, fine, example))
    assert "\n" not in str(refused.value)


def test_nothing_is_scored_where_a_task_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "suite"
    folder.mkdir()
    metrics = {"fine": "exact_match", "odd": "bleu"}
    (folder / "tasks.json").write_text(
        json.dumps({k: {"descriptions": ["Do."], "metric": m} for k, m in metrics.items()})
    )
    for name in metrics:
        (folder / f"{name}.jsonl").write_text("\n".join(f'{{"input": "{name} {i}", "output": "b"}}' for i in range(5)))
    asked = {
        "suite": FolderSuiteConfig(path=str(folder), held_fraction=0.0),
        "contenders": ["base"],
        "splits": ["train"],
    }

    def no_answers(*_args: object, **_kwargs: object) -> None:
        raise AssertionError("something was scored")

    monkeypatch.setattr(board, "greedy_answers", no_answers)
    with pytest.raises(ValueError, match="task 'odd': unknown metric 'bleu'"):
        evaluate(EvaluateConfig(**asked, run_dir=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


def _sizes(base: BaseModel, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Grows by (rows, tokens that a row takes in the end) with every batch that goes through the base."""
    seen: list[tuple[int, int]] = []
    generate, forward = base.model.generate, base.model.forward

    def generating(**options: Any) -> torch.Tensor:
        rows, width = options["input_ids"].shape
        seen.append((rows, width + options["max_new_tokens"]))
        return generate(**options)

    def passing(*args: Any, **options: Any) -> Any:
        if not options.get("use_cache"):  # decoding caches, weighing choices does not
            seen.append(tuple(options["input_ids"].shape))
        return forward(*args, **options)

    monkeypatch.setattr(base.model, "generate", generating)
    monkeypatch.setattr(base.model, "forward", passing)
    return seen


def test_no_answer_depends_on_the_tokens_of_a_batch(
    tiny_base: BaseModel, suite: TaskSuite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written and chosen ones; and every batch keeps to its tokens, padding counted, unless it is one row."""
    spec = lora_spec(tiny_base.model, LoraConfig(rank=4))
    weights = random_adapters(spec, 3, size=0.8)
    questions = questions_for(suite.select(["keep_animals", "count_tools", "sort"]), 6, adapter_of=lambda t, e: t)
    questions += [
        replace(q, metric="multiple_choice", choices=("dog", "dog cat hammer", q.reference)) for q in questions[::2]
    ]
    seen = _sizes(tiny_base, monkeypatch)
    free = greedy_answers(tiny_base, questions, spec, weights, 6, 64)
    assert len(seen) == 2
    widest = max(width for _, width in seen)
    for tokens in (10 * widest, 3 * widest, 1):
        seen.clear()
        assert greedy_answers(tiny_base, questions, spec, weights, 6, 64, tokens_per_batch=tokens) == free
        assert len(seen) > 2
        assert all(rows * width <= tokens or rows == 1 for rows, width in seen)


def test_tasks_may_say_how_long_their_answers_are(
    tiny_base: BaseModel, suite: TaskSuite, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = {"keep_animals": 2, "sort": None, "reverse": 9}
    tasks = [replace(suite.tasks[name], max_new_tokens=limit) for name, limit in limits.items()]
    questions = questions_for(tasks, 3)
    seen = _sizes(tiny_base, monkeypatch)
    answers = greedy_answers(tiny_base, questions, None, None, 5, 64)
    assert len(seen) == 3
    assert [a.question for a in answers] == questions
    for a in answers:
        limit = limits[a.question.task] or 5
        assert [a.answer] == [
            b.answer for b in greedy_answers(tiny_base, [replace(a.question, max_new_tokens=limit)], None, None, 99, 1)
        ]
        assert a.answer_tokens <= limit
    assert max(a.answer_tokens for a in answers) > 5
    assert tasks[0].content_hash() == suite.tasks["keep_animals"].content_hash()
    with pytest.raises(ValueError, match="task 'sort': max_new_tokens must be a whole number of at least 1, not '512'"):
        replace(suite.tasks["sort"], max_new_tokens="512")


def test_prompts_longer_than_the_context_lose_their_beginning(
    tokenizer: Any, suite: TaskSuite, caplog: pytest.LogCaptureFixture
) -> None:
    """Of a base with 32 learned positions, which has no others; and that is said."""
    config = GPT2Config(vocab_size=400, n_positions=32, n_embd=16, n_layer=2, n_head=2, bos_token_id=1, eos_token_id=2)
    torch.manual_seed(0)
    base = BaseModel(freeze(GPT2LMHeadModel(config)), tokenizer, "short", "short", "fingerprint")
    word = " ".join(suite.tasks["sort"].examples["test"][0].input.split()[:2])
    texts = [word, " ".join([word] * 20), " ".join([word] * 40)]
    questions = [Question("t", text, text, "dog", choices=("dog", "dog cat")) for text in texts]
    short, long, longer = greedy_answers(base, questions, None, None, 8, 2)
    assert short.prompt_tokens < long.prompt_tokens == longer.prompt_tokens == 24 == 32 - 8
    assert long.answer == longer.answer
    assert caplog.messages == [
        "2 of 3 prompts are longer than base short reads (32 tokens, room for the answer included): cut on the left"
    ]
    kept = tokenize_prompts(tokenizer, [texts[2]])[0][-24:]
    alone = base.model.generate(torch.tensor([kept]), max_new_tokens=8, do_sample=False, pad_token_id=0, eos_token_id=2)
    assert longer.answer == tokenizer.decode(alone[0, 24:], skip_special_tokens=True).strip()
    chosen = greedy_answers(base, [replace(q, metric="multiple_choice") for q in questions], None, None, 8, 2)
    assert [a.prompt_tokens for a in chosen[1:]] == 2 * [2 * (32 - 2)]
    with pytest.raises(ValueError, match="an answer of 32 tokens leaves no room for a prompt: base short reads 32"):
        greedy_answers(base, questions, None, None, 32, 2)


def test_every_linear_counts_by_what_it_multiplies() -> None:
    """GPT-2's Conv1D as much as a Linear; 4-bit storage as much as 16-bit."""
    from bitsandbytes.nn import Linear4bit

    model = GPT2LMHeadModel(GPT2Config(vocab_size=400, n_positions=32, n_embd=16, n_layer=2, n_head=2))
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "wpe" not in name]
    assert multiplied_weights(model) == sum(p.numel() for p in matrices)
    assert multiplied_weights(Linear4bit(16, 48)) == multiplied_weights(torch.nn.Linear(16, 48)) == 16 * 48


def test_a_board_needs_whole_numbers_of_at_least_one() -> None:
    assert BoardConfig(tokens_per_batch=None).tokens_per_batch is None
    with pytest.raises(ValueError, match=r"evaluation\.tokens_per_batch must be at least 1, or null, not 0"):
        BoardConfig(tokens_per_batch=0)


def test_the_metric_of_a_report_is_named_once(suite: TaskSuite) -> None:
    view = view_split(suite, "train", BoardConfig(tasks_per_split=2), 0)
    one, two = view.tasks
    named = [
        replace(view, tasks=[replace(one, metric="rougeL"), replace(two, metric=m)]) for m in ("rouge_l", "exact_set")
    ]
    assert [metric_name([v]) for v in named] == ["rouge_l", "mixed"]
