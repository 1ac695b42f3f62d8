"""Constants and logistic regression beside a label model, and the verdict on it."""

import numpy as np
import pytest

from labelled import SCALE, voted
from pluralign.core.errors import PluralignError
from pluralign.evaluation.crowds.distributions import log_loss_gain
from pluralign.scoring.crowd_predictions import baseline_metrics, crowd_metrics, verdict, verdicts, voters_of
from pluralign.scoring.crowds import crowd_of
from pluralign.scoring.label_baselines import BASELINES, LabelBaselines, read_baselines


def test_constants_are_the_mean_shares_and_the_medians_of_the_cumulative_shares():
    crowd = crowd_of(voted(people=(3, 9)))
    shares = crowd.counts / crowd.votes[:, None]
    found = LabelBaselines.fit(crowd, np.ones(12))
    np.testing.assert_allclose(found.marginal, shares.mean(0))
    low, middle = (np.sort(values)[5] for values in (shares[:, 2], shares[:, 2] + shares[:, 1]))
    np.testing.assert_allclose(found.medians, [1 - middle, middle - low, low])
    weighted = LabelBaselines.fit(crowd, crowd.votes)
    np.testing.assert_allclose(weighted.marginal, crowd.counts.sum(0) / crowd.votes.sum())
    # No constant has a lower transport cost (without a step) on the items than the medians.
    from pluralign.choice.label_costs import label_cost
    from pluralign.evaluation.crowds.distributions import predicted_crowds

    def cost(constant):
        mu = np.tile(constant, (12, 1))
        flat = label_cost(SCALE.rewards, delta=0.0)
        return predicted_crowds(mu, crowd.counts, SCALE.rewards, range(12), cost=flat).values["transport_cost"].mean()

    others = np.random.default_rng(0).dirichlet(np.ones(3), size=300)
    assert cost(found.medians) <= min(cost(other) for other in (*others, found.marginal)) + 1e-12


def test_they_are_stored_and_read(tiny_encoder, tmp_path):
    crowd = crowd_of(voted(people=(3, 9)))
    found = LabelBaselines.fit(crowd, crowd.votes, str(tiny_encoder))
    found.write(tmp_path)
    items = crowd.items()
    before, after = found.predict(items), read_baselines(tmp_path).predict(items)
    assert list(before) == list(after) == ["marginal", "medians", "logistic"]
    for name, own in before.items():
        assert own.shape == (12, 3)
        np.testing.assert_allclose(own.sum(1), 1)
        np.testing.assert_array_equal(after[name], own)
    LabelBaselines.fit(crowd, crowd.votes).write(tmp_path)
    assert list(read_baselines(tmp_path).predict(items)) == ["marginal", "medians"]
    assert read_baselines(tmp_path / "nowhere") is None
    (tmp_path / BASELINES).write_bytes(b"broken")
    with pytest.raises(PluralignError, match=r"baselines.safetensors: damaged"):
        read_baselines(tmp_path)


def test_the_gain_is_the_difference_of_the_log_losses():
    judgments = voted(people=(5, 15))
    crowd = crowd_of(judgments)
    draw = np.random.default_rng(0)
    mu, other = draw.dirichlet(np.ones(3), size=(2, 12))
    metrics = baseline_metrics(crowd, mu, {"marginal": other}, voters_of(judgments, crowd))
    own, theirs = crowd_metrics(crowd, mu), crowd_metrics(crowd, other)
    assert metrics["gain_over_marginal"] == pytest.approx(theirs["vote_log_loss"] - own["vote_log_loss"], rel=1e-9)
    assert metrics["transport_cost/baseline=marginal"] == theirs["transport_cost"]
    assert metrics["gain_over_marginal_low"] < metrics["gain_over_marginal"] < metrics["gain_over_marginal_high"]


def test_the_verdict_is_right_about_the_truth_and_about_a_model_that_learnt_nothing():
    """Twenty draws of a crowd: the truth is found better than a constant, and a shuffled truth is not."""
    draw = np.random.default_rng(0)
    better, wrong = 0, 0
    for _ in range(20):
        truth = draw.dirichlet(np.full(3, 2.0), size=150)
        counts = np.stack([draw.multinomial(8, row) for row in truth])
        constant = np.tile([1 / 3] * 3, (150, 1))
        for mu, which in ((0.5 * truth + 0.5 / 3, "truth"), (0.9 / 3 + 0.1 * draw.permutation(truth), "noise")):
            gain = log_loss_gain(mu, constant, counts, np.arange(150))
            named = {key.replace("gain", "gain_over_marginal", 1): value for key, value in gain.items()}
            said = verdict(named).startswith("better")
            better, wrong = better + (said and which == "truth"), wrong + (said and which == "noise")
    assert better == 20
    assert wrong <= 1
    assert verdicts({}) == []
