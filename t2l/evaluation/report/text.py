"""report.md, written from what report.json holds: the tables, as a paper would print them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from t2l.evaluation.conditions import conditions_text
from t2l.evaluation.report.cost_text import cost_parts
from t2l.evaluation.report.findings import closest_controls
from t2l.evaluation.report.header import header_lines
from t2l.evaluation.report.markdown import interval_text, markdown_table, number_text
from t2l.evaluation.report.rows import in_order, pairs_of_recipes, recipes_in, unpaired_recipes
from t2l.evaluation.report.task_figure import scores_by_task

HEADLINE_SEEDS = 3
"""training seeds without which a claim is preliminary"""
SENTENCES = 8
"""claims that are told as sentences; more are told as a table"""
REDUNDANT = "condition redundant"
REDUNDANT_WHY = (
    "the base model could read the task's description in its own prompt, so a score does not show that the adapter "
    "followed it"
)


def score_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown table: one row per contender, one column per split, mean and 95 % interval.

    Args:
        rows: `results` of report.json.
    """
    splits = in_order(rows, "split")
    texts = {(r["contender"], r["split"]): interval_text(r["mean"], r["ci95"]) for r in rows}
    names = in_order(rows, "contender")
    return markdown_table(["contender", *splits], [[n, *(texts.get((n, s), "") for s in splits)] for n in names])


def _difference_table(rows: Sequence[Mapping[str, Any]], other: str, header: Sequence[str], seeds: bool = False) -> str:
    """One row per pair, one column per split; a star where the interval leaves zero out.

    Args:
        other: key of what is taken away.
        header: of the pair's two columns.
        seeds: whether the number of training seeds gets a column.
    """
    splits = in_order(rows, "split")
    texts = {
        (r["contender"], r[other], r["split"]): interval_text(r["difference"], r["ci95"], "+.2f")
        + (" *" if r["distinguishable"] else "")
        for r in rows
    }
    counts = {(r["contender"], r[other]): str(r.get("n_seeds", "")) for r in rows}
    lines = [
        [*pair, *([count] if seeds else []), *(texts.get((*pair, s), "") for s in splits)]
        for pair, count in counts.items()
    ]
    return markdown_table([*header, *(["seeds"] if seeds else []), *splits], lines)


def _recovered_table(fractions: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for f in fractions:
        fraction = "nothing to recover" if f["fraction"] is None else interval_text(f["fraction"], f["ci95"])
        rows.append([f["contender"], f["split"], fraction])
    return markdown_table(["contender", "split", "(generated - base) / (oracle - base)"], rows)


def report_text(data: Mapping[str, Any]) -> str:
    """report.md. What a report of an earlier version does not hold is left out.

    Args:
        data: what report.json holds.
    """
    of, metric = data.get("provenance") or {}, data["results"][0]["metric"] if data["results"] else ""
    lines = ["# Report", "", *header_lines(data), ""]
    lines.append(
        f"Metric: {metric}, greedy decoding. Means over tasks with 95 % bootstrap intervals over training seeds (where "
        "there are several), tasks and examples."
    )
    if (decoding := of.get("decoding", "greedy")) != "greedy":
        lines += ["", f"Decoding: {decoding}."]
    if data.get("condition_redundant"):
        lines += ["", f"**{REDUNDANT}**: {REDUNDANT_WHY}."]
    lines += ["", score_table(data["results"]), "", "![scores](scores.png)", *_in_context_text(data)]
    if data.get("content"):
        about = "Share of answers that hold the answer itself as whole words, in whatever form and among whatever else."
        lines += _section("Content, whatever the form", about, score_table(data["content"]))
    lines += [*_control_text(data), *_recipe_text(data), *_against_text(data)]
    if data.get("recovered"):
        title = "How much of what training gains does generation gain?"
        lines += _section(title, _recovered_table(data["recovered"]))
    if data.get("costs"):
        lines += _section("What does it cost?", *cost_parts(data))
    lines += [*_task_text(data), *_robustness_text(data), *_confidence_text(data)]
    if data.get("map"):
        about = "Generated adapters (dots) and oracles (crosses) of the same training tasks, by the directions of their products."
        lines += _section("Where do adapters lie?", about, "![map](map.png)", "![norms](norms.png)")
    lines += _data_text(data)
    lines += [
        "",
        "## Provenance",
        "",
        *conditions_text(of.get("conditions")),
        "Everything that went in (config, suite, library, checkpoints, versions): `report.json`.",
        "",
    ]
    return "\n".join(lines)


def _control_text(data: Mapping[str, Any]) -> list[str]:
    if not data.get("controls"):
        return []
    return _section(
        "Does the adapter follow its description?",
        "Matched minus control, paired by example; a star where the interval leaves zero out.",
        _headline_text(data),
        _difference_table(data["controls"], "control", ("contender", "matched - control"), seeds=True),
        "![controls](controls.png)",
    )


def _headline_text(data: Mapping[str, Any]) -> str:
    """The report's claims: a few as sentences, many as a table."""
    lines = data.get("headline") or ()
    if len(lines) <= SENTENCES:
        return "\n".join(f"- {line}" for line in lines)
    rows = [
        [
            contender, split, "yes" if row["ci95"][0] > 0 else "not shown", row["control"],
            interval_text(row["difference"], row["ci95"], "+.2f"), str(row["n_seeds"]),
            "preliminary" if row["n_seeds"] < HEADLINE_SEEDS else "",
        ]
        for (contender, split), row in closest_controls(data["controls"]).items()
    ]  # fmt: skip
    header = ["contender", "split", "follows its description", "closest control", "matched minus it", "seeds", ""]
    few = f"Preliminary: fewer than {HEADLINE_SEEDS} training seeds."
    return "\n\n".join([markdown_table(header, rows), few])


def _recipe_text(data: Mapping[str, Any]) -> list[str]:
    """Recipes against each other: each pair once."""
    rows, apart = pairs_of_recipes(data), unpaired_recipes(data)
    if not rows and not apart:
        return []
    parts = []
    if rows:
        parts = [
            "Recipe minus other recipe, matched adapters of both, paired by example, with 95 % bootstrap intervals; a star "
            f"where the interval leaves zero out. These are {len(rows)} intervals: were there no differences, about one in "
            "twenty would have a star by chance.",
            _difference_table(rows, "other", ("recipe", "minus recipe"), seeds=True),
            "![recipes](recipes.png)",
        ]
    if apart:
        pairs = "; ".join(" and ".join(pair) for pair in apart)
        parts.append(f"Not paired, since their numbers of training seeds differ and neither is one: {pairs}.")
    return _section("How do the recipes compare?", *parts)


def _against_text(data: Mapping[str, Any]) -> list[str]:
    recipes = recipes_in(data)
    rows = [r for r in data.get("against") or () if r["other"] not in recipes]
    if not rows:
        return []
    about = "Generated minus other, paired by example; a star where the interval leaves zero out."
    return _section(
        "What does it gain over the others?",
        about,
        _difference_table(rows, "other", ("generated", "minus"), seeds=True),
    )


def _task_text(data: Mapping[str, Any]) -> list[str]:
    if not data.get("by_task"):
        return []
    names, by_split = scores_by_task(data["by_task"])
    rows = [[task, split, *(number_text(s, ".2f") for s in of[task])] for split, of in by_split.items() for task in of]
    about = (
        "Mean score of each task over examples and training seeds, without controls (`t2l report` and `report.json` have "
        "theirs). In the page, a click on a column's head sorts by it."
    )
    table = markdown_table(["task", "split", *names], rows)
    return _section("Which tasks does it get right?", about, "![tasks](tasks.png)", table)


def _section(title: str, *parts: str) -> list[str]:
    """Lines of Markdown: a heading, and what stands under it, with an empty line before each."""
    return [line for part in (f"## {title}", *parts) for line in ("", part)]


def _in_context_text(data: Mapping[str, Any]) -> list[str]:
    if not data.get("in_context"):
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
        rows = (data.get("robustness") or {}).get(kind, [])
        if rows:
            table = [[r["contender"], r["split"], str(r[kind]), interval_text(r["mean"], r["ci95"])] for r in rows]
            scores = markdown_table(["contender", "split", kind, "score"], table)
            lines += _section(title, scores, f"![{kind}]({kind}.png)")
    return lines


def _confidence_text(data: Mapping[str, Any]) -> list[str]:
    if not data.get("confidence"):
        return []
    rows = [
        [name, f"{c['auroc']:.3f}", f"{c['expected_calibration_error']:.3f}", str(c["n_fitted"]), str(c["n_tested"])]
        for name, c in data["confidence"].items()
    ]
    header = ["contender", "AUROC, descriptions against foreign text", "calibration error", "fitted on", "tested on"]
    title = "Does an adapter's confidence tell how good it is?"
    return _section(title, markdown_table(header, rows), "![confidence](confidence.png)")


def _data_text(data: Mapping[str, Any]) -> list[str]:
    of, overlap = data.get("provenance") or {}, data.get("overlap") or []
    lines = ["", "## Is what is called unseen unseen?", ""]
    if "selection" in of:
        lines += [f"Model selection: {of['selection']}.", ""]
    unchecked = of.get("unchecked", [])
    if unchecked:
        more = f" and {len(unchecked) - 10} more" if len(unchecked) > 10 else ""
        some = ", ".join(unchecked[:10]) + more
        lines.append(f"Without a record of what they were trained on, so not checked: {some}.")
    lines += [f"Note: {note}." for note in of.get("data_notes", [])]
    if not overlap and not unchecked:
        lines.append(
            "Training and scored tasks, descriptions and examples share nothing that a split claims to be unseen."
        )
    if overlap:
        rows = [[o["split"], o["task"], o["kind"], o["detail"]] for o in overlap]
        lines += ["", markdown_table(["split", "task", "kind", "what"], rows)]
    return lines
