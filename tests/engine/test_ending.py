"""A rank that fails says why, first of all, and none stays behind."""

from pathlib import Path

import pytest
import ranks
from ranks import planned, recipe

from lenshpc.engine.distributed import Process
from lenshpc.engine.ending import end_well
from lenshpc.launch.failures import classify
from lenshpc.run.attempts import read_events
from lenshpc.store import Store

# Rank 1 has no memory left in its third step, between the gradients and the weights.
FAILING = """
import os, sys
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook
steps = []
def fail(*_):
    steps.append(1)
    if len(steps) == 3 and os.environ["SUBMITIT_LOCAL_GLOBALID"] == "1":
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
register_optimizer_step_pre_hook(fail)
from lenshpc.worker import run_member
run_member(sys.argv[2], int(sys.argv[1]))
"""


def test_rank_that_fails_in_a_step_ends_the_member_with_its_own_words_first(
    spots: Store, tmp_path: Path
) -> None:
    asked = recipe(train__epochs=50, resources__gpus_per_node=2)
    run, _ = planned(tmp_path, spots, asked)
    path = tmp_path / "log"
    with path.open("wb") as log:
        started = ranks.start([run], 0, world_size=2, script=FAILING, log=log.fileno())
    # No process stays in a collective call: without an end of its own this would take half an hour.
    assert [rank.wait(timeout=120) for rank in started] == [1, 1]
    lines = path.read_text().splitlines()
    told = [line for line in lines if line.startswith("[rank")]
    assert told[0] == "[rank1]: Traceback (most recent call last):"
    error = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB"
    others = [at for at, line in enumerate(told) if not line.startswith("[rank1]")]
    assert f"[rank1]: {error}" in told[: others[0]]
    failure = classify("FAILED", "1:0", [path.read_text()])
    assert (failure.name, failure.line) == ("GPU OUT OF MEMORY", error)
    [job] = run.list_attempted()
    assert "failed" not in [event.what for event in read_events(run.attempts(job))]


def test_lone_process_raises_what_went_wrong() -> None:
    with pytest.raises(ValueError, match="as it was"), end_well(Process()):
        raise ValueError("as it was")
