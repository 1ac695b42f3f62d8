"""The weighted conditional logit and its derivatives, against automatic differentiation of the plain formula."""

import pytest
import torch
from torch.autograd.functional import hessian

from exploded import exploded
from pluralign.choice.latent_class import compared_pairs, conditional_logit
from pluralign.choice.latent_class.choice_sets import choice_sets, compressed
from pluralign.choice.latent_class.conditional_logit import ConditionalLogit
from pluralign.choice.latent_class.likelihood import Block, Likelihood

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
    "extreme",
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
    if kind == "extreme":  # utilities that differ by hundreds, so that exponentials of one would be lost
        features = features * 200
    sets = choice_sets(responses, ranks, RESPONSES)
    logit = ConditionalLogit(sets, None if "worths" in kind else features, RESPONSES, available)
    coefficients = torch.randn(4, logit.parameters, dtype=torch.float64, generator=draw)
    weights = torch.rand(len(sets), 4, dtype=torch.float64, generator=draw)
    if available is not None:
        weights = weights * torch.isfinite(at(logit, coefficients).log_p)
    return logit, coefficients, weights, exploded(sets)


def at(logit, coefficients):
    return logit.at(logit.utilities(coefficients))


def alone(logit):
    """The likelihood of annotators who made each of the choices once."""
    places = torch.arange(len(logit.choices))
    ones = compressed(places, places, torch.ones(len(places), dtype=torch.float64), (len(places), len(places)))
    return Likelihood((Block(logit, ones, ones),))


def plain(logit, spelled, beta, vector):
    """log P of every choice under one coefficient vector, by the definition of each of its places."""
    utilities = beta if logit.features is None else logit.features @ beta
    response = spelled.response.clamp(min=0)
    inside = utilities[response] + spelled.log_share
    found = utilities[response[:, 0]] - torch.logsumexp(inside, 1)
    if logit.available is not None:
        known = logit.available[vector % len(logit.available)][response]
        inside = inside.masked_fill(~known, -torch.inf)
        # Where the chosen response is unknown the sum may be empty: keep its gradient free of NaN.
        inside = torch.where(known[:, :1], inside, torch.zeros_like(inside))
        found = torch.where(known[:, 0], utilities[response[:, 0]] - torch.logsumexp(inside, 1), -torch.inf)
    by_choice = found.new_zeros(len(logit.choices)).index_add(0, spelled.choice, found)
    return judged(logit.choices, by_choice)


def judged(sets, values):
    """Sums over the choices of each judgment."""
    judgments = int(sets.judgment.max()) + 1
    return values.new_zeros(judgments, *values.shape[1:]).index_add(0, sets.judgment, values[sets.choice])


def close(found, expected, size=1.0):
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10 * max(1.0, float(size)))


def check(logit, coefficients, weights, spelled):
    """Against automatic differentiation; the weight of a judgment is that of its choices."""
    sets = logit.choices
    number = int(sets.judgment.max()) + 1
    by_judgment = torch.rand(number, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(8))
    by_judgment *= judged(sets, (weights == 0).double()) == 0
    weights = torch.zeros_like(weights).index_add(0, sets.choice, by_judgment[sets.judgment])
    point, here = at(logit, coefficients), alone(logit).at(coefficients)
    gradient = here.gradient([weights])
    curvature, diagonal = point.curvature(weights), point.diagonal(weights)
    directions = torch.randn(coefficients.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    product = here.hessian([weights])(directions)
    along = here.along(directions)
    slope, bend = (judged(sets, part) for part in (along.by_annotator(), along.variance()))
    log_p = judged(sets, point.log_p)
    annotators = torch.arange(number).remainder(3)
    counts = torch.zeros(3, len(sets), dtype=torch.float64)
    counts.index_put_((annotators[sets.judgment], sets.choice), torch.ones(len(sets.choice)).double(), accumulate=True)
    for vector, beta in enumerate(coefficients):
        used = by_judgment[:, vector] > 0

        def of(beta, vector=vector, used=used):
            return (by_judgment[used, vector] * plain(logit, spelled, beta, vector)[used]).sum()

        start = beta.clone().requires_grad_()
        close(log_p[:, vector], plain(logit, spelled, beta, vector))
        close(gradient[vector], torch.autograd.grad(of(start), start)[0])
        expected = -hessian(of, beta)
        size = 1.0 if logit.features is None else logit.features.square().max()
        close(curvature[vector], expected, size)
        close(product[vector], expected @ directions[vector], size)
        assert (diagonal[vector] >= expected.diagonal() - 1e-10 * expected.diagonal().max()).all()
        if logit.features is None:
            close(diagonal[vector], expected.diagonal())

        def each(beta, vector=vector, used=used):
            return torch.where(used, plain(logit, spelled, beta, vector), 0.0)

        jacobian = torch.autograd.functional.jacobian(each, beta)
        close(slope[used, vector], jacobian[used] @ directions[vector])
        for judgment in used.nonzero().flatten()[:8].tolist():
            second = hessian(lambda b, judgment=judgment, each=each: each(b)[judgment], beta)
            close(bend[judgment, vector], -directions[vector] @ second @ directions[vector], size)
        if bool(used.all()):
            gradients = point.annotator_gradients(counts.to_sparse_csr(), vector)
            close(gradients, torch.zeros(3, len(beta)).double().index_add(0, annotators, jacobian))


@pytest.mark.parametrize("kind", KINDS)
def test_value_gradient_and_curvature_are_the_formulas_own(kind):
    check(*case(kind))


@pytest.mark.parametrize(
    ("module", "name"),
    [(conditional_logit, "WIDE"), (conditional_logit, "MOST_EDGES"), (compared_pairs, "DIFFERENCES")],
)
@pytest.mark.parametrize("kind", KINDS)
def test_every_way_to_compute_them_gives_the_same(kind, module, name, monkeypatch):
    monkeypatch.setattr(module, name, -1)
    check(*case(kind))


@pytest.mark.parametrize("kind", ["pairs", "ties", "worths"])
def test_every_third_choice_is_what_it_was(kind):
    logit, coefficients, weights, _ = case(kind)
    whole, part = at(logit, coefficients), at(logit.every(3), coefficients)
    close(part.log_p, whole.log_p[::3])
    kept = torch.zeros_like(weights)
    kept[::3] = weights[::3]
    close(part.curvature(weights[::3]), whole.curvature(kept))


def test_a_curvature_from_a_sample_is_close_unless_the_sample_lacks_a_feature():
    draw = torch.Generator().manual_seed(0)
    responses = torch.stack([torch.randperm(RESPONSES, generator=draw)[:3] for _ in range(6000)])
    features = torch.randn(RESPONSES, COLUMNS, dtype=torch.float64, generator=draw)
    weights = torch.rand(6000, 2, dtype=torch.float64, generator=draw)
    sets = choice_sets(responses + RESPONSES * torch.arange(6000).unsqueeze(1), torch.tensor([[1, 2, 3]] * 6000), 72000)
    logit = ConditionalLogit(sets, features.repeat(6000, 1), 72000)
    weights = weights.repeat_interleave(2, 0)[: len(sets)]
    here = alone(logit).at(torch.randn(2, COLUMNS, dtype=torch.float64, generator=draw))
    exact, sampled = here.curvature([weights]), here.sampled_curvature([weights], 3000)
    assert not torch.equal(sampled, exact)
    torch.testing.assert_close(sampled, exact, rtol=0.1, atol=0.1 * float(exact.diagonal(dim1=1, dim2=2).min()))
    rare = torch.zeros(72000, 1, dtype=torch.float64)
    rare[sets.others.response[sets.others.choice % 4 == 1][:5]] = 1.0  # in none of every fourth choice
    logit = ConditionalLogit(sets, torch.cat((logit.features, rare), 1), 72000)
    here = alone(logit).at(torch.zeros(2, COLUMNS + 1, dtype=torch.float64))
    assert torch.equal(here.sampled_curvature([weights], 3000), here.curvature([weights]))


def test_choices_of_what_a_type_does_not_know_are_impossible_to_it():
    logit, coefficients, _, _ = case("availability")
    tied = logit.choices.tied
    log_p = at(logit, coefficients).log_p
    known = torch.isfinite(log_p)
    for choice, response in zip(tied.choice.tolist(), tied.response.tolist(), strict=True):
        assert torch.equal(known[choice], logit.available.repeat(2, 1)[:, response])
    assert not known.all()


def test_extreme_utilities_stay_finite_and_exact():
    """Choosing the worse by 1e4 costs 1e4 and pulls with the whole difference."""
    choices = choice_sets(torch.tensor([[0, 1], [2, 1]]), torch.tensor([[2, 1], [1, 2]]), 3)
    features = torch.tensor([[1.0], [0.0], [1.0]], dtype=torch.float64)
    here = alone(ConditionalLogit(choices, features, 3)).at(torch.tensor([[1e4]], dtype=torch.float64))
    weights = [torch.ones(2, 1, dtype=torch.float64)]
    found = here.by_annotator().sum(), here.gradient(weights), here.curvature(weights)
    assert tuple(value.item() for value in found) == (-1e4, -1.0, 0.0)
