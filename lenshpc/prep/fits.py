"""Read images of a FITS file with astropy, the values as the FITS standard defines them."""

import io
import math
import re
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lenshpc.errors import DataError
from lenshpc.prep.content import (
    damage_error,
    largest_bytes,
    naming_defects,
    truncation_error,
    unpack,
)
from lenshpc.prep.fits_sums import check_sums
from lenshpc.prep.formats import ImageFormat
from lenshpc.prep.pixels import check_dtype, check_shape
from lenshpc.run.extras import require

# astropy's decoders of the others trust the file: that of HCOMPRESS_1 reads on past the end of a
# tile that is cut, and mixes up the tiles of several threads; that of PLIO_1 checks nothing.
_PACKINGS = {"RICE_1", "RICE_ONE", "GZIP_1", "GZIP_2", "NOCOMPRESS"}
_GZIP = re.compile(rb"\x1f\x8b\x08")
_MAX_SHOWN = 12
_PIECE_BYTES = 2**16


def fits_images(path: str, content: bytes, image: ImageFormat) -> list[NDArray[Any]]:
    """Return the image in the order of the file's axes, or one image a channel, in native order.

    BZERO alone makes integers unsigned; any other BSCALE, BZERO or BLANK makes them floats, which
    an integer `dtype` then refuses.
    """
    require("fits", "FITS")
    content = unpack(path, content, largest_bytes(image))
    if not content.startswith(b"SIMPLE  ="):
        raise DataError(
            f"{path} is not a FITS file: it starts with {content[:6]!r}; copy it again",
            cause="another format",
        )
    # From the bytes that are hashed, not from the file again, which may have changed since.
    with naming_defects(path), reading_strictly(), _open(content) as opened:
        units = _list_units(path, content, opened)
        chosen = _choose(path, units, image)
        declared = image if len(chosen) == 1 else image.part
        for place in set(chosen):
            check_sums(path, units[place], io.BytesIO(content))
        found = [_pixels(path, units[place], declared, content) for place in chosen]
    return [pixels.astype(pixels.dtype.newbyteorder("="), copy=False) for pixels in found]


def _open(content: bytes) -> Any:
    from astropy.io import fits

    return fits.open(io.BytesIO(content), memmap=False)


@contextmanager
def reading_strictly() -> Iterator[None]:
    """Turn what astropy only warns of into errors, but for files that are too short."""
    from astropy.io.fits.verify import VerifyWarning
    from astropy.utils.exceptions import AstropyUserWarning

    with warnings.catch_warnings():
        # astropy warns of a card that bends the standard, too; and numpy of a number that wraps.
        warnings.simplefilter("error", AstropyUserWarning)
        warnings.simplefilter("error", RuntimeWarning)
        warnings.simplefilter("ignore", VerifyWarning)
        # Of bytes that are too few, which are counted here: the padding of the last HDU may lack.
        warnings.filterwarnings("ignore", "File may have been truncated", AstropyUserWarning)
        yield


def find_image(path: str, units: list[Any], image: ImageFormat) -> Any:
    """Return the HDU of the one image that a dataset names."""
    return units[_choose(path, units, image.part)[0]]


def _list_units(path: str, content: bytes, opened: Any) -> list[Any]:
    """Return all HDUs, each of which is whole; what follows the last one does not count."""
    units: list[Any] = []
    start = 0
    while not units or content.startswith(b"XTENSION=", start):
        try:
            unit = opened[len(units)]
        except (IndexError, OSError) as error:
            raise truncation_error(path, f"or damaged in the header of HDU {len(units)}") from error
        place = unit.fileinfo()
        # Of a compressed image, `size` is what it unpacks to.
        promised = place["datSpan"] if _is_packed(unit) else unit.size
        held = len(content) - place["datLoc"]
        if promised > held:
            raise truncation_error(
                path,
                f"in HDU {len(units)}: its header declares {promised} bytes, the file holds {held}",
            )
        units.append(unit)
        start = place["datLoc"] + place["datSpan"]
    return units


def _choose(path: str, units: list[Any], image: ImageFormat) -> list[int]:
    """Return the place of the HDU that holds the image, or one a channel."""
    if isinstance(image.hdu, tuple):
        return [_only(path, units, name) for name in image.hdu]
    if image.hdu is None:
        found = [place for place, unit in enumerate(units) if _is_image(unit)][:1]
        return found or [_only(path, units, None)]
    places = _places(units, image.hdu)
    shapes = [tuple(units[place].shape) for place in places]
    if 1 < len(places) == image.shape[0] and image.stored_shape not in shapes:
        return sorted(places, key=lambda place: units[place].ver)
    return [_only(path, units, image.hdu)]


def _only(path: str, units: list[Any], name: int | str | None) -> int:
    """Return the place of the one image of a name, or with that number."""
    places = _places(units, name)
    if len(places) > 1:
        raise DataError(
            f"{path} holds {len(places)} HDUs {name}, at {places}; set `image.hdu` to the number "
            "of one, or to a list with one per channel",
            cause="another HDU",
        )
    if places:
        return places[0]
    held = ", ".join(f"{at} {unit.name or '-'}" for at, unit in enumerate(units[:_MAX_SHOWN]))
    more = ", …" if len(units) > _MAX_SHOWN else ""
    missing = "an image" if name is None else f"the image {name}"
    raise DataError(
        f"{path} lacks {missing}; it holds the HDUs {held}{more}; set `image.hdu`",
        cause="another HDU",
    )


def _places(units: list[Any], name: int | str | None) -> list[int]:
    """Return the places of the images of that name, or with that number."""
    if isinstance(name, int):
        named = [name] if name < len(units) else []
    else:
        wanted = (name or "").strip().upper()
        named = [place for place, unit in enumerate(units) if name and unit.name == wanted]
    return [place for place in named if _is_image(units[place])]


def _is_image(unit: Any) -> bool:
    return bool(unit.is_image and unit.shape)


def _is_packed(unit: Any) -> bool:
    from astropy.io import fits

    return isinstance(unit, fits.CompImageHDU)


def _pixels(path: str, unit: Any, image: ImageFormat, content: bytes) -> NDArray[Any]:
    # Before `data`, which unpacks: a header may promise any number of bytes.
    check_shape(path, tuple(unit.shape), image.stored_shape)
    if _is_packed(unit):
        check_packing(path, unit, memoryview(content))
    # Before `data`, after which the header is that of what it became.
    is_long, is_scaled = unit.header["BITPIX"] == 64, unit.header.get("BSCALE", 1) != 1
    pixels = np.asarray(unit.data)
    if is_long and not is_scaled and pixels.dtype.kind == "f":  # by BLANK or BZERO
        check_dtype(path, np.dtype(np.int64), image.dtype)
    return pixels


def check_packing(path: str, unit: Any, content: memoryview) -> None:
    """Raise on a compressed image that is not certain to unpack to what its header promises.

    `content` are the bytes of the whole file.
    """
    if unit.compression_type not in _PACKINGS:
        raise DataError(
            f"{path} is compressed with {unit.compression_type}, which cannot be read safely "
            "here; unpack it with: funpack",
            cause="another packing",
        )
    if not all(0 < side <= whole for side, whole in zip(unit.tile_shape, unit.shape, strict=True)):
        raise damage_error(path, f"tiles {unit.tile_shape} in {unit.shape}")
    place = unit.fileinfo()
    packed = content[place["datLoc"] : place["datLoc"] + place["datSpan"]]
    left = 8 * math.prod(unit.shape) + len(packed)
    for found in _GZIP.finditer(packed):
        with suppress(zlib.error):
            left -= _count_unpacked(packed[found.start() :], left)
        if left < 0:
            raise damage_error(path, "it unpacks to more than its image")


def _count_unpacked(packed: memoryview, most: int) -> int:
    """Return how many bytes a gzip member unpacks to, as far as they are at most `most`."""
    # In pieces: zlib keeps a copy of all that follows the member.
    stream, num_bytes = zlib.decompressobj(wbits=31), 0
    for at in range(0, len(packed), _PIECE_BYTES):
        piece = packed[at : at + _PIECE_BYTES]
        num_bytes += len(stream.decompress(piece, most - num_bytes + 1))
        if stream.eof or num_bytes > most:
            break
    return num_bytes
