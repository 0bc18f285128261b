"""Resizing as two products with matrices, so that a network's program can hold it.

Area means and cubic splines are linear along each axis: the matrices are OpenCV's own answers to
unit images, so the pixels are those of training but for rounding.
"""

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lenshpc.data.decoded import choose_interpolation

Sides = tuple[int, int]


class Resize(nn.Module):
    """Images (B, C, *before) to (B, C, *after), float32."""

    rows: Tensor
    columns: Tensor

    def __init__(self, before: Sides, after: Sides) -> None:
        super().__init__()
        how = choose_interpolation(before[0], after[0])
        matrices = [_matrix(one, other, how) for one, other in zip(before, after, strict=True)]
        # Not a part of the weights, which are the member's own.
        self.register_buffer("rows", torch.from_numpy(matrices[0]), persistent=False)
        self.register_buffer("columns", torch.from_numpy(matrices[1].T.copy()), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return the images resized."""
        return self.rows @ images @ self.columns


def _matrix(before: int, after: int, how: int) -> npt.NDArray[np.float32]:
    """Return what takes (before,) pixels to (after,)."""
    # One axis at a time: the other keeps its length, and so its pixels.
    unit = np.eye(before, dtype=np.float32)
    return np.ascontiguousarray(cv2.resize(unit, (after, before), interpolation=how).T)
