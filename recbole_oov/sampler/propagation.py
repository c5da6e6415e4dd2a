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
            self._matrix = matrix.coalesce().to_sparse_csr()
        try:
            torch.sparse.mm(self._matrix, torch.zeros(len(matrix), 1, dtype=matrix.dtype, device=matrix.device))
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
        product: Tensor = torch.sparse.mm(matrix, x)
        return product

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _Product.apply(gradients[0], ctx.matrix), None  # type: ignore[no-untyped-call]
