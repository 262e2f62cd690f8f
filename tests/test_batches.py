from __future__ import annotations

from typing import Any

import pytest
import torch

from t2l.tasks import IGNORE_INDEX, Example, TokenizedExample, tokenize_examples, tokenize_prompts
from t2l.tasks.batches import RowCycle, batches_within, cheapest_passes, collate, collate_prompts, draw_tasks
from t2l.tasks.prompting import cut_prompt, template_lengths
from t2l.tasks.suites.word_list_tokenizer import build_tokenizer

CPU = torch.device("cpu")


def test_collate_labels_only_responses() -> None:
    batch = collate([TokenizedExample((5, 6), (7,)), TokenizedExample((5,), (8, 9, 2))], 0, CPU)
    assert batch.input_ids.tolist() == [[5, 6, 7, 0], [5, 8, 9, 2]]
    assert batch.labels.tolist() == [[IGNORE_INDEX, IGNORE_INDEX, 7, IGNORE_INDEX], [IGNORE_INDEX, 8, 9, 2]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]


def test_prompts_are_padded_on_the_left() -> None:
    ids, mask = collate_prompts([(5, 6, 7), (8,)], 0, CPU)
    assert ids.tolist() == [[5, 6, 7], [0, 0, 8]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1]]


def test_row_cycle_visits_every_row_once_an_epoch_and_needs_no_history() -> None:
    cycle = RowCycle(10, seed=0, name="x")
    first = [i for step in range(5) for i in cycle.take(step, 2)]
    assert sorted(first) == list(range(10))
    assert RowCycle(10, seed=0, name="x").take(7, 2) == cycle.take(7, 2)
    assert [RowCycle(10, seed=0, name="y").take(s, 2) for s in range(5)] != [
        RowCycle(10, seed=0, name="x").take(s, 2) for s in range(5)
    ]


def test_draws_are_a_function_of_seed_and_step() -> None:
    draw = draw_tasks(0, 3, 9, 4, [5] * 9, [20] * 9, 3)
    assert draw == draw_tasks(0, 3, 9, 4, [5] * 9, [20] * 9, 3)
    assert draw != draw_tasks(0, 4, 9, 4, [5] * 9, [20] * 9, 3)
    assert len(set(draw.tasks)) == 4
    assert all(len(set(rows)) == 3 for rows in draw.rows)


def test_rendering_uses_the_chat_template() -> None:
    tokenizer = build_tokenizer()
    (ids,) = tokenize_prompts(tokenizer, ["dog 7"])
    assert tokenizer.convert_ids_to_tokens(list(ids)) == ["<s>", "<|user|>", "dog", "7", "<|assistant|>"]
    (row,) = tokenize_examples(tokenizer, [Example("dog 7", "dog")], prefix="Keep.")
    assert tokenizer.convert_ids_to_tokens(list(row.prompt_ids))[-3:] == ["dog", "7", "<|assistant|>"]
    assert row.response_ids[-1] == tokenizer.eos_token_id


def test_any_english_can_be_encoded_without_unknowns() -> None:
    tokenizer = build_tokenizer()
    text = "Hi! Could you please drop the odd integers, then sort what's left (A-Z)?"
    assert tokenizer.unk_token_id not in tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize(
    ("cost", "expected"), [(1e9, [[0, 1, 2, 3]]), (5.0, [[0, 2], [1, 3]]), (0.0, [[2], [0], [1, 3]])]
)
def test_passes_weigh_padding_against_their_cost(cost: float, expected: list[list[int]]) -> None:
    assert cheapest_passes([11, 30, 10, 30], cost) == expected


def test_passes_are_the_cheapest_of_all_splits() -> None:
    widths = [7, 3, 9, 3, 21, 8, 20, 4]

    def price(passes: list[list[int]]) -> float:
        return sum(len(p) * max(widths[i] for i in p) + 12 for p in passes)

    order = sorted(range(8), key=lambda i: widths[i])
    cuts = [[c for c in range(1, 8) if mask >> c & 1] for mask in range(0, 256, 2)]
    splits = [[order[a:b] for a, b in zip([0, *c], [*c, 8], strict=True)] for c in cuts]
    found = cheapest_passes(widths, 12.0)
    assert sorted(i for p in found for i in p) == list(range(8))
    assert price(found) == min(price(split) for split in splits)


def test_passes_of_limited_size_cover_everything() -> None:
    widths = [11, 30, 10, 30, 30, 12]
    passes = cheapest_passes(widths, 4.0, most=2)
    assert sorted(i for p in passes for i in p) == list(range(6))
    assert max(len(p) for p in passes) == 2


@pytest.mark.parametrize(("items", "tokens"), [(3, None), (3, 40), (99, 40), (99, 1)])
def test_batches_keep_to_their_items_and_tokens(items: int, tokens: int | None) -> None:
    """What comes is in order of length; what is too long alone is alone."""
    lengths = [11, 30, 10, 50, 30, 12, 10]
    batches = batches_within(lengths, items, tokens)
    flat = [lengths[i] for batch in batches for i in batch]
    assert sorted(i for batch in batches for i in batch) == list(range(7))
    assert flat == sorted(lengths)
    for batch in batches:
        assert len(batch) <= items
        assert tokens is None or len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= tokens
    assert len(batches) == {(3, None): 3, (3, 40): 5, (99, 40): 5, (99, 1): 7}[items, tokens]
    assert batches_within([], items, tokens) == []


def test_long_prompts_lose_the_beginning_of_the_users_turn(tokenizer: Any) -> None:
    (row,) = tokenize_examples(tokenizer, [Example("dog cat lion cow 7", "dog")])
    (short,) = tokenize_examples(tokenizer, [Example("cow 7", "dog")])
    (cut,) = tokenize_examples(tokenizer, [Example("dog cat lion cow 7", "dog")], max_length=short.length)
    header = template_lengths(tokenizer)[0]
    assert header >= 1
    assert cut == short  # the template's own tokens are all there
    assert cut.prompt_ids[:header] == row.prompt_ids[:header]
    assert cut_prompt(row.prompt_ids, header, header) == row.prompt_ids[-header:]  # no room but for the last tokens
