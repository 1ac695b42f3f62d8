"""Metrics of predicted distributions: by plain loops, by hand, and the laws they obey."""

import math

import numpy as np
import ot
import pytest
from scipy import stats

from pluralign.choice.label_costs import label_cost
from pluralign.core.errors import PluralignError
from pluralign.evaluation.crowds.distributions import (
    FLOOR,
    MEANS,
    Votes,
    distribution_metrics,
    evaluate_distributions,
    predicted_crowds,
)
from pluralign.evaluation.crowds.vote_slices import vote_counts
from pluralign.evaluation.intervals import Resampling

HH6 = (1.0, 0.5, -1.0, -1.0, -1.5, -3.0)


def crowd(seed, items=40, labels=6, prompts=9, most=12):
    """Predictions, votes drawn near them (some items have none), prompts and weights."""
    draw = np.random.default_rng(seed)
    mu = draw.dirichlet(np.full(labels, 0.8), size=items)
    n = draw.integers(0, most, size=items)
    votes = np.stack([draw.multinomial(k, draw.dirichlet(5 * p + 0.1)) for k, p in zip(n, mu, strict=True)])
    return {
        "predicted": mu,
        "votes": votes,
        "rewards": HH6[:labels],
        "prompt": draw.integers(prompts, size=items) * 3 - 4,
    }, draw.choice([0.5, 1.0, 3.0], size=items)


def loop_metrics(predicted, votes, rewards, matrix, weight, bins):
    """Oracle: one item after the other."""
    rows, cells = [], []
    for mu, c, w in zip(predicted, votes, weight, strict=True):
        n = sum(c)
        if not n:
            continue
        s = [k / n for k in c]
        ce = -sum(x * math.log(p) for x, p in zip(s, mu, strict=True) if x)
        entropy = -sum(x * math.log(x) for x in s if x)
        bias = sum(r * (p - x) for r, p, x in zip(rewards, mu, s, strict=True))
        tops = [i for i, k in enumerate(c) if k == max(c)]
        guess = int(np.argmax(mu))
        right = (1.0 if len(tops) == 1 else 0.5) if guess in tops else 0.0
        ranges = [stats.binom(n, p) for p in mu]
        covered = []
        for k, dist in zip(c, ranges, strict=True):
            low, high = dist.cdf(k - 1), dist.cdf(k)
            covered.append(max(0.0, min(high, 0.95) - max(low, 0.05)) / (high - low) if high > low else 0.0)
        cost = ot.emd2(np.array(mu), np.array(s) / sum(s) * sum(mu), matrix)
        tv = sum(abs(p - x) for p, x in zip(mu, s, strict=True)) / 2
        rows.append((w, cost, tv, ce, entropy, ce - entropy, abs(bias), bias, np.mean(covered), right))
        cells += [(w, min(int(p * bins), bins - 1), p - x) for p, x in zip(mu, s, strict=True)]
    table = np.array(rows)
    found = dict(zip(MEANS, np.average(table[:, 1:], axis=0, weights=table[:, 0]), strict=True))
    gaps = [sum(w * gap for w, b, gap in cells if b == at) for at in range(bins)]
    found["share_ece"] = sum(map(abs, gaps)) / sum(w for w, _, _ in cells)
    return found


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", ["reward-gap", "index"])
def test_every_metric_is_that_of_plain_loops(seed, kind):
    data, weight = crowd(seed)
    cost = label_cost(HH6, kind)
    for own, bins in ((weight, 10), (np.ones(len(weight)), 7)):
        found = distribution_metrics(predicted_crowds(**data, cost=cost, weight=own), bins)
        expected = loop_metrics(data["predicted"], data["votes"], HH6, cost.matrix, own, bins)
        for name, value in expected.items():
            assert found.pop(name) == pytest.approx(value, abs=1e-9), name
        heard = data["votes"].sum(1) > 0
        assert found == {"items": heard.sum(), "votes": data["votes"].sum(), "left_out": (~heard).sum()}
        assert found["left_out"] > 0


def test_metrics_by_hand():
    """Two items on three labels worth 1, 0, -1; the second item counts three times."""
    crowds = predicted_crowds(
        [[0.5, 0.25, 0.25], [0.2, 0.3, 0.5]], [[3, 1, 0], [0, 0, 2]], [1.0, 0.0, -1.0], [0, 0], weight=[1.0, 3.0]
    )
    found = distribution_metrics(crowds)
    # Shares .75, .25, 0 and 0, 0, 1: total variations .25 and .5; moved by 2, and by 2 and 1 places.
    assert found["total_variation"] == pytest.approx((0.25 + 3 * 0.5) / 4)
    assert found["transport_cost"] == pytest.approx((0.5 + 0.025 + 3 * (0.4 + 0.3 + 0.05)) / 4)
    ce = -0.75 * math.log(0.5) - 0.25 * math.log(0.25)
    assert found["log_loss"] == pytest.approx((ce - 3 * math.log(0.5)) / 4)
    entropy = -0.75 * math.log(0.75) - 0.25 * math.log(0.25)
    assert found["vote_entropy"] == pytest.approx(entropy / 4)
    assert found["log_loss_excess"] == pytest.approx(found["log_loss"] - found["vote_entropy"])
    # Expected rewards .25 against .75, and -.3 against -1.
    assert found["expected_reward_bias"] == pytest.approx((-0.5 + 3 * 0.7) / 4)
    assert found["expected_reward_error"] == pytest.approx((0.5 + 3 * 0.7) / 4)
    # Bins of .2, .25 (two, of .25 and 0 shares), .3, .5 (of .75 and of 1): gaps .2 * 3 + .25, .3 * 3, .25 + 1.5.
    assert found["share_ece"] == pytest.approx((0.6 + 0.25 + 0.9 + 0.25 + 1.5) / 12)
    assert found["majority_accuracy"] == 1
    assert (found["items"], found["votes"], found["left_out"]) == (2, 6, 0)


def test_a_tied_top_label_counts_half():
    cases = {
        ((0.6, 0.4, 0.0), (2, 1, 0)): 1.0,
        ((0.6, 0.4, 0.0), (1, 2, 0)): 0.0,
        ((0.6, 0.4, 0.0), (2, 2, 0)): 0.5,
        ((0.6, 0.4, 0.0), (0, 2, 2)): 0.0,
        ((0.5, 0.5, 0.0), (2, 1, 0)): 0.5,
        ((0.5, 0.5, 0.0), (2, 2, 0)): 0.5,
        ((0.5, 0.5, 0.0), (0, 0, 2)): 0.0,
        # 0.1 + 0.2 and 0.3 are as many votes.
        ((0.6, 0.4, 0.0), (0.3, 0.1 + 0.2, 0)): 0.5,
    }
    for (mu, votes), expected in cases.items():
        crowds = predicted_crowds([mu], [votes], [1, 2, 3], [0])
        assert crowds.values["majority_accuracy"].tolist() == [expected], (mu, votes)


def test_the_voted_shares_themselves_have_no_error():
    data, _ = crowd(5)
    heard = data["votes"].sum(1) > 0
    data = {name: value if name == "rewards" else value[heard] for name, value in data.items()}
    data["predicted"] = data["votes"] / data["votes"].sum(1, keepdims=True)
    found = distribution_metrics(predicted_crowds(**data))
    for name in ("transport_cost", "total_variation", "log_loss_excess", "expected_reward_error", "share_ece"):
        assert found[name] == pytest.approx(0, abs=1e-12), name
    assert found["log_loss"] == pytest.approx(found["vote_entropy"])
    assert found["log_loss"] > 0.3


def test_nothing_has_less_log_loss_than_the_shares():
    for seed in range(5):
        data, _ = crowd(seed)
        assert (predicted_crowds(**data).values["log_loss_excess"] >= 0).all()


def test_a_label_held_impossible_costs_the_floor():
    found = distribution_metrics(predicted_crowds([[1.0, 0.0]], [[0, 3]], [1.0, 0.0], [0]))
    assert found["log_loss"] == pytest.approx(-math.log(FLOOR))
    assert found["interval_coverage"] == 0
    assert found["majority_accuracy"] == 0


def test_shares_of_the_truth_are_calibrated_with_few_votes():
    """share_ece of the true shares falls with the items; the distances of three votes to them do not."""
    draw = np.random.default_rng(0)
    mu = draw.dirichlet(np.ones(4), size=40_000)
    found = distribution_metrics(predicted_crowds(mu, draw.multinomial(3, mu), range(4), np.arange(len(mu))))
    assert found["share_ece"] < 0.004  # ten bins of about 16,000 shares with a deviation of at most 0.3
    assert found["total_variation"] > 0.25
    # The mean over labels of 40,000 items has a deviation of about 0.001.
    assert found["interval_coverage"] == pytest.approx(0.9, abs=0.005)


def test_a_prediction_in_doubt_covers_more():
    data, _ = crowd(8)
    means = [
        distribution_metrics(predicted_crowds(**data, concentration=k))["interval_coverage"] for k in (None, 30, 2)
    ]
    assert means == sorted(means)
    assert means[0] < means[2] - 0.05


# Intervals.


def test_intervals_draw_whole_prompts():
    """By a plain loop over the same draws: metrics of the drawn prompts' items together."""
    data, weight = crowd(9, prompts=6)
    crowds = predicted_crowds(**data, weight=weight)
    found = distribution_metrics(crowds, replicates=40, level=0.8, seed=3)
    prompts = np.unique(crowds.prompt)
    drawn = np.random.default_rng(3).integers(len(prompts), size=(40, len(prompts)))
    heard = data["votes"].sum(1) > 0
    replicates = []
    for picks in drawn:
        rows = np.concatenate([np.flatnonzero(heard & (data["prompt"] == prompts[k])) for k in picks])
        again = predicted_crowds(
            data["predicted"][rows], data["votes"][rows], HH6, data["prompt"][rows], weight=weight[rows]
        )
        replicates.append(distribution_metrics(again))
    for name in MEANS:
        low, high = np.quantile([one[name] for one in replicates], [0.1, 0.9])
        assert found[f"{name}_low"] == pytest.approx(low, abs=1e-12), name
        assert found[f"{name}_high"] == pytest.approx(high, abs=1e-12), name


def test_more_items_of_a_prompt_do_not_narrow_its_interval():
    data, _ = crowd(10)
    many = {name: value if name == "rewards" else np.concatenate([value] * 5) for name, value in data.items()}
    once, often = (distribution_metrics(predicted_crowds(**one), replicates=100) for one in (data, many))
    counts = ("items", "votes", "left_out")
    assert {k: v for k, v in once.items() if k not in counts} == pytest.approx(
        {k: v for k, v in often.items() if k not in counts}, rel=1e-8, abs=1e-12
    )
    assert often["items"] == 5 * once["items"]


def test_the_whole_holds_its_parts():
    data, weight = crowd(11)
    found = evaluate_distributions(**data, weight=weight, replicates=30, seed=1)
    crowds = predicted_crowds(**data, weight=weight)
    assert found == distribution_metrics(crowds, replicates=30, seed=1)
    assert found.items() >= distribution_metrics(crowds).items()
    assert all(isinstance(value, int | float) and math.isfinite(value) for value in found.values())


# Undefined values and bad input.


@pytest.mark.parametrize("items", [0, 3])
def test_without_votes_there_are_counts_alone(items):
    found = evaluate_distributions(np.full((items, 2), 0.5), np.zeros((items, 2)), [1.0, 0.0], np.zeros(items, int))
    assert found == {"items": 0, "votes": 0, "left_out": items}


def test_weights_of_zero_define_nothing():
    found = evaluate_distributions(np.full((2, 2), 0.5), np.ones((2, 2)), [1, 0], [0, 1], weight=[0, 0], replicates=5)
    assert found == {"items": 2, "votes": 4, "left_out": 0}


def test_one_prompt_has_no_interval():
    found = evaluate_distributions([[0.5, 0.5]] * 2, [[1, 0]] * 2, [1.0, 0.0], [4, 4])
    assert found["total_variation"] == 0.5
    assert not any(name.endswith(("_low", "_high")) for name in found)


def test_arguments_that_do_not_fit_are_refused():
    good = {"predicted": [[0.5, 0.5]], "votes": [[1, 0]], "rewards": [1.0, 0.0], "prompt": [0]}
    cases = {
        r"predicted: shape \(2,\), expected \(items, 2\)": {"predicted": [0.5, 0.5]},
        r"predicted\[0, 1\] is -0.5, expected": {"predicted": [[1.5, -0.5]]},
        r"predicted\[0\] has sum 3, expected 1: give probabilities": {"predicted": [[1.0, 2.0]]},
        r"votes: shape \(1, 3\), expected \(1, 2\)": {"votes": [[1, 0, 0]]},
        r"votes\[0, 0\] is nan": {"votes": [[math.nan, 0]]},
        "prompt: 2 values, expected 1": {"prompt": [0, 1]},
        "weight: 2 values, expected 1": {"weight": [1.0, 1.0]},
        "weight: expected finite numbers": {"weight": [-1.0]},
        "cost: 3 labels, expected 2": {"cost": label_cost([1, 2, 3])},
        r"concentration: shape \(2,\), expected one number or \(1,\)": {"concentration": [1.0, 2.0]},
        "concentration: expected numbers above 0": {"concentration": 0.0},
        "coverage_level is 1.0, expected": {"coverage_level": 1.0},
        "bins is 0, expected at least 1": {"bins": 0},
        "level is 2, expected": {"level": 2},
    }
    for match, wrong in cases.items():
        with pytest.raises(PluralignError, match=match):
            evaluate_distributions(**(good | wrong))


# Prompts and annotators.


def panel_of_votes(rng, items=60, annotators=25, labels=3, spread=1.0):
    """Each annotator's vote on each item (one a prompt), from leanings of the item and of the annotator."""
    leaning = rng.normal(size=(items, 1, labels)) + spread * rng.normal(size=(1, annotators, labels))
    label = (leaning + rng.gumbel(size=(items, annotators, labels))).argmax(2).ravel()
    item, annotator = (part.ravel() for part in np.divmod(np.arange(items * annotators), annotators))
    return Votes(item, label, annotator, np.ones(len(item)))


@pytest.mark.parametrize("name", ["log_loss", "expected_reward_bias"])
def test_intervals_cover_the_mean_over_new_items_and_annotators(name):
    """The prediction is a constant, so that both means are linear in the votes and have no bias of small samples."""
    rng = np.random.default_rng(21)
    mu, rewards, covered = np.array([0.5, 0.3, 0.2]), [1.0, 0.0, -1.0], np.zeros(2)
    truth = {"log_loss": -np.log(mu).mean(), "expected_reward_bias": 0.3}[name]
    for _ in range(100):
        votes = panel_of_votes(rng)
        counts = vote_counts(votes.item, votes.label, 60, 3)
        given = (np.tile(mu, (60, 1)), counts, rewards, np.arange(60))
        found = [evaluate_distributions(*given, replicates=40, voters=voters) for voters in (votes, None)]
        covered += [metrics[f"{name}_low"] <= truth <= metrics[f"{name}_high"] for metrics in found]
    assert 0.88 <= covered[0] / 100 <= 0.99
    assert covered[1] < covered[0] - 12


def test_intervals_of_linear_means_equal_those_over_votes():
    """Every item has the same number of votes: the mean over items is the mean over votes, and so are the intervals."""
    rng = np.random.default_rng(22)
    votes = panel_of_votes(rng, items=30, annotators=10)
    mu = rng.dirichlet(np.ones(3), size=30)
    counts = vote_counts(votes.item, votes.label, 30, 3)
    found = evaluate_distributions(mu, counts, [1.0, 0.0, -1.0], np.arange(30), replicates=10, voters=votes)
    loss = -np.log(mu[votes.item, votes.label])
    direct = Resampling(votes.item, annotator=votes.annotator).mean_intervals({"log_loss": (loss, 1.0)})
    assert found["log_loss"] == pytest.approx(direct["log_loss"])
    widths = [metrics["log_loss_high"] - metrics["log_loss_low"] for metrics in (found, direct)]
    assert widths[0] == pytest.approx(widths[1], rel=0.1)


def test_every_interval_covers_the_truth_of_new_items_and_annotators():
    """25 annotators with leanings of their own label 60 items; over items alone, intervals are far too narrow."""
    rng = np.random.default_rng(24)
    mu = rng.dirichlet(np.full(3, 2.0), size=60)
    names = ("interval_coverage", "majority_accuracy", "share_ece", "transport_cost")
    ends, values = {name: [] for name in names}, {name: [] for name in names}
    for _ in range(60):
        votes = panel_of_votes(rng, spread=0.7)
        counts = vote_counts(votes.item, votes.label, 60, 3)
        given = (mu[rng.integers(60, size=60)], counts, [1.0, 0.0, -1.0], np.arange(60))
        found = [evaluate_distributions(*given, replicates=60, voters=voters) for voters in (votes, None)]
        for name in names:
            values[name].append(found[0][name])
            ends[name].append([(one[f"{name}_low"], one[f"{name}_high"]) for one in found])
    for name in names[:2]:
        low, high = np.moveaxis(np.array(ends[name]), 2, 0)
        covered = ((low <= np.mean(values[name])) & (np.mean(values[name]) <= high)).mean(axis=0)
        assert covered[0] >= 0.9, name
    low, high = np.moveaxis(np.array(ends["share_ece"]), 2, 0)
    assert ((low <= np.array(values["share_ece"])[:, None]) & (np.array(values["share_ece"])[:, None] <= high)).all()


def test_a_vote_that_decides_nothing_moves_no_majority():
    """Every item has a clear majority, and the values of items differ: the interval is that of the items."""
    item, annotator = (part.ravel() for part in np.divmod(np.arange(20 * 8), 8))
    label = np.where(annotator < 1, 1, 0) ^ (item % 2)
    votes = Votes(item, label, annotator, np.ones(len(item)))
    given = (np.tile([0.7, 0.3], (20, 1)), vote_counts(item, label, 20, 2), [1.0, 0.0], np.arange(20))
    found = evaluate_distributions(*given, replicates=20, voters=votes)
    half = 1.959964 * 0.5 / math.sqrt(19)
    assert (found["majority_accuracy_low"], found["majority_accuracy_high"]) == pytest.approx((0.5 - half, 0.5 + half))


def test_few_voters_are_taken_as_given():
    rng = np.random.default_rng(23)
    votes = panel_of_votes(rng, items=12, annotators=3)
    counts = vote_counts(votes.item, votes.label, 12, 3)
    given = (np.full((12, 3), 1 / 3), counts, [1.0, 0.0, -1.0], np.arange(12))
    found = evaluate_distributions(*given, replicates=50, voters=votes)
    assert found.pop("intervals_given_annotators") is True
    assert found == evaluate_distributions(*given, replicates=50)
