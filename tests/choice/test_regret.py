"""The regret game: its linear programme against the optimality conditions, Hedge, a grid and permutations."""

import numpy as np
import pytest

from pluralign.choice.regret import (
    game_value,
    hedge,
    max_min_reward,
    min_max_regret,
    priorities,
    regret_matrix,
    utilitarian,
)


def random_regret(types: int, seed: int, scale: float = 1.0) -> np.ndarray:
    """Of utilities in which each type likes its own policy, with noise large enough for regrets under zero."""
    rng = np.random.default_rng(seed)
    utility = rng.normal(size=(types, types)) + np.diag(rng.uniform(0.5, 3.0, types))
    return regret_matrix(scale * utility, rng.uniform(0.2, 2.0, types))


MATRICES = [
    random_regret(types, seed, scale) for types in (1, 2, 3, 8) for seed in range(6) for scale in (1e-6, 1, 300)
]


@pytest.mark.parametrize("regret", MATRICES)
def test_the_programme_meets_the_optimality_conditions(regret):
    game = min_max_regret(regret)
    scale = max(np.abs(regret).max(), 1e-300)
    for players in (game.weights, game.adversary):
        assert (players >= 0).all()
        assert players.sum() == pytest.approx(1, abs=1e-12)
    assert (regret @ game.weights).max() == pytest.approx(game.value, abs=1e-8 * scale)
    assert (regret.T @ game.adversary).min() == pytest.approx(game.value, abs=1e-8 * scale)
    assert game_value(regret) == pytest.approx(game.value, abs=1e-8 * scale)


def test_two_policies_as_by_a_grid():
    for seed in range(5):
        regret = np.random.default_rng(seed).normal(size=(4, 2))
        grid = np.linspace(0, 1, 20_001)
        values = (regret @ np.stack([grid, 1 - grid])).max(0)
        game = min_max_regret(regret)
        assert game.value <= values.min() + 1e-12
        assert game.value == pytest.approx(values.min(), abs=1e-3)
        assert game.weights[0] == pytest.approx(grid[values.argmin()], abs=1e-3)


@pytest.mark.parametrize(("types", "scale"), [(2, 1.0), (8, 200.0)])
def test_hedge_reaches_the_value(types, scale):
    regret = random_regret(types, 5, scale)
    exact, averaged = min_max_regret(regret), hedge(regret)
    assert exact.value - 1e-9 * scale <= averaged.value <= exact.value + 1e-3 * np.abs(regret).max()
    assert (averaged.adversary @ regret).min() >= exact.value - 1e-3 * np.abs(regret).max()


def test_permuting_the_types_permutes_the_mixture():
    for seed in range(20):
        regret = np.random.default_rng(seed).uniform(0.1, 2, (5, 5))
        np.fill_diagonal(regret, 0)
        order = np.random.default_rng(seed + 100).permutation(5)
        first, second = min_max_regret(regret), min_max_regret(regret[np.ix_(order, order)])
        np.testing.assert_allclose(second.weights, first.weights[order], atol=1e-10)
        np.testing.assert_allclose(second.adversary, first.adversary[order], atol=1e-10)


def test_an_exact_game_has_no_negative_value_and_abstaining_changes_only_the_value():
    """An adversary that plays the mixture's own weights gets a sum of Jeffreys divergences, which are 0 or more."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        policies = rng.dirichlet(np.ones(6), 4)
        utility = np.log(policies / rng.dirichlet(np.ones(6))) @ policies.T  # L_ij = sum_y pi_j log pi_i / ref
        game = min_max_regret(regret_matrix(utility))
        assert game.value >= -1e-12
    noisy = min_max_regret([[0.0, -1.0], [-2.0, 0.0]])
    assert noisy.value == pytest.approx(-2 / 3)
    assert noisy.value_with_abstention == 0.0
    assert noisy.weights == pytest.approx([1 / 3, 2 / 3])


def test_nobody_gives_up_anything_for_nothing():
    """Type 1 cannot be helped; of the mixtures that do not hurt it, the one that serves type 2 is taken."""
    game = min_max_regret([[1.0, 1.0], [0.5, 0.0], [0.3, 0.1]])
    assert game.value == pytest.approx(1.0)
    assert game.weights == pytest.approx([0.0, 1.0])


def test_degenerate_games_are_defined():
    one = min_max_regret([[0.0]])
    assert (one.weights.tolist(), one.adversary.tolist(), one.value) == ([1.0], [1.0], 0.0)
    for solve in (min_max_regret, hedge):
        even = solve(np.zeros((3, 3)))
        assert even.weights.tolist() == pytest.approx([1 / 3] * 3)
        assert even.value == 0.0
    ignored = min_max_regret(regret_matrix([[2.0, 0.0], [0.0, 5.0]], [1.0, 0.0]))
    assert ignored.weights == pytest.approx([1.0, 0.0]), "a type without priority is not minded"
    assert ignored.value == 0.0


def test_policies_of_several_aims():
    utility = np.array([[3.0, -1.0], [-1.0, 1.0]])
    assert utilitarian(utility, [0.2, 0.8]).tolist() == [0.0, 1.0]
    assert utilitarian(utility, [0.5, 0.5]).tolist() == [1.0, 0.0]
    assert utilitarian([[1.0, 1.0, 0.0]], [1.0]).tolist() == [0.5, 0.5, 0.0], "ties are shared"
    reward = max_min_reward(utility)
    assert reward == pytest.approx([1 / 3, 2 / 3])
    grid = np.linspace(0, 1, 10_001)
    assert (utility @ reward).min() >= (utility @ np.stack([grid, 1 - grid])).min(0).max() - 1e-9


def test_what_does_not_fit_is_refused():
    for call, words in (
        (lambda: regret_matrix([[1.0], [2.0]]), "own policies first"),
        (lambda: regret_matrix([[1.0]], [-1.0]), "priority"),
        (lambda: priorities(2, [1.0]), "2 numbers"),
        (lambda: min_max_regret([[np.nan]]), "finite"),
        (lambda: min_max_regret(np.zeros((1, 1, 1))), "expected \\(types, policies\\)"),
        (lambda: hedge([[1.0]], 0), "steps"),
        (lambda: utilitarian([[1.0]], [0.5, 0.5]), "one per type"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
