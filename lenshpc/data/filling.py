"""Bad pixels filled inside a network's program, to the bit as `prepare` fills those of a store."""

import torch
from torch import Tensor, nn

LARGEST = torch.finfo(torch.float32).max  # models see float32


class Filling(nn.Module):
    """Pixels (B, C, H, W) that may be NaN, infinite or beyond float32, to good ones and masks.

    `fill` is a value, or `median`: that of the channel's good pixels. An image without a good pixel
    becomes NaN, and so does a channel where its median is wanted.
    """

    def __init__(self, fill: float | str) -> None:
        super().__init__()
        self._fill = fill

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the pixels filled, and float32 masks that are 1 where they were."""
        bad = ~(pixels.isfinite() & (pixels.abs() <= LARGEST))
        if self._fill == "median":
            filled = torch.where(bad, _medians(pixels, bad), pixels)
        else:
            lost = bad.flatten(1).all(dim=1)[:, None, None, None]
            value = torch.full_like(pixels, float(self._fill)).masked_fill(lost, torch.nan)
            filled = torch.where(bad, value, pixels)
        return filled, bad.float()


def _medians(pixels: Tensor, bad: Tensor) -> Tensor:
    """Return the median (B, C, 1, 1) of each channel's good pixels; NaN where there are none."""
    # Bad ones at the end, so that the good are counted off from the beginning.
    ordered = pixels.masked_fill(bad, torch.inf).flatten(2).sort(dim=2).values
    num_good = (~bad).flatten(2).sum(dim=2, keepdim=True)
    places = torch.cat([(num_good - 1).clamp(min=0) // 2, num_good // 2], dim=2)
    places = places.clamp(max=ordered.shape[2] - 1)
    # float64: the sum of two large pixels is beyond float32, their mean is not.
    medians = ordered.gather(2, places).double().mean(dim=2, keepdim=True)
    return medians.masked_fill(num_good == 0, torch.nan).to(pixels.dtype)[..., None]
