"""Davidson's ties in latent classes: the published fit of one type, two types, refusals."""

import numpy as np
import pytest
import torch

from pluralign.choice.davidson import davidson_log_likelihood, log_outcomes
from pluralign.choice.latent_class.estimator import LatentClassPlackettLuce
from pluralign.choice.latent_class.panel import Panel
from pluralign.choice.latent_class.tie_alternatives import with_tie_alternatives
from published_panels import PUDDING


def test_one_type_is_davidson_s_published_fit():
    rows = [(i - 1, j - 1, ranks) for i, j, *counts in PUDDING
            for ranks, count in zip(((1, 2), (2, 1), (1, 1)), counts, strict=True) for _ in range(count)]  # fmt: skip
    responses, ranks = np.array([row[:2] for row in rows]), np.array([row[2] for row in rows])
    panel = Panel(responses, ranks, np.arange(len(rows)) % 40)
    # Worths are known up to a constant, which the ridge fixes.
    model = LatentClassPlackettLuce(1, ridge=1e-6).fit(with_tie_alternatives(panel))
    worth = np.exp(model.coefficients_[0, :6])
    np.testing.assert_allclose(worth / worth.sum(), [0.1388, 0.1730, 0.1617, 0.1654, 0.1587, 0.2024], atol=6e-5)
    nu = np.exp(model.coefficients_[0, 6])
    assert nu == pytest.approx(0.7468, abs=6e-5)
    u = torch.from_numpy(model.coefficients_[0, :6])[torch.from_numpy(responses)]
    expected = davidson_log_likelihood(u, torch.from_numpy(ranks), torch.tensor([nu]).log()).sum().item()
    assert model.log_likelihood_ == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("common", [True, False])
def test_two_types_with_ties_are_recovered(common):
    draw = np.random.default_rng(0)
    features = draw.normal(size=(30, 3))
    taste = np.array([[2.0, -1.0, 0.5], [-1.5, 1.0, 1.0]])
    nu = np.array([0.8, 0.8]) if common else np.array([0.3, 2.0])
    annotator = np.repeat(np.arange(120), 30)
    kind = (np.arange(120) >= 70).astype(int)
    pairs = np.array([draw.choice(30, 2, replace=False) for _ in annotator])
    utilities = (features[pairs] * taste[kind[annotator]][:, None]).sum(-1)
    chances = np.array([np.exp(log_outcomes([u[0] - u[1]], np.log(nu[kind[h]])))[0]
                        for u, h in zip(utilities, annotator, strict=True)])  # fmt: skip
    outcome = (draw.random(len(chances))[:, None] > chances.cumsum(1)).sum(1)  # first, tie, second
    ranks = np.array([[1, 2], [1, 1], [2, 1]])[outcome]
    panel = with_tie_alternatives(Panel(pairs, ranks, annotator, features=features))
    model = LatentClassPlackettLuce(2, ridge=1e-3, shared=[3] if common else (), seed=0).fit(panel)
    order = np.argsort(-model.coefficients_[:, 0])
    np.testing.assert_allclose(model.coefficients_[order, :3], taste, atol=0.3)
    np.testing.assert_allclose(np.exp(model.coefficients_[order, 3]), nu, rtol=0.2)
    assert (model.labels_ == order[kind]).mean() > 0.97


def test_other_judgments_than_pairs_are_refused_and_unshown_places_are_left_out():
    for responses, ranks in (([[0, 1, 2]], [[1, 2, 3]]), ([[0, 1]], [[0, 0]]), ([[0, 1]], [[1, -1]])):
        with pytest.raises(ValueError, match="judgment 0 is another"):
            with_tie_alternatives(Panel(responses, ranks, [0]))
    padded = with_tie_alternatives(Panel([[5, 0, 1]], [[-1, 0, 1]], [0], response_total=6))
    assert padded.responses.tolist() == [[0, 1, 6]]
    assert padded.ranks.tolist() == [[0, 1, 0]]
