"""The gallery as a file: its pictures, its size, and that no id becomes markup."""

import base64
import io
import json
import re
import warnings
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lenshpc.inference.cutouts import render_cutouts
from lenshpc.inference.gallery import GalleryHeading, write_gallery

HEADING = GalleryHeading(
    run="demo-1a2b3c4d",
    source="/data/<survey>",
    num_images=12_345,
    threshold=0.43125,
    prior=None,
    digest="ab" * 32,
)
EVIL = "<script>document.title='broken'</script>\"'&\u202e\t.npy"


class Page(HTMLParser):
    """The elements of a page, each with its attributes, and all of its text."""

    def __init__(self, path):
        super().__init__()
        self.elements, self.text = [], ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def find(self, tag, key):
        """Return the values that elements of a kind have for an attribute."""
        return [one[key] for name, one in self.elements if name == tag and key in one]


def decode(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def draw_sky(num, channels, side):
    """Return images with a galaxy each in the middle of noise, as surveys have them."""
    rng = np.random.default_rng(5)
    y, x = np.mgrid[:side, :side] - side / 2
    galaxy = 40 * np.exp(-np.hypot(x, y) / (side / 12))
    return (galaxy + rng.normal(0, 1, (num, channels, side, side))).astype(np.float32)


def test_page_has_every_candidate_and_what_it_is_of(tmp_path):
    frame = pd.DataFrame(
        {
            "id": [EVIL, "=cmd.npy"],
            "ra": [123.4567891, np.nan],
            "score": np.array([0.9, 0.1], np.float32),
            "decision": ["lens", "nonlens"],
        }
    )
    write_gallery(tmp_path / "gallery.html", frame, draw_sky(2, 1, 16), HEADING)
    page = Page(tmp_path / "gallery.html")

    words = " ".join(page.text.split())
    assert "The best 2 of 12,345 images in /data/<survey>. Threshold 0.4313, " in words
    assert "prior as in the training images." in words
    assert [tag for tag, _ in page.elements].count("script") == 1
    assert [json.loads(one) for one in page.find("li", "data-key")] == [EVIL, "=cmd.npy"]
    assert [json.loads(one) for one in page.find("li", "data-cell")] == [EVIL, "'=cmd.npy"]
    assert page.find("dd", "data-number") == ["123.4567891", "0.9", "", "0.1"]
    named = EVIL.replace("\u202e", "\\u202e")
    assert [one for one in page.find("img", "alt") if one] == [
        f"Image of candidate 1, {named}",
        "Image of candidate 2, =cmd.npy",
    ]
    assert page.find("body", "data-digest") == ["ab" * 32]
    # Nothing comes from elsewhere.
    assert {one[:22] for one in page.find("img", "src")} == {"data:image/png;base64,"}
    assert [one for tag in ("script", "link", "a") for one in page.find(tag, "href")] == []
    (policy,) = (one for one in page.find("meta", "content") if "default-src" in one)
    assert re.fullmatch(
        r"default-src 'none'; img-src data:; style-src 'sha256-[\w+/]{43}='; "
        r"script-src 'sha256-[\w+/]{43}='; base-uri 'none'; form-action 'none'",
        policy,
    )


@pytest.mark.parametrize("channels", [1, 3])
def test_page_of_a_hundred_large_images_is_small(tmp_path, channels):
    frame = pd.DataFrame({"id": np.arange(100).astype(str), "score": np.linspace(1, 0, 100)})
    path = tmp_path / "gallery.html"
    write_gallery(path, frame, draw_sky(100, channels, 150), HEADING)
    assert path.stat().st_size < 3_000_000
    first = Page(path).find("img", "src")[0].partition(",")[2]
    assert decode(base64.b64decode(first)).shape == (150, 150, 3)


def test_each_image_is_stretched_above_its_own_noise():
    faint = draw_sky(1, 1, 60)
    shown, alike = map(decode, render_cutouts(np.concatenate([faint, 1000 * faint + 7])))
    assert np.abs(shown.astype(int) - alike).max() <= 1  # whatever the units
    assert shown[28:32, 28:32].mean() > 240
    assert 20 < np.median(shown) < 100  # the sky, whose noise is seen
    clipped = (shown == 0).mean()
    assert 0.1 < clipped < 0.2  # of Gaussian noise, 16 % lie more than a sigma below


def test_three_channels_are_blue_green_red_and_more_are_left_out():
    images = np.zeros((3, 4, 16, 16))
    for at in range(3):
        images[at, at, 4:8, 4:8] = 5
    images[:, 3] = np.random.default_rng(0).normal(size=(16, 16))
    blue, green, red = (decode(png)[5, 5].tolist() for png in render_cutouts(images))
    assert (blue, green, red) == ([0, 0, 255], [0, 255, 0], [255, 0, 0])


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
@pytest.mark.parametrize("value", [0, 7, np.nan, np.inf, -np.inf, 3e38])
def test_constant_and_unfinite_images_are_black(channels, value):
    images = np.full((2, channels, 8, 8), value, dtype=np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pngs = render_cutouts(images)
    assert [decode(png).max() for png in pngs] == [0, 0]


def test_pixels_that_are_not_finite_leave_the_others_as_they_are():
    images = draw_sky(1, 3, 40)
    holes = images.copy()
    holes[0, :, 0, :3] = [np.nan, np.inf, -np.inf]
    whole, holed = decode(render_cutouts(images)[0]), decode(render_cutouts(holes)[0])
    assert holed[0, :3].max() <= 4  # black, but for the palette
    assert np.abs(whole.astype(int) - holed)[1:].mean() < 3


def test_large_image_is_averaged_down():
    assert decode(render_cutouts(draw_sky(1, 1, 500))[0]).shape == (200, 200, 3)


def test_bytes_are_shown():
    image = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    shown = decode(render_cutouts(image)[0])[..., 0].ravel()
    assert (np.diff(shown.astype(int)) >= 0).all()
    assert (shown[0], shown[-1]) == (0, 255)
