"""A process of a test that ends without a result is a failure that names its code, at once."""

import os
import signal
import time

import pytest
from clean_processes import run_ranks


def end_silently(rank: int, code: int) -> None:
    if rank == 0:
        time.sleep(1000)
    if code < 0:
        os.kill(os.getpid(), -code)
    os._exit(code)


@pytest.mark.parametrize("code", [-signal.SIGKILL, 0, 7])
def test_rank_that_ends_without_a_result_fails_the_test(code: int) -> None:
    with pytest.raises(AssertionError, match=f"a process ended with code {code} and no result"):
        run_ranks(end_silently, 2, code)
