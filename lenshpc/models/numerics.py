"""What neither autocast nor TF32 may round, and what a GPU need not be waited for."""

import torch
from torch import Tensor, nn


def widen(values: Tensor) -> Tensor:
    """Return values in float32, or as they are if they have more digits."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def in_float32(layer: nn.Module, values: Tensor) -> Tensor:
    """Return what a layer makes of values, in float32 also under autocast."""
    with torch.autocast(values.device.type, enabled=False):
        outputs: Tensor = layer(widen(values))
    return outputs


def product(one: Tensor, other: Tensor) -> Tensor:
    """Return the product of matrices in their own precision."""
    # float64 on the way: a GPU would round float32 to TF32, which has three digits.
    return (one.double() @ other.double()).to(one.dtype)


def solve(matrix: Tensor, right: Tensor) -> Tensor:
    """Return the solution of linear equations; not finite where there is none."""
    # `linalg.solve` looks each time whether there is one, and waits for the GPU to do so.
    solution: Tensor = torch.linalg.solve_ex(matrix, right, check_errors=False).result
    return solution
