"""The sums that a FITS file has of its own bytes, by its keywords DATASUM and CHECKSUM."""

from typing import Any, BinaryIO

import numpy as np

from lenshpc.prep.content import damage_error

_PIECE_BYTES = 2**22
_ALL_ONES = 2**32 - 1


def check_sums(path: str, unit: Any, stream: BinaryIO | Any) -> None:
    """Raise where the bytes of an HDU do not fit the sums in its header; `stream` is of the file.

    Those are of the bytes as stored, so of a compressed image of the table that it is packed in.
    """
    from astropy.io import fits

    place = unit.fileinfo()
    stream.seek(place["hdrLoc"])
    head = stream.read(place["datLoc"] - place["hdrLoc"])
    if b"DATASUM =" not in head and b"CHECKSUM=" not in head:
        return
    header = fits.Header.fromstring(head)
    of_data = _sum_words(stream, place["datSpan"])
    promised = str(header.get("DATASUM", "")).strip()
    if promised.isdecimal() and int(promised) != of_data:
        raise damage_error(path, "its DATASUM does not fit")
    stream.seek(place["hdrLoc"])
    whole = _add(_sum_words(stream, len(head)), of_data)
    # CHECKSUM is what makes the sum of the whole HDU all ones; a blank one says nothing.
    if str(header.get("CHECKSUM", "")).strip() and whole != _ALL_ONES:
        raise damage_error(path, "its CHECKSUM does not fit (an edited header needs it anew)")


def _sum_words(stream: BinaryIO | Any, num_bytes: int) -> int:
    """Return the sum in ones' complement of the next bytes as words of 32 bits."""
    total = 0
    while num_bytes > 0 and (piece := stream.read(min(_PIECE_BYTES, num_bytes))):
        num_bytes -= len(piece)
        words = np.frombuffer(piece + bytes(-len(piece) % 4), ">u4")
        total = _add(total, int(words.sum(dtype=np.uint64)))
    return total


def _add(one: int, other: int) -> int:
    total = one + other
    while total > _ALL_ONES:
        total = (total & _ALL_ONES) + (total >> 32)
    return total
