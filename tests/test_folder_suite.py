"""A folder of JSON lines: what is read, which rows and tasks play which role, and what is refused with file and line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_cli import refused

from t2l.files import FileProblemError
from t2l.tasks import TaskSuite
from t2l.tasks.suites import FolderSuiteConfig, build
from t2l.tasks.suites.rows import split_prompt

RECORDS: dict[str, dict[str, Any]] = {
    "double": {"descriptions": ["Say it twice."], "family": "copy", "splits": {"train": [0, 8], "test": [8, 10]}},
    "same": {"descriptions": ["Say it again."], "family": "copy"},
    "upper": {"descriptions": ["Shout.", "Use capitals."], "family": "case"},
    "lower": {"descriptions": ["Whisper.", "Use small letters."], "metric": "rougeL", "n": 10},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four tasks of ten rows; line 2 of tasks.json is `double`, 3 `same`, 4 `upper`, 5 `lower`."""
    made = tmp_path / "suite"
    made.mkdir()
    write_records(made, RECORDS)
    for name in RECORDS:
        write_rows(made, name, [{"input": f"{name}{i}", "output": f"out{i}"} for i in range(10)])
    return made


def write_records(folder: Path, records: dict[str, Any]) -> None:
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(record)}" for name, record in records.items())
    (folder / "tasks.json").write_text(f"{{\n{lines}\n}}\n")


def change(folder: Path, task: str, **record: Any) -> None:
    write_records(folder, {**RECORDS, task: {**RECORDS[task], **record}})


def write_rows(folder: Path, task: str, rows: list[dict[str, Any]]) -> None:
    (folder / f"{task}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def read(folder: Path, **config: Any) -> TaskSuite:
    return build(FolderSuiteConfig(path=str(folder), **config))


def inputs(suite: TaskSuite, task: str) -> dict[str, list[str]]:
    return {key: [e.input for e in examples] for key, examples in suite.tasks[task].examples.items()}


# --- rows -----------------------------------------------------------------------------------------------------------


def test_declared_ranges_are_honoured_and_undivided_rows_dealt_by_seed(folder: Path) -> None:
    suite = read(folder)
    assert inputs(suite, "double") == {
        "train": [f"double{i}" for i in range(8)], "validation": [], "test": ["double8", "double9"],
    }  # fmt: skip
    dealt = inputs(suite, "same")
    assert sorted(dealt["train"] + dealt["test"]) == [f"same{i}" for i in range(10)]
    assert (len(dealt["train"]), len(dealt["test"])) == (8, 2)
    assert inputs(read(folder), "same") == dealt
    assert inputs(read(folder, seed=1), "same") != dealt


@pytest.mark.parametrize(
    ("ranges", "lengths"),
    [
        ({"train": [0, 6], "validation": [6, 8], "test": [8, 10]}, (6, 2, 2)),
        ({"train": [0, 6], "validation": [6, 10]}, (6, 0, 4)),
        ({"validation": [0, 10]}, (0, 0, 10)),
        ({"test": [0, 10]}, (0, 0, 10)),
        ({"validation": [0, 4], "test": [4, 10]}, (0, 4, 6)),
        ({"train": [0, 5]}, (4, 0, 1)),
        ({"train": [0, 4], "test": [4, 6], "prompt": [6, 10]}, (4, 0, 2)),
        ({"published": [0, 3], "generated": [3, 10]}, (8, 0, 2)),
    ],
)
def test_rows_of_every_declared_split_go_where_they_belong(
    folder: Path, ranges: dict[str, list[int]], lengths: tuple[int, int, int]
) -> None:
    """Validation rows stand in for missing test rows; rows of a split beside the three are used for nothing."""
    change(folder, "double", splits=ranges)
    suite = read(folder, held_tasks=[])
    found = inputs(suite, "double")
    assert tuple(len(found[k]) for k in ("train", "validation", "test")) == lengths
    assert "double" in suite.split("train" if lengths[0] else "evaluation_only").tasks
    for name, (start, end) in ranges.items():
        if found.get(name):
            assert set(found[name]) <= {f"double{i}" for i in range(start, end)}


def test_a_suites_own_names_of_splits_can_be_given(folder: Path) -> None:
    change(folder, "double", splits={"published": [0, 3], "generated": [3, 10]})
    suite = read(folder, tasks=["double"], row_splits={"train": "generated", "test": "published"})
    assert inputs(suite, "double")["test"] == ["double0", "double1", "double2"]
    assert len(inputs(suite, "double")["train"]) == 7
    with pytest.raises(
        FileProblemError, match=r"tasks\.json: task 'same': suite\.row_splits asks for split 'generated'"
    ):
        read(folder, row_splits={"train": "generated"})
    with pytest.raises(ValueError, match="'dev' must be one of train, validation, test"):
        read(folder, row_splits={"dev": "published"})


def test_validation_rows_can_be_taken_from_training_rows(folder: Path) -> None:
    found = inputs(read(folder, dealt_validation=3), "double")
    assert (len(found["train"]), len(found["validation"]), found["test"]) == (5, 3, ["double8", "double9"])
    assert not set(found["train"]) & set(found["validation"])


def test_no_training_row_asks_what_a_later_row_asks(folder: Path) -> None:
    rows = [{"input": f"q{i % 4}", "output": str(i)} for i in range(10)]
    write_rows(folder, "double", rows)
    change(folder, "double", splits={"train": [0, 7], "validation": [7, 9], "test": [9, 10]})
    found = inputs(read(folder), "double")
    assert found == {"train": ["q2", "q2"], "validation": ["q3", "q0"], "test": ["q1"]}


def test_lines_end_at_line_feeds_alone(folder: Path) -> None:
    text = json.dumps({"input": "a\u2028b", "output": "c\x85"}, ensure_ascii=False)
    (folder / "lower.jsonl").write_text("\n".join([text] * 10), encoding="utf-8")
    with pytest.raises(FileProblemError, match="too few for training and test rows that differ"):
        read(folder)
    change(folder, "lower", splits={"test": [0, 10]})
    assert read(folder).tasks["lower"].examples["test"][0].input == "a\u2028b"


def test_references_choices_and_assertions_are_read(folder: Path) -> None:
    rows = [
        {"input": "a", "output": "b", "references": ["c", "", "d"]},
        {"input": "e", "output": "f", "choices": ["f", "g"]},
        {"input": "h", "output": "def h(): pass", "test": "def check(f): f()", "entry_point": "h"},
        {"input": "i", "output": "x = 1", "test_list": ["assert x == 1", "assert x > 0"]},
        {"input": 'def g():\n    """One."""\n', "output": "    return 1", "test": "def check(f): f()", "entry_point": "g"},
        {"input": "j", "output": "k"},
    ]  # fmt: skip
    write_rows(folder, "double", rows)
    change(folder, "double", splits={"train": [5, 6], "test": [0, 5]})
    several, choice, checked, listed, begun = read(folder).tasks["double"].examples["test"]
    assert several.references == ("c", "d")
    assert choice.choices == ("f", "g")
    assert checked.tests == "def check(f): f()\ncheck(h)"
    assert listed.tests == "assert x == 1\nassert x > 0"
    assert split_prompt(begun.tests) == ('def g():\n    """One."""\n', "def check(f): f()\ncheck(g)")


def test_metrics_get_their_own_names(folder: Path) -> None:
    assert read(folder).tasks["lower"].metric == "rouge_l"


# --- tasks ----------------------------------------------------------------------------------------------------------


def test_families_are_held_out_whole_and_tasks_one_by_one(folder: Path) -> None:
    for seed in range(8):
        held = set(read(folder, held_fraction=0.34, seed=seed).split("unseen_task").tasks)
        assert held in ({"upper"}, {"double", "same"}, {"lower"})
    singles = {read(folder, held_fraction=0.25, split_by="task", seed=s).split("unseen_task").tasks for s in range(8)}
    assert singles & {("double",), ("same",)}


def test_roles_can_be_given_by_name(folder: Path) -> None:
    suite = read(folder, held_tasks=["upper"], validation_tasks=["same"], evaluation_tasks=["lower"])
    assert {k: s.tasks for k, s in suite.splits.items()} == {
        "train": ("double",), "unseen_task": ("upper",), "validation": ("same",), "evaluation_only": ("lower",),
    }  # fmt: skip
    assert set(read(folder, held_tasks=[], leave_out=["same"]).split("train").tasks) == {"double", "upper", "lower"}
    assert set(read(folder, tasks=["upper", "same"], held_tasks=["double"]).tasks) == {"upper", "same"}


def test_a_task_without_training_rows_is_never_trained_on(folder: Path) -> None:
    change(folder, "double", splits={"test": [0, 10]})
    for seed in range(5):
        suite = read(folder, seed=seed, held_fraction=0.3)
        assert suite.split("evaluation_only").tasks == ("double",)
        assert not any("double" in suite.split(s).tasks for s in suite.splits if s != "evaluation_only")
    assert read(folder, held_tasks=["double"]).split("unseen_task").tasks == ("double",)


def test_a_held_out_relative_of_a_training_task_is_warned_about(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    read(folder, held_tasks=["double"])
    assert "double of unseen_task is of the same family as training task same" in caplog.text


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"tasks": ["triple"]}, r"suite\.tasks: unknown task 'triple' in .*suite: it has double, same, upper, lower"),
        ({"held_tasks": ["triple"]}, r"suite\.held_tasks: unknown task 'triple'"),
        (
            {"held_tasks": ["same"], "evaluation_tasks": ["same"]},
            r"'same' is named in suite\.held_tasks and in suite\.eval",
        ),
        ({"leave_out": list(RECORDS)}, "has no task to read"),
        ({"split_by": "length"}, "suite.split_by must be family or task, not 'length'"),
        ({"descriptions_mode": "merge"}, "suite.descriptions_mode must be replace or extend, not 'merge'"),
        ({"train_examples": 0}, "suite.train_examples must be at least 1, not 0"),
        ({"test_descriptions": -1}, "suite.test_descriptions must be at least 0, not -1"),
        ({"held_fraction": 1.0}, r"suite.held_fraction must be in \[0, 1\), not 1.0"),
        ({"test_descriptions": 5}, "no task has more than 5 descriptions that are its own"),
    ],
)
def test_roles_that_do_not_go_together_are_refused(folder: Path, config: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        read(folder, **config)


# --- descriptions ---------------------------------------------------------------------------------------------------


def write_descriptions(folder: Path, texts: dict[str, str]) -> None:
    for task, text in texts.items():
        (folder / task).mkdir(parents=True, exist_ok=True)
        (folder / task / "metadata.yaml").write_text(text)


def test_descriptions_of_a_folder_replace_or_extend_the_suites_own(folder: Path, tmp_path: Path) -> None:
    texts = {
        name: f"kind: x\ndescriptions:\n- More of {name}.\n- {r['descriptions'][0]}\n" for name, r in RECORDS.items()
    }
    write_descriptions(tmp_path / "more", texts)
    more = str(tmp_path / "more")
    replaced, extended = (
        read(folder, descriptions_folder=more, descriptions_mode=mode).tasks["upper"].descriptions["train"]
        for mode in ("replace", "extend")
    )
    assert replaced == ("More of upper.", "Shout.")
    assert extended == ("Shout.", "Use capitals.", "More of upper.")
    change(folder, "upper", descriptions=[])
    assert read(folder, descriptions_folder=more).tasks["upper"].descriptions["train"] == replaced


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "task 'lower' has no metadata.yaml: .*lower/metadata.yaml does not exist"),
        ("descriptions: [a, '']", "metadata.yaml: task 'lower': description 2 of 2 is empty"),
        ("descriptions: Whisper.", "task 'lower': descriptions must be a list with at least one text, not 'Whisper.'"),
        ("- a", "task 'lower': descriptions must be a list"),
        ("descriptions: [", "metadata.yaml is not valid YAML"),
    ],
)
def test_a_task_without_sound_metadata_is_refused_by_name(
    folder: Path, tmp_path: Path, text: str | None, says: str
) -> None:
    texts = {name: "descriptions: [Do it.]" for name in RECORDS if name != "lower"}
    write_descriptions(tmp_path / "more", texts | ({"lower": text} if text is not None else {}))
    with pytest.raises(FileProblemError, match=says):
        read(folder, descriptions_folder=str(tmp_path / "more"))


def test_held_out_descriptions_are_nobodys_training_descriptions(folder: Path) -> None:
    change(folder, "same", descriptions=["shout.", "Echo.", "Repeat.", "Say it again."])
    suite = read(folder, test_descriptions=1, held_tasks=["lower"])
    assert set(suite.split("unseen_phrasing").tasks) == {"same", "upper"}  # double has one description only
    assert suite.split("unseen_task_and_phrasing").tasks == ("lower",)
    assert suite.split("unseen_phrasing").phrasing == "test"
    assert suite.tasks["upper"].descriptions == {"train": ("Shout.",), "test": ("Use capitals.",)}  # Shout. is shared
    held = {d.lower() for t in suite.tasks.values() for d in t.descriptions.get("test", ())}
    trained = {d.lower() for t in suite.tasks.values() for d in t.descriptions["train"]}
    assert len(held) == 3
    assert not held & trained
    again = read(folder, test_descriptions=1, held_tasks=["lower"])
    assert again.content_hash() == suite.content_hash()


# --- what is refused ------------------------------------------------------------------------------------------------


def spoil_line(task: str, number: int, text: str) -> Callable[[Path], None]:
    """Puts a text in place of a line of a task's rows."""

    def spoil(folder: Path) -> None:
        path = folder / f"{task}.jsonl"
        lines = path.read_text().splitlines()
        lines[number - 1] = text
        path.write_text("\n".join(lines) + "\n")

    return spoil


def spoil_record(task: str, **record: Any) -> Callable[[Path], None]:
    return lambda folder: change(folder, task, **record)


def name_twice(folder: Path) -> None:
    path = folder / "tasks.json"
    path.write_text(path.read_text().replace('"lower"', '"double"'))


def key_twice(folder: Path) -> None:
    path = folder / "tasks.json"
    path.write_text(path.read_text().replace('"n": 10', '"n": 10, "metric": "exact_match"'))


def cut_records(folder: Path) -> None:
    path = folder / "tasks.json"
    path.write_text(path.read_text()[:-40])


FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "no_output": (spoil_line("upper", 3, '{"input": "x"}'), "suite/upper.jsonl:3: 'output' is missing"),
    "empty_output": (spoil_line("upper", 3, '{"input": "x", "output": " "}'), "suite/upper.jsonl:3: 'output' must be non-empty text, not ' '"),
    "number_as_output": (spoil_line("upper", 4, '{"input": "x", "output": 4}'), "suite/upper.jsonl:4: 'output' must be non-empty text, not '4'"),
    "no_object": (spoil_line("upper", 4, '["x", "y"]'), "suite/upper.jsonl:4: a row is an object with input and output"),
    "bad_json": (spoil_line("upper", 7, '{"input": "x", "output": "y"'), "suite/upper.jsonl:7 is not valid JSON: Expecting ',' delimiter (column 29)"),
    "blank_line": (spoil_line("upper", 7, ""), "suite/upper.jsonl:7 is not valid JSON"),
    "key_twice_in_row": (spoil_line("upper", 7, '{"input": "x", "output": "y", "input": "z"}'), "suite/upper.jsonl:7: key 'input' is there twice"),
    "bad_choices": (spoil_line("upper", 2, '{"input": "x", "output": "y", "choices": "yz"}'), "suite/upper.jsonl:2: 'choices' must be a list of non-empty texts"),
    "name_twice": (name_twice, "tasks.json: key 'double' is there twice"),
    "key_twice": (key_twice, "tasks.json: key 'metric' is there twice"),
    "records_cut": (cut_records, "tasks.json is not valid JSON: "),
    "unknown_metric": (spoil_record("upper", metric="bleu"), "tasks.json: task 'upper': unknown metric 'bleu': choose from choice_label"),
    "no_descriptions": (spoil_record("upper", descriptions=[]), "tasks.json: task 'upper': descriptions must be a list with at least one text"),
    "empty_description": (spoil_record("upper", descriptions=["a", " "]), "tasks.json: task 'upper': description 2 of 2 is empty"),
    "misspelt_key": (spoil_record("upper", metrics="exact_match"), "tasks.json: task 'upper': unknown key 'metrics'; did you mean 'metric'?"),
    "needs_choices": (spoil_record("upper", metric="multiple_choice"), "upper.jsonl:1: metric multiple_choice needs choices, and the row has none"),
    "needs_tests": (spoil_record("upper", metric="pass@1 (runs test)"), "upper.jsonl:1: metric pass_at_1 needs test or test_list, and the row has none"),
    "range_too_long": (spoil_record("same", splits={"train": [0, 8], "test": [8, 11]}), "tasks.json: task 'same': split 'test' must be [start, end) with 0 <= start < end <= 10, not [8, 11]"),
    "range_negative": (spoil_record("same", splits={"test": [-2, 10]}), "split 'test' must be [start, end)"),
    "range_empty": (spoil_record("same", splits={"test": [4, 4]}), "split 'test' must be [start, end)"),
    "range_no_numbers": (spoil_record("same", splits={"test": [0.5, True]}), "split 'test' must be [start, end)"),
    "ranges_overlap": (spoil_record("same", splits={"train": [0, 8], "test": [7, 10]}), "task 'same': splits 'train' and 'test' share rows"),
    "rows_missing": (spoil_record("same", n=12), "tasks.json: task 'same': n says 12 rows"),
    "no_rows_file": (lambda folder: (folder / "same.jsonl").unlink(), "same.jsonl (" ),
    "longest_answer": (spoil_record("same", max_new_tokens=0), "tasks.json: task 'same': max_new_tokens must be a whole number"),
    "family": (spoil_record("same", family=7), "tasks.json: task 'same': family must be a non-empty text, not 7"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_refused_with_its_place(fault: str, folder: Path) -> None:
    spoil, says = FAULTS[fault]
    spoil(folder)
    with pytest.raises(FileProblemError) as stopped:
        read(folder)
    assert says in str(stopped.value)
    assert "\n" not in str(stopped.value)


@pytest.mark.parametrize(
    "fault",
    ["no_output", "bad_json", "name_twice", "unknown_metric", "empty_description", "needs_choices", "range_too_long"],
)
def test_the_command_says_so_in_one_line_before_any_model_loads(
    fault: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil, says = FAULTS[fault]
    spoil(folder)

    def forbidden(*args: object) -> None:
        pytest.fail("a model was loaded before the suite was read")

    monkeypatch.setattr("t2l.verbs.train_library.load_base_model", forbidden)
    monkeypatch.chdir(tmp_path)
    line = refused(capsys, "train_library", "suite=folder", f"suite.path={folder}", f"hydra.run.dir={tmp_path}/run")
    assert says in line


def test_a_multiple_choice_row_offers_its_right_answer(folder: Path) -> None:
    change(folder, "upper", metric="multiple_choice")
    write_rows(folder, "upper", [{"input": "x", "output": "y", "choices": ["z", "w"]}])
    with pytest.raises(FileProblemError, match=r"upper\.jsonl:1: metric multiple_choice: the output 'y' is none of"):
        read(folder)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileProblemError, match="nothing: no such folder"):
        read(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileProblemError, match=r"no such file: .*empty/tasks\.json"):
        read(tmp_path / "empty")
    (tmp_path / "empty/tasks.json").write_text("{}")
    with pytest.raises(ValueError, match="has no task to read"):
        read(tmp_path / "empty")


def test_only_evaluation_is_left_of_a_suite_without_training_rows(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_records(folder, {n: {**r, "splits": {"test": [0, 10]}} for n, r in RECORDS.items()})
    assert read(folder).split("train").tasks == ()
    monkeypatch.chdir(tmp_path)
    where = ("suite=folder", f"suite.path={folder}", f"hydra.run.dir={tmp_path}/run")
    assert "has no training tasks" in refused(capsys, "train", *where)
    line = refused(capsys, "train_library", "tasks=[upper]", *where)
    assert "task 'upper' has no training examples: it can only be evaluated" in line
