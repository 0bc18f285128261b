"""Read the grey levels or colours of a JPEG or PNG image, bit for bit."""

import io
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from lenshpc.errors import DataError
from lenshpc.prep.content import first_line
from lenshpc.prep.formats import ImageFormat

# The number of channels of the Pillow modes that np.asarray gives without loss.
_NUM_CHANNELS = {"L": 1, "I;16": 1, "RGB": 3}


def picture_pixels(path: str, content: bytes, image: ImageFormat) -> NDArray[Any]:
    """Return the pixels (C,H,W) of the image in the bytes of a file."""
    try:
        pixels = _decode(path, content, image)
    except UnidentifiedImageError as error:
        raise DataError(f"{path} is no JPEG or PNG image; copy it again") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"{path} is too large: {first_line(error)}; move it away") from error
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
            _check_header(path, picture, image)
            return np.asarray(picture)


def _check_header(path: str, picture: Image.Image, image: ImageFormat) -> None:
    """Raise on size and mode, which the header tells, before any pixel is decoded."""
    found = (_NUM_CHANNELS.get(picture.mode, 0), picture.height, picture.width)
    if found != image.shape:
        raise DataError(
            f"{path} has mode {picture.mode}, {picture.height} by {picture.width} pixels, expected "
            f"{image.shape[0]} channel(s), {image.shape[1]} by {image.shape[2]}; "
            "check `image` in DATASET, or move it away"
        )
    frames = getattr(picture, "n_frames", 1)
    if frames != 1:
        raise DataError(f"{path} holds {frames} images, expected one; save them as files of one")
