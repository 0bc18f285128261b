"""What holds for the pixels of every format: the declared shape and dtype, and finite values."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lenshpc.errors import DataError
from lenshpc.prep.formats import ImageFormat

# Models see float32: 1e300 is finite here and would be infinite there.
_LARGEST = float(np.finfo(np.float32).max)


def check_shape(path: str, found: tuple[int, ...], expected: tuple[int, ...]) -> None:
    """Raise unless an image has the declared shape, in the order of the file's axes."""
    if found != expected:
        raise DataError(
            f"{path} has shape {format_shape(found)}, expected {format_shape(expected)}; "
            "set image.shape and image.axes in DATASET as the files are, or move it away"
        )


def check_dtype(path: str, found: np.dtype[Any], declared: str) -> None:
    """Raise unless the declared dtype holds every value of the found one."""
    # safe: pixels are kept bit for bit, so nothing may be rounded or cut on the way into the store.
    if found.kind not in "uif" or not np.can_cast(found, declared, "safe"):
        raise DataError(
            f"{path} has dtype {found}, which {declared} cannot hold without loss; "
            "save it in that dtype, or change `dtype` in the dataset file"
        )


def check_values(path: str, pixels: NDArray[Any]) -> None:
    """Raise on NaN, infinity and what float32 cannot reach."""
    # Extremes as Python floats carry NaN along, and compare with float16 without overflow.
    if pixels.dtype.kind != "f" or (
        float(pixels.min()) >= -_LARGEST and float(pixels.max()) <= _LARGEST
    ):
        return
    with np.errstate(invalid="ignore"):  # of a NaN that signals, which is counted as any other
        beyond = np.abs(pixels.astype(np.float64)) > _LARGEST
    num_broken = int(np.count_nonzero(beyond | np.isnan(pixels)))
    raise DataError(
        f"{path} holds {num_broken} pixels that are NaN, infinite or beyond float32; "
        "mend it, or move it away"
    )


def orient(pixels: NDArray[Any], image: ImageFormat) -> NDArray[Any]:
    """Return pixels in the order of the file as (C,H,W) in the declared dtype."""
    if image.axes == "hw":
        pixels = pixels[None]
    elif image.axes == "hwc":
        pixels = np.moveaxis(pixels, -1, 0)
    return pixels.astype(image.dtype, copy=False)


def format_shape(shape: tuple[int, ...]) -> str:
    """Return a shape as text."""
    return f"({', '.join(map(str, shape))})"
