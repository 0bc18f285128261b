"""The pretended GPU computes as the CPU does, and counts what a real one waits for."""

import copy

import pytest
import torch
from accelerator import GPU, pretend_gpu
from torch import nn
from torch.nn import functional


def test_a_step_gives_the_weights_of_the_cpu_and_reads_nothing():
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 3))
    theirs = copy.deepcopy(ours)
    image, label = torch.randn(2, 1, 8, 8), torch.tensor([0, 1])

    def step(model, image, label):
        functional.cross_entropy(model(image), label).backward()
        torch.optim.AdamW(model.parameters(), foreach=True).step()

    with pretend_gpu() as traffic:
        ours.to(GPU)
        traffic.clear()
        step(ours, image.to(GPU), label.to(GPU))
        assert (traffic.sent, traffic.fetched, traffic.reads) == (2, 0, 0), traffic.where
        weights = [value.cpu() for value in ours.parameters()]
    step(theirs, image, label)
    for one, other in zip(weights, theirs.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("act", "counts"),
    [
        (lambda x: x.sum().item(), (0, 0, 1)),
        (lambda x: bool(x.sum() > 0), (0, 0, 1)),
        (lambda x: x[x > 0], (0, 0, 1)),
        (lambda x: x.nonzero(), (0, 0, 1)),
        (lambda x: x.cpu().numpy(), (0, 1, 0)),
        (lambda x: x[torch.tensor([0])], (1, 0, 0)),
        (lambda x: x + torch.tensor(1.0, device=GPU), (1, 0, 0)),
        (lambda x: x + torch.ones(3, device=GPU), (0, 0, 0)),
        (lambda x: 2 * x[0], (0, 0, 0)),
        (lambda x: torch.where(x > 0, x, 0.0), (0, 0, 0)),
    ],
)
def test_what_is_waited_for_is_counted(act, counts):
    with pretend_gpu() as traffic:
        values = torch.ones(3).to(GPU)
        traffic.clear()
        act(values)
        assert (traffic.sent, traffic.fetched, traffic.reads) == counts, traffic.where


def test_mixing_with_the_cpu_raises():
    with pretend_gpu(), pytest.raises(RuntimeError, match="add mixes tensors"):
        torch.ones(3, device=GPU) + torch.ones(3)
