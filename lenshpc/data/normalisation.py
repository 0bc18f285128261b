"""What is subtracted from the pixels and what they are divided by: from training rows alone."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lenshpc.data.decoded import Decoded
from lenshpc.data.order import Rows
from lenshpc.data.readers import ImageReader
from lenshpc.data.stretch import stretch
from lenshpc.store import channel_statistics

Floats = npt.NDArray[np.float32]
BLOCK_ROWS = 256
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def normalisation(
    decoded: Decoded, reader: ImageReader, training_rows: Rows
) -> tuple[Floats, Floats]:
    """Return mean and std, a channel each, of what the settings ask for."""
    settings, num_channels = decoded.settings, decoded.shape[0]
    if settings.normalise == "imagenet":
        return np.array(IMAGENET_MEAN, np.float32), np.array(IMAGENET_STD, np.float32)
    if settings.normalise != "fold":
        return np.zeros(num_channels, np.float32), np.ones(num_channels, np.float32)
    # The store's moments are of whole, unstretched pixels; resizing alone is taken to leave them as
    # they are.
    if settings.stretch == "none" and settings.crop is None:
        mean, std = decoded.store.statistics(training_rows)
    else:
        mean, std = _statistics(decoded, reader, training_rows)
    safe = np.where(std > 0, std, 1.0)  # a constant channel stays constant
    return mean.astype(np.float32), safe.astype(np.float32)


def _statistics(
    decoded: Decoded, reader: ImageReader, rows: Rows
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Read the rows once; the store knows the moments of whole, unstretched images only."""
    # Sorted, so that each chunk of a stream is decoded once, and the sums do not depend on the
    # order of rows.
    blocks = np.split(np.sort(rows), range(BLOCK_ROWS, len(rows), BLOCK_ROWS))
    moments = []
    for pixels in reader.read(blocks):
        # In float64 from here: mean square less squared mean loses all digits of a faint image in
        # float32.
        values = stretch(pixels.float().mul_(decoded.scale), decoded.settings.stretch).double()
        moments.append(
            np.stack([values.mean((2, 3)).cpu(), values.square().mean((2, 3)).cpu()], axis=-1)
        )
    return channel_statistics(np.concatenate(moments))


def in_units(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return images (B, C, H, W) without their normalisation, in float32."""
    means, stds = (on_device(one, images.device).view(-1, 1, 1) for one in (mean, std))
    # float32 before the product: in bfloat16 the errors that are measured would be smaller than its
    # steps.
    return images.float() * stds + means


def on_device(values: Sequence[float], device: torch.device) -> Tensor:
    """Return a few numbers (n,) as float32, without a copy from the CPU."""
    # `torch.tensor` would copy them, and a copy waits for all that the GPU has yet to do; a number
    # that is filled in travels with its kernel.
    return torch.stack([torch.full((), value, device=device) for value in values])


def dtype_that_holds(mean: Sequence[float], std: Sequence[float]) -> torch.dtype:
    """Return float16 where it holds such pixels to a hundredth of their std, else float32."""
    wide = all(
        abs(middle) < 10 * spread and 1e-3 < spread < 100
        for middle, spread in zip(mean, std, strict=True)
    )
    return torch.float16 if wide else torch.float32
