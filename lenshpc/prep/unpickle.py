"""Unwrap files that pickle an image and numbers, running nothing that the pickle names.

The few names that numpy writes are replaced by inert records; any other name is refused. So
numpy itself never sees a shape or a size that was not checked here.
"""

import io
import math
import pickle
import pickletools
import re
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from lenshpc.errors import DataError
from lenshpc.prep.content import first_line

_MAX_STEPS = 256  # two arrays as numpy pickles them take some 150
_MAX_SIDE = 2**31
# All that Python and numpy write for arrays, numbers, and lists or dictionaries of them: no sets,
# whose members could be made to take for ever, and nothing that takes memory on the word of a
# length.
_STEPS = frozenset(
    (
        *("PROTO", "FRAME", "STOP", "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD"),
        *("MEMOIZE", "BINPUT", "BINGET", "MARK", "EMPTY_LIST", "APPEND", "APPENDS"),
        *("TUPLE", "EMPTY_TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "NONE", "NEWTRUE", "NEWFALSE"),
        *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
        *("EMPTY_DICT", "SETITEM", "SETITEMS"),
        *("BINUNICODE", "SHORT_BINUNICODE", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    )
)


class _Record:
    """What a name called with arguments, then given a state, would have made."""

    __slots__ = ("arguments", "state")

    def __init__(self, *arguments: Any) -> None:
        self.arguments, self.state = arguments, ()

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Array(_Record):
    __slots__ = ()


class _Scalar(_Record):
    __slots__ = ()


class _Dtype(_Record):
    __slots__ = ()


_ADMITTED = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy.core.multiarray", "scalar"): _Scalar,
    ("numpy._core.multiarray", "scalar"): _Scalar,
}


class _Fields:
    """A dictionary of texts; a key that is none could take for ever to be hashed."""

    __slots__ = ("pairs",)

    def __init__(self) -> None:
        self.pairs: dict[str, Any] = {}

    def __setitem__(self, key: Any, value: Any) -> None:
        if type(key) is not str:
            raise TypeError("a dictionary whose keys are no texts")
        self.pairs[key] = value


class _Forbidden(Exception):  # noqa: N818  # never leaves this module
    """A pickle names what is not admitted."""


# The C class grows its memo to any index that a pickle asks for; this one holds a dict.
class _ArraysOnly(pickle._Unpickler):
    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        **pickle._Unpickler.dispatch,
        pickle.EMPTY_DICT[0]: lambda unpickler: unpickler.append(_Fields()),
    }

    def find_class(self, module: str, name: str) -> Any:
        # The whole of the safety: a pickle can call whatever this returns. Only records that do
        # nothing may stand in the table, never a class or function of numpy.
        if (module, name) not in _ADMITTED:
            raise _Forbidden(f"{module}.{name}")
        return _ADMITTED[module, name]


def is_pickle(content: bytes) -> bool:
    """Tell whether a file is a pickle from its first byte on, as np.load takes it for, too."""
    return content.startswith(pickle.PROTO)


def unwrap(
    path: str, pickled: bytes, columns: Sequence[str]
) -> tuple[NDArray[Any], tuple[float, ...]]:
    """Return the image and the numbers of these columns that are pickled together.

    They are an array of objects, a list or a tuple with the image first, or a dictionary that has
    one image beside the columns' names.
    """
    try:
        _check_steps(pickled)
        found = _ArraysOnly(io.BytesIO(pickled), fix_imports=False).load()
        image, numbers = _items(found, columns)
        return _plain(image), tuple(map(_number, numbers))
    except _Forbidden as error:
        raise DataError(
            f"{path} pickles {first_line(error)!a}, which is not a numpy array and may run code, "
            "so it is refused; ask its authors for plain arrays",
            cause="pickled",
        ) from error
    except Exception as error:
        reason = ascii(first_line(error)).strip("'\"")
        raise DataError(
            f"{path} does not hold [image, {', '.join(columns)}] as numpy pickles it: {reason}; "
            "correct `pickled` in DATASET, or ask its authors for plain arrays",
            cause="pickled",
        ) from error


def _check_steps(pickled: bytes) -> None:
    """Raise on steps that numpy does not write, before any of them is taken."""
    end = 0
    for count, (step, argument, place) in enumerate(pickletools.genops(pickled)):
        if step.name == "GLOBAL" and tuple(str(argument).split(" ")) not in _ADMITTED:
            raise _Forbidden(".".join(str(argument).split(" ")))
        if step.name not in _STEPS or count == _MAX_STEPS:
            raise ValueError(f"step {count} is {step.name}")
        end = (place or 0) + 1
    if end != len(pickled):
        raise ValueError(f"{len(pickled) - end} bytes follow its end")


def _items(found: Any, columns: Sequence[str]) -> tuple[Any, list[Any]]:
    """Return the image and the numbers that an array of objects, a list or a dictionary holds."""
    if isinstance(found, _Array):
        found = _objects(found)
    if isinstance(found, _Fields):
        return _items_by_name(found.pairs, columns)
    if type(found) not in {list, tuple}:
        raise TypeError("no array of objects, list, tuple or dictionary")
    if len(found) != 1 + len(columns):
        raise ValueError(f"{len(found)} objects, expected {1 + len(columns)}")
    image, *numbers = found
    return image, numbers


def _objects(record: _Array) -> Any:
    """Return the items of an object array (n,), or the one of an object array ()."""
    _, shape, dtype, _, items = _state(record, _Array, 5)
    if _code(dtype) not in {"O", "O8"} or type(items) is not list:
        raise ValueError("an array of another dtype, expected objects")
    if type(shape) is not tuple or len(shape) > 1 or any(type(side) is not int for side in shape):
        raise ValueError("an array of another shape, expected a row of objects")
    if len(items) != math.prod(shape):
        raise ValueError("an array with more or fewer objects than its shape says")
    return items if shape else items[0]


def _items_by_name(pairs: dict[str, Any], columns: Sequence[str]) -> tuple[Any, list[Any]]:
    missing = [name for name in columns if name not in pairs]
    if missing:
        raise ValueError(f"a dictionary without {missing[0]}")
    images = [item for name, item in pairs.items() if name not in columns and _is_image(item)]
    if len(images) != 1:
        raise ValueError(f"a dictionary with {len(images)} images")
    return images[0], [pairs[name] for name in columns]


def _is_image(item: Any) -> bool:
    """Tell whether an array has two axes or more."""
    if not isinstance(item, _Array):
        return False
    shape = _state(item, _Array, 5)[1]
    return type(shape) is tuple and len(shape) > 1


# What a pickle names is neither hashed, printed nor turned into an array before its type is known:
# tuples within tuples, each holding the same one twice, would take for ever.
def _plain(record: Any) -> NDArray[Any]:
    _, shape, dtype, fortran_order, content = _state(record, _Array, 5)
    plain = _plain_dtype(dtype)
    if type(content) is not bytes or not _is_shape(shape):
        raise TypeError("no plain array where one was expected")
    # Compared in Python's integers, which do not wrap around.
    if math.prod(shape) * plain.itemsize != len(content):
        raise ValueError(f"an array of shape {shape} does not match its {len(content)} bytes")
    flat = np.frombuffer(content, plain)
    return flat.reshape(shape, order="F" if fortran_order is True else "C")


def _is_shape(shape: Any) -> bool:
    return (
        type(shape) is tuple
        and len(shape) <= 4
        and all(type(side) is int and 0 <= side < _MAX_SIDE for side in shape)
    )


def _number(value: Any) -> float:
    if isinstance(value, _Scalar):
        dtype, content = value.arguments
        value = np.frombuffer(content, _plain_dtype(dtype))
    elif isinstance(value, _Array):
        value = _plain(value)
    elif type(value) not in {int, float}:
        raise TypeError(f"no finite number after the image: a {type(value).__name__}")
    values = np.asarray(value, dtype=np.float64)
    if values.size != 1 or not np.isfinite(values).all():
        raise ValueError("no finite number after the image")
    return float(values.item())


def _plain_dtype(record: Any) -> np.dtype[Any]:
    code = _code(record)
    if not re.fullmatch(r"[fiu][1248]", code):
        raise ValueError(f"dtype {code}, expected plain numbers")
    order = _state(record, _Dtype, 8)[1]
    if type(order) is not str or order not in {"<", ">", "|", "="}:
        raise ValueError(f"dtype {code} without an order of its bytes")
    return np.dtype(order + code)


def _code(record: Any) -> str:
    code = record.arguments[0] if isinstance(record, _Dtype) else None
    if type(code) is not str:
        raise TypeError("no dtype where one was expected")
    return code


def _state(record: Any, kind: type[_Record], length: int) -> tuple[Any, ...]:
    state = record.state if isinstance(record, kind) else None
    if type(state) is not tuple or len(state) != length:
        raise TypeError(f"no {kind.__name__.strip('_').lower()} where one was expected")
    return state
