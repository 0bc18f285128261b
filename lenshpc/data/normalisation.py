"""What is subtracted from the pixels and what they are divided by: from training rows alone."""

import numpy as np
import numpy.typing as npt

from lenshpc.data.decoded import Decoded
from lenshpc.data.order import Rows
from lenshpc.data.readers import Reader
from lenshpc.data.stretch import stretched
from lenshpc.store import channel_statistics

Floats = npt.NDArray[np.float32]
BLOCK_ROWS = 256
IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def normalisation(decoded: Decoded, reader: Reader, training_rows: Rows) -> tuple[Floats, Floats]:
    """Return mean and deviation, a channel each, of what the settings ask for."""
    settings, num_channels = decoded.settings, decoded.shape[0]
    if settings.normalise == "imagenet":
        return np.array(IMAGENET_MEAN, np.float32), np.array(IMAGENET_DEVIATION, np.float32)
    if settings.normalise != "fold":
        return np.zeros(num_channels, np.float32), np.ones(num_channels, np.float32)
    if settings.stretch == "none" and settings.crop is None:
        mean, deviation = channel_statistics(decoded.store.moments[training_rows])
    else:
        mean, deviation = _statistics(decoded, reader, training_rows)
    safe = np.where(deviation > 0, deviation, 1.0)  # a constant channel stays constant
    return mean.astype(np.float32), safe.astype(np.float32)


def _statistics(
    decoded: Decoded, reader: Reader, rows: Rows
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Read the rows once; the store knows the moments of whole, unstretched images only."""
    blocks = np.split(np.sort(rows), range(BLOCK_ROWS, len(rows), BLOCK_ROWS))
    moments = []
    for pixels in reader.read(blocks):
        values = stretched(pixels.float().mul_(decoded.scale), decoded.settings.stretch).double()
        moments.append(
            np.stack([values.mean((2, 3)).cpu(), values.square().mean((2, 3)).cpu()], axis=-1)
        )
    return channel_statistics(np.concatenate(moments))
