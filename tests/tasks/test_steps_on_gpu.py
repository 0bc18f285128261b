"""No step of any task waits for a GPU: nothing is read from it, nothing copied to it and back."""

import pytest
import torch
from accelerator import GPU, pretend_gpu
from every_task import CASES, FUNCTIONS, RECIPES, recipe_cases
from torch import Tensor

from lenshpc.registry import component_names, find_task

pytestmark = pytest.mark.usefixtures("seeded")


def to_gpu(batch):
    moved = {key: one.to(GPU) for key, one in batch.items() if isinstance(one, Tensor)}
    return batch | moved


def step(task, model, batch):
    for phase in range(task.num_phases):
        task.training_step(model, batch | {"phase": phase})["loss"].backward()


def check_training(case):
    task, model, batch = case.build()
    with pretend_gpu() as traffic:
        model, batch = model.to(GPU).train(), to_gpu(batch)
        step(task, model, batch)  # what is copied once stays there
        traffic.clear()
        step(task, model, batch)
        assert (traffic.sent, traffic.fetched, traffic.reads) == (0, 0, 0), traffic.where
        assert {one.grad.device for one in model.parameters() if one.grad is not None} == {GPU}


@torch.no_grad()
def check_predictions(case):
    task, model, batch = case.build()
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


@pytest.mark.parametrize("name", CASES)
def test_a_step_of_training_neither_reads_nor_copies(name):
    check_training(CASES[name])


@pytest.mark.parametrize("name", CASES)
def test_predictions_stay_on_the_gpu_and_are_those_of_the_cpu(name):
    check_predictions(CASES[name])


@pytest.mark.slow
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_networks_of_the_recipes_that_ship_wait_for_nothing(path):
    for case in recipe_cases(path):
        check_training(case)
        check_predictions(case)


@pytest.mark.parametrize("group", ["networks", "losses"])
def test_every_network_and_loss_of_ours_has_a_case(group):
    settings = {find_task(case.task).settings for case in CASES.values()}
    ours = {(one.family, name) for one in settings for name in component_names(group, one.family)}
    covered = set()
    for case in CASES.values():
        made = find_task(case.task).settings(**case.method)
        names = [case.network] if group == "networks" else made.losses
        covered |= {(made.family, name) for name in names}
    assert ours <= covered
