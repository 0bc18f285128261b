"""No step of any task waits for a GPU: nothing is read from it, nothing copied to it and back."""

import pytest
import torch
from accelerator import GPU, pretend_gpu
from every_task import CASES, FUNCTIONS
from torch import Tensor

pytestmark = pytest.mark.usefixtures("seeded")


def to_gpu(batch):
    moved = {key: one.to(GPU) for key, one in batch.items() if isinstance(one, Tensor)}
    return batch | moved


def step(task, model, batch):
    for phase in range(task.num_phases):
        task.training_step(model, batch | {"phase": phase})["loss"].backward()


@pytest.mark.parametrize("name", CASES)
def test_a_step_of_training_neither_reads_nor_copies(name):
    task, model, batch = CASES[name].build()
    with pretend_gpu() as traffic:
        model, batch = model.to(GPU).train(), to_gpu(batch)
        step(task, model, batch)  # what is copied once stays there
        traffic.clear()
        step(task, model, batch)
        assert (traffic.sent, traffic.fetched, traffic.reads) == (0, 0, 0), traffic.where
        assert {one.grad.device for one in model.parameters() if one.grad is not None} == {GPU}


@torch.no_grad()
@pytest.mark.parametrize("name", CASES)
def test_predictions_stay_on_the_gpu_and_are_those_of_the_cpu(name):
    task, model, batch = CASES[name].build()
    functions = [getattr(task, one) for one in FUNCTIONS if hasattr(task, one)]
    expected = [ask(model.eval(), batch) for ask in functions]
    with pretend_gpu() as traffic:
        model, batch = model.to(GPU), to_gpu(batch)
        for ask in functions:
            ask(model, batch)
        traffic.clear()
        found = [ask(model, batch) for ask in functions]
        assert (traffic.sent, traffic.fetched, traffic.reads) == (0, 0, 0), traffic.where
        fetched = [{key: column.cpu() for key, column in one.items()} for one in found]
        assert traffic.fetched == sum(map(len, found))
    for one, other in zip(fetched, expected, strict=True):
        assert list(one) == list(other)
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)
