"""Recalibration: the fit is the best one, its laws hold, and what is stored comes back."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit

from pluralign.core.errors import PluralignError
from pluralign.evaluation.calibration.recalibration import (
    LARGEST_TEMPERATURE,
    Recalibration,
    cross_validated,
    fit_isotonic,
    fit_recalibration,
    fit_temperature,
    recalibrated,
    recalibration_metrics,
    temperature_bounds,
)
from pluralign.evaluation.calibration.reliability import calibration_error
from pluralign.evaluation.pairs import pairs_of
from pluralign.evaluation.rewards.summary import evaluate_rewards

METHODS = ("temperature", "isotonic")


def drawn(seed, pairs=400, temperature=2.0, spread=3.0):
    """Margins, winner first, of pairs that are won with the probability sigmoid(margin / temperature)."""
    generator = np.random.default_rng(seed)
    margin = generator.normal(0, spread, pairs)
    return np.where(generator.random(pairs) < expit(margin / temperature), margin, -margin)


def strict_pairs(seed, prompts=30, of_each=6):
    """`Pairs` of noisy judgments, `of_each` to a prompt."""
    margins = drawn(seed, prompts * of_each)
    judgments = len(margins)
    return pairs_of(
        np.stack((margins, np.zeros(judgments)), 1).ravel(),
        [1, 2] * judgments,
        np.arange(judgments + 1) * 2,
        np.repeat(np.arange(prompts), of_each),
        np.ones(judgments),
    )


def both_orders(margins, weight):
    """Isotonic regression of both orders by pooling adjacent violators, plainly: margin to probability."""
    rows = {}
    for margin, mass in zip(margins, weight, strict=True):
        for x, won in ((margin, mass), (-margin, 0.0)):
            total, wins = rows.get(x, (0.0, 0.0))
            rows[x] = (total + mass, wins + won)
    blocks = []
    for x in sorted(rows):
        blocks.append([*rows[x], [x]])
        while len(blocks) > 1 and blocks[-2][1] / blocks[-2][0] >= blocks[-1][1] / blocks[-1][0]:
            total, wins, places = blocks.pop()
            blocks[-1] = [blocks[-1][0] + total, blocks[-1][1] + wins, blocks[-1][2] + places]
    return {x: wins / total for total, wins, places in blocks for x in places}


@pytest.mark.parametrize("true", [0.5, 1.0, 4.0])
def test_a_known_temperature_is_found(true):
    margins = drawn(0, 40_000, true)
    p = expit(margins / true)
    # The standard error of 1 / T from the Fisher information of the draw; that of T is T^2 times it.
    error = true**2 / math.sqrt(np.sum(margins**2 * p * (1 - p)))
    assert abs(fit_temperature(margins) - true) < 4 * error
    assert error < 0.03 * true, "the test says something"


@pytest.mark.parametrize("seed", range(5))
def test_the_slope_of_the_loss_is_zero_at_the_temperature(seed):
    margins = drawn(seed)
    weight = np.random.default_rng(seed).uniform(0.1, 5, len(margins))
    found = fit_temperature(margins, weight)
    slope = np.average(margins * expit(-margins / found), weights=weight)
    assert abs(slope) < 1e-12 * np.abs(margins).mean()
    loss = [np.average(np.logaddexp(0, -margins / t), weights=weight) for t in (0.99 * found, found, 1.01 * found)]
    assert loss[1] < min(loss[0], loss[2])


@pytest.mark.parametrize("factor", [1e-30, 1e-3, 7.0, 1e40])
def test_the_unit_of_the_rewards_does_not_matter(factor):
    margins = drawn(3)
    # In units of the factor: an absolute tolerance would say nothing of 1e-30.
    assert fit_temperature(factor * margins) / factor == pytest.approx(fit_temperature(margins), rel=1e-9, abs=1e-9)
    for method in METHODS:
        mapped = fit_recalibration(method, factor * margins)(factor * margins)
        np.testing.assert_allclose(mapped, fit_recalibration(method, margins)(margins), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_a_weight_is_a_number_of_pairs_and_only_ratios_count(method):
    margins = drawn(4, 60)
    times = np.random.default_rng(1).integers(0, 4, len(margins))
    weighted = fit_recalibration(method, margins, times)
    # The number of pairs, which bounds probabilities, is the effective one: it differs where pairs are repeated.
    cap = math.log(times.sum() ** 2 / (times**2).sum() + 1)
    repeated = np.minimum(fit_recalibration(method, np.repeat(margins, times))(np.abs(margins)), cap)
    found = weighted(np.abs(margins))
    np.testing.assert_allclose(np.minimum(found, cap), repeated, rtol=1e-9, atol=1e-12)
    tenth = fit_recalibration(method, margins, times / 10)
    np.testing.assert_allclose(tenth(margins), weighted(margins), rtol=1e-9, atol=1e-12)


def test_data_that_are_ordered_right_give_the_lowest_temperature():
    margins = np.array([1.0, 2.0, 6.0])
    low, high = temperature_bounds(margins)
    assert fit_temperature(margins) == low == 3.0 / math.log(4)
    assert high == 3.0 * LARGEST_TEMPERATURE
    # One win is worth 2/3, by the rule of succession.
    assert expit(1.0 / fit_temperature([1.0])) == pytest.approx(2 / 3)
    assert expit(Recalibration("isotonic", knots=fit_isotonic([1.0]))([5.0])[0]) == pytest.approx(2 / 3)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("margins", "weight", "message"),
    [
        ([-1.0, -2.0], None, "no recalibration can help"),
        ([1.0, -1.0], None, "no recalibration can help"),
        ([0.0, 0.0], None, "no pair with a margin other than 0"),
        ([], None, "no pair with a margin other than 0"),
        ([1.0], [0.0], "no pair with a margin other than 0"),
        ([1.0, math.nan], None, "some are not finite"),
        ([1.0], [-1.0], "weight: expected finite numbers, at least 0"),
        ([1.0], [1.0, 1.0], "weight: shape (2,), expected (1,)"),
        ([[1.0]], None, "margins: float64 of shape (1, 1)"),
    ],
)
def test_what_cannot_be_fitted_is_said(method, margins, weight, message):
    with pytest.raises(PluralignError) as complaint:
        fit_recalibration(method, margins, weight)
    assert message in str(complaint.value)


@pytest.mark.parametrize("seed", range(8))
def test_isotonic_is_pool_adjacent_violators_on_both_orders(seed):
    generator = np.random.default_rng(seed)
    margins = np.round(drawn(seed, 40), 0 if seed % 2 else 1)  # with equal margins, zeros among them
    weight = generator.integers(1, 5, len(margins)).astype(float)
    fitted = Recalibration("isotonic", knots=fit_isotonic(margins, weight))
    expected = both_orders(margins, weight)
    n = weight.sum() ** 2 / (weight**2).sum()
    for margin, probability in expected.items():
        bounded = min(max(probability, 1 / (n + 2)), (n + 1) / (n + 2))
        assert expit(fitted([margin])[0]) == pytest.approx(bounded, abs=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_a_map_is_odd_and_never_falls(method):
    fitted = fit_recalibration(method, drawn(5))
    grid = np.linspace(-20, 20, 4001)
    mapped = fitted(grid)
    np.testing.assert_array_equal(mapped, -fitted(-grid))
    assert np.all(np.diff(mapped) >= 0)
    assert fitted(grid.reshape(-1, 1)).shape == (4001, 1)


@pytest.mark.parametrize("seed", range(3))
def test_no_monotone_map_is_better_in_sample_than_the_isotonic_one(seed):
    margins = drawn(seed, 300)
    fitted = fit_recalibration("isotonic", margins)
    cap = math.log(len(margins) + 1)

    def loss(mapped):
        return np.logaddexp(0, -np.clip(mapped, -cap, cap)).mean()

    rivals = [margins / t for t in (0.5, 1, 2, 4)] + [np.arctan(margins), np.cbrt(margins), np.sign(margins)]
    assert loss(fitted(margins)) <= min(map(loss, rivals))


@pytest.mark.parametrize("seed", range(3))
def test_the_isotonic_map_has_no_calibration_error_on_its_own_data(seed):
    pairs = strict_pairs(seed)
    before = calibration_error(pairs)
    after = calibration_error(recalibrated(pairs, fit_recalibration("isotonic", pairs.margin, pairs.weight)))
    assert before > 0.05
    # Every level is the accuracy on it, but for the bound on the last one, by 1 / (n + 2) at most.
    assert after <= 1 / (len(pairs.margin) + 2) + 1e-12


@pytest.mark.parametrize("method", METHODS)
def test_cross_validation_leaves_each_prompt_out_of_its_own_fit(method):
    pairs = strict_pairs(7, prompts=8)
    found = cross_validated(pairs, method, folds=8)
    for prompt in range(8):
        held = pairs.prompt == prompt
        alone = fit_recalibration(method, pairs.margin[~held], pairs.weight[~held])
        np.testing.assert_allclose(found.margin[held], alone(pairs.margin[held]), rtol=1e-12, atol=1e-12)
    few = cross_validated(pairs, method, folds=3, seed=1)
    np.testing.assert_array_equal(few.margin, cross_validated(pairs, method, folds=3, seed=1).margin)
    assert not np.array_equal(few.margin, found.margin)


def test_what_a_curve_learns_of_noise_does_not_survive_cross_validation():
    pairs = strict_pairs(2, prompts=20, of_each=3)
    coin = np.random.default_rng(0).choice([-1.0, 1.0], len(pairs.margin))
    noise = replace(pairs, margin=np.abs(pairs.margin) * coin)
    if np.average(noise.margin) <= 0:
        noise = replace(noise, margin=-noise.margin)
    found = recalibration_metrics(noise, fit_recalibration("isotonic", noise.margin))
    assert found["log_loss_after"] < math.log(2) < found["log_loss_cross_validated"]
    assert found["ece_after"] < found["ece_cross_validated"]


def test_too_few_prompts_have_no_cross_validation():
    pairs = strict_pairs(1, prompts=1)
    assert cross_validated(pairs, "temperature") is None
    found = recalibration_metrics(pairs, fit_recalibration("temperature", pairs.margin))
    assert found.keys() == {"log_loss_before", "log_loss_after", "ece_before", "ece_after"}
    one = strict_pairs(1, prompts=2, of_each=1)
    assert cross_validated(replace(one, margin=np.array([1.0, 0.0])), "isotonic") is None
    # The other prompt orders nothing right: log-odds of (nearly) 0, not of the wrong sign.
    mapped = cross_validated(replace(one, margin=np.array([-1.0, 1.0])), "temperature").margin
    assert mapped[0] < 0 < mapped[1] < 1e-3
    with pytest.raises(PluralignError, match="folds is 1, expected at least 2"):
        cross_validated(pairs, "temperature", folds=1)


@pytest.mark.parametrize("method", METHODS)
def test_what_is_stored_comes_back(method):
    fitted = fit_recalibration(method, drawn(6))
    noted = Recalibration(fitted.method, fitted.temperature, fitted.knots, {"pairs": 400, "files": {"a": "b"}})
    back = Recalibration.from_dict(json.loads(json.dumps(noted.as_dict())))
    assert back == fitted
    assert back.record == noted.record


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "found [], expected the method and its parameters by name"),
        ({}, "method: found None, expected one of temperature, isotonic"),
        ({"method": ["temperature"]}, "method: found ['temperature'], expected one of"),
        ({"method": "temperatur", "temperature": 1}, "(did you mean 'temperature'?)"),
        ({"method": "temperature"}, "temperature: found None, expected a number above 0"),
        ({"method": "temperature", "temperature": True}, "temperature: found True, expected a number"),
        ({"method": "temperature", "temperature": math.inf}, "temperature: found inf"),
        ({"method": "temperature", "temperature": 1, "knots": [[1, 1]]}, "knots: found some, expected none"),
        ({"method": "isotonic"}, "knots: found none, expected at least one"),
        ({"method": "isotonic", "knots": 5}, "knots: found 5, expected a list"),
        ({"method": "isotonic", "temperature": 2.0, "knots": [[1, 1]]}, "temperature: found one, expected none"),
        ({"method": "isotonic", "knots": [[1, 1], [2]]}, "knots[1]: found (2,), expected two numbers"),
        ({"method": "isotonic", "knots": [[1, 1], 2]}, "knots[1]: found 2, expected two numbers"),
        ({"method": "isotonic", "knots": [[0, 1]]}, "expected a margin above 0.0"),
        ({"method": "isotonic", "knots": [[1, 1], [2, 0.5]]}, "log-odds of at least 1"),
        ({"method": "isotonic", "knots": [[1, "x"]]}, "expected two numbers"),
    ],
)
def test_what_is_no_recalibration_is_said(values, message):
    with pytest.raises(PluralignError) as complaint:
        Recalibration.from_dict(values)
    assert message in str(complaint.value)


def test_metrics_of_rewards_take_the_map_and_ranks_stay(rankings):
    data = rankings(2)
    halved = Recalibration("temperature", temperature=2.0)
    shown = {name: data[name] for name in ("ranks", "offsets", "prompt", "weight")}
    found = evaluate_rewards(data["rewards"], **shown, recalibration=halved, replicates=20)
    assert found == pytest.approx(evaluate_rewards(np.asarray(data["rewards"]) / 2, **shown, replicates=20))
    curve = Recalibration("isotonic", knots=((0.5, 0.0), (1.0, 2.0)))
    flat = evaluate_rewards(data["rewards"], **shown, recalibration=curve, replicates=0)
    plain = evaluate_rewards(data["rewards"], **shown, replicates=0)
    pairs = pairs_of(data["rewards"], **shown)
    assert flat["reward_ties"] == np.count_nonzero(np.abs(pairs.margin) <= 0.5) > plain["reward_ties"]
    assert flat["kendall_tau"] == plain["kendall_tau"]
