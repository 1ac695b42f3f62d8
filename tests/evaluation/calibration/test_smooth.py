import itertools
import math

import numpy as np
import pytest

from pluralign.evaluation.calibration.smooth import CELLS, residual_cells, smooth_error
from pluralign.evaluation.pairs import Pairs, pairs_of
from pluralign.evaluation.rewards.metrics import pair_metrics

FIVE = ("rewards", "ranks", "offsets", "prompt", "weight")


def of_margins(margin, weight=None) -> Pairs:
    margin = np.asarray(margin, dtype=float)
    count = len(margin)
    each = np.ones(count) if weight is None else np.asarray(weight, dtype=float)
    return Pairs(margin, np.arange(count), each, np.arange(count), count, 0, 0)


def smooth(pairs: Pairs) -> float | None:
    return pair_metrics(pairs).get("ece_smooth")


def dense_error(margin: np.ndarray, weight: np.ndarray, bandwidth: float, points: int = 2001) -> float:
    """Oracle: the integral by the midpoint rule over both orders, mirror images of the Gaussian summed one by one."""
    signed = np.concatenate([margin, -margin])
    p, y, w = 1 / (1 + np.exp(-signed)), np.repeat([1.0, 0.0], len(margin)), np.tile(weight, 2)
    t = (np.arange(points) + 0.5)[:, None] / points
    images = [2 * j + sign * p for j in range(-5, 6) for sign in (1, -1)]
    kernel = sum(np.exp(-((t - image) ** 2) / (2 * bandwidth**2)) for image in images)
    smoothed = kernel @ (w * (y - p)) / (bandwidth * math.sqrt(2 * math.pi))
    return float(np.abs(smoothed).mean() / w.sum())


@pytest.mark.parametrize("scale", [0.5, 1.5, 6.0])
@pytest.mark.parametrize("seed", range(3))
def test_it_is_the_fixed_point_of_the_dense_kernel(seed, scale):
    rng = np.random.default_rng(seed)
    margin, weight = rng.normal(0.3, scale, size=80), rng.choice([0.5, 1.0, 3.0], size=80)
    found = smooth(of_margins(margin, weight))
    # The grids differ: 2001 points here, 1024 cells there, both narrow beside the bandwidth.
    assert found > 0.02
    assert dense_error(margin, weight, found) == pytest.approx(found, rel=1e-4)


def test_it_takes_weights_ties_and_rankings(rankings):
    data = rankings(2)
    pairs = pairs_of(*(data[name] for name in FIVE))
    untied = pairs.margin != 0
    assert not untied.all()
    found = smooth(pairs)
    assert dense_error(pairs.margin[untied], pairs.weight[untied], found) == pytest.approx(found, rel=1e-4)
    scaled = of_margins(pairs.margin, 1e-5 * pairs.weight)
    assert smooth(scaled) == pytest.approx(found, rel=1e-9, abs=1e-11)


def test_a_small_constant_gap_among_sure_pairs_is_the_error():
    """Far from 1/2 the two orders do not meet, and a residual of one sign loses nothing to smoothing."""
    margin = math.log(0.9 / 0.1)
    pairs = of_margins([margin] * 84 + [-margin] * 16)
    assert smooth(pairs) == pytest.approx(0.06, abs=1e-9)


def test_near_one_half_the_orders_cancel():
    margin = math.log(0.55 / 0.45)
    pairs = of_margins([margin] * 40 + [-margin] * 60)
    # The gap is 0.15 and the orders only 0.1 apart: far less is left.
    assert 0.02 < smooth(pairs) < 0.09


def test_at_one_half_the_orders_cancel_altogether():
    # The orders lie 5e-7 of a cell apart, which leaves as much of the residual.
    assert smooth(of_margins([1e-9, -1e-9, -1e-9])) == pytest.approx(0.0, abs=1e-6)


def test_calibrated_rewards_have_a_small_error_and_overconfident_ones_their_gap():
    rng = np.random.default_rng(0)
    size = np.abs(rng.normal(scale=1.5, size=40_000))
    margin = np.where(rng.random(40_000) < 1 / (1 + np.exp(-size)), size, -size)
    # Noise of a few thousand pairs a bandwidth: about 0.5 / sqrt(4000) = 0.008.
    assert smooth(of_margins(margin)) < 0.01
    over = smooth(of_margins(3 * margin))
    gap = np.mean(1 / (1 + np.exp(-3 * size)) - 1 / (1 + np.exp(-size)))
    assert 0.7 * gap < over <= gap + 0.01


def test_the_error_never_rises_with_the_bandwidth_so_that_the_fixed_point_is_one():
    rng = np.random.default_rng(1)
    margin, weight = rng.normal(0.3, 1.5, size=60), np.ones(60)
    errors = [dense_error(margin, weight, bandwidth) for bandwidth in (0.005, 0.01, 0.03, 0.1, 0.3, 1.0)]
    assert all(later <= earlier + 1e-6 for earlier, later in itertools.pairwise(errors))


def test_no_jump_where_a_bin_has_its_edge():
    """Ten pairs 0.6 sure: moving half of them over the edge at 0.6 moves the error by next to nothing."""
    edge = math.log(0.6 / 0.4)
    errors = []
    for shift in (-1e-6, 1e-6):
        margin = np.array([edge + 0.05, -edge - shift] * 5)
        errors.append(smooth(of_margins(margin)))
    assert errors[0] == pytest.approx(errors[1], abs=1e-5)


def test_rows_of_cells_add_up():
    rng = np.random.default_rng(2)
    pairs = of_margins(rng.normal(size=30))
    group = rng.integers(-1, 3, size=30)
    cells = residual_cells(pairs, group, 3)
    assert cells.shape == (3, CELLS)
    chosen = group >= 0
    together = smooth_error(cells.sum(axis=0)[None], np.array([chosen.sum()]))
    assert together[0] == pytest.approx(smooth(of_margins(pairs.margin[chosen])), rel=1e-9, abs=1e-11)


def test_degenerate_pairs():
    assert smooth(of_margins([])) is None
    assert smooth(of_margins([0.0, 0.0])) is None
    assert smooth(of_margins([1.0], weight=[0.0])) is None
    assert smooth(of_margins([900.0, 800.0])) == pytest.approx(0.0, abs=1e-12)
    # Sure and wrong: residuals of 1 at both ends, of which a Gaussian as wide as the error leaves the error.
    wrong = smooth(of_margins([-900.0]))
    assert dense_error(np.array([-700.0]), np.ones(1), wrong) == pytest.approx(wrong, rel=1e-4)
