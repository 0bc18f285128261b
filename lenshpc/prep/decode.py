"""Make an image of its file, or of its files a band: the bytes that are hashed, then pixels."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lenshpc.errors import DataError
from lenshpc.prep.bands import band_paths
from lenshpc.prep.content import largest_bytes, naming_defects, read_content
from lenshpc.prep.fits import fits_images
from lenshpc.prep.formats import ImageFormat
from lenshpc.prep.npy import npy_header, npy_pixels
from lenshpc.prep.picture import picture_pixels
from lenshpc.prep.pixels import check_dtype, check_shape, format_shape, orient
from lenshpc.prep.unpickle import is_pickle, unwrap

Numbers = tuple[float, ...]


class SourceFile(NamedTuple):
    """A file, and all of its bytes."""

    path: str
    content: bytes


class Pickles(NamedTuple):
    """The names of the numbers that are pickled with an image, and whether the user allows it."""

    columns: tuple[str, ...] = ()
    is_allowed: bool = False


def read_files(root: str, file: str, image: ImageFormat) -> list[SourceFile]:
    """Return the file of an image, or its files a band in the order of channels.

    One far larger than its image is refused before it fills the memory.
    """
    most = largest_bytes(image)
    found = []
    for path in (f"{root}/{name}" for name in band_paths(file, image)):
        content = read_content(path, image.format, most)
        if len(content) > most:
            shape = format_shape(image.shape)
            raise DataError(
                f"{path} is too large for one {shape} image; check `image` in DATASET",
                cause="too large",
            )
        found.append(SourceFile(path, content))
    return found


def decode(
    files: Sequence[SourceFile], image: ImageFormat, pickles: Pickles
) -> tuple[NDArray[Any], Numbers]:
    """Return the image (C,H,W) in the declared dtype, and the numbers pickled beside it."""
    declared = image.part if image.bands else image
    arrays: list[NDArray[Any]] = []
    numbers: Numbers = ()
    for file in files:
        with naming_defects(file.path):
            found, numbers = _decode_file(file, declared, pickles)
        arrays += found
    # Before the cast, which would hide a loss.
    for place, pixels in enumerate(arrays):
        path = files[place if image.bands else 0].path
        channel = "" if len(arrays) == len(files) else f": channel {image.channels[place]}"
        check_dtype(f"{path}{channel}", pixels.dtype, image.dtype)
    if len(arrays) == 1:
        return orient(arrays[0].reshape(image.stored_shape), image), numbers
    plane = image.shape[1:]
    planes = [pixels.reshape(plane).astype(image.dtype, copy=False) for pixels in arrays]
    return np.stack(planes), numbers


def _decode_file(
    file: SourceFile, image: ImageFormat, pickles: Pickles
) -> tuple[list[NDArray[Any]], Numbers]:
    """Return the image of a file in the order of its axes, or one a channel, and the numbers."""
    path, content = file
    if image.format == "image":
        return [picture_pixels(path, content, image)], ()
    if image.format == "fits":
        return fits_images(path, content, image), ()
    if pickles.columns and is_pickle(content):
        return _unpickle(path, content, image, pickles)
    header = npy_header(path, content)
    # Told by the header, before numpy is let at the file: np.load with allow_pickle would run what
    # the pickle names.
    if header.dtype.hasobject:
        return _unpickle(path, content[header.start :], image, pickles)
    # By the header, before the pixels: a promise of terabytes is refused unread.
    check_shape(path, header.shape, image.stored_shape)
    return [npy_pixels(path, content, header)], ()


def _unpickle(
    path: str, pickled: bytes, image: ImageFormat, pickles: Pickles
) -> tuple[list[NDArray[Any]], Numbers]:
    """Return what a class is declared to pickle, where the user has allowed it."""
    refused = f"{path} is a pickled object array; pickles can run code and are refused"
    if not pickles.columns:
        message = f"{refused}: save it again as a plain array with np.save"
        raise DataError(message, cause="pickled")
    if not pickles.is_allowed:
        names = ", ".join(pickles.columns)
        message = f"{refused}; to unwrap [image, {names}] from them add --allow-pickle"
        raise DataError(message, cause="pickled")
    pixels, numbers = unwrap(path, pickled, pickles.columns)
    check_shape(path, pixels.shape, image.stored_shape)
    return [pixels], numbers
