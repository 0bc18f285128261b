"""Resizing as two products with matrices, so that a network's program can hold it.

Area means and cubic splines are linear along each axis: the matrices are OpenCV's own answers to
unit images, so the pixels are those of training but for rounding.
"""

import torch
from torch import Tensor, nn

from lenshpc.data.decoded import choose_interpolation, choose_mask_interpolation, resizing_matrix

Sides = tuple[int, int]


class Resize(nn.Module):
    """Images (B, C, *before) to (B, C, *after), float32."""

    rows: Tensor
    columns: Tensor
    _interpolation = staticmethod(choose_interpolation)

    def __init__(self, before: Sides, after: Sides) -> None:
        super().__init__()
        pairs, how = zip(before, after, strict=True), self._interpolation(before[0], after[0])
        matrices = [resizing_matrix(one, other, how) for one, other in pairs]
        # Not a part of the weights, which are the member's own.
        self.register_buffer("rows", torch.from_numpy(matrices[0]), persistent=False)
        self.register_buffer("columns", torch.from_numpy(matrices[1].T.copy()), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return the images resized."""
        return self.rows @ images @ self.columns


class ResizeMasks(Resize):
    """Masks (B, C, *before) to (B, C, *after), 1 where a filled pixel has a part in the new one."""

    _interpolation = staticmethod(choose_mask_interpolation)

    def forward(self, masks: Tensor) -> Tensor:
        """Return the masks resized, float32."""
        return (super().forward(masks) > 0).float()
