"""Read an image of a FITS file with astropy, the values as the FITS standard defines them."""

import io
import warnings
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lenshpc.errors import DataError
from lenshpc.prep.dataset import ImageFormat
from lenshpc.prep.pixels import check_shape, first_line
from lenshpc.run.extras import require

_DAMAGE = (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError)


def fits_pixels(path: str, content: bytes, image: ImageFormat) -> NDArray[Any]:
    """Return the pixels in the order of the file's axes, in native byte order.

    BZERO alone makes integers unsigned; any other BSCALE, BZERO or BLANK makes them floats, which
    an integer `dtype` then refuses.
    """
    require("fits", "FITS")
    from astropy.io.fits.verify import VerifyError
    from astropy.utils.exceptions import AstropyUserWarning

    if not content.startswith(b"SIMPLE  ="):
        raise DataError(
            f"{path} is no plain FITS file: starts {content[:6]!r}; unpack or remove it"
        )
    try:
        pixels = _decode(path, content, image)
    except DataError:
        raise
    except (*_DAMAGE, VerifyError, AstropyUserWarning) as error:
        reason = first_line(error)
        raise DataError(f"{path} is damaged: {reason}; copy it again or remove it") from error
    return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)


def _decode(path: str, content: bytes, image: ImageFormat) -> NDArray[Any]:
    from astropy.io import fits
    from astropy.io.fits.verify import VerifyWarning
    from astropy.utils.exceptions import AstropyUserWarning

    with warnings.catch_warnings():
        # astropy only warns of a truncated file; of a card that bends the standard too.
        warnings.simplefilter("error", AstropyUserWarning)
        warnings.simplefilter("ignore", VerifyWarning)
        # From the bytes that are hashed, not from the file again, which may have changed since.
        with fits.open(io.BytesIO(content), memmap=False) as units:
            unit = _unit(path, units, image)
            # Before `data`, which unpacks: a header may promise any number of bytes.
            check_shape(path, tuple(unit.shape), image.stored_shape)
            return np.asarray(unit.data)


def _unit(path: str, units: Any, image: ImageFormat) -> Any:
    """Return the HDU that the dataset names, or the first that holds an image."""
    wanted = range(len(units)) if image.hdu is None else (image.hdu,)
    for hdu in wanted:
        with suppress(KeyError, IndexError):
            if units[hdu].is_image and units[hdu].shape:
                _refuse_wide_tiles(path, units[hdu])
                return units[hdu]
    names = ", ".join(f"{i} {unit.name or '-'}" for i, unit in enumerate(units))
    missing = "an image" if image.hdu is None else f"the image {image.hdu}"
    raise DataError(
        f"{path} lacks {missing}; it holds the HDUs {names}; remove it or set `image.hdu`"
    )


def _refuse_wide_tiles(path: str, unit: Any) -> None:
    """Raise on a compressed image whose tiles would unpack to more than the image."""
    tile = getattr(unit, "tile_shape", unit.shape)
    if any(side > whole for side, whole in zip(tile, unit.shape, strict=True)):
        raise DataError(f"{path} is damaged: tiles {tile} exceed the image; remove it")
