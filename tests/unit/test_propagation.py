"""Products by a symmetric sparse matrix: the same as torch's own, gradients and gradients of gradients too."""

from __future__ import annotations

import torch

from recbole_oov.sampler.propagation import SymmetricMatrix


def symmetric(n: int = 7) -> torch.Tensor:
    torch.manual_seed(0)
    dense = torch.rand(n, n, dtype=torch.float64)
    return (dense + dense.T) * ((dense + dense.T) > 1)


def test_products_and_gradients_are_those_of_the_dense_matrix() -> None:
    dense = symmetric()
    matrix = SymmetricMatrix(dense.to_sparse())
    x = torch.rand(7, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.rand(7, 3, dtype=torch.float64)
    torch.testing.assert_close(matrix @ x, dense @ x)
    (own,) = torch.autograd.grad(((matrix @ (matrix @ x)) * weight).sum(), x)
    (torchs,) = torch.autograd.grad(((dense @ (dense @ x)) * weight).sum(), x)
    torch.testing.assert_close(own, torchs)
    assert torch.autograd.gradcheck(lambda x: matrix @ x, x) and torch.autograd.gradgradcheck(lambda x: matrix @ x, x)
