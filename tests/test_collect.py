"""One task folder out of several (`experiments.smollm2.collect`)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from experiments.smollm2.collect import Limits, collect, main
from t2l.tasks import suites
from t2l.tasks.suites.folder import FolderSuiteConfig

LONG = "x" * 30
LIMITS = Limits(characters=20, rows=8, descriptions=2, fewest=4)


def write(folder: Path, name: str, rows: list[dict[str, Any]], **record: Any) -> Path:
    folder.mkdir(exist_ok=True)
    tasks = json.loads((folder / "tasks.json").read_text()) if (folder / "tasks.json").is_file() else {}
    tasks[name] = {"descriptions": ["one", "two", "three"], "family": name, "n": len(rows), **record}
    (folder / "tasks.json").write_text(json.dumps(tasks))
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return folder


def rows(count: int, start: int = 0, output: str = "b") -> list[dict[str, Any]]:
    return [{"input": f"in {i}", "output": output} for i in range(start, start + count)]


def test_short_rows_stay_in_the_ranges_they_were_in(tmp_path: Path) -> None:
    long = {"input": LONG, "output": "b"}
    many = [*rows(5), long, *rows(12, 5), long, *rows(3, 17)]
    one = write(
        tmp_path / "one", "kept", many, splits={"train": [0, 19], "test": [19, 22]}, descriptions=["a", LONG, "b", "c"]
    )
    assert collect([one], tmp_path / "out", LIMITS) == (1, 0)
    record = json.loads((tmp_path / "out/tasks.json").read_text())["kept"]
    assert record["splits"] == {"train": [0, 8], "test": [8, 11]}
    assert (record["n"], record["descriptions"], record["family"]) == (11, ["a", "b"], "kept")
    found = [json.loads(line)["input"] for line in (tmp_path / "out/kept.jsonl").read_text().splitlines()]
    assert found == [f"in {i}" for i in (*range(8), 17, 18, 19)]
    assert set(suites.build(FolderSuiteConfig(path=str(tmp_path / "out"), held_fraction=0)).tasks) == {"kept"}


@pytest.mark.parametrize(
    "task",
    [
        {"rows": rows(3)},  # few
        {"rows": [*rows(5), *rows(6, 5, LONG)]},  # mostly long
        {"rows": rows(8), "descriptions": [LONG]},
        {"rows": [{"input": "a", "output": "b", "references": [LONG]}] * 6},
    ],
)
def test_of_what_little_is_left_nothing_is(task: dict[str, Any], tmp_path: Path) -> None:
    one = write(tmp_path / "one", "gone", task.pop("rows"), **task)
    two = write(tmp_path / "two", "kept", rows(6))
    assert collect([one, two], tmp_path / "out", LIMITS) == (1, 1)
    assert sorted(p.name for p in (tmp_path / "out").glob("[!.]*")) == ["kept.jsonl", "tasks.json"]


def test_a_name_of_two_folders_stands_for_two_tasks(tmp_path: Path) -> None:
    folders = [write(tmp_path / name, "plural", rows(6, output=name)) for name in ("one", "two")]
    assert collect(folders, tmp_path / "out", LIMITS) == (2, 0)
    outputs = {p.stem: json.loads(p.read_text().splitlines()[0])["output"] for p in (tmp_path / "out").glob("*.jsonl")}
    assert outputs == {"plural": "one", "two_plural": "two"}


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("tasks.json", "[]", "tasks.json must be an object of tasks"),
        ("tasks.json", '{"x": 3}', "task 'x' must be an object with a list of descriptions"),
        ("tasks.json", '{"gone": {"descriptions": ["a"]}}', "gone.jsonl"),
        ("kept.jsonl", '{"input": "a", "output": "b"}\n{"input": ', "kept.jsonl:2 is not valid JSON"),
        ("kept.jsonl", '{"input": "a", "output": 3}', "kept.jsonl:1 must be an object with the texts"),
        ("kept.jsonl", '{"input": "a", "output": "b"}', "none of the 1 tasks is short enough"),
    ],
)
def test_what_is_no_task_folder_is_said_and_leaves_nothing(
    file: str, text: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = write(tmp_path / "one", "kept", rows(60))
    (one / file).write_text(text)
    with pytest.raises(SystemExit) as stopped:
        main([str(one), "--out", str(tmp_path / "out")])
    assert stopped.value.code == 2
    assert says in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["one"]


def test_a_line_separator_within_a_text_ends_no_row(tmp_path: Path) -> None:
    one = write(tmp_path / "one", "kept", rows(4))
    (one / "kept.jsonl").write_text('{"input": "a\u2028b", "output": "c"}\n' * 4, encoding="utf-8")
    assert collect([one], tmp_path / "out", LIMITS) == (1, 0)
    assert len((tmp_path / "out/kept.jsonl").read_text(encoding="utf-8").split("\n")) == 5


def test_a_missing_folder_is_named_and_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")])
    assert stopped.value.code == 2
    assert "nowhere" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
