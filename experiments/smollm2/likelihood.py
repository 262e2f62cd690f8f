"""Does the description make the right answer likelier, even where no answer is right yet?

python -m experiments.smollm2.likelihood experiment=everyday_board checkpoints=[runs/sft:last] run_dir=runs/likelihood

Takes the words of `t2l evaluate`. Where every contender scores near zero, exact match cannot tell
a description that is followed a little from one that is not followed. The probability of the reference answer can: its loss in nats per
token under the matched adapter, under each control's, and of the base without one (bare, and told the description), on the same questions, of whole answers and of their content alone (the
answer without what the format puts around it, given what stands before it).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch

from t2l.base_model import BaseModel, label_logits
from t2l.cli.command import command_words, read_command
from t2l.config import register
from t2l.evaluation.config import EvaluateConfig
from t2l.evaluation.contenders.base import Base, Prompted
from t2l.evaluation.contenders.interface import Entry
from t2l.evaluation.context import Context
from t2l.evaluation.data_checks import check_data
from t2l.evaluation.report.markdown import interval_text, markdown_table
from t2l.evaluation.scope import Scope
from t2l.evaluation.scoring import Question
from t2l.evaluation.statistics import Scores, estimate
from t2l.files import write_own
from t2l.lora import LoraSpec, inject
from t2l.objectives.losses import label_loss
from t2l.run.console import fail
from t2l.tasks import IGNORE_INDEX, Example, TokenizedExample, tokenize_examples
from t2l.tasks.batches import collate

ROWS_AT_ONCE = 32
KINDS = ("answer", "content")


def content_labels(tokenizer: Any, question: Question, row: TokenizedExample) -> list[bool]:
    """Which response tokens hold part of the content: all, if the question does not say what that is."""
    start = question.reference.find(question.core) if question.core else -1
    if start < 0:
        return [True] * len(row.response_ids)
    found = tokenizer(question.reference, add_special_tokens=False, return_offsets_mapping=True)
    assert tuple(found["input_ids"]) == row.response_ids[: len(found["input_ids"])], question.reference
    end = start + len(question.core)
    inside = [a < end and b > start for a, b in found["offset_mapping"]]
    return inside + [False] * (len(row.response_ids) - len(inside))


@torch.no_grad()
def reference_losses(base: BaseModel, spec: LoraSpec, entry: Entry) -> dict[str, list[float]]:
    """Nats per token of each question's reference answer, whole and of its content, under the question's adapter."""
    questions = entry.questions
    rows = tokenize_examples(base.tokenizer, [Example(q.content, q.reference) for q in questions])
    insides = [content_labels(base.tokenizer, q, r) for q, r in zip(questions, rows, strict=True)]
    found: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for start in range(0, len(rows), ROWS_AT_ONCE):
        batch = range(start, min(start + ROWS_AT_ONCE, len(rows)))
        tokens = collate([rows[i] for i in batch], base.tokenizer.pad_token_id, base.device)
        block: AbstractContextManager[Any] = nullcontext()
        if entry.adapters is not None:
            adapters = entry.adapters.take([questions[i].adapter for i in batch]).to(base.device).to(base.model.dtype)
            block = inject(base.model, spec, adapters)
        with block:
            logits = label_logits(base.model, tokens.input_ids, tokens.attention_mask, tokens.labels)
        inside = torch.tensor([mark for i in batch for mark in insides[i]], device=base.device)
        wanted = {"answer": logits.targets, "content": logits.targets.masked_fill(~inside, IGNORE_INDEX)}
        for kind, targets in wanted.items():
            keep = targets != IGNORE_INDEX
            losses = label_loss(logits.logits[keep], targets[keep], logits.rows[keep], len(batch))
            found[kind] += losses.tolist()
    return found


def by_task(questions: Sequence[Question], values: Sequence[float]) -> list[list[float]]:
    """One seed's values, task by task."""
    groups: dict[str, list[float]] = {}
    for question, value in zip(questions, values, strict=True):
        groups.setdefault(question.task, []).append(value)
    return list(groups.values())


def losses(config: EvaluateConfig) -> dict[tuple[str, str, str, str], list[list[list[float]]]]:
    """Losses [training seeds, tasks, questions] by contender, condition, split and kind.

    Raises ValueError as `t2l evaluate` does, for a checkpoint that was trained on what a split claims to be unseen, too.
    """
    scope = Scope.of(config)
    check_data(scope)
    context = Context.load(scope)
    context.check_tasks()
    bare = [(c, "matched", c.name, context.spec) for c in (Base(), Prompted())]
    matched = [(checkpoint.generated[0].name, checkpoint.generated) for checkpoint in context.checkpoints]
    asked = [*bare, *((g, g.condition, name, g.spec) for name, generated in matched for g in generated)]
    found: dict[tuple[str, str, str, str], list[list[list[float]]]] = {}
    for contender, condition, name, spec in asked:
        for view in scope.views:
            entry = contender.enter(view)
            for kind, values in reference_losses(context.base, spec, entry).items():
                found.setdefault((name, condition, view.name, kind), []).append(by_task(entry.questions, values))
    return found


def measure(config: EvaluateConfig) -> list[dict[str, Any]]:
    """Rows: per contender, condition, split and kind the mean loss and, of controls, control minus matched, with intervals."""
    found = {key: Scores.of(seeds) for key, seeds in losses(config).items()}
    settings, rows = (config.evaluation.bootstrap_samples, config.seed), []
    for (name, condition, split, kind), scores in found.items():
        row: dict[str, Any] = {"contender": name, "condition": condition, "split": split, "kind": kind}
        row |= estimate(scores, *settings, f"{name}:{condition}:{split}:{kind}").row("loss")
        if condition != "matched":
            paired = scores - found[name, "matched", split, kind]
            row["difference"] = estimate(paired, *settings, f"{name}-{condition}:{split}:{kind}").row("difference")
        rows.append(row)
    return rows


def table(rows: Sequence[dict[str, Any]], kind: str) -> str:
    """One line per contender and condition: loss, and for controls how many nats the matched adapter is better by."""
    splits = list(dict.fromkeys(r["split"] for r in rows))
    lines: dict[str, dict[str, str]] = {}
    for r in (r for r in rows if r["kind"] == kind):
        text = f"{r['loss']:.2f}"
        if "difference" in r:
            text += f" ({interval_text(r['difference']['difference'], r['difference']['ci95'], '+.2f')})"
        name = r["contender"] if r["condition"] == "matched" else f"{r['contender']}, {r['condition']}"
        lines.setdefault(name, {})[r["split"]] = text
    return markdown_table(["contender", *splits], [[c, *(t.get(s, "") for s in splits)] for c, t in lines.items()])


def main(words: Sequence[str] | None = None) -> None:
    """Measures, prints the tables, and writes likelihood.json into run_dir."""
    given = ["contenders=[generated]", *(sys.argv[1:] if words is None else words)]
    register()
    try:
        (config,) = read_command("evaluate", command_words("evaluate", given)).settings
        if config.run_dir is None:
            raise ValueError("give run_dir=DIR, the folder that likelihood.json is written into")
        rows = measure(config)
        folder = Path(config.run_dir)
        folder.mkdir(parents=True, exist_ok=True)
        write_own(folder / "likelihood.json", json.dumps(rows, indent=2) + "\n")
    except ValueError as error:
        fail(str(error))
    for kind in KINDS:
        print(f"\nLoss of the {kind} in nats per token; in parentheses, control minus matched\n\n{table(rows, kind)}")


if __name__ == "__main__":
    main()
