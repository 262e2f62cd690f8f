"""Suites in the file formats of published ones, with rows made here: what a clone tests without the folder of data beside it.

Each function gives the tasks of one suite: by name, the record of `tasks.json` and the rows of `<task>.jsonl`. The
benchmarks have the splits, row counts and keys of the published files, so the same tests read both.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Tasks = dict[str, tuple[dict[str, Any], list[dict[str, Any]]]]
WORDS = (
    "apple bread chair dog elephant flute garden house island jacket kettle lamp mountain needle orange pencil".split()
)
DESCRIPTIONS = (
    "Given two facts about a pet, decide which of its owners is meant.",
    "Name the person the story says looks after the animal.",
    "Someone in the text feeds the pet; say who.",
    "Find out from the passage whose animal it is.",
    "Read carefully and tell us the keeper's name.",
    "Who takes care of the creature? Answer with one name.",
    "Your answer should be the name of the carer mentioned.",
    "Pick the human responsible for the beast described.",
    "Extract from these sentences the one in charge of the pet.",
    "Write down who owns it, as stated.",
    "The output is a first name: that of the owner.",
    "Identify, using only the passage, the animal's guardian.",
)


def function_vectors() -> Tasks:
    """Rows without splits, scored by exact match."""
    about = {"licence": "MIT", "metric": "exact_match", "kind": "algorithmic", "source": "made by the tests"}
    made: dict[str, tuple[list[str], Callable[[str], str]]] = {
        "capitalize": (["Write the word in capitals.", "Shout the word."], str.upper),
        "capitalize_first_letter": (
            ["Give the first letter as a capital.", "Write the initial."],
            lambda w: w[0].upper(),
        ),
    }
    words = [f"{a}{b}" for a in WORDS for b in ("s", "like", "y", "less")]
    return {
        name: (
            {"descriptions": texts, **about, "n": len(words), "family": name},
            [{"input": w, "output": function(w)} for w in words],
        )
        for name, (texts, function) in made.items()
    }


def instruction_induction() -> Tasks:
    """Declared splits; rows with more than one right answer; the metrics of sets and of any answer."""
    rows = {
        "larger_animal": [{"input": f"{a}, mouse", "output": a} for a in WORDS],
        "translation_en-de": [
            {"input": w, "output": f"{w}haus", "references": [f"{w}haus", f"{w}heim"]} if i % 2 else {"input": w, "output": f"{w}haus"}
            for i, w in enumerate(WORDS)
        ],
        "taxonomy_animal": [{"input": f"{w}, dog, cat", "output": "cat, dog"} for w in WORDS],
    }  # fmt: skip
    metrics = dict(zip(rows, ("exact_match", "contains_any", "exact_set"), strict=True))
    return {
        name: (
            {"descriptions": [f"What {name} says.", f"Do {name}."], "metric": metrics[name], "n": 16,
             "splits": {"train": [0, 12], "test": [12, 16]}, "family": name},
            lines,
        )
        for name, lines in rows.items()
    }  # fmt: skip


def l3_string_edit() -> Tasks:
    """Splits with names of their own, of which none is train, validation or test."""
    return {
        f"re2_000{i}": (
            {"descriptions": [f"replace {letter} with j p", f"{letter} becomes j p"], "metric": "exact_match", "n": 16,
             "splits": {"published": [0, 9], "generated": [9, 16]}, "family": f"re2:()({letter})()@l", "rule_determined": True},
            [{"input": w, "output": w.replace(letter, "jp")} for w in WORDS],
        )
        for i, letter in enumerate("ea", start=1)
    }  # fmt: skip


def sni_subset() -> Tasks:
    """Long inputs, one of the tasks with many descriptions, and ROUGE-L."""
    keepers = ["Anna", "Boris", "Chloe", "David"]
    rows = [
        {"input": f"Passage: {keepers[i % 4]} has a {w} and a parrot called Mo{i}. Question: Who keeps Mo{i}?", "output": keepers[i % 4]}
        for i, w in enumerate(WORDS * 2)
    ]  # fmt: skip
    record = {"n": len(rows), "splits": {"train": [0, 24], "test": [24, 32]}, "kind": "generation", "t2l_task": None}
    return {
        "task002_quoref_answer_generation": (
            {**record, "descriptions": list(DESCRIPTIONS), "metric": "rougeL", "family": "sni:quoref"}, rows,
        ),
        "task033_winogrande_answer_generation": (
            {**record, "descriptions": ["Say who is meant."], "metric": "exact_match", "family": "sni:winogrande"}, rows,
        ),
    }  # fmt: skip


def _choices(question: str, answers: int, labels: str, draw: random.Random) -> dict[str, Any]:
    """A question with labelled choices; the answer is a label."""
    names = draw.sample(WORDS, answers)
    lines = [f"{label}: the {name}" for label, name in zip(labels, names, strict=False)]
    return {"input": "\n".join([question, *lines]), "output": draw.choice(labels[:answers])}


def _arc(i: int, draw: random.Random) -> dict[str, Any]:
    """Most rows have choices A to D, a few 1 to 4 or three alone, as in ARC."""
    labels, answers = ("1234", 4) if i % 60 == 7 else ("ABCD", 3 if i % 60 == 9 else 4)
    return _choices(f"Which of these is used in experiment {i}?", answers, labels, draw)


def _boolq(i: int, draw: random.Random) -> dict[str, Any]:
    word = draw.choice(WORDS)
    passage = f"{word.title()} -- The {word} of case {i} was made in {1900 + i % 100}: it is old."
    return {
        "input": f"question: is the {word} of case {i} old\npassage: {passage}",
        "output": draw.choice(["true", "false"]),
    }


def _gsm8k(i: int, draw: random.Random) -> dict[str, Any]:
    a, b = draw.randint(2, 40), 7 * i + 3
    told = f"Each of the {a} boxes holds {b}, so there are {a} * {b} = <<{a}*{b}={a * b}>>{a * b}.\n#### {a * b:,}"
    return {"input": f"There are {a} boxes of {b} pencils. How many pencils are there?", "output": told}


def _hellaswag(i: int, draw: random.Random) -> dict[str, Any]:
    return _choices(f"Cooking: A woman stands in kitchen {i}. she", 4, "0123", draw)


def _piqa(i: int, draw: random.Random) -> dict[str, Any]:
    return _choices(f"How do I open jar {i}?", 2, "01", draw)


def _winogrande(i: int, draw: random.Random) -> dict[str, Any]:
    return _choices(f"Ann thanked Eve for gift {i} because _ had given it.", 2, "AB", draw)


def _openbookqa(i: int, draw: random.Random) -> dict[str, Any]:
    return _choices(f"In winter {i} one needs", 4, "ABCD", draw)


def _humaneval(i: int, _: random.Random) -> dict[str, Any]:
    name = f"plus_{i}"
    head = f"from typing import List\n\n\ndef {name}(numbers: List[int]) -> List[int]:\n"
    prompt = f'{head}    """ Add {i} to each number.\n    >>> {name}([1])\n    [{1 + i}]\n    """\n'
    body = f"    result = []\n    for n in numbers:\n        result.append(n + {i})\n    return result\n"
    test = f"\n\nMETADATA = {{}}\n\n\ndef check(candidate):\n    assert candidate([1, 2]) == [{1 + i}, {2 + i}]\n"
    return {"input": prompt, "output": body, "entry_point": name, "test": test, "id": f"made/{i}"}


def _mbpp(i: int, _: random.Random) -> dict[str, Any]:
    code = f"def times_{i}(x):\n\treturn x * {i}"
    asserts = [f"assert times_{i}({n}) == {n * i}" for n in (1, 3)]
    return {
        "input": f"Write a function that multiplies a number by {i}.",
        "output": code,
        "test_list": asserts,
        "id": i,
    }


HALVES = {"train": [0, 300], "test": [300, 600]}
FINAL_NUMBER, FUNCTION = 'final_number (text after "#### ")', 'pass@1 (runs the "test" field; code execution)'
BENCHMARKS: dict[str, tuple[Callable[[int, random.Random], dict[str, Any]], str, str, dict[str, list[int]]]] = {
    "arc_challenge": (_arc, "exact_match", "arc", HALVES),
    "arc_easy": (_arc, "exact_match", "arc", HALVES),
    "openbookqa": (_openbookqa, "exact_match", "openbookqa", HALVES),
    "winogrande": (_winogrande, "exact_match", "winogrande", {"validation": [0, 300]}),
    "boolq": (_boolq, "exact_match", "boolq", {"train": [0, 300], "validation": [300, 600]}),
    "piqa": (_piqa, "exact_match", "piqa", {"validation": [0, 300]}),
    "hellaswag": (_hellaswag, "exact_match", "hellaswag", {"validation": [0, 300]}),
    "gsm8k": (_gsm8k, FINAL_NUMBER, "gsm8k", HALVES),
    "humaneval": (_humaneval, FUNCTION, "code", {"test": [0, 164]}),
    "mbpp": (
        _mbpp, 'pass@1 (runs "test_list"; code execution)', "code",
        {"train": [0, 300], "validation": [300, 390], "test": [390, 690], "prompt": [690, 700]},
    ),
}  # fmt: skip
"""by name: a row from its number, metric, family, and line ranges of the splits"""


def t2l_benchmarks() -> Tasks:
    """The ten benchmarks of Text-to-LoRA: splits as published, labels drawn by seed."""
    found: Tasks = {}
    for name, (row, metric, family, splits) in BENCHMARKS.items():
        draw, n = random.Random(name), max(end for _, end in splits.values())
        texts = [f"Answer as {name} wants it.", f"Solve a question of {name}."]
        record = {"descriptions": texts, "metric": metric, "n": n, "splits": splits, "family": family, "note": "made"}
        found[name] = (record, [row(i, draw) for i in range(n)])
    return found


SUITES: Mapping[str, Callable[[], Tasks]] = {
    f.__name__: f for f in (function_vectors, instruction_induction, l3_string_edit, sni_subset, t2l_benchmarks)
}


def make_suites(folder: Path) -> Path:
    """Writes every suite into a folder of its own, as files of the published suites. Returns the folder."""
    for name, tasks in SUITES.items():
        (folder / name).mkdir(parents=True)
        made = tasks()
        (folder / name / "tasks.json").write_text(
            json.dumps({task: record for task, (record, _) in made.items()}, indent=1)
        )
        for task, (_, rows) in made.items():
            lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            (folder / name / f"{task}.jsonl").write_text(lines, encoding="utf-8")
    return folder
