"""Texts as zarr's codec `vlen-utf8` has them, between Arrow and the file of one chunk.

zarr-python makes numpy's texts of them and then Python's, at three times the cost.
"""

import numpy as np
import pyarrow as pa
from numcodecs.vlen import VLenUTF8
from numcodecs.zstd import Zstd
from zarr.codecs import ZstdCodec

from lenshpc.store.buffers import text_buffers

LEVEL = 0
TEXT_CODEC = ZstdCodec(level=LEVEL)


def encode_texts(texts: pa.LargeStringArray, num: int) -> bytes:
    """Return the chunk: how many texts, then of each its length and its bytes, compressed.

    Filled up with empty ones to so many, as an array's last chunk is.
    """
    ends, content = text_buffers(texts)
    heads = np.zeros(num + 1, "<u4")
    heads[0], heads[1 : len(texts) + 1] = num, np.diff(ends)
    chunk = np.empty(heads.nbytes + len(content), np.uint8)
    is_head = np.zeros(len(chunk), bool)
    # Before each length lie all lengths before it, and all texts but its own and later ones.
    before = np.full(num + 1, ends[-1])
    before[: len(texts) + 1] = np.concatenate([ends[:1], ends[:-1]])
    places = 4 * np.arange(num + 1) + before
    for byte in range(4):
        is_head[places + byte] = True
    chunk[is_head] = heads.view(np.uint8)
    chunk[~is_head] = content
    compressed: bytes = Zstd(LEVEL).encode(chunk)
    return compressed


def decode_texts(content: bytes) -> pa.LargeStringArray:
    """Return the texts of a chunk; Python objects live as long as one chunk is decoded."""
    return pa.array(VLenUTF8().decode(Zstd().decode(content)), pa.large_string())
