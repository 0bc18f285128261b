"""Pickles made to run code, or to fill memory or time: arrays and numbers alone come out."""

import pickle
import re

import numpy as np
import pytest
from byte_changes import assert_refused, limiting, try_changes
from hypothesis import given
from hypothesis import strategies as st
from tries import tried

from lenshpc.errors import DataError
from lenshpc.prep.unpickle import is_pickle, unwrap

IMAGE = np.arange(60, dtype=np.float32).reshape(2, 6, 5)
COLUMNS = ("mass",)
TRIES = [200, pytest.param(10_000, marks=pytest.mark.slow)]


def pickled(mass, protocol=4):
    pair = np.empty(2, object)
    pair[:] = [IMAGE, mass]
    return pickle.dumps(pair, protocol)


def attempt(content):
    """Fail unless a pickle gives a plain array and a finite number, or is refused in one line."""
    try:
        image, numbers = unwrap("1.npy", content, COLUMNS)
    except DataError as error:
        assert_refused("1.npy ", error)
        return
    assert type(image) is np.ndarray
    assert image.dtype.kind in "fiu"
    assert [type(number) for number in numbers] == [float]
    assert np.isfinite(numbers).all()


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("mass", [-22.5, 3, np.float32(2), np.array([2.5], ">f8")])
def test_what_numpy_pickles_comes_out(mass, protocol):
    if protocol == 2:  # whose bytes are made by a call
        with pytest.raises(DataError, match=r"pickles '_codecs.encode'"):
            unwrap("1.npy", pickled(mass, protocol), COLUMNS)
        return
    image, (number,) = unwrap("1.npy", pickled(mass, protocol), COLUMNS)
    np.testing.assert_array_equal(image, IMAGE, strict=True)
    assert number == float(np.asarray(mass).item())


NUMBERS = {"m1": 1.5, "m2": np.float64(-2), "m3": 3, "m4": np.float32(4)}


def objects(*items):
    found = np.empty(len(items), object)
    found[:] = items
    return found


def wrapped(item):
    """Return an array of no axes that holds an object, as np.save makes of a list or dictionary."""
    found = np.empty((), object)
    found[()] = item
    return found


LAYOUTS = {
    "array": objects(IMAGE, *NUMBERS.values()),
    "list": [IMAGE, *NUMBERS.values()],
    "tuple": (IMAGE, *NUMBERS.values()),
    "dictionary": {**NUMBERS, "image": IMAGE},
    "saved list": wrapped([IMAGE, *NUMBERS.values()]),
    "saved dictionary": wrapped({"image": IMAGE, "more": 7, **NUMBERS}),
}


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_of_image_and_numbers_come_out(name, protocol):
    content = pickle.dumps(LAYOUTS[name], protocol)
    assert is_pickle(content)
    old = content.replace(b"\x8c\x16numpy._core", b"\x8c\x15numpy.core").replace(
        b"numpy._core.", b"numpy.core."
    )
    for found in (content, re.sub(rb"\x95.{8}", b"", old, count=1, flags=re.DOTALL)):
        image, numbers = unwrap("1.npy", found, tuple(NUMBERS))
        np.testing.assert_array_equal(image, IMAGE, strict=True)
        assert numbers == (1.5, -2.0, 3.0, 4.0)


@pytest.mark.parametrize(
    ("pickled_object", "reason"),
    [
        (objects(IMAGE, 1.5), "2 objects, expected 5"),
        ([IMAGE, *NUMBERS.values(), 5], "6 objects, expected 5"),
        ({"image": IMAGE, "m1": 1.5}, "a dictionary without m2"),
        ({"image": IMAGE, "other": IMAGE, **NUMBERS}, "a dictionary with 2 images"),
        (NUMBERS, "a dictionary with 0 images"),
        ({1: IMAGE}, "a dictionary whose keys are no texts"),
        ([[IMAGE, *NUMBERS.values()]], "1 objects, expected 5"),
        (IMAGE, "an array of another dtype, expected objects"),
        (np.array([[IMAGE[0, 0, 0], 1], [2, 3]], object), "an array of another shape"),
        ([IMAGE, "1", 2, 3, 4], "no finite number after the image: a str"),
        ({"image": IMAGE, **NUMBERS, "m2": np.inf}, "no finite number after the image"),
        (7, "no array of objects, list, tuple or dictionary"),
    ],
)
def test_other_layouts_are_refused_with_what_they_are(pickled_object, reason):
    with pytest.raises(
        DataError, match=r"^1\.npy does not hold \[image, m1, m2, m3, m4\]"
    ) as error:
        unwrap("1.npy", pickle.dumps(pickled_object, 4), tuple(NUMBERS))
    assert reason in str(error.value)
    assert error.value.cause == "pickled"


def dup(levels):
    """Return steps that put a tuple on the stack which holds 2^levels others."""
    return b")" + b"2\x86" * levels


def array(shape, dtype, content):
    """Return steps for an array of these steps' shape, dtype and content."""
    made = b"cnumpy.core.multiarray\n_reconstruct\n)R"
    return made + b"(K\x01" + shape + dtype + b"\x89" + content + b"tb"


MINUS = b"J\xff\xff\xff\xff"
DTYPE = b"cnumpy\ndtype\nX\x02\x00\x00\x00f4\x85R(K\x03%bNNN" + MINUS + MINUS + b"K\x00tb"
FLOAT = DTYPE % b"X\x01\x00\x00\x00<"
OBJECT = FLOAT.replace(b"f4", b"O8")
NUMBER = b"G@\x00\x00\x00\x00\x00\x00\x00"


def pair(image, number):
    return b"\x80\x03" + array(b"K\x02\x85", OBJECT, b"](" + image + number + b"e") + b"."


SMALL = array(b"K\x01\x85", FLOAT, b"C\x04\x00\x00\x80?")
BOMBS = {
    "a number that is all": pair(SMALL, dup(60)),
    "a shape that is all": pair(array(dup(60), FLOAT, b"C\x00"), NUMBER),
    "an outer shape that is all": b"\x80\x03" + array(dup(60), OBJECT, b"]") + b".",
    "an order that is all": pair(array(b"K\x01\x85", DTYPE % dup(60), b"C\x00"), NUMBER),
    "sides of many digits": pair(
        array((b"\x8a\xff" + b"\x7f" * 255) + b"2" * 60 + b"t", FLOAT, b"C\x00"), NUMBER
    ),
    "a byte array of gigabytes": b"\x80\x05\x96" + (2**34).to_bytes(8, "little") + b".",
    "bytes of gigabytes": b"\x80\x04\x8e" + (2**34).to_bytes(8, "little") + b".",
    "a frame of gigabytes": b"\x80\x04\x95" + (2**62).to_bytes(8, "little") + b".",
    "a memo of gigabytes": b"\x80\x04Kr\xff\xff\xff\x7f.",
    "lists without end": b"\x80\x04" + b"]" * 10**6 + b".",
    "tuples in tuples": b"\x80\x04)" + b"\x85" * 10**6 + b".",
    "keys of one hash": b"\x80\x04}(" + b"".join(
        b"\x8a\x0c" + (i * (2**61 - 1)).to_bytes(12, "little") + b"K\x00" for i in range(10**5)
    ) + b"u.",
    "keys that are all": b"\x80\x04}(" + dup(60) + b"K\x00u.",
    "a key that is all": b"\x80\x04}" + dup(60) + b"K\x00s.",
    "a dictionary in itself": b"\x80\x04}\x94(X\x01\x00\x00\x00ah\x00u.",
    "a state of a dictionary": b"\x80\x04}}X\x05\x00\x00\x00pairsK\x00s\x86b.",
    "an extension": b"\x80\x04\x82\x01.",
    "a persistent name": b"\x80\x04Psecret\n.",
    "a class made": b"\x80\x02cnumpy\nndarray\n)\x81}b.",
    "a long text": b"\x80\x04cposix\n" + b"x" * 10**6 + b"\n.",
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_bomb_is_refused_within_bounds(name):
    with limiting(), pytest.raises(DataError, match=r"^1\.npy (does not hold|pickles)") as error:
        unwrap("1.npy", BOMBS[name], COLUMNS)
    assert len(str(error.value)) < 500


def test_sound_steps_are_read():
    image, numbers = unwrap("1.npy", pair(SMALL, NUMBER), COLUMNS)
    assert (image.tolist(), numbers) == ([1.0], (2.0,))


@pytest.mark.parametrize("num_tries", TRIES)
@pytest.mark.parametrize(
    "sound",
    [
        pickled(np.float64(-22.5)),
        pair(SMALL, NUMBER),
        pickle.dumps({"image": IMAGE, "mass": np.float64(-22.5)}, 4),
    ],
)
def test_changed_pickle_gives_arrays_and_numbers_or_is_refused(sound, num_tries):
    try_changes(sound, num_tries, attempt)


STEPS = st.sampled_from(
    [
        *(
            b"(",
            b")",
            b"]",
            b"}",
            b"u",
            b"s",
            b"N",
            b"R",
            b"b",
            b"t",
            b"e",
            b"a",
            b"2",
            b"0",
            b"\x81",
            b"\x85",
        ),
        *(b"\x86", b"\x87", b"\x88", b"\x93", b"\x94", b"h\x00", b"q\x00", b"K\x02", b"C\x01a"),
        *(b"cnumpy\nndarray\n", b"cnumpy\ndtype\n", b"cnumpy.core.multiarray\nscalar\n"),
        *(b"cos\nsystem\n", b"X\x02\x00\x00\x00f4", FLOAT, OBJECT, SMALL, NUMBER),
    ]
)


@pytest.mark.parametrize("num_tries", TRIES)
def test_steps_in_any_order_give_arrays_and_numbers_or_are_refused(num_tries):
    @tried(num_tries)
    @given(st.lists(STEPS, max_size=60))
    def sample(steps):
        attempt(b"\x80\x04" + b"".join(steps) + b".")

    with limiting():
        sample()
