"""The interval engine: the distribution of its draws, seeds and blocks, undefined replicates."""

import math

import numpy as np
import pytest

from pluralign.core.errors import PluralignError
from pluralign.evaluation.intervals import Resampling, _covariance, annotator_ids, percentiles, ratio


def drawn_sums(sums, replicates, seed=0, **more):
    resampling = Resampling(np.arange(len(sums)), replicates, seed=seed, **more)
    return resampling.replicated(lambda weights: {"sums": weights @ sums})["sums"]


def test_sums_have_the_moments_of_drawing_with_replacement():
    sums = np.random.default_rng(3).normal(size=(40, 2))
    totals = drawn_sums(sums, 4000)
    spread = math.sqrt(40) * sums.std(axis=0)
    np.testing.assert_allclose(totals.std(axis=0), spread, rtol=0.05)
    np.testing.assert_allclose(totals.mean(axis=0), sums.sum(axis=0), atol=4 * spread.max() / math.sqrt(4000))


def test_draws_depend_on_the_seed_and_not_on_the_block_size():
    sums = np.random.default_rng(5).normal(size=(30, 3))
    whole = drawn_sums(sums, 17, seed=9)
    for cells in (1, 95, 10_000):
        np.testing.assert_allclose(drawn_sums(sums, 17, seed=9, cells=cells), whole, rtol=1e-12, atol=1e-12)
    assert not np.allclose(drawn_sums(sums, 17, seed=10), whole)


def test_observations_of_one_cluster_are_drawn_together():
    values, cluster = np.random.default_rng(0).normal(size=60), np.repeat([9, -4, 7], 20)
    resampling = Resampling(cluster, replicates=200)
    sums = resampling.sums(values, np.ones(60))
    np.testing.assert_allclose(sums[:, 0], [values[cluster == name].sum() for name in (-4, 7, 9)])
    found = resampling.intervals(lambda weights: {"mean": ratio(*(weights @ sums).T)})
    by_cluster = sorted(values[cluster == name].mean() for name in (-4, 7, 9))
    assert found["mean"] == pytest.approx(values.mean())
    assert by_cluster[0] - 1e-12 <= found["mean_low"] <= found["mean_high"] <= by_cluster[2] + 1e-12
    # Four copies of every observation say no more about the clusters.
    copies = Resampling(np.tile(cluster, 4), replicates=200).mean_intervals({"mean": (np.tile(values, 4), 1.0)})
    assert copies == pytest.approx(found)


def test_kinds_have_the_distribution_of_their_clusters():
    value, count = np.array([0.0, 1.0, 5.0]), np.array([50, 30, 20])
    kinds = Resampling.of_kinds(count, replicates=4000)
    found = kinds.intervals(lambda weights: {"mean": weights @ value / weights.sum(axis=1)})
    single = Resampling(np.arange(100), replicates=4000).mean_intervals({"mean": (np.repeat(value, count), 1.0)})
    assert found["mean"] == pytest.approx(single["mean"]) == pytest.approx(1.3)
    # Quantiles of 4000 draws have an error of a few percent of the interval's width, which is about 0.76.
    assert found == pytest.approx(single, abs=0.05)


def test_a_ratio_of_sums_has_the_analytic_standard_error():
    draw = np.random.default_rng(1)
    size, value = draw.integers(1, 4, size=2000).astype(float), draw.normal(1.0, 2.0, size=2000)
    found = Resampling(np.arange(2000), replicates=2000).mean_intervals({"mean": (size * value, size)})
    residual = size * (value - found["mean"])
    error = math.sqrt((residual**2).sum()) / size.sum()
    # A quantile of 2000 draws at 2.5 % has a standard error of about 6 % of the half width.
    assert (found["mean_high"] - found["mean_low"]) / 2 == pytest.approx(1.96 * error, rel=0.1)


def test_replicates_that_leave_a_metric_undefined_are_left_out():
    top, bottom = np.array([3.0, 0.0, 0.0]), np.array([2.0, 0.0, 0.0])
    found = Resampling([0, 1, 2], replicates=100).mean_intervals({"some": (top, bottom), "never": (top, 0.0)})
    assert found == {"some": 1.5, "some_low": 1.5, "some_high": 1.5}
    low, high = percentiles(np.array([[1.0, 2.0], [np.nan, 9.0], [3.0, 4.0]]), 0.5)
    assert (low.tolist(), high.tolist()) == ([1.5, 2.5], [2.5, 3.5])
    assert percentiles(np.array([np.nan]), 0.5) is None


@pytest.mark.parametrize(("cluster", "replicates"), [([], 50), ([4, 4, 4], 50), ([1, 2], 0)])
def test_without_variation_or_replicates_there_is_no_interval(cluster, replicates):
    resampling = Resampling(np.array(cluster, dtype=int), replicates)
    assert list(resampling.weights()) == []
    assert resampling.replicated(lambda weights: {"n": weights.sum(axis=1)}) == {}
    found = resampling.mean_intervals({"mean": (np.ones(len(cluster)), 2.0)})
    assert found == ({"mean": 0.5} if cluster else {})


@pytest.mark.parametrize("change", [{"replicates": -1}, {"level": 1.0}, {"level": 0.0}])
def test_errors_name_the_argument(change):
    with pytest.raises(PluralignError, match=f"{next(iter(change))} is"):
        Resampling([0, 1], **change)


# Prompts and annotators.


def panel(rng, prompts: int, annotators: int, each: int, prompt_sd: float = 0.5, annotator_sd: float = 1.0):
    """Prompt and annotator of judgments, and whether each agrees with the model: effects of both in log-odds."""
    annotator = np.repeat(np.arange(annotators), each)
    prompt = rng.integers(prompts, size=len(annotator))
    effects = (
        rng.normal(scale=prompt_sd, size=prompts)[prompt] + rng.normal(scale=annotator_sd, size=annotators)[annotator]
    )
    return prompt, annotator, (rng.random(len(annotator)) < 1 / (1 + np.exp(-1 - effects))).astype(float)


def mean_agreement(prompt_sd: float = 0.5, annotator_sd: float = 1.0) -> float:
    """Of new annotators on new prompts."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    return float(weights @ (1 / (1 + np.exp(-1 - math.hypot(prompt_sd, annotator_sd) * nodes))) / weights.sum())


@pytest.mark.parametrize(("prompts", "annotators", "each"), [(40, 20, 60), (40, 60, 16), (200, 30, 40)])
def test_intervals_of_both_ways_cover_where_those_of_prompts_do_not(prompts, annotators, each):
    rng = np.random.default_rng(11)
    truth = mean_agreement()
    covered = np.zeros(2)
    for _ in range(200):
        prompt, annotator, agrees = panel(rng, prompts, annotators, each)
        both = Resampling(prompt, annotator=annotator).mean_intervals({"mean": (agrees, 1.0)})
        alone = Resampling(prompt, replicates=200).mean_intervals({"mean": (agrees, 1.0)})
        covered += [found["mean_low"] <= truth <= found["mean_high"] for found in (both, alone)]
    both, alone = covered / 200
    assert both >= 0.88
    assert alone < both - 0.1


def test_the_variance_of_both_ways_is_that_of_simulations():
    rng = np.random.default_rng(12)
    means, widths = [], []
    for _ in range(300):
        prompt, annotator, agrees = panel(rng, 40, 20, 60)
        found = Resampling(prompt, annotator=annotator).mean_intervals({"mean": (agrees, 1.0)})
        means.append(found["mean"])
        widths.append((found["mean_high"] - found["mean_low"]) / (2 * 1.959964))
    assert np.sqrt(np.mean(np.square(widths))) == pytest.approx(np.std(means), rel=0.1)


def test_the_formula_is_that_of_three_one_way_variances():
    rng = np.random.default_rng(13)
    prompt, annotator, value = panel(rng, 12, 9, 20)
    weight = rng.choice([0.5, 1.0, 2.0], size=len(value))
    found = Resampling(prompt, annotator=annotator, level=0.9).mean_intervals({"mean": (weight * value, weight)})
    residual = weight * (value - np.average(value, weights=weight)) / weight.sum()
    parts = []
    for names in (prompt, annotator, 100 * prompt + annotator):
        sums, shares = (
            np.array([each[names == name].sum() for name in np.unique(names)])
            for each in (residual, weight / weight.sum())
        )
        parts.append(sums @ sums / (1 - 2 * (shares**3).sum() / (shares @ shares) + shares @ shares))
    variance = max(parts[0] + parts[1] - parts[2], parts[0], parts[1])
    assert (found["mean_high"] - found["mean_low"]) / 2 == pytest.approx(1.644854 * math.sqrt(variance), rel=1e-6)


def test_equal_clusters_have_the_usual_factor_and_a_dominant_one_a_bounded_one():
    residual = np.random.default_rng(20).normal(size=30)
    code = np.repeat(np.arange(6), 5)
    sums = residual.reshape(6, 5).sum(axis=1)
    assert _covariance(residual[:, None], code, np.ones(30)).item() == pytest.approx(sums @ sums * 6 / 5)
    heavy = np.where(code == 0, 1e9, 1.0)
    assert _covariance(residual[:, None], code, heavy).item() == pytest.approx(4 * sums @ sums)


def test_ends_of_a_sum_of_absolute_values_hold_a_small_and_a_large_one():
    """Five gaps, each a mean over 200 observations: a plain percentile interval never holds a sum of 0."""
    rng = np.random.default_rng(22)
    for gap, least in ((0.0, 0.9), (0.02, 0.85), (0.2, 0.88)):
        covered = 0
        for _ in range(60):
            values = gap + rng.normal(scale=0.4, size=(200, 5))
            gaps = values.mean(axis=0)
            low, high = Resampling(np.arange(200)).absolute_sum_ends(gaps, (values - gaps) / 200)
            assert low <= np.abs(gaps).sum() <= high
            covered += low <= 5 * gap <= high
        assert covered / 60 >= least


def test_covariances_are_those_of_half_widths():
    rng = np.random.default_rng(23)
    prompt, annotator, value = panel(rng, 30, 15, 20)
    resampling = Resampling(prompt, annotator=annotator)
    residual = (value - value.mean()) / len(value)
    covariance = resampling.covariance(np.stack([residual, -2 * residual], axis=1))
    assert covariance == pytest.approx(covariance[0, 0] * np.array([[1, -2], [-2, 4]]))
    assert resampling.half_width(residual) == pytest.approx(1.959964 * math.sqrt(covariance[0, 0]))


def test_a_few_busy_annotators_leave_the_coverage():
    """Judgments by annotator as skewed as a crowd's: the largest of 60 gives a fifth of them."""
    rng = np.random.default_rng(21)
    truth, covered = mean_agreement(), 0
    for _ in range(300):
        counts = np.ceil(np.exp(rng.normal(1.5, 1.6, size=60))).astype(int)
        annotator = np.repeat(np.arange(60), counts)
        prompt = rng.integers(100, size=len(annotator))
        effects = rng.normal(scale=0.5, size=100)[prompt] + rng.normal(size=60)[annotator]
        agrees = rng.random(len(annotator)) < 1 / (1 + np.exp(-1 - effects))
        found = Resampling(prompt, annotator=annotator).mean_intervals({"mean": (agrees, 1.0)})
        covered += found["mean_low"] <= truth <= found["mean_high"]
    assert covered / 300 >= 0.88


@pytest.mark.parametrize("most", [1 << 17, 200])
def test_pigeonhole_replicates_vary_as_the_formula_says(monkeypatch, most):
    """With several judgments in a cell its own noise is small, and with it what the pigeonhole adds.

    The second case draws random sets of prompts and annotators.
    """
    monkeypatch.setattr("pluralign.evaluation.intervals.MOST_CELLS", most)
    monkeypatch.setattr("pluralign.evaluation.intervals.LARGEST_SETS", 30)
    rng = np.random.default_rng(14)
    prompt, annotator = (part.ravel() for part in np.divmod(np.repeat(np.arange(40 * 35), 4), 35))
    value = rng.normal(size=40)[prompt] + rng.normal(size=35)[annotator] + 0.3 * rng.normal(size=len(prompt))
    resampling = Resampling(prompt, replicates=4000, annotator=annotator)
    assert resampling.groups == (1400 if most > 1400 else 900)
    sums = resampling.sums(value, np.ones(len(value)))
    drawn = resampling.replicated(lambda weights: {"mean": ratio(*(weights @ sums).T)})["mean"]
    closed = resampling.mean_intervals({"mean": (value, 1.0)})
    half = (closed["mean_high"] - closed["mean_low"]) / 2
    # Sets of 40 prompts and 35 annotators are 30: their own sampling error is about a tenth.
    assert 1.96 * drawn.std() == pytest.approx(half, rel=0.06 if most > 1400 else 0.25)
    assert closed["mean"] == pytest.approx(resampling.intervals(lambda w: {"mean": ratio(*(w @ sums).T)})["mean"])


def test_annotators_of_one_prompt_change_nothing():
    rng = np.random.default_rng(15)
    prompt, values = rng.integers(30, size=200), rng.normal(size=200)
    alone = Resampling(prompt, replicates=300).mean_intervals({"mean": (values, 1.0)})
    unknown = annotator_ids([None] * 200)
    nested = np.where(rng.random(200) < 0.5, 1000 + prompt, unknown)
    for annotator in (np.arange(200), unknown, nested):
        resampling = Resampling(prompt, replicates=300, annotator=annotator)
        assert resampling.mean_intervals({"mean": (values, 1.0)}) == alone
        assert resampling.given == {}


def test_prompts_of_one_annotator_leave_annotators_alone():
    rng = np.random.default_rng(16)
    prompt, values = np.repeat(np.arange(60), 3), rng.normal(size=180)
    resampling = Resampling(prompt, replicates=300, annotator=prompt // 5)
    by_annotator = Resampling(prompt // 5, replicates=300).mean_intervals({"mean": (values, 1.0)})
    assert resampling.mean_intervals({"mean": (values, 1.0)}) == by_annotator


def test_few_levels_are_taken_as_given_and_said():
    rng = np.random.default_rng(17)
    values = rng.normal(size=400)
    many, few = rng.integers(20, size=400), rng.integers(4, size=400)
    alone = Resampling(many, replicates=200).mean_intervals({"mean": (values, 1.0)})
    annotators = Resampling(many, replicates=200, annotator=few)
    assert annotators.given == {"intervals_given_annotators": True}
    assert annotators.mean_intervals({"mean": (values, 1.0)}) == alone
    prompts = Resampling(few, replicates=200, annotator=many)
    assert prompts.given == {"intervals_given_prompts": True}
    assert prompts.mean_intervals({"mean": (values, 1.0)}) == alone


def test_order_and_names_do_not_matter_and_bounds_are_kept():
    rng = np.random.default_rng(18)
    prompt, annotator, agrees = panel(rng, 10, 8, 12)
    agrees = np.where(rng.random(96) < 0.9, 1.0, agrees)
    first = Resampling(prompt, annotator=annotator)
    order = rng.permutation(96)
    second = Resampling(100 - prompt[order], annotator=7 * annotator[order])
    means = {"mean": (agrees, 1.0)}
    assert second.mean_intervals({"mean": (agrees[order], 1.0)}) == pytest.approx(first.mean_intervals(means))
    assert first.mean_intervals(means)["mean_high"] <= 1.0
    assert Resampling(prompt, replicates=0, annotator=annotator).mean_intervals(means).keys() == {"mean"}
    blocks = [np.concatenate(list(Resampling(prompt, 9, annotator=annotator, cells=c).weights())) for c in (1, 10**6)]
    np.testing.assert_array_equal(*blocks)


def test_differences_of_two_models_are_paired():
    """Two models that differ on few judgments: the interval of the difference is far narrower than either's own."""
    rng = np.random.default_rng(19)
    prompt, annotator, first = panel(rng, 40, 20, 60)
    second = np.where(rng.random(len(first)) < 0.05, 1.0, first)
    resampling = Resampling(prompt, annotator=annotator)
    found = resampling.mean_intervals({"own": (first, 1.0), "difference": (second - first, 1.0)})
    assert found["difference_low"] > 0
    assert found["difference_high"] - found["difference_low"] < 0.2 * (found["own_high"] - found["own_low"])
