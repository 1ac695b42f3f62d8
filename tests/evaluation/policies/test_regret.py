"""Estimated regrets: errors that are paired, mixtures that are exact, intervals that cover."""

import numpy as np
import pytest

from pluralign.choice.regret import min_max_regret, regret_matrix
from pluralign.core.errors import PluralignError
from pluralign.evaluation.policies.regret import (
    game_interval,
    largest_losses,
    means,
    preferred,
    regret_table,
    regrets_by_prompt,
    with_mixtures,
)
from pluralign.evaluation.policies.win_rate import win_rate

TRUTH = np.array([[2.0, 0.5, 1.0], [-0.5, 1.5, 0.2]])


def ratios(prompts: int = 60, seed: int = 0, difficulty: float = 3.0) -> np.ndarray:
    """Noise around the truth; what a prompt is like is shared by all policies."""
    rng = np.random.default_rng(seed)
    shared = difficulty * rng.normal(size=(2, 1, prompts))
    return TRUTH[:, :, None] + shared + 0.4 * rng.normal(size=(2, 3, prompts))


def test_tables_are_means_over_prompts_and_errors_those_of_differences():
    table, priority = ratios(), np.array([1.0, 0.5])
    found = regret_table(table, priority)
    np.testing.assert_allclose(found.utility, table.mean(-1))
    for kind in range(2):
        for policy in range(3):
            differences = priority[kind] * (table[kind, kind] - table[kind, policy])
            assert found.regret[kind, policy] == pytest.approx(differences.mean())
            error = differences.std(ddof=1) / np.sqrt(60)
            assert found.regret_error[kind, policy] == pytest.approx(error)
    assert (found.regret_error < 0.3 * found.utility_error).all(), "what prompts share falls out of a difference"
    assert found.largest.value.tolist() == found.regret.max(0).tolist()


def test_a_mixture_is_the_weighted_mean_of_its_parts():
    table, weights = ratios(), np.array([0.3, 0.7])
    whole = with_mixtures(table, weights[None])
    assert whole.shape == (2, 4, 60)
    found = regret_table(whole)
    np.testing.assert_allclose(found.utility[:, 3], found.utility[:, :2] @ weights)
    np.testing.assert_allclose(found.regret[:, 3], found.regret[:, :2] @ weights, atol=1e-12)
    # Drawing parts and then answers has the same mean.
    rng = np.random.default_rng(1)
    drawn = table[:, rng.choice(2, size=20_000, p=weights), rng.integers(60, size=20_000)].mean(-1)
    np.testing.assert_allclose(drawn, found.utility[:, 3], atol=0.1)


def test_intervals_cover_the_truth_as_often_as_they_say():
    regret = regret_matrix(TRUTH)
    game = min_max_regret(regret[:, :2]).value
    covered = np.zeros(2)
    for seed in range(40):
        table = ratios(40, seed)
        largest = regret_table(table, replicates=200, seed=seed).largest
        covered[0] += largest.low[1] <= regret[:, 1].max() <= largest.high[1]
        low, high = game_interval(regrets_by_prompt(table), replicates=30, seed=seed)
        covered[1] += low <= game <= high
    # Intervals of 40 prompts and few replicates cover some 88 %; less three standard deviations of 40 trials.
    assert (covered >= 29).all(), covered
    assert covered[0] < 40


def test_shares_that_are_preferred_are_the_win_rate():
    rng = np.random.default_rng(0)
    first, second = rng.integers(4, size=(2, 30, 3)), rng.integers(4, size=(2, 30, 2))
    shares = preferred(first, second)
    assert shares.shape == (2, 30)
    found = means(shares[:, None], seed=3)
    for kind in range(2):
        expected = win_rate(first[kind], second[kind], seed=3)
        assert found.value[kind, 0] == pytest.approx(expected["win_rate"])
        assert found.low[kind, 0] == pytest.approx(expected["win_rate_low"])
        assert found.high[kind, 0] == pytest.approx(expected["win_rate_high"])
    assert preferred(first, first).mean() == pytest.approx(0.5), "a policy is as good as itself"


def test_the_largest_loss_is_that_of_the_worst_off_type():
    losses = np.random.default_rng(0).uniform(size=(3, 4, 30))
    found = largest_losses(losses)
    assert found.value.tolist() == losses.mean(-1).max(0).tolist()
    assert (found.low <= found.value).all()
    assert (found.value <= found.high).all()
    table = ratios()
    np.testing.assert_allclose(largest_losses(regrets_by_prompt(table)).value, regret_table(table).largest.value)


def test_the_same_seed_gives_the_same_intervals():
    table = ratios()
    for one, two, same in ((0, 0, True), (0, 1, False)):
        first, second = (regret_table(table, seed=seed).largest.low for seed in (one, two))
        assert np.array_equal(first, second) == same
        lost = regrets_by_prompt(table)
        assert (game_interval(lost, seed=one) == game_interval(lost, seed=two)) == same


def test_one_prompt_has_no_errors_and_what_does_not_fit_is_refused():
    found = regret_table(ratios(1))
    assert np.isfinite(found.regret).all()
    assert np.isnan(found.regret_error).all()
    assert np.isnan(found.largest.low).all()
    assert game_interval(regrets_by_prompt(ratios(1))) is None
    for bad, words in (
        (np.zeros((2, 2)), "expected"),
        (np.full((1, 1, 1), np.inf), "finite"),
        (ratios()[:, :1], "own"),
    ):
        with pytest.raises(PluralignError, match=words):
            regret_table(bad)
    with pytest.raises(ValueError, match="priority"):
        regret_table(ratios(), [1.0])
