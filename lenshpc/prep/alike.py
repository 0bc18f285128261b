"""Read plain .npy files that begin alike straight into their places: no copy, nothing to parse.

A set of images is one header before other pixels, over and over. What does not begin as the last
one that was decoded is left to `decode`, which says what it is.
"""

import os
from collections.abc import Sequence

import numpy as np

from lenshpc.prep.decode import SourceFile
from lenshpc.prep.formats import ImageFormat
from lenshpc.prep.npy import MAGIC, npy_header


class AlikeFiles:
    """The header that the files of one image format have, once one of them is known."""

    def __init__(self, image: ImageFormat) -> None:
        # Else the bytes of a file are not those of its pixels in the store.
        self._is_plain = image.format == "npy" and not image.bands and image.axes != "hwc"
        self._dtype = np.dtype(image.dtype)
        self._header = b""

    def learn(self, files: Sequence[SourceFile]) -> None:
        """Know the header of an image that was decoded, if its pixels are stored as they are."""
        content = files[0].content
        if not self._is_plain or not content.startswith(MAGIC):
            return
        header = npy_header(files[0].path, content)
        if header.dtype == self._dtype and not header.fortran_order:
            self._header = content[: header.start]

    def read(self, path: str, room: memoryview) -> bytes | None:
        """Fill `room` with the pixels of a file and return its header; None if it is not alike.

        What is in `room` then is anything.
        """
        if not self._header:
            return None
        head, beyond = bytearray(len(self._header)), bytearray(1)
        try:
            # NONBLOCK: opening a named pipe would wait for a writer.
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                num_read = os.readv(descriptor, [head, room, beyond])
            finally:
                os.close(descriptor)
        except OSError:
            return None
        # A network file system may give less at a time, as it may of a file that is whole.
        is_alike = num_read == len(head) + room.nbytes and head == self._header
        return self._header if is_alike else None
