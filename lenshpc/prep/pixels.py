"""What holds for the pixels of every format: declared shape and dtype, what becomes of bad ones."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lenshpc.errors import DataError
from lenshpc.prep.formats import Fill, ImageFormat

# Models see float32: 1e300 is finite here and would be infinite there.
_LARGEST = float(np.finfo(np.float32).max)


def check_shape(path: str, found: tuple[int, ...], expected: tuple[int, ...]) -> None:
    """Raise unless an image has the declared shape, in the order of the file's axes.

    Leading axes of length one hold nothing, and may be more or fewer than declared.
    """
    if _drop_leading(found) != _drop_leading(expected):
        raise DataError(
            f"{path} has shape {format_shape(found)}, expected {format_shape(expected)}; "
            "set image.shape and image.axes in DATASET as the files are",
            cause="wrong shape",
        )


def _drop_leading(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return a shape without its first axes of length one."""
    num_ones = next((place for place, side in enumerate(shape) if side != 1), len(shape))
    return shape[num_ones:]


def check_dtype(path: str, found: np.dtype[Any], declared: str) -> None:
    """Raise unless the declared dtype holds every value of the found one."""
    # Pixels are kept bit for bit, so nothing may be rounded or cut on the way into the store.
    if found.kind not in "uif" or not _holds_all(np.dtype(declared), found):
        raise DataError(
            f"{path} has dtype {found}, which {declared} cannot hold without loss; "
            "save it in that dtype, or change `dtype` in the dataset file",
            cause="wrong dtype",
        )


def _holds_all(declared: np.dtype[Any], found: np.dtype[Any]) -> bool:
    if not np.can_cast(found, declared, "safe"):
        return False
    # numpy calls 64 bits in a float64 safe, which rounds beyond its mantissa.
    if found.kind == "f" or declared.kind != "f":
        return True
    return bool(np.iinfo(found).max <= 2 ** (np.finfo(declared).nmant + 1))


def clean(
    path: str, pixels: NDArray[Any], image: ImageFormat
) -> tuple[NDArray[Any], NDArray[np.uint8] | None]:
    """Return pixels without bad ones, and the mask that is 1 where one was filled.

    Bad are NaN, infinity and what float32 cannot reach. `image.bad_pixels` refuses them (the mask
    is None), or fills them. Pixels are one image (C,H,W) or rows of them (n,C,H,W), of which the
    first that cannot be used raises.
    """
    if image.bad_pixels == "refuse":
        _refuse_bad(path, pixels)
        return pixels, None
    if is_good(pixels):
        return pixels, np.zeros(pixels.shape, np.uint8)
    bad, fill = _find_bad(pixels), image.bad_pixels.fill
    _refuse_empty(path, bad, image)
    filled = pixels.copy()
    if fill == "median":
        planes = bad.any(axis=(-2, -1))  # (…,C): of the others no median is taken
        filled[planes] = _fill_medians(pixels[planes], bad[planes])
    else:
        filled[bad] = fill
    return filled, bad.view(np.uint8)


def is_good(pixels: NDArray[Any]) -> bool:
    """Return whether no pixel is bad."""
    # Extremes as Python floats carry NaN along, and compare with float16 without overflow.
    return pixels.dtype.kind != "f" or (
        float(pixels.min()) >= -_LARGEST and float(pixels.max()) <= _LARGEST
    )


def _find_bad(pixels: NDArray[Any]) -> NDArray[np.bool_]:
    with np.errstate(invalid="ignore"):  # of a NaN that signals, which is counted as any other
        # The limit as float32: of a Python float numpy would make float16's infinity.
        return np.asarray(~(np.abs(pixels) <= np.float32(_LARGEST)))


def _refuse_bad(path: str, pixels: NDArray[Any]) -> None:
    if is_good(pixels):
        return
    num_broken = int(np.count_nonzero(_find_bad(pixels)))
    raise DataError(
        f"{path} holds {num_broken} pixels that are NaN, infinite or beyond float32; "
        "correct the file, or have those of images filled with image.bad_pixels in DATASET",
        cause="bad pixels",
    )


def _refuse_empty(path: str, bad: NDArray[np.bool_], image: ImageFormat) -> None:
    """Raise where nothing is left to be seen, or nothing to take a median of."""
    of_channels = bad.all(axis=(-2, -1)).reshape(-1, len(image.channels))
    if of_channels.all(axis=1).any():
        raise DataError(
            f"{path} holds no pixel that is finite and within float32; move it away",
            cause="no good pixel",
        )
    if image.bad_pixels == Fill(fill="median") and of_channels.any():
        channel = image.channels[int(of_channels.any(axis=0).argmax())]
        raise DataError(
            f"{path} holds no pixel in channel {channel} to take the median of; move it away, or "
            "give image.bad_pixels in DATASET a value as fill",
            cause="no good pixel",
        )


def _fill_medians(planes: NDArray[Any], bad: NDArray[np.bool_]) -> NDArray[Any]:
    """Return planes (m,H,W) with the median of each one's good pixels in place of the bad."""
    # Sorted with NaN at the end; the network's program does the same, so both give the same bits.
    ordered = np.sort(np.where(bad, np.nan, planes).reshape(len(planes), -1), axis=1)
    num_good = np.count_nonzero(~bad, axis=(1, 2))
    places = np.stack([(num_good - 1) // 2, num_good // 2], axis=1)
    # float64: the sum of two large pixels is beyond float32, their mean is not.
    medians = np.take_along_axis(ordered, places, axis=1).astype(np.float64).mean(axis=1)
    return np.where(bad, medians.astype(planes.dtype)[:, None, None], planes)


def orient(pixels: NDArray[Any], image: ImageFormat) -> NDArray[Any]:
    """Return pixels in the order of the file as (…,C,H,W) in the declared dtype."""
    if image.axes == "hw":
        pixels = pixels[..., None, :, :]
    elif image.axes == "hwc":
        pixels = np.moveaxis(pixels, -1, -3)
    return pixels.astype(image.dtype, copy=False)


def format_shape(shape: tuple[int, ...]) -> str:
    """Return a shape as text."""
    return f"({', '.join(map(str, shape))})"
