"""JPEG and PNG in every mode: what is asked for where the file has it, else what it has."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from lenshpc.errors import DataError
from lenshpc.prep.decode import Pickles, SourceFile, decode
from lenshpc.prep.formats import ImageFormat

RANDOM = np.random.default_rng(6)
GREY = RANDOM.integers(0, 256, (8, 6), dtype=np.uint8)
COLOURS = RANDOM.integers(0, 256, (8, 6, 4), dtype=np.uint8)
OPAQUE = np.full((8, 6, 1), 255, np.uint8)
KINDS = {1: 0, 2: 4, 3: 2, 4: 6}  # channels → PNG's type of colour


def chunk(kind, content):
    checked = kind + content
    length, check = len(content), zlib.crc32(checked)
    return struct.pack(">I", length) + checked + struct.pack(">I", check)


def png(pixels, *chunks):
    """Return a PNG file of (H,W,C) levels, by the letter of its standard."""
    height, width, num_channels = pixels.shape
    depth = 8 * pixels.dtype.itemsize
    header = struct.pack(">IIBBBBB", width, height, depth, KINDS[num_channels], 0, 0, 0)
    lines = [b"\0" + line.astype(pixels.dtype.newbyteorder(">")).tobytes() for line in pixels]
    parts = [chunk(b"IHDR", header), *chunks, chunk(b"IDAT", zlib.compress(b"".join(lines)))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b"")


def saved(picture, kind="PNG", **options):
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def palette(**options):
    """Return a PNG of indices, and the colours (H,W,3) that they stand for."""
    colours = RANDOM.integers(0, 256, (7, 3), dtype=np.uint8)
    indices = GREY % 7
    picture = Image.fromarray(indices)
    picture.putpalette(colours.tobytes())
    return saved(picture, **options), colours[indices]


def decoded(content, num_channels, dtype="uint8"):
    shape, channels = (num_channels, 8, 6), tuple("abcd"[:num_channels])
    image = ImageFormat(format="image", shape=shape, dtype=dtype, channels=channels)
    return decode([SourceFile("1.png", content)], image, Pickles())[0]


def planes(pixels):
    return np.moveaxis(pixels, -1, 0)


@pytest.mark.parametrize("num_channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_png_gives_its_levels(num_channels, dtype):
    pixels = RANDOM.integers(0, np.iinfo(dtype).max, (8, 6, num_channels)).astype(dtype)
    found = decoded(png(pixels), num_channels, np.dtype(dtype).name)
    np.testing.assert_array_equal(found, planes(pixels), strict=True)


@pytest.mark.parametrize("num_channels", [1, 3])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_alpha_that_is_opaque_is_left_out(num_channels, dtype):
    most = np.iinfo(dtype).max
    pixels = RANDOM.integers(0, most, (8, 6, num_channels + 1)).astype(dtype)
    pixels[..., -1] = most
    found = decoded(png(pixels), num_channels, np.dtype(dtype).name)
    np.testing.assert_array_equal(found, planes(pixels)[:-1], strict=True)


@pytest.mark.parametrize("num_channels", [1, 3])
def test_alpha_that_hides_pixels_is_refused(num_channels):
    pixels = np.concatenate([COLOURS[..., :num_channels], OPAQUE], axis=-1)
    pixels[:2, :2, -1] = 254
    told = rf"has an alpha channel in which 4 pixels are not opaque.*\[{num_channels + 1}, 8, 6\]"
    with pytest.raises(DataError, match=told) as error:
        decoded(png(pixels), num_channels)
    assert error.value.cause == "wrong shape"


def test_palette_gives_its_colours():
    content, colours = palette()
    np.testing.assert_array_equal(decoded(content, 3), planes(colours), strict=True)


def test_transparent_colours_are_an_alpha_channel():
    content, colours = palette(transparency=6)
    alpha = np.where(GREY % 7 == 6, 0, 255).astype(np.uint8)
    expected = np.concatenate([colours, alpha[..., None]], axis=-1)
    np.testing.assert_array_equal(decoded(content, 4), planes(expected), strict=True)
    with pytest.raises(DataError, match=f"{np.count_nonzero(alpha == 0)} pixels are not opaque"):
        decoded(content, 3)


def test_cmyk_gives_four_channels():
    levels = np.full((8, 6, 4), (10, 90, 170, 250), np.uint8)
    content = saved(Image.fromarray(levels, "CMYK"), "JPEG", quality=100)
    found = decoded(content, 4)
    np.testing.assert_array_equal(found, planes(np.asarray(Image.open(io.BytesIO(content)))))
    assert np.abs(found.astype(int) - planes(levels)).max() <= 2
    with pytest.raises(DataError, match=r"has mode CMYK.* DATASET to \[4, 8, 6\]"):
        decoded(content, 3)


@pytest.mark.parametrize(
    ("content", "num_channels", "told"),
    [
        (png(np.repeat(GREY[..., None], 3, axis=-1)), 1, "has mode RGB.*to [3, 8, 6], or save it"),
        (png(GREY[..., None]), 3, "has mode L.*to [1, 8, 6], or save it"),
        (palette()[0], 1, "has mode P.*to [3, 8, 6], or save it"),
        (png(COLOURS), 1, "has mode RGBA.*to [4, 8, 6], or save it"),
        (png(GREY[:5, :, None]), 1, "5 by 6 pixels, expected 1 channel(s), 8 by 6"),
        (saved(Image.fromarray(GREY > 9)), 1, "has mode 1, 8 by 6 pixels"),
    ],
)
def test_other_channels_are_refused_with_the_key_to_set(content, num_channels, told):
    pattern = ".*".join(part.replace("(", r"\(").replace(")", r"\)") for part in told.split(".*"))
    with pytest.raises(DataError, match=pattern.replace("[", r"\[").replace("]", r"\]")) as error:
        decoded(content, num_channels)
    assert error.value.cause == "wrong shape"


@pytest.mark.parametrize("kind", ["PNG", "GIF", "TIFF", "WEBP"])
def test_animations_and_other_formats_are_refused(kind):
    frames = [Image.fromarray(GREY), Image.fromarray(GREY + 1)]
    content = saved(frames[0], kind, save_all=True, append_images=frames[1:])
    with pytest.raises(DataError, match=r"holds 2 images|is not a JPEG or PNG image"):
        decoded(content, 1)


def test_sixteen_bits_of_colour_with_a_transparent_one_are_read_whole_or_refused():
    pixels = RANDOM.integers(0, 65535, (8, 6, 3)).astype(np.uint16)
    content = png(pixels, chunk(b"tRNS", pixels[0, 0].astype(">u2").tobytes()))
    try:
        found = decoded(content, 4, "uint16")
    except DataError as error:
        assert "has 16 bits per colour, which cannot be read in this form" in str(error)  # noqa: PT017
    else:
        np.testing.assert_array_equal(found[:3], planes(pixels))
        assert np.count_nonzero(found[3] == 0) == np.count_nonzero((pixels == pixels[0, 0]).all(-1))
