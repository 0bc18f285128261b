"""The averages of the weights: their values, and what is made with them."""

import copy
import json

import pytest
import torch
from accelerator import GPU, pretend_gpu
from ranks import finish, kill_in_epoch, planned, recipe, start
from safetensors.torch import load_file
from torch import nn
from torch.optim.swa_utils import update_bn

from lenshpc.engine.averages import make_average, select_network
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


def test_moving_average_reads_nothing_from_a_gpu():
    with pretend_gpu() as traffic:
        model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).to(GPU)
        average = make_average(model, Train(ema_decay=0.9))
        traffic.clear()
        for _ in range(3):
            average.update_parameters(model)
        assert (traffic.sent, traffic.fetched, traffic.reads) == (0, 0, 0), traffic.where
        average.after_epoch(model, 0)
        assert (traffic.sent, traffic.fetched, traffic.reads) == (0, 0, 0), traffic.where


def test_equal_average_is_the_mean_after_each_of_the_last_epochs(seeded):
    model, train = nn.Linear(3, 2), Train(swa_epochs=3, epochs=5)
    average, weights = make_average(model, train), []
    for epoch in range(5):
        assert (select_network(model, average) is model) == (epoch < 3)
        model.weight.data = torch.randn(2, 3)
        weights.append(model.weight.detach().clone())
        average.update_parameters(model)
        for _ in range(2):  # as of a member that is stopped while it validates, and goes on
            average.after_epoch(model, epoch)
            state = copy.deepcopy(average.state_dict())
            average = make_average(model, train)
            average.load_state_dict(state)
    assert average.count == 3
    torch.testing.assert_close(average.module.weight.detach(), torch.stack(weights[2:]).mean(0))


def test_statistics_of_the_equal_average_are_those_of_all_batches(seeded):
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3),
        nn.BatchNorm2d(3),
        nn.Dropout(0.5),
        nn.Conv2d(3, 2, 3),
        nn.BatchNorm2d(2),
    )
    beside = nn.BatchNorm2d(7)  # no batch passes it
    beside.running_mean.fill_(5.0)
    both = nn.ModuleList([model, beside])
    average = make_average(both, Train(swa_epochs=1, epochs=1))
    average.after_epoch(both, 0)
    batches = [torch.randn(8, 1, 9, 9) + shift for shift in range(4)]
    expected = copy.deepcopy(model)
    expected[2] = nn.Identity()  # torch's function lets it drop, ours does not
    update_bn(batches, expected)

    def predict(batch):
        average.module.eval()
        with torch.no_grad():
            return average.module[0](batch)

    average.measure(predict, lambda: batches)
    measured = average.module[0]
    for place in (1, 4):
        torch.testing.assert_close(measured[place].state_dict(), expected[place].state_dict())
        assert measured[place].momentum == 0.1
    assert average.module[1].running_mean.tolist() == [5.0] * 7
    predict(batches[0])
    torch.testing.assert_close(measured[1].state_dict(), expected[1].state_dict())


@pytest.mark.parametrize(
    ("train", "told"),
    [
        ({"swa_epochs": 2, "ema_decay": 0.9}, "train.swa_epochs and train.ema_decay both average"),
        ({"swa_epochs": 2, "patience": 1}, "train.patience may end the training before them"),
        ({"swa_epochs": 16}, "train.swa_epochs 16 must not be more than the epochs, 15"),
    ],
)
def test_averages_that_cannot_be_are_refused(train, told):
    with pytest.raises(ValueError, match=told):
        Train.model_validate(train)


def test_training_with_an_equal_average_knows_its_length():
    assert not recipe(train__scheduler="constant", train__swa_epochs=1).can_grow


SWA = {"train__swa_epochs": 2, "train__epochs": 4, "train__scheduler": "constant"}


@pytest.mark.slow
def test_plain_weights_are_validated_until_the_equal_average_begins(spots, tmp_path):
    plain, _ = history(tmp_path, spots, **(SWA | {"train__swa_epochs": None}))
    averaged, _ = history(tmp_path, spots, **SWA)
    assert [line["train_loss"] for line in averaged] == [line["train_loss"] for line in plain]
    same = [a["val_loss"] == b["val_loss"] for a, b in zip(averaged, plain, strict=True)]
    assert same == [True, True, False, False]


@pytest.mark.slow
def test_killed_training_with_an_equal_average_gives_the_same_weights(spots, tmp_path):
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    expected, weights = history(tmp_path / "whole", spots, **SWA)
    run, plan = planned(tmp_path / "killed", spots, recipe(**SWA))
    kill_in_epoch(start([run], index=0), run, plan.members[0].name, epoch=3)
    found, again = read(run, plan, start([run], index=0))
    assert [line["val_loss"] for line in found] == [line["val_loss"] for line in expected]
    assert all(torch.equal(again[name], value) for name, value in weights.items())


def history(folder, store, **changes):
    run, plan = planned(folder, store, recipe(**changes))
    return read(run, plan, start([run], index=0))


def read(run, plan, ranks):
    finish(ranks)
    member = run.member(plan.members[0].name)
    lines = [json.loads(line) for line in member.metrics.read_text().splitlines()]
    return lines, load_file(member.weights)


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
