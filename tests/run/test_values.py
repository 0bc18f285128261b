"""Frozen values that become a text and arrays come back as they were."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from lenshpc.run.stages import Stages
from lenshpc.run.values import pack, unpack


@dataclass(frozen=True, kw_only=True)
class Inner:
    name: str
    points: npt.NDArray[np.floating]
    pair: tuple[float, int] | None = None


@dataclass(frozen=True, kw_only=True)
class Outer:
    kind: Literal["a", "b"]
    threshold: float | None
    confusion: tuple[tuple[int, ...], ...]
    intervals: Mapping[str, tuple[float, float]]
    inner: tuple[Inner, ...]
    weights: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


VALUE = Outer(
    kind="b",
    threshold=float(np.float64(0.1)),
    confusion=((1, 2), (3, 4)),
    intervals={"auc": (0.1 + 0.2, float("nan"))},
    inner=(
        Inner(name="é", points=np.array([[1.5, np.nan], [np.inf, 0]], dtype=np.float32)),
        Inner(name="", points=np.arange(0), pair=(1e-300, 2**60)),
    ),
    weights={"x": {"y": 1 / 3}},
)


def test_value_comes_back_with_its_types_and_numbers():
    found = unpack(Outer, pack(VALUE))
    assert repr(found) == repr(VALUE)  # NaN is not equal to itself
    for one, other in zip(found.inner, VALUE.inner, strict=True):
        assert one.points.dtype == other.points.dtype
        np.testing.assert_array_equal(one.points, other.points)
    assert unpack(tuple[Inner, ...], pack(VALUE.inner))[1].pair == (1e-300, 2**60)


def test_kept_value_is_the_one_that_was_made(tmp_path):
    made = []
    stages = Stages(folder=tmp_path / "cache")

    def make():
        made.append(1)
        return VALUE

    with stages.hold():
        found = [stages.keep_value("scores", {"a": 1}, Outer, make) for _ in range(2)]
    assert (len(made), [repr(one) for one in found]) == (1, [repr(VALUE)] * 2)
    stages.keep_value("scores", {"a": 2}, Outer, make)
    assert len(made) == 2
