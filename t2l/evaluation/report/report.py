"""report.json, report.md, report.html, figures, and every answer given, from a scored board."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from t2l.evaluation.board import Cell
from t2l.evaluation.conditions import conditions_text
from t2l.evaluation.contenders.base import Base
from t2l.evaluation.contenders.generated import CONTROLS
from t2l.evaluation.contenders.interface import kinds
from t2l.evaluation.contenders.oracle import Oracle
from t2l.evaluation.report.against import differences, paired_row
from t2l.evaluation.report.content import by_content, content_rows, has_core
from t2l.evaluation.report.figures import draw_figures
from t2l.evaluation.report.findings import Findings, closest_controls
from t2l.evaluation.report.html_page import page
from t2l.evaluation.statistics import recovered_fraction
from t2l.files import write_own

HEADLINE_SEEDS = 3
"""training seeds without which a claim is preliminary"""
REDUNDANT = "condition redundant"
REDUNDANT_WHY = (
    "the base model could read the task's description in its own prompt, so a score does not show that the adapter "
    "followed it"
)
FIGURES = ("scores", "controls", "costs", "style", "scale", "confidence", "map", "norms")
REPORT_FILES = ("report.json", "report.md", "report.html", "answers.jsonl", *(f"{name}.png" for name in FIGURES))
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


def interval_text(mean: float, interval: Sequence[float], form: str = ".2f") -> str:
    """A mean and its interval, as tables print them."""
    return f"{mean:{form}} [{interval[0]:{form}}, {interval[1]:{form}}]"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def score_table(cells: Sequence[Cell]) -> str:
    """Markdown table: one row per contender, one column per split, mean and 95 % interval."""
    splits = list(dict.fromkeys(c.split for c in cells))
    table = {(c.contender, c.split): c.estimate for c in cells}
    rows = []
    for contender in dict.fromkeys(c.contender for c in cells):
        estimates = [table.get((contender, s)) for s in splits]
        rows.append([contender, *("" if e is None else interval_text(e.mean, (e.low, e.high)) for e in estimates)])
    return markdown_table(["contender", *splits], rows)


def _content_table(rows: Sequence[Mapping[str, Any]]) -> str:
    splits = list(dict.fromkeys(r["split"] for r in rows))
    texts = {(r["contender"], r["split"]): interval_text(r["mean"], r["ci95"]) for r in rows}
    names = dict.fromkeys(r["contender"] for r in rows)
    return markdown_table(["contender", *splits], [[n, *(texts.get((n, s), "") for s in splits)] for n in names])


def _control_table(differences: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for d in differences:
        difference = interval_text(d["difference"], d["ci95"], "+.2f")
        verdict = "" if d["distinguishable"] else "not distinguishable"
        rows.append([d["contender"], d["control"], d["split"], difference, str(d["n_seeds"]), verdict])
    return markdown_table(["contender", "control", "split", "matched - control", "seeds", ""], rows)


def _against_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """One row per pair of contenders, one column per split; a star where the interval leaves zero out."""
    splits = list(dict.fromkeys(r["split"] for r in rows))
    texts = {
        (r["contender"], r["other"], r["split"]): interval_text(r["difference"], r["ci95"], "+.2f")
        + (" *" if r["distinguishable"] else "")
        for r in rows
    }
    pairs = dict.fromkeys((r["contender"], r["other"]) for r in rows)
    return markdown_table(
        ["generated", "minus", *splits], [[*pair, *(texts.get((*pair, s), "") for s in splits)] for pair in pairs]
    )


def _recovered_table(fractions: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for f in fractions:
        fraction = "nothing to recover" if f["fraction"] is None else interval_text(f["fraction"], f["ci95"])
        rows.append([f["contender"], f["split"], fraction])
    return markdown_table(["contender", "split", "(generated - base) / (oracle - base)"], rows)


def _text(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _cost_table(costs: Sequence[Mapping[str, Any]], scores: Mapping[tuple[str, str], float]) -> str:
    """Costs of each contender, and its mean score on every split beside them."""
    splits = list(dict.fromkeys(split for _, split in scores))
    header = [
        "contender", "trainable parameters", "training per task (s)", "generation per adapter (ms)", "adapter bytes",
        "prompt tokens", "MFLOPs per answer", "ms per answer", *splits,
    ]  # fmt: skip
    rows = []
    for c in costs:
        generation, flops, time = c["generation_time_s"], c["flops_per_answer"], c["time_per_answer_s"]
        rows.append(
            [
                c["contender"],
                f"{c['trainable_parameters']:,}",
                _text(c["training_time_s"], ".2f"),
                _text(None if generation is None else 1000 * generation, ".2f"),
                f"{c['adapter_bytes']:,}",
                _text(c["prompt_tokens"], ".1f"),
                _text(None if flops is None else flops / 1e6, ".1f"),
                _text(None if time is None else 1000 * time, ".2f"),
                *(_text(scores.get((c["contender"], split)), ".2f") for split in splits),
            ]
        )
    return markdown_table(header, rows)


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
        "provenance": dict(found.provenance),
    }
    if has_core(found.cells):
        data["content"] = content_rows([by_content(c, found.samples, found.seed) for c in found.cells])
    data["headline"] = headline(data)
    return data


def report_text(found: Findings, data: Mapping[str, Any]) -> str:
    """report.md: the tables, as a paper would print them."""
    lines = [
        "# Report",
        "",
        f"Metric: {found.metric}, greedy decoding. Means over tasks with 95 % bootstrap intervals over training seeds (where "
        "there are several), tasks and examples.",
    ]
    if (decoding := data["provenance"].get("decoding", "greedy")) != "greedy":
        lines += ["", f"Decoding: {decoding}."]
    if data["condition_redundant"]:
        lines += ["", f"**{REDUNDANT}**: {REDUNDANT_WHY}."]
    lines += ["", score_table(found.cells), "", "![scores](scores.png)", *_in_context_text(data)]
    if data.get("content"):
        about = "Share of answers that hold the answer itself as whole words, in whatever form and among whatever else."
        lines += _section("Content, whatever the form", about, _content_table(data["content"]))
    if data["controls"]:
        lines += _section(
            "Does the adapter follow its description?",
            "Matched minus control, paired by example.",
            "\n".join(f"- {line}" for line in data["headline"]),
            _control_table(data["controls"]),
            "![controls](controls.png)",
        )
    if data["against"]:
        about = "Generated minus other, paired by example; a star where the interval leaves zero out."
        lines += _section("What does it gain over the others?", about, _against_table(data["against"]))
    if data["recovered"]:
        title = "How much of what training gains does generation gain?"
        lines += _section(title, _recovered_table(data["recovered"]))
    if data["costs"]:
        scores = {k: c.estimate.mean for k, c in found.by_key.items()}
        lines += _section("What does it cost?", _cost_table(data["costs"], scores), "![costs](costs.png)")
    lines += _robustness_text(data) + _confidence_text(data)
    if found.map:
        about = "Generated adapters (dots) and oracles (crosses) of the same training tasks, by the directions of their products."
        lines += _section("Where do adapters lie?", about, "![map](map.png)", "![norms](norms.png)")
    lines += _data_text(data)
    lines += [
        "",
        "## Provenance",
        "",
        *conditions_text(data["provenance"].get("conditions")),
        "Everything that went in (config, suite, library, checkpoints, versions): `report.json`.",
        "",
    ]
    return "\n".join(lines)


def _section(title: str, *parts: str) -> list[str]:
    """Lines of Markdown: a heading, and what stands under it, with an empty line before each."""
    return [line for part in (f"## {title}", *parts) for line in ("", part)]


def _in_context_text(data: Mapping[str, Any]) -> list[str]:
    if not data["in_context"]:
        return []
    about = "How solved examples are put to the base was chosen for each split, as whichever format scored highest:"
    lines = [f"- {name} on {split}: {how}" for name, of in data["in_context"].items() for split, how in of.items()]
    return ["", about, "", *lines]


def _robustness_text(data: Mapping[str, Any]) -> list[str]:
    lines: list[str] = []
    for kind, title in (
        ("style", "How do other people's descriptions fare?"),
        ("scale", "Does the adapter's scale matter?"),
    ):
        rows = data["robustness"].get(kind, [])
        if rows:
            table = [[r["contender"], r["split"], str(r[kind]), interval_text(r["mean"], r["ci95"])] for r in rows]
            scores = markdown_table(["contender", "split", kind, "score"], table)
            lines += _section(title, scores, f"![{kind}]({kind}.png)")
    return lines


def _confidence_text(data: Mapping[str, Any]) -> list[str]:
    if not data["confidence"]:
        return []
    rows = [
        [name, f"{c['auroc']:.3f}", f"{c['expected_calibration_error']:.3f}", str(c["n_fitted"]), str(c["n_tested"])]
        for name, c in data["confidence"].items()
    ]
    header = ["contender", "AUROC, descriptions against foreign text", "calibration error", "fitted on", "tested on"]
    title = "Does an adapter's confidence tell how good it is?"
    return _section(title, markdown_table(header, rows), "![confidence](confidence.png)")


def _data_text(data: Mapping[str, Any]) -> list[str]:
    lines = ["", "## Is what is called unseen unseen?", ""]
    if "selection" in data["provenance"]:
        lines += [f"Model selection: {data['provenance']['selection']}.", ""]
    unchecked = data["provenance"].get("unchecked", [])
    if unchecked:
        more = f" and {len(unchecked) - 10} more" if len(unchecked) > 10 else ""
        some = ", ".join(unchecked[:10]) + more
        lines.append(f"Without a record of what they were trained on, so not checked: {some}.")
    lines += [f"Note: {note}." for note in data["provenance"].get("data_notes", [])]
    if not data["overlap"] and not unchecked:
        lines.append(
            "Training and scored tasks, descriptions and examples share nothing that a split claims to be unseen."
        )
    if data["overlap"]:
        rows = [[o["split"], o["task"], o["kind"], o["detail"]] for o in data["overlap"]]
        lines += ["", markdown_table(["split", "task", "kind", "what"], rows)]
    return lines


class FigureError(ValueError):
    """A figure of a report could not be drawn; everything else of the report is there."""


def write_report(folder: Path, found: Findings) -> dict[str, Any]:
    """Writes answers.jsonl, report.json and report.md into a folder, then figures and report.html.

    Returns what report.json holds.

    Raises:
        FileProblemError: files of these names are not t2l's (`check_own` of REPORT_FILES tells before).
        FigureError: a figure could not be drawn; all the rest is written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    data = report_data(found)
    write_answers(folder / "answers.jsonl", found.cells)
    write_own(folder / "report.json", json.dumps(data, indent=2) + "\n")
    text = report_text(found, data)
    write_own(folder / "report.md", text)
    figures, failed = draw_figures(found, data)
    for name, image in figures.items():
        write_own(folder / f"{name}.png", image)
    for name in failed:
        text = text.replace(f"![{name}]({name}.png)", f"(The figure {name} could not be drawn.)")
    write_own(folder / "report.md", text)
    write_own(folder / "report.html", page(text, figures))
    if failed:
        name, problem = next(iter(failed.items()))
        raise FigureError(
            f"the report is in {folder}, but without {len(failed)} of its figures, first {name!r} ({problem}); the same "
            "command draws them again from the answers that are there"
        )
    return data
