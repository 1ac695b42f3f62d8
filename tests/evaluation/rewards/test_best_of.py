"""Best of n: the bound against exact distributions, means by hand, answers that say nothing."""

import itertools
import math

import numpy as np
import pytest

from pluralign.core.errors import PluralignError
from pluralign.evaluation.rewards.best_of import best_answers, best_of_metrics, softmax_answers


def exact_divergence(probabilities, rewards, n):
    """KL(best of n || one draw) by listing all n-tuples of outcomes; ties broken at random."""
    chosen = np.zeros(len(probabilities))
    for drawn in itertools.product(range(len(probabilities)), repeat=n):
        weight = math.prod(probabilities[one] for one in drawn)
        top = max(rewards[one] for one in drawn)
        best = [one for one in drawn if rewards[one] == top]
        for one in best:
            chosen[one] += weight / len(best)
    held = chosen > 0
    return float(chosen[held] @ np.log(chosen[held] / np.array(probabilities)[held]))


@pytest.mark.parametrize("n", [1, 2, 4])
@pytest.mark.parametrize("ties", [False, True])
def test_the_bound_holds_for_every_policy_and_is_near_for_many_equal_answers(n, ties):
    draw = np.random.default_rng(0)
    bound = best_of_metrics(np.zeros((1, n)), np.ones((1, n), bool))["kl_bound"]
    for _ in range(20):
        probabilities = draw.dirichlet(np.ones(5)).tolist()
        rewards = (draw.integers(3, size=5) if ties else draw.normal(size=5)).tolist()
        assert exact_divergence(probabilities, rewards, n) <= bound + 1e-12
    if not ties:
        # 11 equally likely answers: the bound is that of infinitely many, a little above.
        near = exact_divergence([1 / 11] * 11, list(range(11)), n)
        assert near == pytest.approx(bound, abs=0.08)


def test_means_and_errors_are_those_by_hand():
    nothing = np.nan
    rewards = np.array([[nothing, 1.0, 2.0], [4.0, 4.0, 1.0], [nothing, nothing, nothing]])
    finished = np.array([[True, True, False], [True, False, True], [True, True, True]])
    assert best_answers(rewards).tolist() == [[False, False, True], [True, True, False], [False, False, False]]
    found = best_of_metrics(rewards, finished)
    assert (found["rows"], found["prompts_without_answer"]) == (2, 1)
    assert found["mean_reward/first"] == 2.5  # 1 and 4
    assert found["mean_reward/all"] == 2.25  # 1.5 and 3
    assert found["mean_reward/best"] == 3.0  # 2 and 4
    assert found["mean_reward/first_se"] == pytest.approx(1.5)  # of 1 and 4: sqrt(4.5) / sqrt(2)
    assert found["mean_reward/best_se"] == pytest.approx(1.0)
    assert found["empty_answers"] == pytest.approx(4 / 9)
    assert found["unfinished"] == pytest.approx(2 / 9)
    assert found["unfinished_best"] == pytest.approx(2 / 3)


def test_softmax_converges_to_softmax_over_the_candidates():
    """However often each was drawn; empty ones have no reward and are never kept."""
    rewards, texts, beta = [np.nan, 0.0, 0.0, 0.0, 1.0, -1.0], ["", "a", "a", "a", "b", "c"], 0.7
    kept = softmax_answers(np.array([rewards] * 40_000), [texts] * 40_000, beta, seed=3)
    assert (kept[:, 1] == kept[:, 3]).all(), "all draws of a text that is kept"
    assert (kept[:, [0, 1, 4, 5]].sum(1) == 1).all()
    wanted = np.exp(np.array([0.0, 1.0, -1.0]) / beta)
    error = 4 / math.sqrt(40_000) / 2
    np.testing.assert_allclose(kept[:, [1, 4, 5]].mean(0), wanted / wanted.sum(), rtol=0, atol=error)
    found = best_of_metrics(np.array([rewards] * 40_000), np.ones((40_000, 6), bool), kept)
    assert found["mean_reward/best"] == pytest.approx(wanted @ [0, 1, -1] / wanted.sum(), abs=0.02)
    assert found["kl_bound"] == math.log(6)
    assert not softmax_answers(np.full((1, 2), np.nan), [["", " "]]).any()


def test_where_nothing_is_said_twice_softmax_is_the_policy_times_the_reward():
    """n draws of a policy over very many texts: odds between two kinds are the policy's times exp(r)."""
    draw = np.random.default_rng(0)
    kind = draw.random((20_000, 64)) < 0.9  # nine texts in ten are of the first kind, whose reward is 0; others have 1
    kept = softmax_answers(1.0 - kind, [list(range(64))] * 20_000, seed=1)
    odds = kept[~kind].sum() / kept[kind].sum()
    assert odds == pytest.approx(math.e / 9, rel=0.06)


def test_one_answer_is_the_first_all_and_the_best():
    found = best_of_metrics(np.array([[0.5]]), np.array([[False]]))
    assert found["mean_reward/first"] == found["mean_reward/all"] == found["mean_reward/best"] == 0.5
    assert (found["kl_bound"], found["unfinished_best"]) == (0.0, 1.0)
    assert "mean_reward/best_se" not in found, "of one prompt there is no error"
    with pytest.raises(PluralignError, match="rewards: no response"):
        best_of_metrics(np.array([[np.nan]]), np.array([[True]]))
