"""Read an image of a FITS file with astropy, the values as the FITS standard defines them."""

import io
import math
import re
import warnings
import zlib
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lenshpc.errors import DataError
from lenshpc.prep.content import naming_defects
from lenshpc.prep.formats import ImageFormat
from lenshpc.prep.pixels import check_shape
from lenshpc.run.extras import require

# astropy's decoders of the others, HCOMPRESS_1 and PLIO_1, leave their buffers where a file makes
# them.
_PACKINGS = {"RICE_1", "RICE_ONE", "GZIP_1", "GZIP_2", "NOCOMPRESS"}
_GZIP = re.compile(rb"\x1f\x8b\x08")


def fits_pixels(path: str, content: bytes, image: ImageFormat) -> NDArray[Any]:
    """Return the pixels in the order of the file's axes, in native byte order.

    BZERO alone makes integers unsigned; any other BSCALE, BZERO or BLANK makes them floats, which
    an integer `dtype` then refuses.
    """
    require("fits", "FITS")
    if not content.startswith(b"SIMPLE  ="):
        raise DataError(f"{path} is no FITS file: starts {content[:6]!r}; copy it again")
    with naming_defects(path):
        pixels = _decode(path, content, image)
    return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)


def _decode(path: str, content: bytes, image: ImageFormat) -> NDArray[Any]:
    from astropy.io import fits
    from astropy.io.fits.verify import VerifyWarning
    from astropy.utils.exceptions import AstropyUserWarning

    with warnings.catch_warnings():
        # astropy only warns of a truncated file, of a card that bends the standard too; and numpy
        # of a number that wraps around.
        warnings.simplefilter("error", AstropyUserWarning)
        warnings.simplefilter("error", RuntimeWarning)
        warnings.simplefilter("ignore", VerifyWarning)
        # From the bytes that are hashed, not from the file again, which may have changed since.
        with fits.open(io.BytesIO(content), memmap=False) as units:
            unit = _unit(path, units, image)
            # Before `data`, which unpacks: a header may promise any number of bytes.
            check_shape(path, tuple(unit.shape), image.stored_shape)
            if isinstance(unit, fits.CompImageHDU):
                _check_tiles(path, unit, content)
            return np.asarray(unit.data)


def _unit(path: str, units: Any, image: ImageFormat) -> Any:
    """Return the HDU that the dataset names, or the first that holds an image."""
    names = [unit.name for unit in units]
    if isinstance(image.hdu, str):
        places = [place for place, name in enumerate(names) if name == image.hdu.strip().upper()]
        if len(places) > 1:
            raise DataError(
                f"{path} holds {len(places)} HDUs {image.hdu}, at {places}; "
                "set `image.hdu` to the number of one"
            )
    elif isinstance(image.hdu, int):
        places = [image.hdu] if image.hdu < len(names) else []
    else:
        places = list(range(len(names)))
    for place in places:
        if units[place].is_image and units[place].shape:
            return units[place]
    held = ", ".join(f"{place} {name or '-'}" for place, name in enumerate(names))
    missing = "an image" if image.hdu is None else f"the image {image.hdu}"
    raise DataError(f"{path} lacks {missing}; it holds the HDUs {held}; set `image.hdu`")


def _check_tiles(path: str, unit: Any, content: bytes) -> None:
    """Raise on a compressed image that is not certain to unpack to what its header promises."""
    if unit.compression_type not in _PACKINGS:
        raise DataError(f"{path} is packed by {unit.compression_type}; unpack it with: funpack")
    if not all(0 < side <= whole for side, whole in zip(unit.tile_shape, unit.shape, strict=True)):
        raise DataError(
            f"{path} is damaged: tiles {unit.tile_shape} in {unit.shape}; copy it again"
        )
    left = 8 * math.prod(unit.shape) + len(content)
    for found in _GZIP.finditer(content):
        with suppress(zlib.error):
            stream = zlib.decompressobj(wbits=31)
            left -= len(stream.decompress(memoryview(content)[found.start() :], left + 1))
        if left < 0:
            raise DataError(f"{path} is damaged: it unpacks to more than its image; copy it again")
