"""Smooth calibration error: a Gaussian kernel instead of bins, with the error itself as its width.

Source: Blasiok and Nakkiran (2023), "Smooth ECE: principled reliability diagrams via kernel smoothing", arXiv
2309.12236. Ours: both orders of each pair; the grid of 512 cells of [0.5, 1] and the cosine transform.

The residuals of the two orders of a pair are mirror images at 1/2 with opposite sign. On the upper half of [0, 1] their
smoothing by a Gaussian that is reflected at 0 and 1 is therefore a product in the type-IV cosine transform.
"""

from __future__ import annotations

import numpy as np
from scipy.fft import dct, idct
from scipy.sparse import csr_array
from scipy.special import expit

from pluralign.evaluation.pairs import Floats, Ints, Pairs

# Cells of [0.5, 1]. Bandwidths under two cells cannot be distinguished.
CELLS = 512
NARROWEST = 1.0 / CELLS

# Halvings of the bandwidth's range [NARROWEST, 1]: to 1e-12.
HALVINGS = 40


def residual_cells(pairs: Pairs, group: Ints, groups: int) -> csr_array:
    """Residuals w ([m > 0] - c) of each group on cells of c = sigmoid(|m|) from 1 down to 1/2, `(groups, CELLS)`.

    A residual is shared between the two nearest cell centres in proportion to their nearness. Beyond c = 1 lies the
    mirror image of the last cell; below c = 1/2 that of the first with opposite sign, the pair's other order. Pairs
    with margin 0 or group -1 are left out. Rows can be added.
    """
    used = np.flatnonzero((pairs.margin != 0) & (group >= 0))
    margin = pairs.margin[used]
    residual = pairs.weight[used] * np.where(margin > 0, expit(-np.abs(margin)), -expit(np.abs(margin)))
    # Distance from certainty, in cells, counted from the first centre; expit(-|m|) is exact where 1 - c is not.
    place = 2 * expit(-np.abs(margin)) * CELLS - 0.5
    below = np.floor(place).astype(np.int64)
    share = place - below
    near, far = np.maximum(below, 0), np.minimum(below + 1, CELLS - 1)
    mirrored = np.where(below + 1 < CELLS, share, -share)
    values = np.concatenate([residual * (1 - share), residual * mirrored])
    rows = np.tile(group[used], 2)
    return csr_array((values, (rows, np.concatenate([near, far]))), shape=(groups, CELLS))


def smooth_error(cells: Floats, weight: Floats) -> Floats:
    """The bandwidth s at which the residuals, smoothed by a Gaussian of standard deviation s, make an error of s.

        error(s) = 1 / W integral over t in [0, 1] of |sum_i w_i (y_i - p_i) K_s(t, p_i)| dt

    over both orders of each pair, (p, y) and (1 - p, 1 - y), with W the weight of both and K_s the Gaussian of
    standard deviation s reflected at 0 and 1. The error falls as s grows, so error(s) = s has one solution, found by
    bisection. It does not jump when a pair crosses an edge, and needs no choice of bins. Near 1/2 the two orders of a
    pair are neighbours with opposite residuals and partly cancel, so errors among uncertain pairs count less than in
    the binned measures. A bandwidth under two cells (1 / CELLS) is not resolved: if the error is smaller than that
    already there, the error at 1 / CELLS is returned.

    Args:
        cells: rows of `residual_cells`, or sums of such rows, `(rows, CELLS)`.
        weight: sum of w over the pairs that have a margin other than 0, each once, `(rows,)`.

    Returns:
        `(rows,)`; nan marks a row without weight.

    Examples:
        >>> cells = np.zeros((2, CELLS))
        >>> cells[0, 100] = 0.03
        >>> smooth_error(cells, np.array([1.0, 0.0])).round(4).tolist()
        [0.03, nan]
    """
    held = weight > 0
    spectrum = dct(cells[held] / weight[held, None], type=4, axis=1)
    # The odd cosines cos(pi k t) of [0, 1] are those that change sign under t -> 1 - t.
    frequency = np.pi * (2 * np.arange(CELLS) + 1)

    def error(bandwidth: Floats) -> Floats:
        kernel = np.exp(-((frequency * bandwidth[:, None]) ** 2) / 2)
        return np.asarray(np.abs(idct(spectrum * kernel, type=4, axis=1)).sum(axis=1))

    low, high = np.full(len(spectrum), NARROWEST), np.ones(len(spectrum))
    least = error(low)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        above = error(middle) > middle
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    errors = np.full(len(cells), np.nan)
    errors[held] = np.where(least <= NARROWEST, least, (low + high) / 2)
    return errors
