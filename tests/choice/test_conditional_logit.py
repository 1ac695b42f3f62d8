"""The weighted conditional logit and its derivatives, against automatic differentiation of the plain formula."""

import pytest
import torch
from torch.autograd.functional import hessian

from pluralign.choice.latent_class import conditional_logit
from pluralign.choice.latent_class.conditional_logit import ConditionalLogit
from pluralign.choice.latent_class.exploded import exploded

RESPONSES, COLUMNS = 12, 3
KINDS = (
    "pairs",
    "wide",
    "ties",
    "worths",
    "worths of pairs",
    "worths in parts",
    "availability",
    "availability of worths",
)


def case(kind):
    """A logit, coefficients `(4, p)` and weights `(choices, 4)`."""
    draw = torch.Generator().manual_seed(KINDS.index(kind))
    shown = 2 if "pairs" in kind else 5
    responses = torch.stack([torch.randperm(RESPONSES, generator=draw)[:shown] for _ in range(40)])
    if kind == "worths in parts":  # 0 to 3, 4 to 10, and 11 which nobody saw
        low = torch.stack([torch.randperm(4, generator=draw) for _ in range(40)])
        high = torch.stack([torch.randperm(7, generator=draw)[:4] + 4 for _ in range(40)])
        responses = torch.where(torch.arange(40).unsqueeze(1) % 2 == 0, low, high)
        shown = 4
    ranks = torch.stack([torch.randperm(shown, generator=draw) + 1 for _ in range(40)])
    if kind == "ties":
        ranks = torch.randint(0, 3, (40, shown), generator=draw)
    if shown > 2:
        ranks[:10, 3:] = -1
    features = torch.randn(RESPONSES, COLUMNS, dtype=torch.float64, generator=draw)
    available = None
    if "availability" in kind:
        available = torch.ones(2, RESPONSES, dtype=torch.bool)
        available[0, :3], available[1, 5] = False, False
    choices = exploded(responses, ranks)
    logit = ConditionalLogit(choices, None if "worths" in kind else features, RESPONSES, available)
    coefficients = torch.randn(4, logit.parameters, dtype=torch.float64, generator=draw)
    weights = torch.rand(len(choices), 4, dtype=torch.float64, generator=draw)
    if available is not None:
        weights = weights * available.repeat(2, 1).T[choices.response[:, 0]]
    return logit, coefficients, weights


def plain(logit, beta, vector):
    """log P of every choice under one coefficient vector, by its definition."""
    utilities = beta if logit.features is None else logit.features @ beta
    response = logit.choices.response.clamp(min=0)
    inside = utilities[response] + logit.choices.log_share
    found = utilities[response[:, 0]] - torch.logsumexp(inside, 1)
    if logit.available is not None:
        known = logit.available[vector % len(logit.available)][response]
        inside = inside.masked_fill(~known, -torch.inf)
        # Where the chosen response is unknown the sum may be empty: keep its gradient free of NaN.
        inside = torch.where(known[:, :1], inside, torch.zeros_like(inside))
        found = torch.where(known[:, 0], utilities[response[:, 0]] - torch.logsumexp(inside, 1), -torch.inf)
    return found


def weighted(logit, weights, vector):
    def value(beta):
        log_p = plain(logit, beta, vector)
        used = weights[:, vector] > 0
        return (weights[used, vector] * log_p[used]).sum()

    return value


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def check(logit, coefficients, weights):
    blocks = logit.blocks(coefficients)
    value, gradient = logit.value_and_gradient(blocks, weights)
    curvature, diagonal = logit.curvature(blocks, weights), logit.diagonal(blocks, weights)
    directions = torch.randn(coefficients.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    product = logit.hessian_product(blocks, weights, directions)
    log_p = logit.log_probabilities(coefficients)
    for vector, beta in enumerate(coefficients):
        of = weighted(logit, weights, vector)
        at = beta.clone().requires_grad_()
        close(log_p[:, vector], plain(logit, beta, vector))
        close(value[vector], of(beta))
        close(gradient[vector], torch.autograd.grad(of(at), at)[0])
        expected = -hessian(of, beta)
        close(curvature[vector], expected)
        close(product[vector], expected @ directions[vector])
        assert (diagonal[vector] >= expected.diagonal() - 1e-12).all()


@pytest.mark.parametrize("kind", KINDS)
def test_value_gradient_and_curvature_are_the_formulas_own(kind):
    check(*case(kind))


@pytest.mark.parametrize("kept", [0, 2**26])
@pytest.mark.parametrize("kind", KINDS)
def test_small_blocks_give_the_same(kind, kept, monkeypatch):
    monkeypatch.setattr(conditional_logit, "CELLS", 60)
    monkeypatch.setattr(conditional_logit, "KEPT_CELLS", kept)
    logit, coefficients, weights = case(kind)
    assert len(list(logit.blocks(coefficients))) > 1
    check(logit, coefficients, weights)


@pytest.mark.parametrize("kind", ["wide", "worths"])
def test_the_diagonal_is_the_mean_square_difference(kind):
    """sum_s w_s sum_i P_si d_si^2, which bounds the Hessian's diagonal."""
    logit, coefficients, weights = case(kind)
    features = torch.eye(RESPONSES, dtype=torch.float64) if logit.features is None else logit.features
    found = logit.diagonal(logit.blocks(coefficients), weights)
    response = logit.choices.response.clamp(min=0)
    for vector, beta in enumerate(coefficients):
        p = torch.softmax((features @ beta)[response] + logit.choices.log_share, 1)
        squares = (features[response] - features[response[:, :1]]).square()
        close(found[vector], torch.einsum("s,si,sip->p", weights[:, vector], p, squares))


def test_choices_of_what_a_type_does_not_know_are_impossible_to_it():
    logit, coefficients, _ = case("availability")
    known = logit.available.repeat(2, 1).T[logit.choices.response[:, 0]]
    log_p = logit.log_probabilities(coefficients)
    assert torch.equal(torch.isfinite(log_p), known)
    assert not known.all()


def test_extreme_utilities_stay_finite_and_exact():
    """Choosing the worse by 1e4 costs 1e4 and pulls with the whole difference."""
    choices = exploded(torch.tensor([[0, 1], [2, 1]]), torch.tensor([[2, 1], [1, 2]]))
    features = torch.tensor([[1.0], [0.0], [1.0]], dtype=torch.float64)
    logit = ConditionalLogit(choices, features, 3)
    blocks = logit.blocks(torch.tensor([[1e4]], dtype=torch.float64))
    weights = torch.ones(2, 1, dtype=torch.float64)
    value, gradient = logit.value_and_gradient(blocks, weights)
    assert (value.item(), gradient.item(), logit.curvature(blocks, weights).item()) == (-1e4, -1.0, 0.0)
