"""report.json, report.md, report.html, figures, and every answer given, from a scored board."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from t2l.evaluation.board import Cell
from t2l.evaluation.contenders.base import Base
from t2l.evaluation.contenders.generated import CONTROLS
from t2l.evaluation.contenders.interface import kinds
from t2l.evaluation.contenders.oracle import Oracle
from t2l.evaluation.report.against import differences, paired_row
from t2l.evaluation.report.content import by_content, content_rows, has_core
from t2l.evaluation.report.figures import draw_figures
from t2l.evaluation.report.findings import Findings, closest_controls
from t2l.evaluation.report.forms import FIGURE_FORMS, FIGURES
from t2l.evaluation.report.html_page import page
from t2l.evaluation.report.markdown import interval_text
from t2l.evaluation.report.text import HEADLINE_SEEDS, REDUNDANT, report_text
from t2l.evaluation.statistics import recovered_fraction
from t2l.files import write_own

REPORT_FILES = (
    "report.json", "report.md", "report.html", "answers.jsonl", *(f"{name}.{form}" for name in FIGURES for form in FIGURE_FORMS),
)  # fmt: skip
"""what a report's folder holds"""


def control_differences(cells: Sequence[Cell], samples: int, seed: int) -> list[dict[str, Any]]:
    """Matched minus each control, paired by example, for every generated contender and split."""
    table, rows = {(c.contender, c.split): c for c in cells}, []
    for (contender, split), cell in table.items():
        for control in CONTROLS:
            other = table.get((f"{contender}_{control}", split))
            if other is not None:
                about = {"contender": contender, "control": control, "split": split}
                rows.append({**about, **paired_row(cell, other, samples, seed)})
    return rows


def recovered_fractions(found: Findings) -> list[dict[str, Any]]:
    """(generated - base) / (oracle - base) for every generated contender and split where both others are."""
    table, rows = found.by_key, []
    for contender in found.generated:
        for split in found.splits:
            ours, base, oracle = (table.get((name, split)) for name in (contender, Base.name, Oracle.name))
            if ours is None or base is None or oracle is None:
                continue
            key = f"recovered:{contender}:{split}"
            e = recovered_fraction(ours.scores, base.scores, oracle.scores, found.samples, found.seed, key)
            fraction = {"fraction": None} if e is None else e.row("fraction")
            rows.append({"contender": contender, "split": split, **fraction})
    return rows


def headline(data: Mapping[str, Any]) -> list[str]:
    """What the report claims about text conditioning, one sentence per generated contender and split."""
    lines = []
    for (contender, split), closest in closest_controls(data["controls"]).items():
        follows = closest["ci95"][0] > 0
        verdict = "follows its description" if follows else "is not distinguishable from every control"
        few = (
            f" Preliminary: fewer than {HEADLINE_SEEDS} training seeds." if closest["n_seeds"] < HEADLINE_SEEDS else ""
        )
        lines.append(
            f"{contender} on {split} {verdict}; closest control: {closest['control']}, matched minus it "
            f"{interval_text(closest['difference'], closest['ci95'], '+.2f')}, {closest['n_seeds']} training seed(s).{few}"
        )
    return [f"{line} Marked: {REDUNDANT}." for line in lines] if data["condition_redundant"] else lines


def write_answers(path: Path, cells: Sequence[Cell]) -> None:
    """Every answer as one JSON line, with the text its adapter was generated from."""
    lines = []
    for cell in cells:
        for number, run in enumerate(cell.runs):
            for a in run.answers:
                record = {
                    "contender": cell.contender,
                    "split": cell.split,
                    "task": a.question.task,
                    "run": number,
                    "condition": run.conditions[a.question.adapter] if run.conditions else None,
                    "input": a.question.input,
                    "prefix": a.question.prefix,
                    "reference": a.question.reference,
                    "answer": a.answer,
                    "score": a.score,
                }
                lines.append(json.dumps(record))
    write_own(path, "\n".join(lines) + "\n")


def in_context_formats(cells: Sequence[Cell]) -> dict[str, dict[str, str]]:
    """How each contender with solved examples in its prompt put them, split by split."""
    choosing = {name for name, kind in kinds().items() if kind.needs.chooses_format}
    found: dict[str, dict[str, str]] = {}
    for cell in cells:
        if cell.contender in choosing and cell.runs[0].conditions:
            found.setdefault(cell.contender, {})[cell.split] = cell.runs[0].conditions[0]
    return found


def report_data(found: Findings) -> dict[str, Any]:
    """Everything in report.json."""
    data: dict[str, Any] = {
        "results": [c.row(found.metric) for c in found.cells],
        "condition_redundant": found.shows_description,
        "controls": control_differences(found.cells, found.samples, found.seed),
        "against": differences(found),
        "recovered": recovered_fractions(found),
        "costs": [dict(c) for c in found.costs],
        "identities": dict(found.identities),
        "robustness": dict(found.robustness),
        "confidence": dict(found.confidence),
        "in_context": in_context_formats(found.cells),
        "overlap": [o.row() for o in found.overlaps],
        "by_task": [
            {
                "contender": c.contender,
                "split": c.split,
                "scores": c.by_task(),
                "fingerprints": [r.fingerprint for r in c.runs],
            }
            for c in found.cells
        ],
        "map": dict(found.map),
        "provenance": dict(found.provenance),
    }
    if has_core(found.cells):
        data["content"] = content_rows([by_content(c, found.samples, found.seed) for c in found.cells])
    data["headline"] = headline(data)
    return data


class FigureError(ValueError):
    """A figure of a report could not be drawn; everything else of the report is there."""


def write_report(folder: Path, found: Findings, vector: str | None = None) -> dict[str, Any]:
    """Writes answers.jsonl, report.json and report.md into a folder, then figures and report.html.

    Args:
        vector: form that every figure is written in beside PNG, pdf or svg; None: PNG alone.

    Returns what report.json holds.

    Raises:
        FileProblemError: files of these names are not t2l's (`check_own` of REPORT_FILES tells before).
        FigureError: a figure could not be drawn; all the rest is written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    data: dict[str, Any] = json.loads(json.dumps(report_data(found)))
    write_answers(folder / "answers.jsonl", found.cells)
    write_own(folder / "report.json", json.dumps(data, indent=2) + "\n")
    write_own(folder / "report.md", report_text(data))
    text, figures, failed = rendered(data, ["png", *([vector] if vector else [])])
    for name, images in figures.items():
        for form, image in images.items():
            write_own(folder / f"{name}.{form}", image)
    write_own(folder / "report.md", text)
    write_own(folder / "report.html", page(text, {name: images["png"] for name, images in figures.items()}))
    if failed:
        name, problem = next(iter(failed.items()))
        raise FigureError(
            f"the report is in {folder}, but without {len(failed)} of its figures, first {name!r} ({problem}); the same "
            "command draws them again from the answers that are there"
        )
    return data


def rendered(data: Mapping[str, Any], forms: Sequence[str]) -> tuple[str, dict[str, dict[str, bytes]], dict[str, str]]:
    """report.md, every figure by name and form, and of those that could not be drawn, why not.

    Args:
        data: what report.json holds.
        forms: some of `FIGURE_FORMS`.
    """
    text = report_text(data)
    figures, failed = draw_figures(data, forms)
    for name in failed:
        text = text.replace(f"![{name}]({name}.png)", f"(The figure {name} could not be drawn.)")
    return text, figures, failed
