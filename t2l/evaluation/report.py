"""report.json, report.md, a figure, and every answer given, from scored cells."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from t2l.evaluation.board import Cell, paired_difference
from t2l.evaluation.costs import cost_table
from t2l.evaluation.statistics import Estimate
from t2l.files import write_json, write_text

CONTROLS = ("shuffled", "random_text")


def _splits(cells: Sequence[Cell]) -> list[str]:
    return list(dict.fromkeys(c.split for c in cells))


def _by_key(cells: Sequence[Cell]) -> dict[tuple[str, str], Cell]:
    return {(c.contender, c.split): c for c in cells}


def control_differences(cells: Sequence[Cell], samples: int, seed: int) -> list[dict[str, Any]]:
    """Matched minus each control, paired by example, for every generated contender and split."""
    table, rows = _by_key(cells), []
    for (contender, split), cell in table.items():
        for control in CONTROLS:
            other = table.get((f"{contender}_{control}", split))
            if other is None:
                continue
            e = paired_difference(cell, other, samples, seed)
            rows.append(
                {
                    "contender": contender,
                    "control": control,
                    "split": split,
                    "difference": round(e.mean, 6),
                    "ci95": [round(e.low, 6), round(e.high, 6)],
                    "distinguishable": not e.low <= 0 <= e.high,
                }
            )
    return rows


def _cell_text(e: Estimate) -> str:
    return f"{e.mean:.2f} [{e.low:.2f}, {e.high:.2f}]"


def score_table(cells: Sequence[Cell]) -> str:
    """Markdown table: one row per contender, one column per split, mean and 95 % interval."""
    splits, table = _splits(cells), _by_key(cells)
    lines = ["| contender | " + " | ".join(splits) + " |", "|---|" + "---|" * len(splits)]
    for contender in dict.fromkeys(c.contender for c in cells):
        row = [_cell_text(table[contender, s].estimate) if (contender, s) in table else "" for s in splits]
        lines.append(f"| {contender} | " + " | ".join(row) + " |")
    return "\n".join(lines)


def _control_table(differences: Sequence[Mapping[str, Any]]) -> str:
    lines = ["| contender | control | split | matched - control | |", "|---|---|---|---|---|"]
    for d in differences:
        verdict = "" if d["distinguishable"] else "not distinguishable"
        low, high = d["ci95"]
        lines.append(
            f"| {d['contender']} | {d['control']} | {d['split']} | {d['difference']:+.2f} [{low:+.2f}, {high:+.2f}] | {verdict} |"
        )
    return "\n".join(lines)


def _figure(cells: Sequence[Cell]) -> bytes:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    splits, table = _splits(cells), _by_key(cells)
    contenders = list(dict.fromkeys(c.contender for c in cells))
    colours = plt.get_cmap("tab20").colors
    figure, axes = plt.subplots(figsize=(2.6 * len(splits) + 2, 4.8), layout="constrained")
    width = 0.85 / len(contenders)
    for i, contender in enumerate(contenders):
        present = [(x, table[contender, s].estimate) for x, s in enumerate(splits) if (contender, s) in table]
        xs = [x + (i - (len(contenders) - 1) / 2) * width for x, _ in present]
        means = [e.mean for _, e in present]
        errors = [[max(0.0, e.mean - e.low) for _, e in present], [max(0.0, e.high - e.mean) for _, e in present]]
        axes.bar(xs, means, width, yerr=errors, color=colours[i % 20], label=contender, error_kw={"lw": 0.8})
    axes.set_xticks(range(len(splits)), [s.replace("_", " ") for s in splits])
    axes.set_ylim(0, 1.05)
    axes.set_ylabel("exact match, mean and 95 % interval")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=min(6, len(contenders)), frameon=False, fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    plt.close(figure)
    return buffer.getvalue()


def write_answers(path: Path, cells: Sequence[Cell]) -> None:
    """Every answer as one JSON line, with the text its adapter was generated from."""
    lines = []
    for cell in cells:
        for a in cell.answers:
            record = {
                "contender": cell.contender,
                "split": cell.split,
                "task": a.question.task,
                "condition": cell.conditions[a.question.adapter] if cell.conditions else None,
                "input": a.question.input,
                "prefix": a.question.prefix,
                "reference": a.question.reference,
                "answer": a.answer,
                "score": a.score,
            }
            lines.append(json.dumps(record))
    write_text(path, "\n".join(lines) + "\n")


def write_report(
    folder: Path,
    cells: Sequence[Cell],
    metric: str,
    provenance: Mapping[str, Any],
    samples: int,
    seed: int,
    costs: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Writes report.json, report.md, scores.png and answers.jsonl into a folder.

    Args:
        costs: rows of `collect_costs`, for the contenders that have any.
    """
    folder.mkdir(parents=True, exist_ok=True)
    differences = control_differences(cells, samples, seed)
    write_answers(folder / "answers.jsonl", cells)
    write_json(
        folder / "report.json",
        {
            "results": [c.row(metric) for c in cells],
            "controls": differences,
            "costs": [dict(c) for c in costs],
            "provenance": dict(provenance),
        },
    )
    (folder / "scores.png").write_bytes(_figure(cells))
    text = f"# Report\n\nMetric: {metric}, greedy decoding. Means over tasks with 95 % bootstrap intervals over tasks and examples.\n\n"
    text += score_table(cells) + "\n\n![scores](scores.png)\n"
    if costs:
        text += "\n## What do trained adapters cost?\n\nMeans over the tasks of each library, and the scores again.\n\n"
        text += cost_table(costs, {k: c.estimate.mean for k, c in _by_key(cells).items()}) + "\n"
    if differences:
        text += "\n## Does the adapter follow its description?\n\nMatched minus control, paired by example.\n\n"
        text += _control_table(differences) + "\n"
    text += (
        "\n## Provenance\n\nEverything that went in (config, suite, library, checkpoints, versions): `report.json`.\n"
    )
    write_text(folder / "report.md", text)
