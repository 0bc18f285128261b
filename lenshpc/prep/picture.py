"""Read the grey levels or colours of a JPEG or PNG image, bit for bit."""

import io
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from lenshpc.errors import DataError
from lenshpc.prep.content import damage_error, first_line
from lenshpc.prep.formats import ImageFormat
from lenshpc.prep.pixels import format_shape

# The number of channels of the Pillow modes that np.asarray gives without loss.
_NUM_CHANNELS = {"L": 1, "I;16": 1, "LA": 2, "RGB": 3, "RGBA": 4, "CMYK": 4}
_WITH_ALPHA = {"L": "LA", "RGB": "RGBA", "P": "RGBA"}
_ALPHA = {"LA", "RGBA"}


def picture_pixels(path: str, content: bytes, image: ImageFormat) -> NDArray[Any]:
    """Return the pixels (C,H,W) of the image in the bytes of a file.

    A palette's colours are looked up; an alpha channel that nobody asked for is left out where all
    of it is opaque.
    """
    try:
        pixels = _decode(path, content, image)
    except UnidentifiedImageError as error:
        raise DataError(
            f"{path} is not a JPEG or PNG image; copy it again", cause="another format"
        ) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(
            f"{path} is too large: {first_line(error)}; check `image` in DATASET", cause="too large"
        ) from error
    return pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)


def _decode(path: str, content: bytes, image: ImageFormat) -> NDArray[Any]:
    with warnings.catch_warnings():
        # Pillow also warns of what is not pixels, such as an odd EXIF entry.
        warnings.simplefilter("ignore")
        # An error: the small file that unpacks to gigabytes must not get as far as its pixels.
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        # These two alone: each further reader of Pillow's is more code that runs on files nobody
        # has looked at.
        with Image.open(io.BytesIO(content), formats=("JPEG", "PNG")) as picture:
            mode = _plain_mode(picture)
            _check_header(path, picture, mode, image)
            if _is_deep(picture):
                pixels = _deep_pixels(path, content, mode)
            else:
                pixels = np.asarray(picture if mode == picture.mode else picture.convert(mode))
    return _drop_opaque(path, pixels, image) if _has_alpha(mode, image) else pixels


def _plain_mode(picture: Image.Image) -> str:
    """Return the mode that has all of a picture in channels: no palette, no transparent colour."""
    if _packing(picture).startswith("LA"):  # which Pillow makes colours of where it has 16 bits
        return "LA"
    if "transparency" in picture.info:
        return _WITH_ALPHA.get(picture.mode, picture.mode)
    return "RGB" if picture.mode == "P" else picture.mode


def _packing(picture: Image.Image) -> str:
    """Return Pillow's name for how the file holds its levels, such as RGB;16B."""
    parts = getattr(picture, "tile", [])
    return str(parts[0][3]) if parts else ""


def _is_deep(picture: Image.Image) -> bool:
    """Tell whether a file has 16 bits a colour, of which Pillow gives eight."""
    return "16" in _packing(picture) and picture.mode != "I;16"


def _deep_pixels(path: str, content: bytes, mode: str) -> NDArray[Any]:
    """Return levels (H,W,C) of 16 bits."""
    import cv2

    order = {"LA": [0, 3], "RGB": [2, 1, 0], "RGBA": [2, 1, 0, 3]}[mode]  # OpenCV has blue first
    found = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if found is None:
        raise damage_error(path, "its pixels cannot be unpacked")
    if found.dtype != np.uint16 or found.ndim != 3 or found.shape[-1] <= max(order):
        raise DataError(
            f"{path} has 16 bits per colour, which cannot be read in this form; save it as .npy",
            cause="another format",
        )
    return np.asarray(found[..., order])


def _has_alpha(mode: str, image: ImageFormat) -> bool:
    """Tell whether a picture of that mode has an alpha channel beside those asked for."""
    return mode in _ALPHA and _NUM_CHANNELS[mode] == image.shape[0] + 1


def _check_header(path: str, picture: Image.Image, mode: str, image: ImageFormat) -> None:
    """Raise on size and mode, which the header tells, before any pixel is decoded."""
    num_channels, size = _NUM_CHANNELS.get(mode, 0), (picture.height, picture.width)
    is_there = num_channels == image.shape[0] or _has_alpha(mode, image)
    if not is_there or size != image.shape[1:]:
        sides = [num_channels, *size]
        change = f"set image.shape in DATASET to {sides}, or " if num_channels else ""
        raise DataError(
            f"{path} has mode {picture.mode}, {picture.height} by {picture.width} pixels, expected "
            f"{image.shape[0]} channel(s), {image.shape[1]} by {image.shape[2]}; {change}"
            "save it as the others are",
            cause="wrong shape",
        )
    frames = getattr(picture, "n_frames", 1)
    if frames != 1:
        raise DataError(
            f"{path} holds {frames} images, expected one; save them as files of one",
            cause="wrong shape",
        )


def _drop_opaque(path: str, pixels: NDArray[Any], image: ImageFormat) -> NDArray[Any]:
    """Return the pixels without their alpha channel; raise where it hides any."""
    num_hidden = np.count_nonzero(pixels[..., -1] != np.iinfo(pixels.dtype).max)
    if num_hidden:
        shape = format_shape((pixels.shape[-1], *image.shape[1:])).replace("(", "[")
        raise DataError(
            f"{path} has an alpha channel in which {num_hidden} pixels are not opaque, expected "
            f"{image.shape[0]} channel(s); set image.shape in DATASET to {shape[:-1]}], or save it "
            "without the channel",
            cause="wrong shape",
        )
    return pixels[..., :-1]
