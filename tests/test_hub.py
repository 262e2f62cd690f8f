"""Datasets of the hub, from local folders with the hub's files and columns: nothing here is downloaded."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from test_cli import refused
from test_config import composed

from t2l.evaluation.metrics.interface import metric
from t2l.evaluation.scoring import questions_for
from t2l.files import FileProblemError
from t2l.tasks.suites import HubSuiteConfig, build, hub_loading
from t2l.tasks.suites.hub_loading import Source
from t2l.tasks.suites.hub_rendering import HubTaskConfig, Renderer

LETTERS = {"text": ["dry palms", "wet palms", "oil"], "label": ["A", "B", "C"]}
ROWS: dict[str, dict[str, Any]] = {
    "ai2_arc/ARC-Easy": {"id": "x", "question": "Which?", "choices": LETTERS, "answerKey": "B"},
    "ai2_arc/ARC-Challenge": {"id": "x", "question": "Why?", "choices": {"text": ["a", "b"], "label": ["1", "2"]}, "answerKey": "2"},
    "boolq": {"question": "is it so", "answer": True, "passage": "It is so."},
    "gsm8k/main": {"question": "How many?", "answer": "2*3 = <<2*3=6>>6\n#### 6"},
    "hellaswag": {
        "ind": 4, "activity_label": "Roof shingle removal", "ctx_a": "A man is sitting.", "ctx_b": "he", "ctx": "A man is sitting. he",
        "endings": ["a", "b", "c", "d"], "source_id": "s", "split": "train", "split_type": "indomain", "label": "3",
    },
    "openbookqa/main": {"id": "x", "question_stem": "The sun is", "choices": LETTERS, "answerKey": "A"},
    "piqa": {"goal": "boil an egg", "sol1": "in water", "sol2": "in sand", "label": 0},
    "winogrande/winogrande_debiased": {"sentence": "Sam helped Ann, so _ was glad.", "option1": "Sam", "option2": "Ann", "answer": "2"},
    "openai_humaneval": {
        "task_id": "HumanEval/0", "prompt": 'def one():\n    """Return one."""\n', "canonical_solution": "    return 1\n",
        "test": "def check(candidate):\n    assert candidate() == 1\n", "entry_point": "one",
    },
    "mbpp/full": {
        "task_id": 1, "text": "Write a function that doubles.", "code": "def double(x):\n    return 2 * x", "test_list": ["assert double(2) == 4"],
        "test_setup_code": "", "challenge_test_list": [],
    },
}  # fmt: skip
SPLITS = {"openai_humaneval": ("test",), "mbpp/full": ("train", "validation", "test", "prompt")}
KEYS = ("question", "goal", "sentence", "text", "ctx", "question_stem", "prompt")


def write_dataset(root: Path, name: str, row: Mapping[str, Any], splits: Iterable[str], rows: int = 6) -> None:
    """A dataset's folder as the hub has it; every question is another one."""
    import datasets

    folder = root / name
    folder.mkdir(parents=True)
    for split in splits:
        key = next((k for k in KEYS if k in row), "input")
        made = [
            {**row, key: f"{split} {i} {row[key]}" if key != "prompt" else f"# {i}\n{row[key]}"} for i in range(rows)
        ]
        datasets.Dataset.from_list(made).to_parquet(folder / f"{split}-00000-of-00001.parquet")


@pytest.fixture
def where(tmp_path: Path) -> list[str]:
    """Overrides that keep every cache in the test's folder."""
    return [f"suite.cache={tmp_path}/cache", f"suite.hub_cache={tmp_path}/hub"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ten benchmarks as local folders."""
    made = tmp_path_factory.mktemp("benchmarks")
    for name, row in ROWS.items():
        write_dataset(made, name, row, SPLITS.get(name, ("train", "validation", "test")))
    return made


def config(**settings: Any) -> HubSuiteConfig:
    return composed_suite("suite=hub", settings)


def composed_suite(choice: str, settings: Mapping[str, Any], *overrides: str) -> Any:
    suite: Any = composed("train", choice, *overrides).suite  # type: ignore[attr-defined]
    for key, value in settings.items():
        setattr(suite, key, value)
    suite.__post_init__()
    return suite


# --- the ready configs ----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("code_allowed")
def test_benchmarks_are_rendered_from_the_hubs_columns_and_their_own_answers_are_right(
    root: Path, where: list[str]
) -> None:
    suite = build(composed_suite("suite=benchmarks", {}, f"suite.local_root={root}", *where))
    first = {name: task.examples["test"][0] for name, task in suite.tasks.items()}
    assert {name: (e.input, e.output) for name, e in first.items()} == {
        "arc_easy": ("test 0 Which?\nA: dry palms\nB: wet palms\nC: oil", "B"),
        "arc_challenge": ("test 0 Why?\n1: a\n2: b", "2"),
        "boolq": ("question: validation 0 is it so\npassage: It is so.", "true"),
        "gsm8k": ("test 0 How many?", "2*3 = <<2*3=6>>6\n#### 6"),
        "hellaswag": ("Roof shingle removal: validation 0 A man is sitting. he\n0: a\n1: b\n2: c\n3: d", "3"),
        "openbookqa": ("test 0 The sun is\nA: dry palms\nB: wet palms\nC: oil", "A"),
        "piqa": ("validation 0 boil an egg\n0: in water\n1: in sand", "0"),
        "winogrande": ("validation 0 Sam helped Ann, so _ was glad.\nA: Sam\nB: Ann", "B"),
        "humaneval": ('# 0\ndef one():\n    """Return one."""\n', "    return 1\n"),
        "mbpp": (
            "test 0 Write a function that doubles.\nYour code should pass these tests:\nassert double(2) == 4",
            "def double(x):\n    return 2 * x",
        ),
    }  # fmt: skip
    assert [len(suite.tasks["mbpp"].examples[k]) for k in ("train", "validation", "test")] == [6, 6, 6]
    assert first["arc_easy"].choices == ("A", "B", "C")
    assert suite.split("evaluation_only").tasks == ("humaneval",)
    assert len(suite.split("train").tasks) == 9
    assert all(len(t.descriptions["train"]) >= 4 and t.max_new_tokens for t in suite.tasks.values())
    for task in suite.tasks.values():
        (question,) = questions_for([task], 1)
        assert question.score(task.examples["test"][0].output) == 1, task.name
        assert question.score("nothing of the kind") == 0, task.name


def test_zero_shot_trains_on_none_of_them(root: Path, where: list[str]) -> None:
    suite = build(composed_suite("suite=benchmarks_zero_shot", {}, f"suite.local_root={root}", *where))
    assert suite.split("train").tasks == ()
    assert len(suite.split("evaluation_only").tasks) == 10


LOL = (
    "Definition: {definition}\n\nPositive Example 1 -\nInput: Context: a\nInput: b\nOutput: c\n\nPositive Example 2 -\n"
    "Input: d\nOutput: e\n\nNow complete the following example -\nInput: Context: {question}\nInput: again\nOutput: "
)


def lol_rows(dataset: str, split: str) -> list[dict[str, Any]]:
    """Rows as the Lots-of-LoRAs collection has them."""
    return [
        {
            "input": LOL.format(definition=f"Do {dataset}.", question=f"{split} {i}"),
            "output": ["yes", "sure"],
            "id": f"{split}-{i}",
        }
        for i in range(4)
    ]


def test_lots_of_loras_has_the_papers_roles(monkeypatch: pytest.MonkeyPatch, where: list[str]) -> None:
    asked: list[str] = []

    def rows(self: Source, task: HubTaskConfig, split: str) -> list[dict[str, Any]]:
        asked.append(task.dataset)
        assert split in ("train", "valid", "test")
        return lol_rows(task.dataset, split)

    monkeypatch.setattr(Source, "rows", rows)
    suite = build(composed_suite("suite=lots_of_loras", {}, *where))
    assert {k: len(s.tasks) for k, s in suite.splits.items()} == {"train": 479, "validation": 11}
    assert len(set(asked)) == 490
    assert all(d.startswith("Lots-of-LoRAs/task") for d in asked)
    left_out = {
        "lol_033",
        "lol_034",
        "lol_080",
        "lol_081",
        "lol_228",
        "lol_380",
        "lol_381",
        "lol_1286",
        "lol_1389",
        "lol_1391",
    }
    assert not left_out & set(suite.tasks)
    for task in suite.tasks.values():
        assert task.metric == "rouge_l"
        (description,) = task.descriptions["train"]
        number = description.split("/task")[1].split("_")[0]
        assert task.name == f"lol_{number}"
    example = suite.tasks["lol_022"].examples["test"][0]
    assert (example.input, example.output, example.references) == ("Context: test 0\nInput: again", "yes", ("sure",))
    assert len(suite.tasks["lol_022"].examples["validation"]) == 4


def test_lots_of_loras_from_a_copy_of_its_repository(tmp_path: Path, where: list[str]) -> None:
    import datasets

    name = "task022_cosmosqa_passage_inappropriate_binary"
    folder = tmp_path / "lol" / name
    (folder / "data").mkdir(parents=True)
    for split in ("train", "valid", "test"):
        made = datasets.Dataset.from_list(lol_rows(name, split))
        made.to_parquet(folder / f"data/{split}-00000-of-00001.parquet")
    files = "".join(f"  - split: {s}\n    path: data/{s}-*\n" for s in ("train", "valid", "test"))
    (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: default\n  data_files:\n{files}---\n# Card\n")
    suite = build(
        composed_suite("suite=lots_of_loras", {}, f"suite.local_root={tmp_path}/lol", "suite.tasks=[lol_022]", *where)
    )
    assert suite.tasks["lol_022"].examples["train"][0].input == "Context: train 0\nInput: again"
    assert suite.tasks["lol_022"].descriptions["train"] == (f"Do {name}.",)


# --- loading --------------------------------------------------------------------------------------------------------


class Hub:
    """A hub that fails as often as it is told to, and counts what it is asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: Counter[str] = Counter()
        self.failures: dict[str, list[Exception]] = {}
        self.waits: list[float] = []
        self.wait_s = 0.0
        self.rows = [{"q": f"q{i}", "a": str(i)} for i in range(5)]
        lock = threading.Lock()

        def rows(source: Source, task: HubTaskConfig, split: str) -> list[dict[str, str]]:
            with lock:
                self.asked[task.dataset] += 1
                if self.failures.get(task.dataset):
                    raise self.failures[task.dataset].pop(0)
            threading.Event().wait(self.wait_s)
            return self.rows

        monkeypatch.setattr(Source, "rows", rows)
        monkeypatch.setattr(hub_loading.time, "sleep", self.waits.append)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    return Hub(monkeypatch)


def simple(tmp_path: Path, *names: str, **settings: Any) -> HubSuiteConfig:
    return HubSuiteConfig(
        datasets={n: {"dataset": f"org/{n}"} for n in names},
        each=HubTaskConfig(splits={"train": "train"}, input="{{ q }}", output="{{ a }}", descriptions=["Do it."]),
        cache=str(tmp_path / "cache"),
        **{"held_fraction": 0.0, "workers": 1, **settings},
    )


def test_a_dataset_is_tried_again_ever_later(hub: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    hub.failures["org/b"] = [ConnectionError("reset"), TimeoutError("slow"), OSError("503")]
    suite = build(simple(tmp_path, "a", "b"))
    assert set(suite.tasks) == {"a", "b"}
    assert hub.waits == [2.0, 4.0, 8.0]
    assert hub.asked == {"org/a": 1, "org/b": 4}
    assert "b: TimeoutError: slow; again in 4 s" in caplog.text


def test_one_that_keeps_failing_is_named_and_the_rest_is_kept(hub: Hub, tmp_path: Path) -> None:
    names = ("a", "b", "c")
    hub.failures["org/b"] = [ConnectionError("no\nroute")] * 3
    with pytest.raises(
        ValueError, match=r"suite\.datasets\.b \(org/b\): ConnectionError: no route \(\d of 3 tasks are loaded"
    ):
        build(simple(tmp_path, *names, retries=2, backoff_s=0.5))
    assert hub.waits == [0.5, 1.0]
    loaded = dict(hub.asked)
    suite = build(simple(tmp_path, *names, retries=2))
    assert set(suite.tasks) == set(names)
    assert hub.asked["org/a"] == 1
    assert hub.asked["org/b"] == 4
    assert hub.asked["org/c"] == 1, loaded
    build(simple(tmp_path, *names))
    assert sum(hub.asked.values()) == 6


def test_after_a_failure_nothing_new_is_begun(hub: Hub, tmp_path: Path) -> None:
    names = [f"t{i:02}" for i in range(40)]
    hub.failures["org/t00"] = [ValueError("no such dataset")]
    hub.wait_s = 0.05
    with pytest.raises(ValueError, match=r"suite\.datasets\.t00 \(org/t00\): no such dataset"):
        build(simple(tmp_path, *names, workers=2))
    assert len(hub.asked) < 20


def test_failures_can_be_skipped_and_are_listed(hub: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    hub.failures["org/b"] = [FileNotFoundError("org/b is not there")]
    suite = build(simple(tmp_path, "a", "b", "c", skip_failed=True))
    assert set(suite.tasks) == {"a", "c"}
    assert suite.provenance["skipped"] == ["b"]
    assert "skipped: suite.datasets.b (org/b): FileNotFoundError: org/b is not there" in caplog.text
    hub.failures = {f"org/{n}": [ValueError("no such split")] for n in "de"}
    with pytest.raises(ValueError, match="not one dataset could be loaded"):
        build(simple(tmp_path, "d", "e", skip_failed=True))


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ValueError("Unknown split 'dev'"), "Unknown split 'dev'"),
        (RuntimeError("Dataset scripts are no longer supported, but found b.py"), "set revision: refs/convert/parquet"),
        (ConnectionError("Couldn't reach 'org/a' on the Hub (OfflineModeIsEnabled)"), "OfflineModeIsEnabled"),
    ],
)
def test_what_another_try_does_not_mend_is_not_tried_again(
    hub: Hub, tmp_path: Path, error: Exception, says: str
) -> None:
    hub.failures["org/a"] = [error]
    with pytest.raises(ValueError, match=says):
        build(simple(tmp_path, "a"))
    assert (hub.waits, hub.asked["org/a"]) == ([], 1)


def test_many_at_once_give_the_same_suite(hub: Hub, tmp_path: Path) -> None:
    names = [f"t{i}" for i in range(30)]
    one = build(simple(tmp_path / "one", *names))
    many = build(simple(tmp_path / "many", *names, workers=8))
    assert many.content_hash() == one.content_hash()
    assert list(many.tasks) == names


def test_the_cache_is_keyed_by_what_decides_the_rows(hub: Hub, tmp_path: Path) -> None:
    made = simple(tmp_path, "a")
    build(made)
    made.datasets["a"] = {"dataset": "org/a", "descriptions": ["Otherwise."], "family": "f", "max_new_tokens": 3}
    assert build(made).tasks["a"].max_new_tokens == 3
    assert hub.asked["org/a"] == 1
    made.datasets["a"] = {"dataset": "org/a", "revision": "abc"}
    build(made)
    made.datasets["a"] = {"dataset": "org/a", "output": "{{ a }}!"}
    assert build(made).tasks["a"].examples["test"][0].output.endswith("!")
    assert hub.asked["org/a"] == 3


def test_a_half_written_cache_is_never_read(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def killed(self: Path, target: Path) -> None:
        raise SystemExit("killed between writing and renaming")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", killed)
        with pytest.raises(ValueError, match="killed between writing and renaming"):
            build(simple(tmp_path, "a"))
    assert not list((tmp_path / "cache").glob("[!.]*"))  # nothing under a final name
    whole = build(simple(tmp_path, "a"))
    assert hub.asked["org/a"] == 2
    (path,) = (tmp_path / "cache").glob("a-*.jsonl")
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-2]))
    assert build(simple(tmp_path, "a")).content_hash() == whole.content_hash()
    assert "is damaged (3 of 5 rows): it is made again" in caplog.text
    assert hub.asked["org/a"] == 3


def test_a_local_folder_that_changed_is_read_again(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()

    def write(word: str) -> None:
        rows = "".join(json.dumps({"q": f"{word}{i}", "a": "x"}) + "\n" for i in range(5))
        (folder / "train.jsonl").write_text(rows)

    made = simple(tmp_path, "a", hub_cache=str(tmp_path / "hub"))
    made.datasets["a"] = {"dataset": str(folder), "splits": {"train": "train[:80%]"}, "max_rows": 3}
    write("old")
    assert {e.input for v in build(made).tasks["a"].examples.values() for e in v} == {"old0", "old1", "old2"}
    write("newer")
    assert {e.input for v in build(made).tasks["a"].examples.values() for e in v} == {"newer0", "newer1", "newer2"}


def test_missing_folders_are_named(tmp_path: Path) -> None:
    made = simple(tmp_path, "a", local_root=str(tmp_path / "nowhere"))
    with pytest.raises(FileProblemError, match=r"suite\.local_root=.*nowhere: no such folder"):
        build(made)
    made.local_root = str(tmp_path)
    with pytest.raises(ValueError, match=r"suite\.datasets\.a \(org/a\): no such folder: .*/a"):
        build(made)
    made.local_root, made.datasets["a"] = None, {"dataset": "./nothing/here"}
    with pytest.raises(ValueError, match=r"suite\.datasets\.a \(\./nothing/here\): no such folder"):
        build(made)


# --- rendering ------------------------------------------------------------------------------------------------------

ROW = {"q": "Which?", "my.column": 3, "choices": LETTERS, "key": 1, "refs": ["x", "y"], "note": None}


def rendered(**task: Any) -> Any:
    return Renderer(HubTaskConfig(**{"input": "{{ q }}", "output": "{{ key }}", **task})).example(ROW)


def test_templates_see_columns_and_expressions_give_lists() -> None:
    assert rendered(input="{{ q }} {{ row['my.column'] }}").input == "Which? 3"
    assert rendered(output="{{ choices.label[key] }}").output == "B"
    assert rendered(labels={"0": "no", "1": "yes"}).output == "yes"
    assert rendered(references="refs[1:]").references == ("y",)
    assert rendered(
        metric="multiple_choice", output="{{ choices.text[key] }}", choices="choices.text"
    ).choices == tuple(LETTERS["text"])
    assert not Renderer(HubTaskConfig(where="key > 1")).is_wanted(ROW)


@pytest.mark.parametrize(
    ("task", "says"),
    [
        ({"input": "{{ question }}"}, "input: 'question' is undefined; the columns are q, my.column, choices"),
        ({"output": "{{ note }}"}, "output: a column that it needs is null"),
        ({"output": "{{ refs[5] }}"}, "output: list object has no element 5"),
        ({"references": "texts"}, "references: 'texts' is undefined"),
        ({"references": "q"}, "'references' must be a list of non-empty texts, not 'Which\\?'"),
        ({"labels": {"0": "no"}}, "output '1' is none of the labels 0"),
        ({"metric": "multiple_choice"}, "metric multiple_choice needs choices, and the row has none"),
        ({"metric": "multiple_choice", "choices": "choices.text"}, "the output '1' is none of the choices"),
        ({"metric": "pass_at_1"}, "metric pass_at_1 needs test or test_list"),
        ({"input": "{{ row.__class__.__mro__ }}"}, "unsafe"),
        ({"input": "{{ q"}, "input: '{{ q' is not Jinja"),
        ({"choices": "choices["}, "choices: 'choices\\[' is not Jinja"),
    ],
)
def test_rows_that_cannot_be_rendered_say_why(task: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        rendered(**task)


def test_a_bad_row_is_named_and_can_be_left_out(hub: Hub, tmp_path: Path) -> None:
    hub.rows[3] = {"q": "q3", "a": ""}
    with pytest.raises(
        ValueError, match=r"suite\.datasets\.a \(org/a\): row 3 of split train: 'output' must be non-empty"
    ):
        build(simple(tmp_path, "a"))
    made = simple(tmp_path, "a")
    made.each.where = "a"
    assert sum(len(v) for v in build(made).tasks["a"].examples.values()) == 4
    made.each.where = "a == 'z'"
    with pytest.raises(ValueError, match="split train has no rows for which a == 'z'"):
        build(made)


@pytest.mark.parametrize(
    ("task", "says"),
    [
        ({"dataset": ""}, r"suite\.datasets\.a: dataset is empty"),
        ({"datset": "x"}, r"suite\.datasets\.a: unknown key 'datset'; did you mean 'dataset'\?"),
        ({"dataset": "x", "splits": {"dev": "validation"}}, "splits: 'dev' must be one of train, validation, test"),
        ({"dataset": "x", "metric": "bleu"}, "unknown metric 'bleu': choose from choice_label"),
        ({"dataset": "x", "max_rows": 0}, "max_rows must be at least 1, or null, not 0"),
        ({"dataset": "x", "trust_remote_code": True}, "unknown key 'trust_remote_code'"),
    ],
)
def test_configs_that_cannot_be_are_refused_at_once(task: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        HubSuiteConfig(datasets={"a": task}, each=HubTaskConfig(input="{{ q }}", output="{{ a }}"))


def test_the_command_says_what_is_wrong_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    where = f"hydra.run.dir={tmp_path}/run"
    assert "suite.datasets is empty" in refused(capsys, "train_library", "suite=hub", where)
    assert "unknown metric 'bleu'" in refused(
        capsys, "train_library", "suite=benchmarks", "suite.each.metric=bleu", where
    )
    line = refused(capsys, "train_library", "suite=benchmarks", "suite.local_root=./nowhere", where)
    assert "suite.local_root=./nowhere: no such folder" in line


@pytest.mark.usefixtures("code_allowed")
def test_every_metric_of_the_ready_configs_exists() -> None:
    made = [composed_suite(choice, {}) for choice in ("suite=benchmarks", "suite=lots_of_loras")]
    names = {suite.task(name).metric for suite in made for name in suite.datasets}
    assert names == {"choice_label", "final_number", "pass_at_1", "rouge_l"}
    for name in names:
        metric(name).check()
