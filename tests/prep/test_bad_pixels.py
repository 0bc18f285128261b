"""Bad pixels: refused with their number, or filled, to numpy's own answer, with a mask."""

import re

import numpy as np
import pytest
from pydantic import ValidationError

from lenshpc.errors import DataError
from lenshpc.prep.formats import ImageFormat
from lenshpc.prep.pixels import check_dtype, clean

BAD = (np.nan, np.inf, -np.inf, 1e300, -4e38)


def layout(bad_pixels, dtype="float64"):
    return ImageFormat(
        format="npy",
        shape=(2, 6, 5),
        dtype=dtype,
        channels=("g", "r"),
        bad_pixels=bad_pixels,
    )


def rows_with_gaps(dtype, num=7):
    """Return rows (n,2,6,5), those with odd numbers with bad pixels, and where these are."""
    random = np.random.default_rng(5)
    rows = random.normal(size=(num, 2, 6, 5)).astype(dtype)
    bad = random.random(rows.shape) < 0.3
    bad[::2] = False
    kinds = BAD if dtype == "float64" else BAD[:3]
    rows[bad] = random.choice(kinds, int(bad.sum()))
    return rows, bad


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_median_is_numpys_of_the_good_pixels_of_each_channel(dtype):
    rows, bad = rows_with_gaps(dtype)
    medians = np.nanmedian(np.where(bad, np.nan, rows.astype(np.float64)), axis=(2, 3))
    expected = np.where(bad, medians[..., None, None].astype(dtype), rows)
    filled, mask = clean("a.npy", rows, layout({"fill": "median"}, dtype))
    assert (filled.dtype, mask.dtype) == (dtype, np.uint8)
    np.testing.assert_array_equal(filled, expected)
    np.testing.assert_array_equal(mask, bad)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_value_is_what_the_dtype_makes_of_it(dtype):
    rows, bad = rows_with_gaps(dtype)
    filled, mask = clean("a.npy", rows, layout({"fill": 0.1}, dtype))
    np.testing.assert_array_equal(filled, np.where(bad, np.array(0.1, dtype), rows))
    np.testing.assert_array_equal(mask, bad)


@pytest.mark.parametrize("fill", ["median", -7.5])
def test_one_image_is_filled_as_a_row_is(fill):
    rows, _ = rows_with_gaps("float32")
    whole, masks = clean("a.npy", rows, layout({"fill": fill}, "float32"))
    for row, expected, mask in zip(rows, whole, masks, strict=True):
        found = clean("a.npy", row, layout({"fill": fill}, "float32"))
        np.testing.assert_array_equal(found[0], expected)
        np.testing.assert_array_equal(found[1], mask)


def test_filling_leaves_what_was_read_as_it_was():
    rows, _ = rows_with_gaps("float32")
    rows.flags.writeable = False
    clean("a.npy", rows, layout({"fill": "median"}, "float32"))


@pytest.mark.parametrize("policy", ["refuse", {"fill": 0.0}, {"fill": "median"}])
def test_good_pixels_stay_the_bits_they_are(policy):
    rows = rows_with_gaps("float32")[0][::2]
    rows[0, 0, 0, :2] = 0.0, -0.0
    filled, mask = clean("a.npy", rows, layout(policy, "float32"))
    assert filled.tobytes() == rows.tobytes()
    assert (mask is None) == (policy == "refuse")
    assert mask is None or not mask.any()


def test_mean_of_the_largest_pixels_is_no_infinity():
    image = np.full((2, 6, 5), np.nan, np.float32)
    image[:, 0, :2] = 3e38, 3.2e38
    filled, _ = clean("a.npy", image, layout({"fill": "median"}, "float32"))
    np.testing.assert_array_equal(filled[:, 1:], np.float32(3.1e38))


def test_bad_pixels_are_counted_where_they_are_refused():
    rows, bad = rows_with_gaps("float64")
    with pytest.raises(DataError, match=f"^a.npy holds {bad.sum()} pixels that are NaN, infinite"):
        clean("a.npy", rows, layout("refuse"))


@pytest.mark.parametrize("fill", ["median", 0.0])
def test_image_without_any_good_pixel_is_refused(fill):
    with pytest.raises(DataError, match=r"^a\.npy holds no pixel that is finite"):
        clean("a.npy", np.full((2, 6, 5), np.nan), layout({"fill": fill}))


def test_channel_without_a_median_is_refused_by_name_and_takes_a_value():
    image = np.ones((2, 6, 5))
    image[1] = np.nan
    with pytest.raises(DataError, match=r"no pixel in channel r .* give image.bad_pixels .* value"):
        clean("a.npy", image, layout({"fill": "median"}))
    filled, mask = clean("a.npy", image, layout({"fill": 0.0}))
    assert (filled[1].any(), mask[0].any(), mask[1].all()) == (False, False, True)


@pytest.mark.parametrize(
    ("policy", "dtype", "error"),
    [
        ({"fill": "median"}, "uint8", "bad_pixels replaces NaN, which uint8 does not have"),
        ({"fill": 1e6}, "float16", "bad_pixels.fill 1000000.0 is not a value of float16"),
        ({"fill": 1e300}, "float64", "bad_pixels.fill 1e+300 is not a value of float64"),
        *(
            (policy, "float32", "expected refuse, {fill: median} or {fill: NUMBER}")
            for policy in (
                "drop",
                3,
                {"fill": float("nan")},
                {"fill": "mean"},
                {"fill": True},
                {"fill": 0, "mask": 1},
            )
        ),
    ],
)
def test_policy_that_cannot_be_followed_is_refused(policy, dtype, error):
    with pytest.raises(ValidationError, match=re.escape(error)):
        layout(policy, dtype)


@pytest.mark.parametrize("declared", ["float16", "float32", "float64"])
@pytest.mark.parametrize("bits", [8, 16, 32, 64])
@pytest.mark.parametrize("kind", ["int", "uint"])
def test_float_holds_integers_that_come_back_from_it(kind, bits, declared):
    limits = np.iinfo(f"{kind}{bits}")
    with np.errstate(over="ignore"):
        kept = [np.array([value]).astype(declared)[0] for value in (limits.min, limits.max)]
    fits = all(np.isfinite(kept)) and [int(value) for value in kept] == [limits.min, limits.max]
    if fits:
        check_dtype("1.npy", np.dtype(f"{kind}{bits}"), declared)
        return
    with pytest.raises(DataError, match=f"has dtype {kind}{bits}, which {declared} cannot hold"):
        check_dtype("1.npy", np.dtype(f"{kind}{bits}"), declared)
