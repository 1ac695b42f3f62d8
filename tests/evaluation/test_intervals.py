"""The interval engine: the distribution of its draws, seeds and blocks, undefined replicates."""

import math

import numpy as np
import pytest

from pluralign.core.errors import PluralignError
from pluralign.evaluation.intervals import Resampling, percentiles, ratio


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
