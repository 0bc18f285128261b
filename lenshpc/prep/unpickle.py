"""Unwrap files that pickle [image, number], running nothing that the pickle names.

The few names that numpy writes are replaced by inert records; any other name is refused. So
numpy itself never sees a shape or a size that was not checked here.
"""

import io
import math
import pickle
import re
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lenshpc.errors import DataError
from lenshpc.prep.pixels import first_line

_BROKEN = (
    *(pickle.UnpicklingError, EOFError, ValueError, TypeError, LookupError, AttributeError),
    *(OverflowError, MemoryError, RecursionError, ImportError, struct.error, AssertionError),
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


class _Forbidden(Exception):  # noqa: N818  # never leaves this module
    """A pickle names what is not admitted."""


# The C class grows its memo to any index that a pickle asks for; this one holds a dict.
class _ArraysOnly(pickle._Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        # The whole of the safety: a pickle can call whatever this returns. Only records that do
        # nothing may stand in the table, never a class or function of numpy.
        if (module, name) not in _ADMITTED:
            raise _Forbidden(f"{module}.{name}")
        return _ADMITTED[module, name]


def unwrap(path: str, pickled: bytes) -> tuple[NDArray[Any], float]:
    """Return image and number of a pickled array [image, number]."""
    try:
        image, number = _pair(_ArraysOnly(io.BytesIO(pickled), fix_imports=False).load())
        return _plain(image), float(_number(number))
    except _Forbidden as error:
        raise DataError(
            f"{path} pickles {first_line(error)!a}, which is no numpy array and may run code: "
            "refused; remove it, and ask its authors for plain arrays"
        ) from error
    except _BROKEN as error:
        reason = ascii(first_line(error)).strip("'\"")
        raise DataError(
            f"{path} does not hold [image, number] as numpy pickles it: {reason}; remove it"
        ) from error


def _pair(outer: Any) -> tuple[Any, Any]:
    """Return the two items of an object array (2,)."""
    _, shape, dtype, _, items = _state(outer, _Array, 5)
    if _code(dtype) not in {"O", "O8"} or shape != (2,) or len(items) != 2:
        raise ValueError(f"an array of shape {shape} with dtype {_code(dtype)}, expected 2 objects")
    return items[0], items[1]


def _plain(record: Any) -> NDArray[Any]:
    _, shape, dtype, fortran_order, content = _state(record, _Array, 5)
    plain = _plain_dtype(dtype)
    if not isinstance(content, bytes) or not all(isinstance(side, int) for side in shape):
        raise TypeError("no plain array where one was expected")
    # Compared in Python's integers, which do not wrap around.
    if math.prod(shape) * plain.itemsize != len(content):
        raise ValueError(f"an array of shape {shape} does not match its {len(content)} bytes")
    return np.frombuffer(content, plain).reshape(shape, order="F" if fortran_order else "C")


def _number(value: Any) -> Any:
    if isinstance(value, _Scalar):
        dtype, content = value.arguments
        value = np.frombuffer(content, _plain_dtype(dtype))
    elif isinstance(value, _Array):
        value = _plain(value)
    values = np.asarray(value)
    if values.dtype.kind not in "uif" or values.size != 1 or not np.isfinite(values).all():
        raise ValueError(f"no finite number after the image: dtype {values.dtype}")
    return values.reshape(())[()]


def _plain_dtype(record: Any) -> np.dtype[Any]:
    code = _code(record)
    if not re.fullmatch(r"[fiu][1248]", code):
        raise ValueError(f"dtype {code}, expected plain numbers")
    order = _state(record, _Dtype, 8)[1]
    return np.dtype({">": ">", "<": "<"}.get(order, "=") + code)


def _code(record: Any) -> str:
    code = record.arguments[0] if isinstance(record, _Dtype) else None
    if not isinstance(code, str):
        raise TypeError("no dtype where one was expected")
    return code


def _state(record: Any, kind: type[_Record], length: int) -> tuple[Any, ...]:
    state = record.state if isinstance(record, kind) else None
    if not isinstance(state, tuple) or len(state) != length:
        raise TypeError(f"no {kind.__name__.strip('_').lower()} where one was expected")
    return state
