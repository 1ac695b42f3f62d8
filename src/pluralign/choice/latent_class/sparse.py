"""Sparse matrices that are multiplied from both sides."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor


def sparse_pair(rows: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """A matrix from its entries and its transpose, both in compressed rows; entries of one place add up.

    Examples:
        >>> one = torch.tensor([1, 1])
        >>> (sparse_pair(torch.tensor([0, 0]), one, torch.ones(2), (1, 2))[1] @ torch.ones(1, 1)).tolist()
        [[0.0], [2.0]]
    """
    return _compressed(rows, columns, values, shape), _compressed(columns, rows, values, (shape[1], shape[0]))


def _compressed(rows: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    order = torch.argsort(rows, stable=True)
    starts = torch.cat((rows.new_zeros(1), torch.bincount(rows, minlength=shape[0]).cumsum(0)))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(starts, columns[order], values[order], shape, check_invariants=False)
