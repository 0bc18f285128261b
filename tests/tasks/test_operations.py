"""The operations of a step of every task are counted without one, and are those of a real one."""

import pytest
import torch
from every_task import CASES
from torch.utils.flop_counter import FlopCounterMode

from lenshpc.engine.step import phases
from lenshpc.engine.throughput import StepCounter
from lenshpc.run.sections import Train


@pytest.mark.parametrize("name", CASES)
def test_operations_of_a_step_are_those_of_a_real_one(name: str) -> None:
    torch.manual_seed(0)
    task, model, batch = CASES[name].build()
    counter = StepCounter(task, model, Train(), torch.device("cpu"))
    model.train()

    def count() -> int:
        with FlopCounterMode(display=False) as real:
            for one in phases(task, batch):
                task.training_step(model, one)["loss"].backward()
        return int(real.get_total_flops())

    counted = [count()]
    drawn = torch.get_rng_state()
    counted.append(counter.count(batch))
    assert torch.equal(torch.get_rng_state(), drawn)
    counted.append(count())  # nothing without values has stayed anywhere
    assert counted == counted[:1] * 3
    assert counted[0] > 0
