"""Seconds of stages, what is kept of them, and one aggregation at a time."""

import numpy as np
import pytest

from lenshpc.errors import IncompleteError
from lenshpc.run import stages as module
from lenshpc.run.stages import Stages


@pytest.fixture
def clock(monkeypatch):
    """Return a list whose first number is the time."""
    now = [0.0]
    monkeypatch.setattr(module, "perf_counter", lambda: now[0])
    return now


def test_stage_counts_its_own_seconds_and_not_those_of_stages_within(clock):
    told = []
    stages = Stages(tell=told.append)
    with stages.time("scores"):
        clock[0] += 1
        for _ in range(2):
            with stages.time("merge"):
                clock[0] += 10
        with stages.time("baselines"):
            clock[0] += 0.5
        clock[0] += 2.006
    with stages.time("pictures"):
        clock[0] += 4
    assert stages.list_seconds() == {
        "merge": 20.0,
        "baselines": 0.5,
        "scores": 3.01,
        "pictures": 4.0,
    }
    assert told == [
        "merge: 10.0 s",
        "merge: 10.0 s",
        "baselines: 0.5 s",
        "scores: 3.0 s",
        "pictures: 4.0 s",
    ]


def keep(folder, made, inputs, code="1"):
    """Return what an aggregation finds or makes, and note it in `made` where it is made."""
    stages = Stages(folder=folder / "cache", code=code)

    def make():
        made.append(inputs)
        return {"a b/c": np.arange(3.0), "n": np.array([[np.nan, 1]])}

    with stages.hold():
        return stages.keep("lines", inputs, make)


def test_what_is_kept_is_made_again_for_other_inputs_or_code_alone(tmp_path):
    made: list = []
    first = keep(tmp_path, made, {"x": 1})
    again = keep(tmp_path, made, {"x": 1})
    assert made == [{"x": 1}]
    assert list(again) == list(first)
    for name, values in first.items():
        np.testing.assert_array_equal(again[name], values)
    keep(tmp_path, made, {"x": 1}, code="2")
    keep(tmp_path, made, {"x": 2}, code="2")
    keep(tmp_path, made, {"x": 2}, code="2")
    assert made == [{"x": 1}, {"x": 1}, {"x": 2}]


def test_what_nobody_asked_for_is_removed(tmp_path):
    keep(tmp_path, [], {"x": 1})
    (old,) = (path for path in (tmp_path / "cache").iterdir() if path.is_dir())
    keep(tmp_path, [], {"x": 2})
    (new,) = (path for path in (tmp_path / "cache").iterdir() if path.is_dir())
    assert old != new


def test_damaged_part_is_made_again(tmp_path):
    made: list = []
    keep(tmp_path, made, {"x": 1})
    (part,) = tmp_path.rglob("00000")
    content = bytearray(part.read_bytes())
    content[-30] ^= 1
    part.write_bytes(content)
    found = keep(tmp_path, made, {"x": 1})
    assert len(made) == 2
    np.testing.assert_array_equal(found["a b/c"], [0, 1, 2])


def test_failed_aggregation_keeps_what_it_has_made(tmp_path):
    made: list = []

    def fail():
        with (stages := Stages(folder=tmp_path / "cache", code="1")).hold():
            stages.keep("lines", {"x": 1}, lambda: {"a": np.zeros(1)})
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert keep(tmp_path, made, {"x": 1}) == {"a": np.zeros(1)}
    assert made == []


def test_second_aggregation_is_refused_and_the_first_goes_on(tmp_path):
    first, second = Stages(folder=tmp_path / "cache"), Stages(folder=tmp_path / "cache")
    with first.hold():
        with (
            pytest.raises(IncompleteError, match="cache is in use by another process; wait"),
            second.hold(),
        ):
            raise AssertionError
        first.keep("lines", {}, lambda: {"a": np.zeros(1)})
    with second.hold():
        pass


def test_without_a_folder_nothing_is_kept():
    made = []
    stages = Stages()
    with stages.hold():
        for at in range(2):
            stages.keep("lines", {}, lambda at=at: made.append(at) or {"a": np.zeros(1)})
    assert made == [0, 1]
