from __future__ import annotations

import numpy as np
import pytest

from t2l.evaluation.statistics import Scores, estimate, recovered_fraction

DRAWS = 500


def _coverage(seeds: int, tasks: int, examples: int, seed_spread: float) -> float:
    """Share of intervals that hold the true mean difference, with seeds, tasks, their pairs and examples all varying."""
    rng, truth, hits = np.random.default_rng(0), 0.3, 0
    for draw in range(DRAWS):
        values = (
            truth
            + rng.normal(0, seed_spread, (seeds, 1, 1))
            + rng.normal(0, 0.2, (1, tasks, 1))
            + rng.normal(0, 0.1, (seeds, tasks, 1))
            + rng.normal(0, 0.3, (1, tasks, examples))
            + rng.normal(0, 0.3, (seeds, tasks, examples))
        )
        e = estimate(Scores.of(values.tolist()), 400, draw, "coverage")
        hits += e.low <= truth <= e.high
    return hits / DRAWS


@pytest.mark.parametrize(
    ("seeds", "tasks", "examples", "seed_spread"), [(1, 30, 16, 0.0), (3, 26, 8, 0.1), (5, 30, 8, 0.05)]
)
def test_intervals_hold_the_known_effect_as_often_as_they_say(
    seeds: int, tasks: int, examples: int, seed_spread: float
) -> None:
    assert 0.93 <= _coverage(seeds, tasks, examples, seed_spread) <= 0.97


def test_intervals_of_right_and_wrong_answers_hold_their_rate() -> None:
    rng, hits = np.random.default_rng(1), 0
    for draw in range(DRAWS):
        rates = rng.beta(4, 2, size=30)
        scores = [[rng.binomial(1, rate, size=16).tolist() for rate in rates]]
        e = estimate(Scores.of(scores), 400, draw, "rate", bounds=(0.0, 1.0))
        hits += e.low <= 4 / 6 <= e.high
    assert 0.93 <= hits / DRAWS <= 0.97


def test_seeds_that_disagree_widen_the_interval() -> None:
    tasks = [[1.0, 0.0] * 4] * 10
    agreeing = Scores.of([tasks, tasks, tasks])
    disagreeing = Scores.of([tasks, [[1.0] * 8] * 10, [[0.0] * 8] * 10])
    narrow, wide = (estimate(s, 500, 0, "x") for s in (agreeing, disagreeing))
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)
    assert wide.n_seeds == 3


def test_tasks_weigh_equally_and_draws_are_reproducible() -> None:
    uneven = Scores.of([[[1.0] * 9, [0.0]]])
    one = estimate(uneven, 100, 0, "x")
    assert one.mean == 0.5
    assert (one.n_tasks, one.n_examples) == (2, 10)
    varied = Scores.of([[[1.0, 0.0, 0.0, 1.0]] * 5 + [[0.0, 0.0]] * 5])
    assert estimate(varied, 100, 0, "x") == estimate(varied, 100, 0, "x")
    assert estimate(varied, 100, 0, "x") != estimate(varied, 100, 0, "y")
    bounded = estimate(uneven, 100, 0, "x", bounds=(0.0, 1.0))
    assert bounded.low >= 0
    assert bounded.high <= 1


@pytest.mark.parametrize("scores", [[], [[]], [[[1.0], []]]])
def test_a_task_without_scores_is_refused(scores: list[list[list[float]]]) -> None:
    with pytest.raises(ValueError, match="at least one score"):
        Scores.of(scores)


def test_only_the_same_examples_and_matching_seeds_are_subtracted() -> None:
    one, three = Scores.of([[[1.0, 0.0]]]), Scores.of([[[1.0, 1.0]]] * 3)
    assert (three - one).values.shape == (3, 1, 2)
    with pytest.raises(ValueError, match="same examples"):
        one - Scores.of([[[1.0]]])
    with pytest.raises(ValueError, match="cannot be paired"):
        three - Scores.of([[[1.0, 1.0]]] * 2)
    with pytest.raises(ValueError, match="seeds of a contender"):
        Scores.of([[[1.0, 0.0]], [[1.0]]])


def test_recovered_fraction_is_the_ratio_of_gains_and_is_left_out_where_nothing_is_gained() -> None:
    rng = np.random.default_rng(0)
    base = rng.binomial(1, 0.1, (1, 40, 16)).astype(float)
    oracle = rng.binomial(1, 0.9, (1, 40, 16)).astype(float)
    halfway = np.where(rng.random((1, 40, 16)) < 0.5, oracle, base)
    trio = [Scores.of(x.tolist()) for x in (halfway, base, oracle)]
    e = recovered_fraction(*trio, samples=400, seed=0, key="x")
    assert e is not None
    assert e.low < 0.5 < e.high
    assert e.high - e.low < 0.25
    assert recovered_fraction(trio[0], trio[1], trio[1], samples=400, seed=0, key="x") is None
