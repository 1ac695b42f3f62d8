"""Truth tests of DPRM, "Aligning Crowd Feedback via Distributional Preference Reward Modeling", arXiv 2402.09764.

The crowd's posterior is independent of the order of votes and has scipy's betas; transport losses equal POT, their
gradients are exact and vanish at the target; a trained model reaches the crowd's distribution.
"""

import sys

import numpy as np
import ot
import pytest
import torch
from scipy import stats

from dprm_setup import LOSSES, make, predictions
from labelled import voted
from pluralign.choice.dirichlet import (
    credible_interval,
    estimated_strength,
    faded,
    marginals,
    posterior_mean,
    prior_state,
    smoothed,
    total_variation,
)
from pluralign.choice.label_costs import label_cost
from pluralign.choice.transport import (
    DEFAULT_COST,
    distribution_loss,
    energy,
    expected_reward,
    metric_transport,
    reward_quantile,
    reward_variance,
    soft_cross_entropy,
    transport_cost,
)
from pluralign.core.errors import PluralignError
from pluralign.judgments.scales import BUILT_IN_SCALES

HH6 = tuple(BUILT_IN_SCALES["hh-6"].rewards)
BEST = torch.eye(6, dtype=torch.float64)[0]
# The crowd's posterior.


@pytest.fixture
def draw():
    return np.random.default_rng(0)


def test_the_prior_is_scaled_floored_and_keeps_its_strength():
    found = prior_state([[2.0, 2.0, 0.0], [1.0, 1.0, 1.0]], 6.0)
    np.testing.assert_allclose(found.sum(1), 6.0, rtol=1e-14)
    np.testing.assert_allclose(found[1], 2.0)
    # 0.5, 0.5 and the floor 0.001 have the sum 1.001.
    np.testing.assert_allclose(found[0], 6 * np.array([0.5, 0.5, 0.001]) / 1.001)


def test_the_mean_is_a_weighted_mean_of_prior_and_votes(draw):
    prior, counts = draw.dirichlet(np.ones(6), 20), draw.integers(0, 9, (20, 6)).astype(float)
    found = posterior_mean(prior_state(prior, 4.0, floor=0.0), counts)
    n = counts.sum(1, keepdims=True)
    shares = np.divide(counts, n, out=np.zeros_like(counts), where=n > 0)
    np.testing.assert_allclose(found, (4 * prior + n * shares) / (4 + n), rtol=1e-14, atol=1e-15)


def test_updates_in_any_order_and_chunking_agree(draw):
    start = prior_state(draw.dirichlet(np.ones(5)), 5.0)
    votes = np.eye(5)[draw.integers(0, 5, 60)] * draw.uniform(0.1, 2, (60, 1))
    whole = posterior_mean(start, votes.sum(0))
    for _ in range(5):
        state = start
        for chunk in np.split(draw.permutation(votes), sorted(draw.integers(0, 60, 6))):
            state = state + chunk.sum(0)
        np.testing.assert_allclose(posterior_mean(state), whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize("level", [0.5, 0.95])
def test_marginals_are_the_betas_of_scipy(level, draw):
    a, c = draw.uniform(0.01, 3, (50, 6)), draw.integers(0, 1000, (50, 6))
    one, others = marginals(a + c)
    a0, n = a.sum(1, keepdims=True), c.sum(1, keepdims=True)
    np.testing.assert_allclose(one, a + c)
    np.testing.assert_allclose(others, a0 - a + n - c, rtol=1e-12, atol=1e-10)  # a difference of thousands
    low, high = credible_interval(a + c, level)
    beta = stats.beta(a + c, a0 - a + n - c)
    np.testing.assert_allclose(low, beta.ppf((1 - level) / 2), rtol=1e-9, atol=1e-300)
    np.testing.assert_allclose(high, beta.ppf((1 + level) / 2), rtol=1e-9, atol=1e-300)
    np.testing.assert_allclose(beta.cdf(high) - beta.cdf(low), level, rtol=1e-9)


def test_a_huge_majority_keeps_the_others_beta():
    """Subtracting from the total would leave 1e9 + 0.1 - 1e9 with seven digits."""
    _, others = marginals([1e9, 0.1])
    assert others[0] == 0.1


def test_the_estimated_strength_is_the_most_likely_one(draw):
    """Votes of items whose shares are Dirichlet(kappa q); the likelihood is SciPy's, and it falls on both sides."""
    q = np.array([0.5, 0.3, 0.2])
    for kappa in (0.3, 2.0, 12.0):
        shares = draw.dirichlet(kappa * q, size=1500)
        sizes = draw.integers(1, 12, size=1500)
        counts = np.stack([draw.multinomial(n, share) for n, share in zip(sizes, shares, strict=True)])
        found = estimated_strength(counts, q)
        assert found == pytest.approx(kappa, rel=0.2)
        several = counts[sizes > 1]
        likelihoods = [
            stats.dirichlet_multinomial.logpmf(several, strength * q, several.sum(1)).sum()
            for strength in (found, found * 1.01, found / 1.01)
        ]
        assert likelihoods[0] >= max(likelihoods[1:])
        assert estimated_strength(counts[:, [2, 0, 1]], q[[2, 0, 1]]) == pytest.approx(found, rel=1e-4)
    # Single votes say nothing, and of a handful of items nothing is said.
    assert estimated_strength(np.eye(3)[draw.integers(3, size=100)], q) is None
    assert estimated_strength(counts[:9], q) is None


def test_transport_learns_a_sharper_crowd_from_single_votes_than_energy():
    """One vote an item, the best constant: energy and cross-entropy are proper scores, transport gives the median."""
    truth = np.array([0.45, 0.25, 0.15, 0.10, 0.05])
    votes = torch.eye(5, dtype=torch.float64)
    found = {}
    for loss in LOSSES:
        logits = torch.zeros(5, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.Adam([logits], lr=0.05)
        for _ in range(1500):
            optimizer.zero_grad()
            each = distribution_loss(logits.expand(5, 5), votes, loss=loss, cost=cost_of(loss, np.arange(4.0, -1, -1)))
            (torch.from_numpy(truth) @ each).backward()
            optimizer.step()
        found[loss] = logits.detach().softmax(-1).numpy()
    for loss in ("energy", "ce"):
        np.testing.assert_allclose(found[loss], truth, atol=5e-3)
    assert found["ot"][1] > 0.85


def test_two_labels_are_beta_bernoulli(draw):
    """Beta(kappa q, kappa (1 - q)) and k of n successes: the textbook's posterior."""
    q, k, n = 0.3, 7, 10
    state = prior_state([q, 1 - q], 4.0) + np.array([k, n - k])
    posterior = stats.beta(4 * q + k, 4 * (1 - q) + n - k)
    assert posterior_mean(state)[0] == pytest.approx(posterior.mean(), rel=1e-14)
    low, high = credible_interval(state)
    np.testing.assert_allclose([low[0], high[0]], posterior.interval(0.95), rtol=1e-10)
    np.testing.assert_allclose([1 - high[1], 1 - low[1]], [low[0], high[0]], rtol=1e-10)


def test_old_votes_fade_and_the_prior_stays(draw):
    start = prior_state(draw.dirichlet(np.ones(4), 3), 4.0)
    state = start + draw.integers(0, 9, (3, 4))
    np.testing.assert_allclose(faded(state, start, 0.7, 0), state)
    np.testing.assert_allclose(faded(state, start, 1.0, 5), state)
    np.testing.assert_allclose(faded(state, start, 0.0, 1), start)
    twice = faded(faded(state, start, 0.7), start, 0.7)
    np.testing.assert_allclose(twice, faded(state, start, 0.7, 2), rtol=1e-14, atol=1e-14)
    np.testing.assert_allclose(twice, start + 0.49 * (state - start), rtol=1e-14, atol=1e-14)
    each = faded(state, start, 0.7, [0, 1, 2])
    np.testing.assert_allclose(each[2], twice[2])
    np.testing.assert_allclose(each[0], state[0])


def test_unanimous_votes_order_responses_by_reward():
    """Equal n and prior, before smoothing: expected rewards stand as R does; labels 3 and 4 of hh-6 tie."""
    expected = posterior_mean(prior_state(np.full(6, 1 / 6), 6.0), 10 * np.eye(6)) @ np.array(HH6)
    gaps = np.diff(expected)
    assert gaps[2] == pytest.approx(0, abs=1e-15)
    assert (gaps[[0, 1, 3, 4]] < 0).all()


SMOOTHING = {
    "no excess": ([0.9, 0.06, 0.04], {}, [0.9, 0.06, 0.04]),
    "excess to the runner-up": ([0.98, 0.015, 0.005], {}, [0.95, 0.045, 0.005]),
    "only the excess": ([0.951, 0.0, 0.049], {}, [0.95, 0.0, 0.05]),
    "a tie: higher prior": ([0.0, 1.0, 0.0], {"prior": [0.2, 0.5, 0.3]}, [0.0, 0.95, 0.05]),
    "a tie: nearer in cost": ([0.0, 0.0, 1.0], {"cost": [[0, 1, 2], [1, 0, 3], [2, 3, 0]]}, [0.05, 0.0, 0.95]),
    "prior before cost": (
        [0.0, 0.0, 1.0],
        {"cost": [[0, 1, 2], [1, 0, 3], [2, 3, 0]], "prior": [0.2, 0.3, 0.5]},
        [0.0, 0.05, 0.95],
    ),
    "a tie: places as cost": ([1.0, 0.0, 0.0], {}, [0.95, 0.05, 0.0]),
    "a tie: the first": ([0.0, 1.0, 0.0], {}, [0.05, 0.95, 0.0]),
    "a tie but for rounding": ([0.0, 1.0 - 3e-17, 3e-17], {}, [0.05, 0.95, 0.0]),
    "two on top": ([0.5, 0.5, 0.0], {}, [0.5, 0.5, 0.0]),
}


@pytest.mark.parametrize("name", SMOOTHING)
def test_smoothing_by_hand(name):
    given, options, expected = SMOOTHING[name]
    np.testing.assert_allclose(smoothed(given, 0.05, **options), expected, atol=1e-12)
    batch = smoothed([[given], [given]], 0.05, **options)
    np.testing.assert_allclose(batch, [[expected], [expected]], atol=1e-12)


def test_smoothing_keeps_mass_and_the_order(draw):
    given = draw.dirichlet(np.full(6, 0.05), 500)
    before = given.copy()
    found = smoothed(given, 0.2)
    np.testing.assert_array_equal(given, before)
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-14)
    assert found.max() <= 0.8 + 1e-15
    assert (found.argmax(1) == given.argmax(1)).all()
    np.testing.assert_allclose(smoothed(given, 0.0), given)
    assert ((found != given).any(1) == (given.max(1) > 0.8)).all()


def test_total_variation_is_the_largest_difference_of_an_event(draw):
    one, other = draw.dirichlet(np.ones(4), 10), draw.dirichlet(np.ones(4), 10)
    events = np.array([[bits >> label & 1 for label in range(4)] for bits in range(16)])
    np.testing.assert_allclose(total_variation(one, other), ((one - other) @ events.T).max(1), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda: prior_state([1.0], 1.0), "two labels or more"),
        (lambda: prior_state([0.0, 0.0], 1.0), "not all 0"),
        (lambda: prior_state([-1.0, 2.0], 1.0), "0 or more"),
        (lambda: prior_state([1.0, 2.0], 0.0), "strength: found 0.0"),
        (lambda: faded([1.0, 1.0], [1.0, 1.0], 1.1), "decay: found 1.1"),
        (lambda: faded([1.0, 1.0], [1.0, 1.0], 0.5, -1), "backwards"),
        (lambda: smoothed([0.5, 0.5], 0.5), "smoothing: found 0.5"),
        (lambda: smoothed([0.5, 0.5], 0.1, cost=np.zeros((3, 3))), "expected (2, 2)"),
        (lambda: credible_interval([1.0, 1.0], 1.0), "level: found 1.0"),
    ],
)
def test_what_makes_no_sense_is_refused(call, expected):
    with pytest.raises(ValueError, match=expected.replace("(", r"\(").replace(")", r"\)")):
        call()


# Losses: values.


def distributions(items, labels, seed, sparse=False):
    """Random points of the simplex; sparse ones have labels of probability 0."""
    draw = np.random.default_rng([seed, labels])
    found = draw.dirichlet(np.full(labels, 0.7), size=(2, items))
    if sparse:
        found *= draw.random(found.shape) < 0.5
        found[..., 0] += found.sum(-1) == 0
        found /= found.sum(-1, keepdims=True)
    return torch.from_numpy(found[0]), torch.from_numpy(found[1])


def rewards_of(labels, seed, equal=False):
    found = np.random.default_rng([seed, labels, 7]).normal(size=labels).round(3)
    if equal:
        found[labels // 2 :] = found[: labels - labels // 2]
    return found


def ring(labels):
    """A metric that no line has: steps around a circle."""
    apart = np.abs(np.arange(labels)[:, None] - np.arange(labels))
    return np.minimum(apart, labels - apart).astype(float)


def metrics_of(labels, seed):
    """Distances of random points of the plane, two of which are the same."""
    points = np.random.default_rng([seed, labels, 9]).normal(size=(labels, 2))
    points[-1] = points[0]
    return np.linalg.norm(points[:, None] - points, axis=-1)


def by_pot(one, two, matrix):
    pairs = zip(one.numpy(), two.numpy(), strict=True)
    return torch.tensor([ot.emd2(a, b, matrix) for a, b in pairs], dtype=torch.float64)


def cost_of(loss, rewards=HH6, delta=0.1):
    return label_cost(rewards, DEFAULT_COST[loss], delta)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("equal", [False, True])
@pytest.mark.parametrize(
    ("kind", "delta"), [("reward-gap", 0.0), ("reward-gap", 0.1), ("reward-gap", 2.0), ("index", 0.1)]
)
@pytest.mark.parametrize("labels", [2, 3, 6, 31])
def test_the_closed_form_is_the_optimal_cost(labels, kind, delta, equal, sparse):
    cost = label_cost(rewards_of(labels, 0, equal), kind, delta)
    one, two = distributions(60, labels, 1, sparse)
    torch.testing.assert_close(transport_cost(one, two, cost), by_pot(one, two, cost.matrix), rtol=0, atol=1e-6)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("labels", [2, 5, 12])
def test_a_general_metric_is_solved_exactly(labels, sparse):
    one, two = distributions(60, labels, 2, sparse)
    for matrix in (ring(labels), metrics_of(labels, 0)):
        found = transport_cost(one, two, label_cost(np.arange(labels), matrix))
        torch.testing.assert_close(found, by_pot(one, two, matrix), rtol=0, atol=1e-6)


@pytest.mark.parametrize("delta", [0.0, 0.1])
@pytest.mark.parametrize("rewards", [HH6, (0.0, 2.0, 5.0), (3.0, -1.0, 2.9, 0.0)])
def test_cost_to_the_best_label_is_the_reward_that_is_missing(rewards, delta):
    """OT(mu, one-hot best) = R_best - E[R] + delta (1 - mu_best), with the closed form and with POT."""
    mu, _ = distributions(50, len(rewards), 3)
    best = int(np.argmax(rewards))
    target = torch.eye(len(rewards), dtype=torch.float64)[best].expand_as(mu)
    expected = max(rewards) - expected_reward(mu, rewards) + delta * (1 - mu[:, best])
    cost = label_cost(rewards, delta=delta)
    torch.testing.assert_close(transport_cost(mu, target, cost), expected, rtol=0, atol=1e-12)
    general = transport_cost(mu, target, label_cost(rewards, cost.matrix))
    torch.testing.assert_close(general, expected, rtol=0, atol=1e-9)
    # The theorem: with R_i - delta [i != best] in place of R, cost and expected reward order the items oppositely.
    shifted = [r - delta * (i != best) for i, r in enumerate(rewards)]
    assert (transport_cost(mu, target, cost) + expected_reward(mu, shifted)).std() < 1e-12


def test_nearer_labels_cost_less_and_cross_entropy_does_not_see_it():
    rows = torch.tensor([[0.9, 0.1, 0, 0, 0, 0], [0.9, 0, 0.1, 0, 0, 0], [0.9, 0, 0, 0, 0, 0.1]], dtype=torch.float64)
    target = BEST.expand_as(rows)
    for loss, expected in (("ot", [0.06, 0.21, 0.41]), ("w1", [0.1, 0.2, 0.5])):
        found = transport_cost(rows, target, cost_of(loss))
        torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)
    logits = (rows + 1e-30).log()
    ce = distribution_loss(logits, target, loss="ce")
    torch.testing.assert_close(ce, torch.full((3,), -np.log(0.9), dtype=torch.float64), rtol=0, atol=1e-12)
    ot_loss = distribution_loss(logits, target, loss="ot", cost=cost_of("ot"))
    torch.testing.assert_close(ot_loss, torch.tensor([0.06, 0.21, 0.41], dtype=torch.float64), rtol=0, atol=1e-12)


def test_without_a_step_labels_of_one_reward_are_one():
    """Labels 3 and 4 of hh-6 are both worth -1."""
    third, fourth = torch.eye(6, dtype=torch.float64)[[2, 3]]
    for loss, measure in (("ot", transport_cost), ("energy", energy)):
        assert measure(third, fourth, cost_of(loss, delta=0.0)).item() == 0
    assert transport_cost(third, fourth, cost_of("ot")).item() == pytest.approx(0.1, abs=1e-15)
    assert energy(third, fourth, cost_of("ot")).item() == pytest.approx(0.1, abs=1e-15)
    assert transport_cost(third, fourth, cost_of("w1")).item() == 1
    # Nor does a step of descent part them: the gradients of their logits are as one.
    logits = torch.zeros(1, 6, dtype=torch.float64, requires_grad=True)
    distribution_loss(logits, third[None], loss="ot", cost=cost_of("ot", delta=0.0)).sum().backward()
    assert logits.grad[0, 2].item() == pytest.approx(logits.grad[0, 3].item(), abs=1e-15)
    logits.grad = None
    distribution_loss(logits, third[None], loss="ot", cost=cost_of("ot")).sum().backward()
    # The step is worth delta times a sixth between them: the gradient of TV at uniform probabilities.
    assert (logits.grad[0, 3] - logits.grad[0, 2]).item() == pytest.approx(0.1 / 6, abs=1e-12)


def test_the_step_adds_as_many_times_the_total_variation():
    one, two = distributions(40, 6, 4)
    line = transport_cost(one, two, label_cost(HH6, delta=0.0))
    found = transport_cost(one, two, label_cost(HH6, delta=0.7))
    torch.testing.assert_close(found, line + 0.7 * total_variation(one, two), rtol=0, atol=1e-14)


@pytest.mark.parametrize("delta", [0.0, 0.1])
def test_energy_is_half_the_energy_distance(delta):
    """2 E d(X, Y) - E d(X, X') - E d(Y, Y'), halved, with X, X' of mu_s and Y, Y' of mu_t."""
    cost = label_cost(HH6, delta=delta)
    one, two = distributions(40, 6, 5)
    apart = torch.from_numpy(cost.matrix)

    def mean(p, q):
        return torch.einsum("ni,ij,nj->n", p, apart, q)

    expected = mean(one, two) - mean(one, one) / 2 - mean(two, two) / 2
    torch.testing.assert_close(energy(one, two, cost), expected, rtol=0, atol=1e-13)
    torch.testing.assert_close(energy(one, two, label_cost(HH6, cost.matrix)), expected, rtol=0, atol=1e-13)


def test_energy_refuses_a_cost_under_which_it_could_be_negative():
    """Steps between two groups of labels, two steps within one: the complete bipartite graph of 2 and 3 labels."""
    side = np.array([0, 0, 1, 1, 1])
    matrix = np.where(side[:, None] == side, 2.0, 1.0) * (1 - np.eye(5))
    cost = label_cost(np.arange(5), matrix)
    e = torch.tensor([0.5, 0.5, -1 / 3, -1 / 3, -1 / 3], dtype=torch.float64)
    assert e @ torch.from_numpy(matrix) @ e > 0.3
    with pytest.raises(PluralignError, match="not of negative type"):
        energy(e.clamp(min=0), -e.clamp(max=0), cost)
    assert label_cost(np.arange(4), ring(4)).negative_type


@pytest.mark.parametrize("labels", [3, 6])
def test_order_of_labels_does_not_matter(labels):
    order = torch.randperm(labels, generator=torch.Generator().manual_seed(labels))
    rewards = rewards_of(labels, 2)
    one, two = distributions(20, labels, 6)
    for measure in (transport_cost, energy):
        found = measure(one[:, order], two[:, order], label_cost(rewards[order]))
        torch.testing.assert_close(found, measure(one, two, label_cost(rewards)), rtol=0, atol=1e-14)


def test_leading_dimensions_are_kept():
    one, two = distributions(24, 6, 7)
    shaped = [x.reshape(2, 3, 4, 6) for x in (one, two)]
    for cost in (cost_of("ot"), cost_of("w1"), label_cost(HH6, ring(6))):
        torch.testing.assert_close(transport_cost(*shaped, cost), transport_cost(one, two, cost).reshape(2, 3, 4))
    assert transport_cost(one[0], two[0], label_cost(HH6, ring(6))).shape == ()
    assert transport_cost(one[:0], two[:0], label_cost(HH6, ring(6))).shape == (0,)
    for loss in LOSSES:
        assert distribution_loss(one[:0], two[:0], loss=loss, cost=cost_of(loss)).shape == (0,)


# Gradients.


@pytest.mark.parametrize("equal", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_are_exact(loss, equal):
    """Random distributions are away from the kinks, where two cumulative probabilities or shares are equal."""
    torch.manual_seed(0)
    cost = cost_of(loss, rewards_of(6, 3, equal))
    logits = torch.randn(5, 6, dtype=torch.float64, requires_grad=True)
    targets = distributions(5, 6, 8)[1]
    assert torch.autograd.gradcheck(lambda z: distribution_loss(z, targets, loss=loss, cost=cost), (logits,))
    # Of the target as well: teachers may be tuned with their pupils.
    other = torch.randn(5, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda z: distribution_loss(logits.detach(), z.softmax(-1), loss=loss, cost=cost), (other,)
    )


@pytest.mark.parametrize("loss", ["ot", "energy"])
@pytest.mark.parametrize("labels", [2, 5, 9])
def test_gradients_under_a_general_metric_are_exact(labels, loss):
    torch.manual_seed(1)
    logits, other = (torch.randn(8, labels, dtype=torch.float64, requires_grad=True) for _ in range(2))
    for matrix in (ring(labels), metrics_of(labels, 1)):
        cost = label_cost(np.arange(labels), matrix)
        assert torch.autograd.gradcheck(
            lambda z, t, cost=cost: distribution_loss(z, t.softmax(-1), loss=loss, cost=cost), (logits, other)
        )


@pytest.mark.parametrize("delta", [0.0, 0.1])
def test_gradients_by_the_solver_are_those_of_the_closed_form(delta):
    cost = label_cost(HH6, delta=delta)
    torch.manual_seed(2)
    found = []
    for own in (cost, label_cost(HH6, cost.matrix)):
        logits = torch.linspace(-2, 3, 60, dtype=torch.float64).sin().mul(3).reshape(10, 6).requires_grad_()
        distribution_loss(logits, distributions(10, 6, 9)[1], loss="ot", cost=own).sum().backward()
        found.append(logits.grad)
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-12)


def test_potentials_have_mean_zero_and_reach_labels_without_mass():
    """Towards a one-hot target each label's potential is its distance, less the mean; mass or not."""
    matrix = metrics_of(6, 2)
    mu = torch.tensor([[0.0, 0.6, 0.0, 0.4, 0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    metric_transport(mu, torch.eye(6, dtype=torch.float64)[[2]], matrix).sum().backward()
    expected = torch.from_numpy(matrix[2] - matrix[2].mean())
    torch.testing.assert_close(mu.grad[0], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("loss", LOSSES)
def test_gradient_is_zero_where_the_prediction_is_the_target(loss, dtype):
    """Also where only rounding is between them: float32 softmax of a logarithm is off by about 1e-7."""
    torch.manual_seed(3)
    near = torch.finfo(dtype).eps * 20
    for cost in (cost_of(loss), label_cost(HH6, metrics_of(6, 3))):
        logits = (3 * torch.randn(50, 6)).to(dtype).requires_grad_()
        value = distribution_loss(logits, logits.detach().softmax(-1), loss=loss, cost=cost)
        value.sum().backward()
        assert logits.grad.abs().max() <= near
        mu = distributions(50, 6, 10)[0].to(dtype)
        logits = mu.log().add(torch.randn(50, 1).to(dtype)).requires_grad_()
        distribution_loss(logits, mu, loss=loss, cost=cost).sum().backward()
        assert logits.grad.abs().max() <= near


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("loss", LOSSES)
def test_large_logits_give_finite_losses_and_gradients(loss, dtype):
    torch.manual_seed(4)
    logits = torch.where(torch.rand(200, 6) < 0.5, 50.0, -50.0)
    logits[0], logits[1] = 50.0, -50.0
    exact, targets = logits.double(), distributions(200, 6, 11, sparse=True)[1]
    for cost in (cost_of(loss), label_cost(HH6, metrics_of(6, 4))):
        given = logits.to(dtype).requires_grad_()
        value = distribution_loss(given, targets.float(), loss=loss, cost=cost)
        assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        value.sum().backward()
        assert torch.isfinite(given.grad).all()
        expected = distribution_loss(exact, targets, loss=loss, cost=cost)
        # Cross-entropy reaches 100 nats: six digits of float32.
        torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=2e-6)


def test_a_wrong_and_certain_prediction_is_still_moved_by_cross_entropy():
    """At +-50 the softmax is 0 but for the top label; the gradient of cross-entropy is mu_s - mu_t all the same."""
    logits = torch.full((1, 6), -50.0)
    logits[0, 5] = 50.0
    logits.requires_grad_()
    distribution_loss(logits, BEST[None].float(), loss="ce").sum().backward()
    torch.testing.assert_close(logits.grad, torch.tensor([[-1.0, 0, 0, 0, 0, 1.0]]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_autocast_changes_nothing(loss):
    torch.manual_seed(5)
    logits, targets = torch.randn(30, 6), distributions(30, 6, 12)[1].float()
    for cost in (cost_of(loss), label_cost(HH6, metrics_of(6, 5))):
        expected = distribution_loss(logits, targets, loss=loss, cost=cost)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(distribution_loss(logits, targets, loss=loss, cost=cost), expected)


@pytest.mark.parametrize("loss", LOSSES)
def test_descent_reaches_the_target(loss):
    torch.manual_seed(6)
    targets = distributions(8, 6, 13)[1]
    logits = torch.zeros(8, 6, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.1)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.001, total_iters=1500)
    for _ in range(1500):
        optimizer.zero_grad()
        distribution_loss(logits, targets, loss=loss, cost=cost_of(loss)).sum().backward()
        optimizer.step()
        schedule.step()
    # Adam's last steps are 1e-4 long, the transport losses have kinks to step over, and energy is flat at its minimum.
    assert total_variation(logits.detach().softmax(-1), targets).max() < (1e-2 if loss == "energy" else 2e-3)


# What is read off a distribution.


def test_expected_reward_variance_and_quantiles_by_hand():
    mu = torch.tensor([[0.5, 0.0, 0.1, 0.2, 0.2, 0.0], [0.0, 0.0, 0.0, 0.0, 0.0, 1.0]], dtype=torch.float64)
    # 0.5 - 0.3 - 0.3 = -0.1; 0.5 * 1.21 + 0.3 * 0.81 + 0.2 * 1.96 = 1.24.
    torch.testing.assert_close(expected_reward(mu, HH6), torch.tensor([-0.1, -3.0], dtype=torch.float64))
    torch.testing.assert_close(reward_variance(mu, HH6), torch.tensor([1.24, 0.0], dtype=torch.float64))
    expected = {0.01: -1.5, 0.2: -1.5, 0.21: -1.0, 0.3: -1.0, 0.31: -1.0, 0.5: -1.0, 0.51: 1.0, 1.0: 1.0}
    for q, value in expected.items():
        assert reward_quantile(mu, HH6, q).tolist() == [value, -3.0]


def test_a_quantile_is_the_smallest_reward_that_reaches_q():
    mu, _ = distributions(40, 7, 14, sparse=True)
    rewards = rewards_of(7, 5, equal=True)
    for q in (0.05, 0.37, 0.5, 0.93):
        reached = [min(r for r in rewards if row[rewards <= r].sum() >= q) for row in mu.numpy()]
        assert reward_quantile(mu, rewards, q).tolist() == reached
    # At 1 it is the largest reward that has probability, whatever the sum's rounding; float32 sums are off by 1e-7.
    largest = [max(r for r, p in zip(rewards, row, strict=True) if p > 0) for row in mu.tolist()]
    found = reward_quantile(mu.float(), rewards, 1.0)
    torch.testing.assert_close(found, torch.tensor(largest, dtype=torch.float32), rtol=0, atol=0)
    thirds = torch.full((3,), 1 / 3)
    assert [reward_quantile(thirds, [1.0, 2.0, 3.0], q).item() for q in (1 / 3, 2 / 3)] == [1.0, 2.0]


# What is refused.


def test_costs_that_are_none_are_refused():
    def refuses(match, rewards, *kind, **options):
        with pytest.raises(PluralignError, match=match):
            label_cost(rewards, *kind, **options)

    refuses("rewards: expected two or more finite numbers", [1.0])
    refuses("rewards: expected two or more finite numbers", [1.0, np.nan])
    refuses("delta is -0.1, expected a number of at least 0", HH6, delta=-0.1)
    refuses("cost is 'rewards-gap', .*did you mean 'reward-gap'", HH6, "rewards-gap")
    refuses(r"cost: expected \(3, 3\), a row per label, found \(2, 2\)", [1, 2, 3], np.zeros((2, 2)))
    refuses("cost: expected 2 rows of 2 numbers", [1, 2], [[0, 1], [1]])
    refuses("cost: expected 2 rows of 2 numbers", [1, 2], [0, 1])
    refuses("labels 1 and 2 is -1, expected at least 0", [1, 2], [[0, -1], [-1, 0]])
    refuses("labels 2 and 2 is 3, expected 0", [1, 2], [[0, 1], [1, 3]])
    refuses("labels 1 and 2 is 1, expected 2", [1, 2], [[0, 1], [2, 0]])
    refuses("labels 1 and 2 is nan, expected a finite number", [1, 2], [[0, np.nan], [1, 0]])
    refuses("labels 1 and 3 is 5, expected at most 3, .* label 2", [1, 2, 3], [[0, 1, 5], [1, 0, 2], [5, 2, 0]])
    # Distances with equal sides and rounding are metrics.
    places = rewards_of(20, 1, equal=True)
    matrix = np.abs(places[:, None] - places)
    assert (matrix > (matrix[:, :, None] + matrix).min(1)).any()
    label_cost(places, matrix)


def test_arguments_that_do_not_fit_are_refused():
    logits, targets = torch.zeros(2, 3), torch.full((2, 3), 1 / 3)
    cost = label_cost([1, 2, 3])
    for match, call in {
        "loss is 'wasserstein', expected one of ot": lambda: distribution_loss(logits, targets, loss="wasserstein"),
        "loss 'ot' needs a cost": lambda: distribution_loss(logits, targets),
        r"targets: shape \(3,\), expected that of logits, \(2, 3\)": lambda: distribution_loss(
            logits, targets[0], cost=cost
        ),
        "cost: 6 labels, expected 3": lambda: distribution_loss(logits, targets, cost=label_cost(HH6)),
        "logits: found torch.int64": lambda: distribution_loss(logits.long(), targets, loss="ce"),
        r"rewards: shape \(2,\), expected \(3,\)": lambda: expected_reward(targets, [1.0, 2.0]),
        "q is 0, expected": lambda: reward_quantile(targets, [1.0, 2.0, 3.0], 0),
    }.items():
        with pytest.raises(PluralignError, match=match):
            call()
    with pytest.raises(PluralignError, match="item 1 is not finite"):
        transport_cost(targets * torch.nan, targets, label_cost([1, 2, 3], ring(3)))


def test_the_missing_solver_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ot", None)
    mu = torch.tensor([[0.5, 0.5, 0.0]])
    with pytest.raises(PluralignError, match=r"pip install 'pluralign\[pot\]'"):
        transport_cost(mu, mu.flip(-1), label_cost([1, 2, 3], ring(3)))
    # The built-in costs do without it.
    assert transport_cost(mu, mu.flip(-1), label_cost([1, 2, 3])).item() == pytest.approx(1.05, abs=1e-6)


def test_cross_entropy_by_hand():
    logits = torch.tensor([[0.0, np.log(3.0)]], dtype=torch.float64)
    found = soft_cross_entropy(logits, torch.tensor([[0.5, 0.5]], dtype=torch.float64))
    assert found.item() == pytest.approx(np.log(4) - np.log(3) / 2, abs=1e-15)


# In the trainer.


@pytest.fixture(scope="module")
def judgments():
    return voted()


class Indicators(torch.nn.Module):
    """A head that sees which item it is at, by the nearest of the states that the items had."""

    def __init__(self, states, labels):
        super().__init__()
        self.register_buffer("states", states)
        self.weight = torch.nn.Parameter(torch.zeros(labels, len(states)))

    def forward(self, states):
        which = torch.cdist(states, self.states).argmin(-1)
        return self.weight.T[which]


@pytest.mark.parametrize(("loss", "scale"), [*((loss, "agree-pass-disagree") for loss in LOSSES), ("ot", "hh-6")])
def test_a_head_that_sees_the_item_reaches_every_target(loss, scale, tiny_model, tmp_path):
    """Transport cost near 0 under each loss, labels of one reward told apart; steps shrink with the learning rate."""
    scale = BUILT_IN_SCALES[scale]
    trainer = make(
        tiny_model, voted(scale=scale), tmp_path, scale=scale, loss=loss, max_steps=400, learning_rate=0.1,
        lr_scheduler_type="cosine", layout="flat", logging_steps=400, max_grad_norm=0.0, prior_strength="labels",
    )  # fmt: skip
    with torch.no_grad():
        (block,) = trainer.data_collator(list(range(12)))["blocks"]
        states = trainer.model(
            input_ids=block["input_ids"], attention_mask=(block["branch"] >= 0).long(), last=block["last"]
        ).hidden_states
    trainer.model.score = Indicators(states, len(scale.labels))
    for name, tensor in trainer.model.named_parameters():
        tensor.requires_grad_(name.startswith("score"))
    trainer.train()
    found, target = torch.from_numpy(predictions(trainer)), torch.from_numpy(trainer.crowd.distribution)
    assert (found - target).abs().sum(-1).max() / 2 < 0.02
    cost = distribution_loss(found.log(), target, loss="ot", cost=label_cost(scale.rewards))
    assert cost.max() < 0.05
    assert trainer.state.log_history[-2]["transport_cost"] < 0.05


@pytest.mark.parametrize("loss", LOSSES)
def test_the_gradient_is_zero_at_the_target(loss, judgments, tiny_model, tmp_path):
    trainer = make(tiny_model, judgments, tmp_path, loss=loss)
    batch = trainer.data_collator(list(range(12)))
    trainer.model.eval()
    with torch.no_grad():
        values = trainer._read(trainer.model, batch)[batch["index"]].squeeze(1)
    moved = {**batch, "target": torch.full_like(batch["target"], 1 / 3)}
    for inputs, expected in ((moved, False), ({**batch, "target": values.softmax(-1)}, True)):
        trainer.model.zero_grad()
        trainer.compute_loss(trainer.model, inputs).backward()
        size = trainer.model.score.weight.grad.abs().max().item()
        # Of the cross-entropy the gradient is a difference of equal numbers: float32's rounding is left.
        assert (size < 1e-7) == expected, size
