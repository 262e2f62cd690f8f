"""What contenders feed the base model, and the faults that must not pass."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import random_adapters

from t2l.base_model import BaseModel, LoraConfig, lora_spec
from t2l.encoder import EncoderConfig, TaskEncoder
from t2l.evaluation.board import Board, BoardConfig, SameInputsError, paired_difference, view_split
from t2l.evaluation.config import EvaluateConfig
from t2l.evaluation.contenders.base import Base, Prompted
from t2l.evaluation.contenders.composition import ArrowRouting, LibraryMean, NearestAdapter, mean_of_products
from t2l.evaluation.contenders.few_shot import FewShot, FewShotConfig, Refined
from t2l.evaluation.contenders.generated import CONDITIONS, DescriptionBank, Generated
from t2l.evaluation.contenders.in_context import InContext, PromptedInContext
from t2l.evaluation.contenders.interface import Entry, SplitView, training_examples
from t2l.evaluation.contenders.lorahub import LoraHub
from t2l.evaluation.costs import multiplied_weights
from t2l.evaluation.robustness import STYLES, rewrite
from t2l.evaluation.scoring import questions_for
from t2l.hypernetwork import Hypernetwork, ResidualConfig
from t2l.hypernetwork import build as build_hypernetwork
from t2l.library import AdapterLibrary
from t2l.lora import LoraSpec, LoraWeights
from t2l.objectives.soundness import Trained, measure_losses
from t2l.tasks import TaskSuite, tokenize_examples
from t2l.tasks.suites import WordListConfig, build

CONFIG = BoardConfig(
    tasks_per_split=3, examples_per_task=3, descriptions_per_task=2, max_new_tokens=4, bootstrap_samples=100
)


@pytest.fixture(scope="module")
def suite() -> TaskSuite:
    return build(WordListConfig(train_examples=10, validation_examples=1, test_examples=4))


@pytest.fixture(scope="module")
def view(suite: TaskSuite) -> SplitView:
    return view_split(suite, "unseen_combination", CONFIG, 0)


@pytest.fixture
def spec(tiny_base: BaseModel) -> LoraSpec:
    return lora_spec(tiny_base.model, LoraConfig(rank=4))


@pytest.fixture(scope="module")
def training_tasks(suite: TaskSuite) -> list[str]:
    return list(suite.split("train").tasks[:6])


@pytest.fixture
def library(tiny_base: BaseModel, spec: LoraSpec, training_tasks: list[str], tmp_path: Path) -> AdapterLibrary:
    library = AdapterLibrary(tmp_path / "library", spec, tiny_base.path, tiny_base.fingerprint)
    adapters = random_adapters(spec, len(training_tasks), size=0.5)
    for i, name in enumerate(training_tasks):
        library.save(name, adapters[i], {"training_time_s": 1.0})
    return library


@pytest.fixture(scope="module")
def encoder() -> TaskEncoder:
    return TaskEncoder(EncoderConfig(cache=""))


@pytest.fixture(scope="module")
def bank(encoder: TaskEncoder, suite: TaskSuite, training_tasks: list[str]) -> DescriptionBank:
    return DescriptionBank.of(encoder, suite.select(training_tasks), 4)


def hypernetwork_for(spec: LoraSpec, follows_text: bool) -> Hypernetwork:
    """A random one whose heads read the description, or one that is blind to it."""
    model = build_hypernetwork(ResidualConfig(width=32, description_width=16), spec, 384, 0)
    with torch.no_grad():
        for head in model.heads:
            head.weight.normal_(std=2.0)
        if not follows_text:
            model.description.weight.zero_()
    return model


def generated(
    spec: LoraSpec, encoder: TaskEncoder, bank: DescriptionBank, follows_text: bool = True
) -> list[Generated]:
    model = hypernetwork_for(spec, follows_text)
    return [Generated("generated_sft", c, model, encoder, bank, 0) for c in CONDITIONS]


def in_context(base: BaseModel, with_description: bool) -> InContext:
    return (PromptedInContext if with_description else InContext)(base, 2, CONFIG, 3)


def test_every_contender_feeds_the_base_something_else(
    tiny_base: BaseModel, spec: LoraSpec, library: AdapterLibrary, training_tasks: list[str], encoder: TaskEncoder,
    bank: DescriptionBank, view: SplitView,
) -> None:  # fmt: skip
    few = FewShotConfig(examples=2, steps=2)
    text = generated(spec, encoder, bank)
    contenders = [
        Base(), Prompted(), in_context(tiny_base, False), in_context(tiny_base, True), LibraryMean(library, training_tasks),
        NearestAdapter(library, bank, encoder), ArrowRouting(library, training_tasks, tiny_base, 2),
        LoraHub(library, training_tasks, tiny_base, 3, replace(few, tasks_at_once=2), 0), FewShot(tiny_base, spec, few, 0), *text,
        Refined(text[0], tiny_base, few, 0),
    ]  # fmt: skip
    cells = Board(tiny_base, spec, CONFIG, 0).score(contenders, [view])
    assert [c.contender for c in cells] == [c.name for c in contenders]
    assert len({c.runs[0].fingerprint for c in cells}) == len(contenders)
    assert not [m for m in tiny_base.model.modules() if "lora" in type(m).__module__]
    usage = {c.contender: c.runs[0].usage for c in cells}
    own, adapter = multiplied_weights(tiny_base.model), spec.parameters_per_adapter
    for name, adapters in (("base", 0), ("nearest", 1), ("arrow", len(training_tasks) + 1)):
        tokens = usage[name].prompt_tokens + usage[name].answer_tokens
        assert usage[name].flops == pytest.approx(2 * (own + adapters * adapter) * tokens)


def test_a_contender_is_closed_when_scoring_breaks_off(
    tiny_base: BaseModel, spec: LoraSpec, library: AdapterLibrary, training_tasks: list[str], suite: TaskSuite,
    view: SplitView,
) -> None:  # fmt: skip
    """Arrow has wrapped the base by then; it is bare again, and answers as before."""
    before = [a.answer for a in Board(tiny_base, spec, CONFIG, 0).run(Base(), view).answers]
    broken = SplitView("broken", suite.select(["sort"]), [[]], 1, shows_description=True)
    with pytest.raises(ZeroDivisionError):
        Board(tiny_base, spec, CONFIG, 0).score([ArrowRouting(library, training_tasks, tiny_base, 2)], [view, broken])
    assert not [m for m in tiny_base.model.modules() if "lora" in type(m).__module__]
    assert [a.answer for a in Board(tiny_base, spec, CONFIG, 0).run(Base(), view).answers] == before


class DroppedShots(InContext):
    """The planted fault: shots are made and then not used."""

    def enter(self, view: SplitView) -> Entry:
        _ = [training_examples(t, 2) for t in view.tasks]
        return Entry(questions_for(view.tasks, view.examples))


def test_in_context_learning_without_its_shots_is_caught(tiny_base: BaseModel, spec: LoraSpec, view: SplitView) -> None:
    with pytest.raises(SameInputsError, match="contenders base and icl feed the base model the same text"):
        Board(tiny_base, spec, CONFIG, 0).score([Base(), DroppedShots(tiny_base, 2, CONFIG, 3)], [view])


def test_a_generator_that_ignores_its_text_is_not_distinguishable_from_a_static_one(
    tiny_base: BaseModel, spec: LoraSpec, encoder: TaskEncoder, bank: DescriptionBank, suite: TaskSuite
) -> None:
    """Its adapters are all alike, so its matched and control conditions feed the base the same and are caught, too."""
    config = BoardConfig(tasks_per_split=8, examples_per_task=4, descriptions_per_task=2, max_new_tokens=4)
    view = view_split(suite, "train", config, 0)
    blind = generated(spec, encoder, bank, follows_text=False)
    board = Board(tiny_base, spec, config, 0)
    runs = {g.condition: board.run(g, view, is_variant=True) for g in blind}
    cells = {c: board.cell(c, view.name, [run]) for c, run in runs.items()}
    for control in ("static", "shuffled", "random_text"):
        e = paired_difference(cells["matched"], cells[control], 200, 0)
        assert not e.is_distinguishable
        assert [a.answer for a in runs["matched"].answers] == [a.answer for a in runs[control].answers]


def test_static_text_is_one_adapter_and_nearest_is_never_ones_own(
    spec: LoraSpec, encoder: TaskEncoder, bank: DescriptionBank, suite: TaskSuite, library: AdapterLibrary
) -> None:
    view = view_split(suite, "train", CONFIG, 0)
    by_condition = {g.condition: g for g in generated(spec, encoder, bank)}
    static = by_condition["static"].enter(view)
    assert {q.adapter for q in static.questions} == {0}
    own_tasks = suite.select(bank.tasks)
    own = SplitView("train", own_tasks, [t.descriptions["train"][:2] for t in own_tasks], 2)
    for task, texts in zip(own_tasks, by_condition["shuffled_nearest"].texts(own), strict=True):
        assert not set(texts) & set(task.descriptions["train"])
    entry = NearestAdapter(library, bank, encoder).enter(own)
    assert all(bank.tasks[q.adapter] != q.task for q in entry.questions)


def test_unknown_conditions_are_refused(spec: LoraSpec, encoder: TaskEncoder, bank: DescriptionBank) -> None:
    with pytest.raises(ValueError, match="choose from matched, shuffled"):
        Generated("g", "upside_down", hypernetwork_for(spec, True), encoder, bank, 0)


def test_mean_of_products_is_exact_where_the_rank_allows(spec: LoraSpec) -> None:
    pair = random_adapters(spec, 2)
    exact = mean_of_products(pair, 2 * spec.rank)
    for name in pair.A:
        want = ((pair.B[name] @ pair.A[name]).mean(dim=0))[None]
        torch.testing.assert_close(exact.B[name] @ exact.A[name], want, rtol=1e-4, atol=1e-5)
    mean_of_products(pair, spec.rank).check(spec)
    one = LoraWeights(*({k: v[:1] for k, v in side.items()} for side in (pair.A, pair.B)))
    alone = mean_of_products(one, spec.rank)
    for name in one.A:
        torch.testing.assert_close(alone.B[name] @ alone.A[name], one.B[name] @ one.A[name], rtol=1e-4, atol=1e-5)


def test_few_shot_training_learns_its_examples_and_refinement_starts_from_the_generated_adapter(
    tiny_base: BaseModel, spec: LoraSpec, encoder: TaskEncoder, bank: DescriptionBank, view: SplitView
) -> None:
    matched = generated(spec, encoder, bank)[0]
    start = matched.entry_for(view, [[ds[0]] for ds in view.descriptions]).adapters
    learnt = FewShot(tiny_base, spec, FewShotConfig(examples=2, steps=20), 0).enter(view).adapters
    assert learnt is not None
    for i, task in enumerate(view.tasks):
        rows = tokenize_examples(tiny_base.tokenizer, training_examples(task, 2))
        (losses,) = measure_losses(tiny_base, spec, [Trained(learnt.take([i]), rows)], 2)
        assert losses.loss_after < losses.loss_before - 0.1
    still = Refined(matched, tiny_base, FewShotConfig(examples=2, steps=1, refine_lr=1e-9), 0).enter(view).adapters
    moved = Refined(matched, tiny_base, FewShotConfig(examples=2, steps=3), 0).enter(view).adapters
    assert start is not None
    assert still is not None
    assert moved is not None
    every = [source.all().tensors() for source in (start, still, moved)]
    for before, same, after in zip(*every, strict=True):
        torch.testing.assert_close(before, same, rtol=1e-4, atol=1e-6)
        assert not torch.allclose(before, after, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("style", STYLES)
def test_styles_are_seeded_and_change_the_text(style: str) -> None:
    text = "Please keep only the animals that are in the list, and leave out everything else."
    one, same = (STYLES[style](text, random.Random(3)) for _ in range(2))
    assert one == same != text
    assert STYLES[style]("Go", random.Random(0))


def test_rewriting_keeps_the_number_of_descriptions_and_wrong_ones_are_another_tasks(view: SplitView) -> None:
    for style in ("as_written", *STYLES, "wrong", "several"):
        assert [len(ds) for ds in rewrite(view, style, 0)] == [len(ds) for ds in view.descriptions]
    for own, wrong, several in zip(
        view.descriptions, rewrite(view, "wrong", 0), rewrite(view, "several", 0), strict=True
    ):
        assert not set(own) & set(wrong)
        assert all(s.startswith(d) and s != d for d, s in zip(own, several, strict=True))
    with pytest.raises(ValueError, match="unknown style 'shouted'"):
        rewrite(view, "shouted", 0)


def test_tasks_searched_together_do_not_matter_to_each_other(
    library: AdapterLibrary, training_tasks: list[str], tiny_base: BaseModel, view: SplitView,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """LoraHub finds the same adapters one task at a time, two at a time and all at once; in float64, where rounding
    hides nothing."""
    tiny_base.model.double()
    load = library.load
    monkeypatch.setattr(LoraHub, "budget", 15)
    monkeypatch.setattr(library, "load", lambda names: load(names).map(torch.Tensor.double))
    configs = [FewShotConfig(examples=2, tasks_at_once=n) for n in (1, 2, 50)]
    found = [LoraHub(library, training_tasks, tiny_base, 3, few, 0).enter(view).adapters for few in configs]
    (first, *others) = [source.all().tensors() for source in found if source is not None]
    for other in others:
        for one, same in zip(first, other, strict=True):
            torch.testing.assert_close(one, same, rtol=1e-6, atol=1e-6)
    assert not torch.allclose(first[0][0], first[0][1], atol=1e-2)


def test_texts_of_a_task_take_turns_over_its_examples(
    spec: LoraSpec, encoder: TaskEncoder, bank: DescriptionBank, view: SplitView
) -> None:
    texts = [["a", "b"], ["c"], ["d", "e", "f"]]
    entry = generated(spec, encoder, bank)[0].entry_for(view, texts)
    assert "".join(entry.conditions[q.adapter] for q in entry.questions) == "aba" + "ccc" + "def"


def test_library_mean_and_lorahub_leave_held_out_oracles_alone(
    library: AdapterLibrary, training_tasks: list[str], tiny_base: BaseModel, view: SplitView
) -> None:
    """Another adapter in the folder, of a held-out task, changes nothing."""
    few, how = training_tasks[:4], FewShotConfig(examples=2, tasks_at_once=2)
    before = [
        LibraryMean(library, few).enter(view).fingerprint(),
        LoraHub(library, few, tiny_base, 3, how, 0).enter(view).fingerprint(),
    ]
    held = view.tasks[0].name
    library.save(held, random_adapters(library.spec, 1, size=3.0), {"training_time_s": 1.0})
    after = [
        LibraryMean(library, few).enter(view).fingerprint(),
        LoraHub(library, few, tiny_base, 3, how, 0).enter(view).fingerprint(),
    ]
    assert before == after


def test_contenders_of_many_adapters_hold_as_much_in_memory_as_the_evaluation_allows(
    tiny_base: BaseModel, library: AdapterLibrary, training_tasks: list[str]
) -> None:
    allowed = BoardConfig(adapter_memory_gb=1e-6)
    config = EvaluateConfig(library="DIR", contenders=["library_mean", "lorahub"], evaluation=allowed)
    context = SimpleNamespace(
        library=SimpleNamespace(adapters=library), library_tasks=training_tasks, base=tiny_base, config=config
    )
    held = {kind: kind.make(context)[0] for kind in (LibraryMean, LoraHub)}  # type: ignore[arg-type]
    assert held[LibraryMean]._mean._memory == allowed.adapter_memory == 1073  # type: ignore[attr-defined]
    assert held[LoraHub]._tasks_at_once == 1  # type: ignore[attr-defined]
