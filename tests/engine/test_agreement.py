"""Ranks stop at the same call, within about a second, and seldom talk about it."""

from pathlib import Path

import pytest
import torch.distributed as dist
from clean_processes import run_ranks

from lenshpc.engine.distributed import RankMaximum


def ask(
    rank: int, folder: Path, seconds: list[float], told_at: int, at_once: bool
) -> tuple[int, int, int]:
    """Return (call, answer, times asked) of a rank whose call takes so long.

    The last one is told 12 at a call.
    """
    store = dist.FileStore(str(folder / "store"), len(seconds))
    dist.init_process_group("gloo", store=store, rank=rank, world_size=len(seconds))
    spent, asked = [0.0], []
    agreement = RankMaximum(now=lambda: asked.append(1) or spent[0])
    answer = call = 0
    while not answer:
        call, spent[0] = call + 1, spent[0] + seconds[rank]
        is_told = call >= told_at and rank == len(seconds) - 1
        answer = agreement.largest(12 if is_told else 0, at_once=at_once)
    dist.barrier()
    return call, answer, len(asked) - 1


@pytest.mark.parametrize(
    ("seconds", "told_at", "call", "asked"),
    [
        # Asked at the calls 1, 2, 4, 8, 16, 32, and then after each 25, which take the slower rank
        # half a second: told before call 507, which is answered at 532.
        ([0.01, 0.02], 500, 532, 26),
        ([0.7, 0.1], 5, 6, 6),  # a call takes longer than the interval
    ],
)
def test_ranks_of_different_speed_stop_at_the_same_call_within_a_second(
    tmp_path: Path, seconds: list[float], told_at: int, call: int, asked: int
) -> None:
    assert run_ranks(ask, 2, tmp_path, seconds, told_at, False) == [(call, 12, asked)] * 2


def test_ranks_that_must_know_are_asked_each_time(tmp_path: Path) -> None:
    assert run_ranks(ask, 2, tmp_path, [0.001, 0.001], 20, True) == [(21, 12, 21)] * 2


def test_lone_process_is_told_at_once() -> None:
    agreement = RankMaximum()
    assert [agreement.largest(number) for number in (0, 0, 10, 0)] == [0, 0, 10, 0]
