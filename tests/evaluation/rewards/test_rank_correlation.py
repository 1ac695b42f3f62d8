import numpy as np
import pytest
from scipy import stats

from pluralign.core.errors import PluralignError
from pluralign.evaluation.rewards.rank_correlation import crowd_spearman, kendall_tau, spearman_within


def tau_args(data):
    return data["rewards"], data["ranks"], data["offsets"], data["weight"]


def crowd_args(data):
    return (*(data[name] for name in ("rewards", "ranks", "offsets", "prompt", "weight", "response")),)


@pytest.mark.parametrize("seed", range(4))
def test_kendall_equals_scipy_judgment_by_judgment(rankings, seed):
    data = rankings(seed)
    taus, weights = [], []
    for j, weight in enumerate(data["weight"]):
        places = slice(data["offsets"][j], data["offsets"][j + 1])
        ranks, rewards = data["ranks"][places], data["rewards"][places]
        bottom = np.where(ranks == 0, 99, ranks)
        if np.count_nonzero(ranks) >= 3 and np.ptp(bottom) > 0 and np.ptp(rewards) > 0:
            taus.append(stats.kendalltau(rewards, -bottom).statistic)
            weights.append(weight)
    assert len(taus) > 10
    assert kendall_tau(*tau_args(data)) == pytest.approx(np.average(taus, weights=weights), rel=1e-12, abs=1e-12)


def crowd_oracle(data) -> float | None:
    """Win shares by loops over every two shown responses, Spearman by scipy."""
    rhos = []
    for prompt in np.unique(data["prompt"]):
        won: dict[int, float] = {}
        met: dict[int, float] = {}
        reward: dict[int, float] = {}
        for j in np.flatnonzero(data["prompt"] == prompt):
            places = range(data["offsets"][j], data["offsets"][j + 1])
            for a in places:
                for b in places:
                    rank_a, rank_b = (data["ranks"][p] or 99 for p in (a, b))
                    if a != b and (rank_a, rank_b) != (99, 99):
                        id_ = int(data["response"][a])
                        share = 1.0 if rank_a < rank_b else 0.5 if rank_a == rank_b else 0.0
                        won[id_] = won.get(id_, 0.0) + data["weight"][j] * share
                        met[id_] = met.get(id_, 0.0) + data["weight"][j]
                        reward[id_] = data["rewards"][a]
        shares = [won[i] / met[i] for i in met]
        rewards = [reward[i] for i in met]
        if len(met) >= 3 and np.ptp(shares) > 0 and np.ptp(rewards) > 0:
            rhos.append(stats.spearmanr(rewards, shares).statistic)
    return float(np.mean(rhos)) if rhos else None


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("prompts", [3, 25])
def test_crowd_spearman_equals_a_plain_loop(rankings, seed, prompts):
    data = rankings(seed, prompts=prompts)
    assert crowd_spearman(*crowd_args(data)) == pytest.approx(crowd_oracle(data), rel=1e-12, abs=1e-12)


def test_rewards_that_follow_the_ranking_score_one_and_their_opposite_minus_one():
    ranks, offsets, weight = [1, 2, 3, 3, 1, 2], [0, 3, 6], [1.0, 2.0]
    rewards = -np.array(ranks, dtype=float)
    assert kendall_tau(rewards, ranks, offsets, weight) == pytest.approx(1.0)
    assert kendall_tau(-rewards, ranks, offsets, weight) == pytest.approx(-1.0)
    response = [0, 1, 2, 2, 0, 1]
    assert crowd_spearman(rewards, ranks, offsets, [0, 0], weight, response) == pytest.approx(1.0)
    assert crowd_spearman(-rewards, ranks, offsets, [0, 0], weight, response) == pytest.approx(-1.0)


@pytest.mark.parametrize(
    ("rewards", "ranks"),
    [
        ([1.0, 1.0, 1.0], [1, 2, 3]),  # constant rewards
        ([1.0, 2.0, 3.0], [2, 2, 2]),  # constant ranks
        ([1.0, 2.0], [1, 2]),  # too short
    ],
)
def test_undefined_is_none(rewards, ranks):
    n = len(ranks)
    assert kendall_tau(rewards, ranks, [0, n], [1.0]) is None
    assert crowd_spearman(rewards, ranks, [0, n], [0], [1.0], list(range(n))) is None


def test_zero_weights_and_no_judgments_are_none():
    assert kendall_tau([3.0, 2.0, 1.0], [1, 2, 3], [0, 3], [0.0]) is None
    assert crowd_spearman([3.0, 2.0, 1.0], [1, 2, 3], [0, 3], [0], [0.0], [0, 1, 2]) is None
    assert kendall_tau([], [], [0], []) is None
    assert crowd_spearman([], [], [0], [], [], []) is None


def test_two_ranked_responses_are_too_few_for_kendall():
    assert kendall_tau([3.0, 2.0, 1.0], [1, 2, 0], [0, 3], [1.0]) is None


def test_response_ids_count_within_a_prompt():
    ranks, rewards = [1, 2, 3, 1, 2, 3], [3.0, 2.0, 1.0, 1.0, 2.0, 3.0]
    rho = crowd_spearman(rewards, ranks, [0, 3, 6], [0, 1], [1.0, 1.0], [0, 1, 2, 0, 1, 2])
    assert rho == pytest.approx(0.0)


def test_two_rewards_for_one_response_are_refused():
    with pytest.raises(PluralignError, match=r"rewards\[3\] is 9.0, but response 0 of prompt 4 also has 3.0"):
        crowd_spearman([3.0, 2.0, 9.0, 9.0], [1, 2, 1, 2], [0, 2, 4], [4, 4], [1.0, 1.0], [0, 1, 2, 0])
    with pytest.raises(PluralignError, match=r"response: shape \(1,\), expected \(2,\)"):
        crowd_spearman([3.0, 2.0], [1, 2], [0, 2], [0], [1.0], [0])


def test_spearman_within_equals_scipy():
    rng = np.random.default_rng(0)
    group = rng.integers(6, size=80)
    left, right = rng.integers(5, size=(2, 80)).astype(float)
    expected = [stats.spearmanr(left[group == g], right[group == g]).statistic for g in range(6)]
    np.testing.assert_allclose(spearman_within(group, left, right), expected, rtol=1e-12, atol=1e-12)
