"""Aggregation over types beyond the game: percentiles, the best of n, relative regret."""

import numpy as np
import pytest
from scipy.optimize import linprog

from pluralign.choice.regret import best_of_types, best_of_weights, percentiles, regret_matrix, relative_priorities


def test_percentiles_and_the_best_of_n_by_hand():
    utilities = np.array([[[4.0, 1.0, 2.0, 2.0]], [[0.0, 3.0, 2.0, 1.0]]])
    table = percentiles(utilities)
    np.testing.assert_allclose(table[:, 0], [[1, 0, 0.5, 0.5], [0, 1, 2 / 3, 1 / 3]])
    np.testing.assert_allclose(table.mean(-1), 0.5, err_msg="ranks are shared out whatever the utilities")
    assert percentiles(np.exp(utilities)).tolist() == table.tolist(), "scales do not matter"
    assert best_of_types(table).tolist() == [2]
    assert best_of_types(table, [0.9, 0.1]).tolist() == [0]
    assert percentiles(np.ones((2, 3, 1))).tolist() == [[[0.5]] * 3] * 2


def test_best_of_weights_solve_the_game_over_all_choices():
    """Against a linear programme over mixtures of every prompt's candidates."""
    rng = np.random.default_rng(1)
    table = percentiles(rng.normal(size=(3, 12, 5)) + 1.5 * rng.normal(size=(3, 1, 1)))
    weights = best_of_weights(table, steps=4000)
    assert weights.sum() == pytest.approx(1)
    columns = [*range(60), 60]  # the probability of each candidate, and the value
    served = np.hstack([-table.reshape(3, 60) / 12, np.ones((3, 1))])
    each = np.hstack([np.kron(np.eye(12), np.ones(5)), np.zeros((12, 1))])
    cost = np.zeros(len(columns))
    cost[-1] = -1
    optimum = -linprog(cost, A_ub=served, b_ub=np.zeros(3), A_eq=each, b_eq=np.ones(12)).fun
    dual = np.einsum("k,kpn->pn", weights, table).max(-1).mean()
    assert optimum - 1e-9 <= dual <= optimum + 0.01, "weak duality, nearly tight"
    heavy = best_of_weights(table, [5.0, 1.0, 1.0])
    assert heavy[0] > weights[0]
    assert best_of_weights(table, [1.0, 1.0, 0.0])[2] == 0


def test_relative_regret_is_a_share_of_what_a_type_has():
    utility = np.array([[4.0, 1.0], [-3.0, 2.0]])
    regret = regret_matrix(utility, relative_priorities(utility))
    np.testing.assert_allclose(regret, [[0, 0.75], [2.5, 0]])
    assert relative_priorities([[-0.1, 0.0], [0.0, 2.0]], [1.0, 3.0]).tolist() == [0.0, 1.5]


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="percentile: found"):
        best_of_weights(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="priority: found"):
        best_of_weights(np.zeros((2, 3, 4)), [1.0])
    with pytest.raises(ValueError, match="finite"):
        percentiles([[1.0, np.nan]])
