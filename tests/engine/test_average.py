"""The moving average of the weights: its value, and what is made with it."""

import json

import pytest
import torch
from ranks import finish, planned, recipe, start
from safetensors.torch import load_file
from torch import nn

from lenshpc.engine.averages import make_average
from lenshpc.run.sections import Train


def test_average_is_the_closed_form_of_its_decays(seeded):
    model = nn.Linear(3, 2)
    average = make_average(model, Train(ema_decay=0.5))
    expected, decays = None, (0, 2 / 11, 3 / 12, 4 / 13, 5 / 14, 6 / 15, 7 / 16, 8 / 17, 0.5, 0.5)
    for decay in decays:
        with torch.no_grad():
            model.weight += torch.randn(2, 3)
        average.update_parameters(model)
        now = model.weight.detach().clone()
        expected = now if expected is None else decay * expected + (1 - decay) * now
        torch.testing.assert_close(average.module.weight.detach(), expected)


def test_no_decay_keeps_no_average():
    assert make_average(nn.Linear(1, 1), Train()) is None


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "deepspeed"])
def test_average_of_two_ranks_is_that_of_one_and_its_loss_is_reported(spots, tmp_path, strategy):
    asked = {"models": ["test_vit"], "train__ema_decay": 0.9}
    one = trained(tmp_path, spots, **asked, train__strategy="single")
    two = trained(tmp_path, spots, **asked, train__strategy=strategy, resources__gpus_per_node=2)
    plain = trained(tmp_path, spots, models=["test_vit"], train__strategy="single")
    torch.testing.assert_close(two[0], one[0], rtol=1e-4, atol=1e-5)
    assert two[1] == pytest.approx(one[1], rel=1e-4)
    assert one[1][0] == plain[1][0]
    assert one[1][1] != plain[1][1]


def trained(folder, store, **changes):
    asked = recipe(**changes)
    run, plan = planned(folder, store, asked)
    finish(start([run], index=0, world_size=asked.resources.world_size))
    member = run.member(plan.members[0].name)
    first = json.loads(member.metrics.read_text().splitlines()[0])
    return load_file(member.weights), (first["train_loss"], first["val_loss"])
