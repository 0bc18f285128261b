"""Read one source file to pixels and hash; every defect is one error that names the file."""

import hashlib
import io
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from lenshpc.errors import DataError
from lenshpc.prep.dataset import ImageFormat

# Pillow modes that np.asarray gives without loss, by (channels, dtype).
_MODES = {"L": (1, "uint8"), "I;16": (1, "uint16"), "RGB": (3, "uint8")}
_HEADER_BYTES = 2**16


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceImage:
    """The pixels (C,H,W) in the store's dtype, and the file they came from."""

    pixels: NDArray[Any]
    sha256: bytes
    num_bytes: int


def read_source(path: Path, image: ImageFormat) -> SourceImage:
    """Return the image in the file at `path`."""
    content = _content(path, image)
    pixels = (_npy_pixels if image.format == "npy" else _picture_pixels)(path, content, image)
    _check_pixels(path, pixels, image)
    return SourceImage(
        pixels=pixels.astype(image.dtype, copy=False),
        sha256=hashlib.sha256(content).digest(),
        num_bytes=len(content),
    )


def _content(path: Path, image: ImageFormat) -> bytes:
    """Return the bytes; a file far larger than its image is refused before it fills the memory."""
    most = 16 * int(np.prod(image.shape)) + _HEADER_BYTES
    try:
        with path.open("rb") as stream:
            content = stream.read(most + 1)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; mend or remove it") from error
    if not content:
        raise DataError(f"{path} is empty (0 bytes); copy it again or remove it")
    if len(content) > most:
        raise DataError(f"{path} is too large for one {_shape(image.shape)} image; check DATASET")
    return content


def _npy_pixels(path: Path, content: bytes, image: ImageFormat) -> NDArray[Any]:
    start, shape, fortran_order, dtype = _npy_header(path, content)
    if dtype.hasobject:
        raise DataError(
            f"{path} is a pickled object array; pickles can run code and are refused: "
            "save it again as a plain array with np.save"
        )
    if shape != image.shape:
        raise DataError(
            f"{path} has shape {_shape(shape)}, expected {_shape(image.shape)}; "
            "remove it or check DATASET"
        )
    promised, held = int(np.prod(shape)) * dtype.itemsize, len(content) - start
    if promised != held:
        raise DataError(
            f"{path} is {'truncated' if held < promised else 'too long'}: its header promises "
            f"{promised} bytes of pixels, it holds {held}; copy it again or remove it"
        )
    flat = np.frombuffer(content, dtype, offset=start)
    return flat.reshape(shape, order="F" if fortran_order else "C")


def _npy_header(path: Path, content: bytes) -> tuple[int, tuple[int, ...], bool, np.dtype[Any]]:
    """Return where the pixels start, their shape, whether in Fortran order, and their dtype."""
    if content[:6] != npy.MAGIC_PREFIX:
        kind = "a Python pickle" if content[:1] == b"\x80" else f"not .npy: starts {content[:6]!r}"
        raise DataError(f"{path} is {kind}; save it again with np.save, or remove it")
    width = 2 if content[6:7] == b"\x01" else 4
    start = 8 + width + int.from_bytes(content[8 : 8 + width], "little")
    if start > len(content):
        raise DataError(f"{path} is truncated within its header; copy it again or remove it")
    try:
        return (start, *_parsed_header(content[:start]))
    except (ValueError, SyntaxError, TypeError, OverflowError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path} has a broken .npy header: {reason}; remove it") from error


@lru_cache(maxsize=64)  # all files of a set share their header, whose parsing costs most of a read
def _parsed_header(header: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    stream = io.BytesIO(header)
    version = npy.read_magic(stream)
    if version == (1, 0):
        return npy.read_array_header_1_0(stream)
    if version == (2, 0):
        return npy.read_array_header_2_0(stream)
    raise ValueError(f"version {version}, expected (1, 0) or (2, 0)")


def _picture_pixels(path: Path, content: bytes, image: ImageFormat) -> NDArray[Any]:
    try:
        with Image.open(io.BytesIO(content), formats=("JPEG", "PNG")) as picture:
            _check_picture(path, picture, image)
            pixels = np.asarray(picture)
    except UnidentifiedImageError as error:
        raise DataError(f"{path} is no JPEG or PNG image; copy it again or remove it") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is damaged: {error}; copy it again or remove it") from error
    return pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)


def _check_picture(path: Path, picture: Image.Image, image: ImageFormat) -> None:
    """Raise on size and mode, which the header tells, before any pixel is decoded."""
    found = (_MODES.get(picture.mode, (0, ""))[0], picture.height, picture.width)
    if found != image.shape:
        raise DataError(
            f"{path} has mode {picture.mode}, {picture.height} by {picture.width} pixels, expected "
            f"{image.shape[0]} channel(s), {image.shape[1]} by {image.shape[2]}; "
            "remove it or check DATASET"
        )


def _check_pixels(path: Path, pixels: NDArray[Any], image: ImageFormat) -> None:
    if not np.can_cast(pixels.dtype, image.dtype, "safe"):
        raise DataError(
            f"{path} has dtype {pixels.dtype}, which {image.dtype} cannot hold without loss; "
            "save it in that dtype, or change `image.dtype` in the dataset file"
        )
    if pixels.dtype.kind != "f":
        return
    # Models see float32: 1e300 would pass a test for infinity here and be infinite there.
    with np.errstate(over="ignore"):
        broken = int(np.count_nonzero(~np.isfinite(pixels.astype(np.float32, copy=False))))
    if broken:
        raise DataError(
            f"{path} holds {broken} pixels that are NaN, infinite or beyond float32; "
            "mend or remove it"
        )


def _shape(shape: tuple[int, ...]) -> str:
    return f"({', '.join(map(str, shape))})"
