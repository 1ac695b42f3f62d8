"""Best of n: the bound against exact distributions, means by hand, answers that say nothing."""

import itertools
import math

import numpy as np
import pytest

from pluralign.core.errors import PluralignError
from pluralign.evaluation.rewards.best_of import best_answers, best_of_metrics


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


def test_one_answer_is_the_first_all_and_the_best():
    found = best_of_metrics(np.array([[0.5]]), np.array([[False]]))
    assert found["mean_reward/first"] == found["mean_reward/all"] == found["mean_reward/best"] == 0.5
    assert (found["kl_bound"], found["unfinished_best"]) == (0.0, 1.0)
    assert "mean_reward/best_se" not in found, "of one prompt there is no error"
    with pytest.raises(PluralignError, match="rewards: no response"):
        best_of_metrics(np.array([[np.nan]]), np.array([[True]]))
