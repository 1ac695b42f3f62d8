"""Post-stratification: plain counts where the sample has the population's shares, and hand-computed weights."""

import numpy as np
import pytest

from pluralign.choice.post_stratification import crowd_counts, effective_size, population_weights


def test_shares_of_the_sample_give_the_plain_counts():
    draw = np.random.default_rng(0)
    counts = draw.integers(1, 9, (3, 5)).astype(float)  # strata, labels
    shares = counts.sum(1) / counts.sum()
    np.testing.assert_allclose(crowd_counts(counts, shares).counts, counts.sum(0), rtol=1e-12)
    # Fractions of votes too: a reliability, or votes that faded.
    part = counts * 0.37
    np.testing.assert_allclose(crowd_counts(part, shares).counts, part.sum(0), rtol=1e-12)


def test_by_hand():
    """Three of stratum 0 (two say A), one of stratum 1 (B), each stratum half of the population.

    w = 1/6, 1/6, 1/6, 1/2; sum 1; sum of squares 3/36 + 9/36 = 1/3; n_eff 3; c_A = 3 * 2/6 = 1, c_B = 2.
    """
    found = crowd_counts([[2.0, 1.0], [0.0, 1.0]], [0.5, 0.5])
    np.testing.assert_allclose(found.counts, [1.0, 2.0], rtol=1e-14)
    weights = population_weights([0, 0, 0, 1], [0.5, 0.5])
    np.testing.assert_allclose(weights.weights, [1 / 6, 1 / 6, 1 / 6, 1 / 2])
    assert effective_size(weights.weights) == pytest.approx(3)


def test_items_at_once_are_those_of_annotators_one_by_one():
    draw = np.random.default_rng(1)
    shares = np.array([0.2, 0.5, 0.3])
    stratum, label, item = draw.integers(0, 3, 90), draw.integers(0, 4, 90), draw.integers(0, 12, 90)
    counts = np.zeros((12, 3, 4))
    np.add.at(counts, (item, stratum, label), 1.0)
    found = crowd_counts(counts, shares)
    for one in range(12):
        here = item == one
        sample = population_weights(stratum[here], shares)
        of_label = np.bincount(label[here], sample.weights, 4)
        expected = effective_size(sample.weights) * of_label / sample.weights.sum()
        np.testing.assert_allclose(found.counts[one], expected, rtol=1e-12)
        np.testing.assert_allclose(found.shares[one], sample.shares, rtol=1e-12)
        np.testing.assert_array_equal(found.dropped[one], sample.dropped)
    assert (found.counts.sum(1) <= counts.sum((1, 2)) + 1e-12).all()


def test_empty_strata_are_dropped_and_the_others_rescaled():
    found = population_weights([0, 2, 2], [1.0, 5.0, 3.0])
    np.testing.assert_allclose(found.shares, [0.25, 0, 0.75])
    np.testing.assert_allclose(found.weights, [0.25, 0.375, 0.375])
    assert found.dropped.tolist() == [False, True, False]
    empty = crowd_counts(np.zeros((2, 3)), [0.5, 0.5])
    assert empty.counts.tolist() == [0, 0, 0]
    assert empty.shares.tolist() == [0, 0]
    # A stratum of share 0 has no weight, and alone no voice.
    assert crowd_counts([[4.0, 0.0], [0.0, 4.0]], [0.0, 1.0]).counts.tolist() == [0, 4]
    assert crowd_counts([[4.0, 0.0], [0.0, 0.0]], [0.0, 1.0]).counts.tolist() == [0, 0]
    assert effective_size([0.0, 0.0]) == 0


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda: population_weights([0, 2], [0.5, 0.5]), "stratum: found 0 to 2, expected 0 to 1"),
        (lambda: population_weights([0], [-1.0, 2.0]), "shares: found"),
        (lambda: crowd_counts([[1.0, 1.0]], [0.0]), "not all 0"),
        (lambda: crowd_counts([[1.0, 1.0]], [0.5, 0.5]), "2 strata"),
    ],
)
def test_what_does_not_fit_is_refused(call, expected):
    with pytest.raises(ValueError, match=expected):
        call()
