"""Members are cut into arrays that a cluster takes, and the throttle is shared out."""

import pytest

from lenshpc.launch.sites import Site
from lenshpc.launch.submit import shares


def cut(num_members, max_parallel, max_array_size):
    """Return (members, members at a time, part waited for) of each array."""
    site = Site(
        name="big",
        scheduler="slurm",
        max_parallel=max_parallel,
        max_array_size=max_array_size,
    )
    parts = shares(tuple(range(num_members)), site)
    assert [member for part in parts for member in part.members] == list(range(num_members))
    return [(len(part.members), part.parallel, part.follows) for part in parts]


def test_nothing_to_send_is_no_array():
    assert cut(0, 4, 10) == []


def test_as_many_members_as_an_array_takes_are_one():
    assert cut(1001, 256, 1001) == [(1001, 256, None)]


def test_one_more_makes_two_of_half_the_size():
    assert cut(1002, 257, 1001) == [(501, 128, None), (501, 129, None)]


def test_ten_thousand_members_keep_to_the_throttle_together():
    parts = cut(10_000, 64, 1001)
    assert len(parts) == 10
    assert sum(parallel for _, parallel, _ in parts) == 64
    assert {size for size, _, _ in parts} == {1000}


@pytest.mark.parametrize("max_parallel", [1, 2])
def test_fewer_at_a_time_than_arrays_makes_chains(max_parallel):
    parts = cut(9, max_parallel, 2)
    sizes, parallel, follows = zip(*parts, strict=True)
    assert sorted(sizes) == [1, 2, 2, 2, 2]
    assert set(parallel) == {1}
    waits = [None] * max_parallel + list(range(5 - max_parallel))
    assert list(follows) == waits
