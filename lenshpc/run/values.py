"""Frozen values as a text and arrays, and back: dataclasses of numbers, texts and arrays."""

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
_TEXT = "value"


def pack(value: Any) -> dict[str, Array]:
    """Return a value as arrays by name, one of which is its text; `unpack` makes it again."""
    arrays: dict[str, Array] = {}

    def lay(one: Any) -> Any:
        if is_dataclass(one) and not isinstance(one, type):
            return {field.name: lay(getattr(one, field.name)) for field in fields(one)}
        if isinstance(one, np.ndarray):
            name = f"array{len(arrays)}"
            arrays[name] = one
            return name
        if isinstance(one, Mapping):
            return {key: lay(inner) for key, inner in one.items()}
        if isinstance(one, tuple):
            return [lay(inner) for inner in one]
        return one.item() if isinstance(one, np.generic) else one

    text = json.dumps(lay(value))
    return {**arrays, _TEXT: np.frombuffer(text.encode(), np.uint8)}


def unpack(kind: Any, arrays: Mapping[str, Array]) -> Any:
    """Return the value of a type that `pack` has laid out; texts are keys of all mappings."""

    def build(kind: Any, laid: Any) -> Any:
        origin, args = get_origin(kind), get_args(kind)
        if laid is None:
            return None
        if isinstance(kind, type) and is_dataclass(kind):
            hints = get_type_hints(kind)
            return kind(**{name: build(hints[name], inner) for name, inner in laid.items()})
        if type(None) in args:  # a union with None
            return build(next(one for one in args if one is not type(None)), laid)
        if origin is np.ndarray:
            return arrays[laid]
        if origin is tuple:
            inner = args[:1] * len(laid) if args[-1] is Ellipsis else args
            return tuple(build(one, part) for one, part in zip(inner, laid, strict=True))
        if isinstance(laid, dict):
            return {key: build(args[1], part) for key, part in laid.items()}
        return laid

    return build(kind, json.loads(arrays[_TEXT].tobytes()))
