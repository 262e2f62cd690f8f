"""The lm-evaluation-harness gives the same outcome, example by example, as t2l's own scorer."""

from __future__ import annotations

import copy
import importlib.metadata
import itertools
import json
import logging
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import random_adapters
from test_cli import refused
from test_config import composed
from tokenizers.processors import TemplateProcessing

from t2l.base_model import BaseModel, LoraConfig, hash_parameters, lora_spec
from t2l.cli import main
from t2l.encoder import EncoderConfig, TaskEncoder
from t2l.evaluation.contenders.base import Base
from t2l.evaluation.contenders.composition import ArrowRouting
from t2l.evaluation.contenders.generated import generate_adapters
from t2l.evaluation.harness.board import view_of
from t2l.evaluation.harness.data import NOTE
from t2l.evaluation.harness.lm_eval import Harness, HarnessConfig, descriptions_of, quiet, what_differs
from t2l.evaluation.harness.report import Pass, Row, rows_of
from t2l.evaluation.scoring import Question, greedy_answers
from t2l.hypernetwork import ResidualConfig
from t2l.hypernetwork import build as build_hypernetwork
from t2l.hypernetwork.checkpoint import CheckpointRecord
from t2l.library import LIBRARY_RECORD, LibraryFolder, open_library
from t2l.library.training import LibraryTrainingConfig, train_library
from t2l.lora import LoraSpec, LoraWeights, inject
from t2l.methods import build as build_method
from t2l.methods.folder import MethodLibrary
from t2l.methods.interface import OptimizationConfig
from t2l.methods.scaling_and_prompts import Ia3Config
from t2l.methods.training import make_method_library
from t2l.tasks import Task, render_prompts
from t2l.tasks.suites import WordListConfig, build
from t2l.training.checkpoint import save_checkpoint

WRITE, CHOOSE = "lists_write", "lists_choose"
LIBRARY_TASKS = {WRITE: "keep_animals", CHOOSE: "keep_tools"}
DESCRIPTIONS = {WRITE: "Of all these words, only the animals matter.", CHOOSE: "Leave nothing but the tools."}
EXAMPLES, TOKENS = 24, 12
SMALL = ["suite.train_examples=128", "suite.validation_examples=1", f"suite.test_examples={EXAMPLES}"]
CONTENDERS = ["base", "prompted", "oracle", "generated"]
CONDITIONS = ["shuffled", "shuffled_nearest", "random_text", "static"]


def questions(task: Task, kind: str) -> list[Question]:
    """Test examples, every other one with the formal code that the base follows, so that it gets some right."""
    made = []
    for i, e in enumerate(task.examples["test"][:EXAMPLES]):
        content = f"{task.formal_code}\n{e.input}" if i % 2 else e.input
        wrong = [e.input, " ".join(reversed(e.input.split())), e.input.split()[0], "none"]
        choices = tuple(dict.fromkeys([*wrong[: i % 3], e.output, *wrong[i % 3 :]]))
        metric = "exact_match" if kind == WRITE else "multiple_choice"
        made.append(Question(kind, e.input, content, e.output, 0, "", metric, (), choices if kind == CHOOSE else ()))
    return made


def write_task(folder: Path, name: str, asked: list[Question], cache: Path) -> None:
    """A task YAML over a JSON-lines file."""
    rows = [
        {"question": q.content, "answer": q.reference, "choices": list(q.choices), "label": 0}
        | ({"label": q.choices.index(q.reference)} if q.choices else {})
        for q in asked
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    common = {
        "task": name,
        "tag": "lists_tag",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / f"{name}.jsonl")}, "cache_dir": str(cache)},
        "test_split": "test",
        "doc_to_text": "question",
        "metadata": {"version": 1.5},
    }
    metric = {"aggregation": "mean", "higher_is_better": True}
    if name == WRITE:
        own = {
            "output_type": "generate_until",
            "doc_to_target": "answer",
            "generation_kwargs": {"until": ["</s>"], "max_gen_toks": TOKENS, "do_sample": False},
            "metric_list": [{"metric": "exact_match", **metric}],
        }
    else:
        own = {
            "output_type": "multiple_choice",
            "doc_to_target": "label",
            "doc_to_choice": "choices",
            "metric_list": [{"metric": "acc", **metric}, {"metric": "acc_bytes", **metric}],
        }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(common | own))


def save_hypernetwork(folder: Path, adapters: LoraWeights, library: LibraryFolder, base: BaseModel) -> LoraWeights:
    """Fits a small hypernetwork to the descriptions' adapters, saves it, and returns what it generates from them."""
    encoder = TaskEncoder(EncoderConfig(layers=[0, 2, 4, 6]))
    embeddings = encoder.encode(list(DESCRIPTIONS.values()))
    config = ResidualConfig(width=64, description_width=32, blocks=1)
    model = build_hypernetwork(config, library.spec, embeddings.shape[1], 0)
    model.set_statistics(adapters)
    wanted = torch.cat([t.flatten() for t in model.normalise(adapters).tensors()])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(80):
        made = torch.cat([t.flatten() for t in model.emit(model.describe(embeddings)).tensors()])
        optimizer.zero_grad()
        (made - wanted).square().mean().backward()
        optimizer.step()
    record = CheckpointRecord(
        step=80,
        objective="reconstruction",
        hypernetwork=config,
        spec=library.spec,
        d_embedding=embeddings.shape[1],
        encoder_identity=encoder.identity,
        base_fingerprint=base.fingerprint,
        base_name="mini",
        trained_on={"suite": "word_lists", "tasks": list(LIBRARY_TASKS.values()), "seed": 0},
        encoder=encoder.to_json(),
    )
    save_checkpoint(folder, record, model, optimizer)
    return generate_adapters(model, embeddings)


@dataclass
class World:
    """A run of the harness, and the adapters that it should have used."""

    folder: Path
    arguments: list[str]
    asked: dict[str, list[Question]]
    adapters: dict[str, LoraWeights | None]
    """contender to its adapters of the tasks, in order"""
    spec: LoraSpec

    def report(self) -> dict[str, Any]:
        return json.loads((self.folder / "run/harness.json").read_text())

    def samples(self, contender: str, task: str) -> list[dict[str, Any]]:
        lines = (self.folder / "run/harness_samples.jsonl").read_text().splitlines()
        found = [s for s in map(json.loads, lines) if (s["contender"], s["task"]) == (contender, task)]
        return sorted(found, key=lambda s: s["doc_id"])

    def row(self, contender: str, task: str, metric: str) -> dict[str, Any]:
        key = (contender, task, metric)
        return next(r for r in self.report()["rows"] if (r["contender"], r["task"], r["metric"]) == key)


@pytest.fixture(scope="module", autouse=True)
def _no_look_at_the_machine() -> Iterator[None]:
    """The harness asks the system about itself after every pass, which takes half a second and is not used."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.utils.collect_env.get_pretty_env_info", lambda: "")
        yield


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, mini_base: BaseModel) -> World:
    """Two tasks, their trained adapters, a hypernetwork that has learnt them, and one evaluation of all that."""
    folder = tmp_path_factory.mktemp("harness")
    suite = build(WordListConfig(train_examples=128, validation_examples=1, test_examples=EXAMPLES))
    tasks = suite.select(LIBRARY_TASKS.values())
    asked = {name: questions(task, name) for name, task in zip(LIBRARY_TASKS, tasks, strict=True)}
    for name in asked:
        write_task(folder / "yaml", name, asked[name], folder / "cache")
    spec = lora_spec(mini_base.model, LoraConfig(alpha=32.0, target_modules=["o_proj", "v_proj"]))
    library = LibraryFolder.of(folder / "library", spec, mini_base)
    optimization = LibraryTrainingConfig(steps=100, lr=0.015, rows_per_task=6, beta1=0.8, clip=0.1, shared_a=True)
    train_library(library.adapters, mini_base, tasks, optimization, 0)
    record = {"spec": spec.to_json(), "base_fingerprint": mini_base.fingerprint}
    (folder / "library" / LIBRARY_RECORD).write_text(json.dumps(record))
    oracles = library.adapters.load([t.name for t in tasks])
    method = build_method(Ia3Config(OptimizationConfig(steps=20, lr=0.1, rows_per_task=4)))
    make_method_library(folder / "ia3", method, mini_base, tasks, 0, {})
    generated = save_hypernetwork(folder / "sft", oracles, library, mini_base)
    (folder / "told" / WRITE).mkdir(parents=True)
    (folder / "told" / WRITE / "metadata.yaml").write_text(yaml.safe_dump({"descriptions": [DESCRIPTIONS[WRITE]]}))
    arguments = [
        "evaluate", "harness=lm_eval", f"tasks=[{WRITE},{CHOOSE}]", *SMALL, "descriptions_per_task=2",
        f"harness.include_path={folder}/yaml", f"harness.descriptions_folder={folder}/told", "harness.batch_size=7",
        f"+harness.descriptions.{CHOOSE}=['{DESCRIPTIONS[CHOOSE]}']",
        *(f"+harness.library_tasks.{name}={own}" for name, own in LIBRARY_TASKS.items()),
    ]  # fmt: skip
    main(
        [*arguments, f"run_dir={folder}/run", f"hydra.run.dir={folder}/hydra", f"contenders=[{','.join(CONTENDERS)}]",
         f"library={folder}/library", f"checkpoints=[{folder}/sft]", f"method_libraries=[{folder}/ia3]"]
    )  # fmt: skip
    adapters = {"base": None, "prompted": None, "oracle": oracles, "generated_reconstruction": generated}
    return World(folder, arguments, asked, adapters, spec)


@pytest.mark.parametrize("task", [WRITE, CHOOSE])
@pytest.mark.parametrize("contender", ["base", "prompted", "oracle", "generated_reconstruction"])
def test_every_outcome_is_our_own_scorers(world: World, mini_base: BaseModel, contender: str, task: str) -> None:
    asked = world.asked[task]
    if contender == "prompted":
        asked = [replace(q, content=f"{DESCRIPTIONS[task]}\n{q.content}") for q in asked]
    adapters = world.adapters[contender]
    own = adapters[list(world.asked).index(task)] if adapters is not None else None
    answers = greedy_answers(mini_base, asked, world.spec, own, TOKENS, 16)
    samples = world.samples(contender, task)
    metric = "exact_match" if task == WRITE else "acc"
    assert [s["scores"][metric] for s in samples] == [a.score for a in answers]
    if task == WRITE:
        assert [s["answer"][0].strip() for s in samples] == [a.answer for a in answers]
    else:
        likelihoods = [[float(value) for value, _ in s["answer"]] for s in samples]
        chosen = [q.choices[max(range(len(v)), key=v.__getitem__)] for q, v in zip(asked, likelihoods, strict=True)]
        assert chosen == [a.answer for a in answers]
    scores = [a.score for a in answers]
    mean = sum(scores) / len(scores)
    row = world.row(contender, task, f"{metric},none")
    assert row["value"] == pytest.approx(mean)
    assert row["stderr"] == pytest.approx(math.sqrt(mean * (1 - mean) / (len(scores) - 1)))
    assert 0 < mean < 1 or contender != "base"


class KilledError(BaseException):
    """Ends a process where it stands."""


def test_a_killed_run_goes_on_pass_by_pass(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three passes of four, then none: the report of the whole run; and a third time without a single pass."""
    score, scored = Harness.score, [0]

    def dying(self: Harness, *args: Any) -> dict[str, Any]:
        if scored[0] == 0:
            raise KilledError
        scored[0] -= 1
        return score(self, *args)

    def run(name: str, passes: int) -> None:
        scored[0] = passes
        main([*world.arguments, f"run_dir={world.folder}/{name}", f"hydra.run.dir={world.folder}/hydra",
              "contenders=[base,oracle]", f"library={world.folder}/library"])  # fmt: skip

    def report(name: str) -> tuple[Any, str]:
        found = json.loads((world.folder / name / "harness.json").read_text())
        passes = [{k: v for k, v in p.items() if k != "time_s"} for p in found["passes"]]
        kept = {k: v for k, v in found.items() if k not in ("config", "environment", "time")}
        return {**kept, "passes": passes}, (world.folder / name / "harness_samples.jsonl").read_text()

    monkeypatch.setattr(Harness, "score", dying)
    run("whole", 4)
    for passes in (1, 2):
        with pytest.raises(KilledError):
            run("killed", passes)
    run("killed", 1)
    assert report("killed") == report("whole")
    (world.folder / "killed/harness.json").unlink()
    run("killed", 0)
    assert report("killed") == report("whole")
    with pytest.raises(SystemExit):
        main([*world.arguments, f"run_dir={world.folder}/killed", f"hydra.run.dir={world.folder}/hydra",
              "contenders=[base]", "harness.num_fewshot=0"])  # fmt: skip
    assert "holds an evaluation with another configuration (different: harness)" in capsys.readouterr().err


def test_other_methods_are_scored_too(world: World, mini_base: BaseModel) -> None:
    library = MethodLibrary.open(world.folder / "ia3")
    with library.restore(mini_base, LIBRARY_TASKS[WRITE]) as adapted:
        answers = greedy_answers(adapted, world.asked[WRITE], None, None, TOKENS, 16)
    samples = world.samples("oracle_ia3", WRITE)
    assert [s["answer"][0].strip() for s in samples] == [a.answer for a in answers]
    assert [s["answer"] for s in samples] != [s["answer"] for s in world.samples("base", WRITE)]


def test_routed_adapters_are_scored_too(world: World, mini_base: BaseModel) -> None:
    harness = Harness(HarnessConfig(include_path=str(world.folder / "yaml"), limit=8), [WRITE])
    library = open_library(world.folder / "library", mini_base).adapters
    arrow = ArrowRouting(library, list(LIBRARY_TASKS.values()), mini_base, 2)
    attached = arrow.enter(view_of([WRITE], [[]], False)).attached
    assert attached is not None
    with attached(0) as adapted:
        found = harness.score(harness.wrap(adapted), WRITE)
        answers = greedy_answers(adapted, world.asked[WRITE][:8], None, None, TOKENS, 16)
    arrow.close()
    assert [s["answer"][0].strip() for s in found["samples"][WRITE]] == [a.answer for a in answers]


def test_adapters_change_what_is_answered(world: World) -> None:
    def value(contender: str) -> float:
        return world.row(contender, WRITE, "exact_match,none")["value"]

    def answers(contender: str) -> list[str]:
        return [s["answer"] for task in world.asked for s in world.samples(contender, task)]

    assert value("oracle") > value("base")
    assert value("generated_reconstruction") > value("base")
    assert value("generated_reconstruction") > value("generated_reconstruction_shuffled")
    names = ["base", "prompted", "generated_reconstruction", *(f"generated_reconstruction_{c}" for c in CONDITIONS)]
    assert all(answers(a) != answers(b) for a, b in itertools.combinations(names, 2))


def test_report_says_what_went_in(world: World, mini_base: BaseModel) -> None:
    report = world.report()
    assert report["harness"] == {"name": "lm_eval", "version": importlib.metadata.version("lm_eval")}
    assert report["versions"] == {WRITE: 1.5, CHOOSE: 1.5}
    assert report["base_model"]["fingerprint"] == mini_base.fingerprint
    assert report["config"]["harness"]["batch_size"] == 7
    assert report["tasks"][WRITE]["descriptions_from"] == str(world.folder / "told" / WRITE / "metadata.yaml")
    assert report["tasks"][WRITE]["trained_on_by"] == [
        str(world.folder / "sft"),
        f"{world.folder / 'library'} (oracle)",
    ]
    assert report["data_notes"] == [NOTE]  # its rows could be compared
    assert report["conditions"]["rule"] == "trained"
    of = {(p["contender"], p["task"]): p for p in report["passes"]}
    assert len(of) == len(report["passes"]) == 2 * (3 + 5 + 1)
    name = "generated_reconstruction"
    assert of[name, WRITE]["text"] == DESCRIPTIONS[WRITE]
    assert of[f"{name}_shuffled", WRITE]["text"] == DESCRIPTIONS[CHOOSE]
    assert of[name, WRITE]["checkpoint"] == str(world.folder / "sft")
    assert of["prompted", CHOOSE]["prefix"] == DESCRIPTIONS[CHOOSE]
    assert of["base", WRITE]["n_samples"][WRITE] == {"original": EXAMPLES, "effective": EXAMPLES}
    table = (world.folder / "run/harness.md").read_text()
    row = world.row("oracle", WRITE, "exact_match,none")
    assert f"| {row['value']:.4f} ± {row['stderr']:.4f} |" in table
    assert f"was trained on, by name: {WRITE}, {CHOOSE}." in table
    assert f"| {CHOOSE} acc | {CHOOSE} acc_bytes |" in table
    assert not list((world.folder / "run").rglob("*.safetensors"))
    assert not list((world.folder / "run").glob(".*.tmp"))


@pytest.fixture
def no_built_in_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thousands of YAMLs that come with the harness are not read."""
    from lm_eval.tasks import TaskManager

    made = TaskManager.__init__

    def alone(self: Any, *args: Any, **options: Any) -> None:
        made(self, *args, **{**options, "include_defaults": False})

    monkeypatch.setattr(TaskManager, "__init__", alone)


@pytest.mark.usefixtures("no_built_in_tasks")
@pytest.mark.parametrize(
    ("without", "arguments", "says"),
    [
        ("tasks=", ["tasks=[lists_wride]"], "no task 'lists_wride'; did you mean lists_write"),
        ("(nothing)", ["contenders=[base,icl]"], "icl cannot be scored by the harness; choose from base, prompted"),
        ("(nothing)", ["splits=[train]"], "no splits: leave out"),
        ("tasks=", [], "name at least one"),
        ("harness", [], "add harness=lm_eval"),
        ("(nothing)", ["harness.limit=0"], "harness.limit must be positive"),
        ("include_path", ["harness.include_path=nowhere"], "include_path=nowhere: no such folder"),
        ("(nothing)", ["+harness.descriptions.lists_write=[]"], "harness.descriptions: task 'lists_write'"),
        ("harness.", ["contenders=[prompted]"], "'lists_write' has no description: give +harness.descriptions.lists_w"),
        ("_folder", ["harness.descriptions_folder=no", "contenders=[prompted]"], "_folder=no: no such folder"),
        ("library", ["contenders=[oracle]", "library={folder}/library"], "has no adapter for task 'lists_write'"),
        (
            "library",
            ["contenders=[oracle]", "library={folder}/library"],
            "is another one there: +harness.library_tasks.lists_write=NAME",
        ),
        ("harness.", ["contenders=[prompted]"], "(called otherwise there: +harness.library_tasks.lists_write=NAME)"),
    ],
)
def test_bad_input_is_one_line(
    world: World, tmp_path: Path, without: str, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = [a for a in world.arguments if without not in a or (without == "harness." and "include_path" in a)]
    given = [a.replace("{folder}", str(world.folder)) for a in arguments]
    assert says in refused(capsys, *kept, *given, f"run_dir={tmp_path}/run", f"hydra.run.dir={tmp_path}/hydra")
    assert not (tmp_path / "run").exists()


def test_the_base_stays_as_it_is_and_bare_again(world: World, mini_base: BaseModel) -> None:
    harness = Harness(HarnessConfig(include_path=str(world.folder / "yaml"), limit=6), [WRITE])
    before, lm = hash_parameters(mini_base.model), harness.wrap(mini_base)
    bare = harness.score(lm, WRITE)
    with inject(mini_base.model, world.spec, random_adapters(world.spec, 1)):
        adapted = harness.score(lm, WRITE)
    assert harness.score(lm, WRITE)["samples"] == bare["samples"] != adapted["samples"]
    assert bare["n-samples"][WRITE]["effective"] == 6
    assert hash_parameters(mini_base.model) == before
    assert all(p.grad is None and not p.requires_grad for p in mini_base.model.parameters())


def test_few_shot_and_descriptions_reach_the_prompt(world: World, mini_base: BaseModel) -> None:
    seen: list[str] = []

    def recorded(config: HarnessConfig, prefix: str) -> str:
        harness = Harness(config, [WRITE])
        lm = harness.wrap(mini_base)
        generate = lm.generate_until
        lm.generate_until = lambda requests, **options: (
            seen.append(requests[0].args[0]) or generate(requests, **options)
        )
        harness.score(lm, WRITE, prefix)
        return seen.pop()

    where = {"include_path": str(world.folder / "yaml"), "limit": 1, "fewshot_seed": 3}
    first = world.asked[WRITE][0].content
    told = render_prompts(mini_base.tokenizer, [f"Only animals.\n{first}"])[0]
    assert recorded(HarnessConfig(**where), "Only animals.") == told
    shown = recorded(HarnessConfig(**where, num_fewshot=2), "Only animals.")
    assert shown.startswith("<s><|user|>Only animals.\n")
    assert shown.endswith(f"</s><|user|>{first}<|assistant|>")
    assert shown.count("<|assistant|>") == 3
    assert recorded(HarnessConfig(**where, apply_chat_template=False), "Only animals.") == f"Only animals.\n{first}"


@pytest.mark.usefixtures("no_built_in_tasks")
def test_groups_are_scored_as_one_and_tags_one_by_one(world: World, tmp_path: Path, mini_base: BaseModel) -> None:
    for name in world.asked:
        (tmp_path / f"{name}.yaml").write_text((world.folder / "yaml" / f"{name}.yaml").read_text())
    group = {"group": "lists", "task": [WRITE], "aggregate_metric_list": [{"metric": "exact_match"}]}
    (tmp_path / "group.yaml").write_text(yaml.safe_dump(group))
    (tmp_path / "plain.yaml").write_text(yaml.safe_dump({"group": "plain", "task": [CHOOSE]}))
    config = HarnessConfig(include_path=str(tmp_path), limit=4)
    harness = Harness(config, ["lists", "plain"])
    assert list(harness.tasks) == ["lists", CHOOSE]
    assert list(Harness(config, ["lists_tag"]).tasks) == [CHOOSE, WRITE]
    found = harness.score(harness.wrap(mini_base), "lists")
    scores = Pass("base", 0, "lists", None, "", None, 0.0, found).scores()
    assert scores["exact_match,none"][0] == found["results"][WRITE]["exact_match,none"]


@pytest.mark.usefixtures("no_built_in_tasks")
def test_a_dataset_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    task = {"task": "far", "dataset_path": "nobody/nothing", "dataset_name": "part", "output_type": "generate_until",
            "test_split": "test", "doc_to_text": "q", "doc_to_target": "a"}  # fmt: skip
    (tmp_path / "far.yaml").write_text(yaml.safe_dump(task))
    with pytest.raises(
        ValueError, match=r"'far': its dataset nobody/nothing part .* could not be loaded: .*; fetch it"
    ):
        Harness(HarnessConfig(include_path=str(tmp_path)), ["far"])
    (tmp_path / "far.yaml").write_text(yaml.safe_dump({**task, "unsafe_code": True}))
    with pytest.raises(ValueError, match="runs the code that the model writes: allow it with allow_code_execution"):
        Harness(HarnessConfig(include_path=str(tmp_path)), ["far"])


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 't2l\[eval\]'"):
        Harness(HarnessConfig(), ["arc_easy"])


FRAMES = {
    "none": None,
    "ends_in_a_line_break": "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\\n' }}{% endfor %}{% if "
    "add_generation_prompt %}{{ 'assistant:\\n' }}{% endif %}",
}


@pytest.mark.parametrize("begins", [True, False], ids=["bos", "no_bos"])
@pytest.mark.parametrize("frame", FRAMES)
def test_the_base_reads_the_tokens_that_our_own_scorer_gives_it(
    world: World, mini_base: BaseModel, frame: str, begins: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a chat template and with one, writing and choosing, the beginning-of-sequence token and line breaks
    included; also where the tokenizer itself would add special tokens."""
    tokenizer = copy.deepcopy(mini_base.tokenizer)
    tokenizer.chat_template = FRAMES[frame]
    if begins:
        tokenizer._tokenizer.post_processor = TemplateProcessing(
            "<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
        )
    else:
        tokenizer.bos_token = None
    base = replace(mini_base, tokenizer=tokenizer)
    harness = Harness(HarnessConfig(include_path=str(world.folder / "yaml"), limit=5), list(world.asked))
    lm, read = harness.wrap(base), set[tuple[int, ...]]()
    forward = mini_base.model.forward

    def reading(*args: Any, **options: Any) -> Any:
        ids = options["input_ids"] if "input_ids" in options else args[0]
        if ids.shape[1] > 1:  # not the steps of decoding
            read.update(tuple(i for i in row if i != tokenizer.pad_token_id) for row in ids.tolist())
        return forward(*args, **options)

    monkeypatch.setattr(mini_base.model, "forward", reading)
    for task, asked in world.asked.items():
        read.clear()
        found = harness.score(lm, task, "Only animals.")["samples"][task]
        theirs = set(read)
        read.clear()
        shown = [replace(q, content=f"Only animals.\n{q.content}") for q in asked[:5]]
        answers = greedy_answers(base, shown, None, None, TOKENS, 16)
        # The harness does not feed the last token of a choice, which predicts nothing.
        ours = read if task == WRITE else {row[:-1] for row in read}
        assert theirs == ours
        metric = "exact_match" if task == WRITE else "acc"
        assert [s["scores"][metric] for s in sorted(found, key=lambda s: s["doc_id"])] == [a.score for a in answers]


def test_prompts_of_the_harnesss_own_are_said_to_differ(tokenizer: Any) -> None:
    bare = copy.deepcopy(tokenizer)
    bare.chat_template = None
    assert what_differs(HarnessConfig(), bare) == ""
    says = what_differs(HarnessConfig(apply_chat_template=False), bare)
    assert says.endswith("adapters are trained with a line break after the prompt and <s> before it.")
    assert "\n" not in says
    assert "the base's chat template" in what_differs(HarnessConfig(apply_chat_template=False), tokenizer)


def test_default_contenders_are_those_with_something_to_score() -> None:
    given = ["harness=lm_eval", "tasks=[arc_easy]"]
    assert composed("evaluate", *given).contenders == ["base"]
    more = composed("evaluate", *given, "library=DIR", "checkpoints=[DIR]")
    assert more.contenders == ["base", "multi_task", "oracle", "generated"]
    assert composed("evaluate", *given, "contenders=[prompted,base]").contenders == ["prompted", "base"]


def test_descriptions_come_from_the_nearest_source(tmp_path: Path) -> None:
    suite = {"own": Task("own", {"train": ("Seen.",), "test": ("New.", "Newer.")}, {})}
    (tmp_path / "b").mkdir()
    (tmp_path / "b/metadata.yaml").write_text("descriptions: [From a file., Another.]")
    config = HarnessConfig(
        descriptions={"a": ["Given.", "Given, too."]},
        descriptions_folder=str(tmp_path),
        library_tasks={"c": "own"},
        descriptions_per_task=2,
    )
    assert descriptions_of(config, "a", suite) == (["Given.", "Given, too."], "harness.descriptions")
    assert descriptions_of(config, "b", suite) == (["From a file.", "Another."], str(tmp_path / "b/metadata.yaml"))
    assert descriptions_of(config, "c", suite) == (["New.", "Newer."], "task own of the suite, phrasing set test")
    assert descriptions_of(replace(config, descriptions_per_task=1), "own", suite)[0] == ["New."]


def test_each_description_is_a_pass_and_rows_are_their_means() -> None:
    view = view_of(["x", "y"], [["One.", "Two."], ["Three."]], shows_description=True)
    assert [(q.task, q.prefix) for q in view.questions()] == [("x", "One."), ("x", "Two."), ("y", "Three.")]
    assert [q.prefix for q in Base().enter(view_of(["x"], [[]], False)).questions] == [""]

    def one(value: float, error: float | str) -> Pass:
        results = {"x": {"name": "x", "sample_len": 3, "acc,none": value, "acc_stderr,none": error}}
        return Pass("c", 0, "x", None, "", None, 0.0, {"results": results})

    (row,) = rows_of([one(0.2, 0.1), one(0.6, 0.3)])
    assert (row.value, row.stderr, row.passes) == (pytest.approx(0.4), pytest.approx(0.2), 2)
    assert rows_of([one(0.2, 0.1), one(0.6, "N/A")])[0].stderr is None


@pytest.mark.parametrize("asked", [False, True])
def test_the_harness_is_quiet_unless_it_is_asked(
    asked: bool, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Bars of the harness and of datasets, which both know tqdm by name, and messages."""
    from datasets.utils import tqdm as bar_of_datasets
    from lm_eval.api.task import tqdm as bar_of_harness

    def make_noise() -> None:
        logging.getLogger("lm_eval.evaluator").info("a notice")
        for bar in (bar_of_harness, bar_of_datasets):
            assert list(bar(range(3), disable=False)) == [0, 1, 2]

    with caplog.at_level(logging.DEBUG if asked else logging.INFO), quiet():
        make_noise()
    assert ("3/3" in capsys.readouterr().err, "a notice" in caplog.text) == (asked, asked)
    with caplog.at_level(logging.INFO):
        make_noise()
    assert "3/3" in capsys.readouterr().err
    assert "a notice" in caplog.text


def test_its_scores_are_a_table_in_every_form(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        Row("base", "arc", "acc,none", 0.25, 0.0312, 1), Row("base", "piqa", "acc,none", 0.5, None, 1),
        Row("oracle", "arc", "acc,none", 0.75, 0.02, 2),
    ]  # fmt: skip
    (tmp_path / "harness.json").write_text(json.dumps({"rows": [asdict(row) for row in rows]}))
    main(["report", str(tmp_path), "to=csv"])
    header, first, *_ = capsys.readouterr().out.splitlines()
    assert (header, first) == ("contender,task,metric,value,stderr,passes", 'base,arc,"acc,none",0.25,0.0312,1')
    main(["report", str(tmp_path), f"file={tmp_path}/board.tex"])
    lines = (tmp_path / "board.tex").read_text().splitlines()
    assert lines[2:6] == [
        r"contender & arc acc & piqa acc \\", r"\midrule", r"base & 0.2500 ± 0.0312 & 0.5000 \\", r"oracle & 0.7500 ± 0.0200 &  \\",
    ]  # fmt: skip
    capsys.readouterr()
    main(["report", str(tmp_path), "to=markdown", "contenders=[base]", "splits=[piqa]"])
    assert "arc" not in (shown := capsys.readouterr().out)
    assert "0.5000" in shown
    assert "this report has no task 'x'; it has arc, piqa" in refused(capsys, "report", str(tmp_path), "splits=[x]")
    assert "a report of the harness has results alone" in refused(capsys, "report", str(tmp_path), "table=controls")
    (tmp_path / "harness.json").write_text("[]")
    assert "is no report of `t2l evaluate harness=lm_eval`" in refused(capsys, "report", str(tmp_path))
