"""Multiplication by a graph's symmetric adjacency matrix, without autograd's transpose in each step."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor


class SymmetricMatrix:
    """A sparse symmetric matrix A that vectors are propagated by.

    RecBole keeps the matrix as coordinates. As compressed rows a product takes a fraction of the time on CPUs, and the
    gradient A^T g is one more product by A itself.

    Args:
        matrix: Sparse and symmetric, as LightGCN's normalised adjacency. (N, N)
    """

    def __init__(self, matrix: Tensor) -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sparse", category=UserWarning)  # "support is in beta state"
            self._matrix = _narrow(matrix.coalesce().to_sparse_csr())
        try:
            _times(self._matrix, torch.zeros(len(matrix), 1, dtype=matrix.dtype, device=matrix.device))
        except RuntimeError:  # a torch that was built without a library for it
            self._matrix = matrix.coalesce()

    def __matmul__(self, x: Tensor) -> Tensor:
        """A x. (N, d) -> (N, d)"""
        product: Tensor = _Product.apply(x, self._matrix)  # type: ignore[no-untyped-call]
        return product


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, matrix: Tensor) -> Tensor:
        ctx.matrix = matrix
        return _times(matrix, x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _Product.apply(gradients[0], ctx.matrix), None  # type: ignore[no-untyped-call]


def _narrow(matrix: Tensor) -> Tensor:
    """Compressed rows with indices of 32 bits, which the product would make of longer ones each time."""
    if matrix.values().numel() >= 1 << 31:
        return matrix
    rows, columns = matrix.crow_indices().int(), matrix.col_indices().int()
    return torch.sparse_csr_tensor(rows, columns, matrix.values(), matrix.shape, check_invariants=False)


def _times(matrix: Tensor, x: Tensor) -> Tensor:
    """A x. With a weight of 0 for the sum: ``torch.sparse.mm`` writes a matrix of zeros first, and adds to it."""
    return torch.addmm(x, matrix, x, beta=0)
