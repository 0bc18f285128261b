"""Optimisers by name: which there are, what they step on, and at which rate."""

import copy
import json

import pytest
import torch
from accelerator import GPU, pretend_gpu
from ranks import finish, planned, recipe, start
from torch import nn

from lenshpc.engine.optimizers import build_optimizer
from lenshpc.errors import ConfigError
from lenshpc.models.backbones import build
from lenshpc.models.importing import timm_module
from lenshpc.models.layers import layer_factors
from lenshpc.run.optimizers import BY_TENSOR, BY_VALUE, UNFIT, WITH_MOMENTUM
from lenshpc.run.sections import Train

CPU = torch.device("cpu")
SHAPES = ((6, 5), (3, 4, 3, 3), (40, 32))


def of_timm():
    """Return timm's registry of optimisers, but for those that are another package's."""
    timm_module()
    from timm.optim import get_optimizer_info, list_optimizers

    infos = {name: get_optimizer_info(name) for name in list_optimizers()}
    return {name: info for name, info in infos.items() if not isinstance(info.opt_class, str)}


def steps(name, gradients, *, flat=False, interrupted=False):
    """Return the weights after a step on each of the gradients, as one vector."""
    torch.manual_seed(0)
    values = [torch.randn(shape) * scale / 20 for scale, shape in enumerate(SHAPES, start=1)]
    for value in values:
        value.view(-1)[1::2] = 0
    # A share is a vector to ZeRO; here a matrix of one row, so that it decays as the others do.
    model = nn.ParameterList([torch.cat([v.flatten() for v in values])[None]] if flat else values)
    train = Train(optimizer=name, lr=0.01, weight_decay=0.01)
    optimizer = build_optimizer(model, train, CPU)
    for number, each in enumerate(gradients):
        if interrupted and number == 2:
            model, state = copy.deepcopy(model), copy.deepcopy(optimizer.state_dict())
            optimizer = build_optimizer(model, train, CPU)
            optimizer.load_state_dict(state)
        for parameter, gradient in zip(model, [torch.cat(each)] if flat else each, strict=True):
            parameter.grad = gradient.view_as(parameter).clone()
        optimizer.step()
    return torch.cat([parameter.detach().flatten() for parameter in model])


def test_lists_are_those_of_timm():
    infos = of_timm()
    unfit = {"adahessian", "kron", "kronc", "kronw"}
    assert {*infos} == BY_VALUE | BY_TENSOR | unfit
    assert not BY_VALUE & BY_TENSOR
    assert {name for name in {*infos} - unfit if infos[name].has_momentum} == WITH_MOMENTUM


def test_those_that_zero_takes_step_by_value_and_all_go_on_from_their_state():
    torch.manual_seed(1)
    gradients = [[torch.randn(shape).flatten() / 10 for shape in SHAPES] for _ in range(4)]
    for first, second, _ in gradients:  # across the weights at first, as projections look at that
        first[::2], second[::2] = 0, 0
    by_value = set()
    for name in BY_VALUE | BY_TENSOR:
        whole = steps(name, gradients)
        assert torch.equal(steps(name, gradients, interrupted=True), whole), name
        if torch.allclose(steps(name, gradients, flat=True), whole, atol=1e-7):
            by_value.add(name)
    assert by_value == BY_VALUE


def test_adamw_is_torchs_bit_for_bit(seeded):
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    ours, theirs = (copy.deepcopy(model) for _ in range(2))
    matrices = [value for value in theirs.parameters() if value.ndim > 1]
    biases = [value for value in theirs.parameters() if value.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": biases, "weight_decay": 0.0}]
    expected = torch.optim.AdamW(groups, lr=1e-2, fused=True)
    optimizer = build_optimizer(ours, Train(lr=1e-2, weight_decay=0.1), CPU)
    for _ in range(3):
        image = torch.randn(5, 4)
        for network, stepping in ((ours, optimizer), (theirs, expected)):
            network(image).square().sum().backward()
            stepping.step()
            stepping.zero_grad()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(one, other)


def test_momentum_is_handed_on_and_the_rate_is_that_of_the_batch():
    train = Train(optimizer="sgd", momentum=0.5, lr_per_256=0.1, batch_size=64)
    (group, _) = build_optimizer(nn.Linear(2, 2), train, CPU).param_groups
    assert (group["momentum"], group["nesterov"], group["lr"]) == (0.5, True, 0.025)


@pytest.mark.parametrize("name", ["adamw", "sgd", "lamb", "lion", "muon", "nadamw"])
def test_a_step_on_a_gpu_waits_for_nothing(name):
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    with pretend_gpu() as traffic:
        model.to(GPU)
        optimizer = build_optimizer(model, Train(optimizer=name), GPU)
        for _ in range(2):
            traffic.clear()
            model(torch.ones(4, 8, device=GPU)).square().sum().backward()
            optimizer.step()
        assert (traffic.sent, traffic.fetched, traffic.reads) == (0, 0, 0), traffic.where


@pytest.mark.parametrize(
    ("train", "told"),
    [
        (
            {"optimizer": "adamww"},
            "no optimiser 'adamww' of timm's is known here; did you mean adamw",
        ),
        ({"optimizer": "fusedadamw"}, "did you mean adamw"),
        ({"optimizer": "lbfgs"}, "lbfgs computes the loss several times a step"),
        ({"optimizer": "qqq"}, "use adamw, sgd, lamb, lion or muon"),
        ({"momentum": 0.8}, "train.momentum 0.8: optimizer adamw has none"),
        ({"lr": 0.1, "lr_per_256": 0.1}, "train.lr 0.1 and train.lr_per_256 0.1: give one of"),
        ({"lr": None}, "train.lr None and train.lr_per_256 None: give one of the two"),
    ],
)
def test_what_an_optimizer_has_not_is_refused(train, told):
    with pytest.raises(ValueError, match=told):
        Train.model_validate(train)


def test_rate_by_the_batch_is_read_back_from_a_plan():
    asked = recipe(train={"lr_per_256": 0.5, "batch_size": 32})
    assert (asked.train.lr, asked.train.rate) == (None, 0.0625)
    assert type(asked).model_validate_json(asked.model_dump_json()) == asked


def test_few_images_at_once_on_a_gpu_are_warned_of():
    size = {"resources__gpus_per_node": 4, "train__lr": 1e-3}
    (told,) = recipe(**size, train__batch_size=32).warnings
    assert told.startswith("train.batch_size 32 gives each of 4 GPUs 8 images at once, fewer")
    assert recipe(**size, train__batch_size=64).warnings == ()
    assert len(recipe(**size, train__batch_size=64, train__accumulate=2).warnings) == 1
    assert recipe(resources__gpus_per_node=0, train__batch_size=4).warnings == ()


def test_optimisers_of_whole_tensors_are_refused_under_zero():
    zero = {"train__strategy": "deepspeed", "resources__gpus_per_node": 2}
    for name in ("muon", "lamb", "cadamw"):
        with pytest.raises(ValueError, match=f"{name} updates whole tensors, which ZeRO splits"):
            recipe(**zero, train__optimizer=name)
    assert recipe(**zero, train__optimizer="lion").train.optimizer == "lion"
    assert UNFIT.keys().isdisjoint(BY_VALUE | BY_TENSOR)


@pytest.mark.parametrize(
    "name", ["resnet10t", "convnextv2_atto", "vit_tiny_patch16_224", "efficientnet_b0"]
)
def test_layers_of_timms_networks_have_timms_rates(name):
    model = build(name, image_shape=(1, 64, 64), num_outputs=2)
    from timm.optim import param_groups_layer_decay  # after timm_module has made it importable

    network = model.network
    expected = {
        value: group["lr_scale"]
        for group in param_groups_layer_decay(network, layer_decay=0.75)
        for value in group["params"]
    }
    assert len({*expected.values()}) > 3
    assert layer_factors(model, 0.75) == expected
    groups = build_optimizer(model, Train(lr=1.0, layer_decay=0.75), CPU).param_groups
    assert {value: group["lr"] for group in groups for value in group["params"]} == expected
    last = network.get_classifier().weight
    assert groups[0]["lr"] == 1
    assert any(value is last for value in groups[0]["params"])


def test_network_that_does_not_say_its_layers_is_refused():
    with pytest.raises(ConfigError, match="Linear does not say which layers it has"):
        layer_factors(nn.Linear(1, 1), 0.5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sgd", "lion"])
def test_losses_agree_between_one_process_ddp_and_zero(spots, tmp_path, name):
    asked = {"models": ["test_vit"], "train__optimizer": name, "train__layer_decay": 0.9}
    one = train(tmp_path, spots, **asked, train__strategy="single")
    assert len(one) == 2
    for strategy in ("ddp", "deepspeed"):
        changes = {"train__strategy": strategy, "resources__gpus_per_node": 2}
        assert train(tmp_path, spots, **asked, **changes) == pytest.approx(one, rel=1e-4), strategy


def train(folder, store, **changes):
    """Return the training losses of the first member of a recipe."""
    asked = recipe(**changes)
    run, plan = planned(folder, store, asked)
    finish(start([run], index=0, world_size=asked.resources.world_size))
    lines = run.member(plan.members[0].name).metrics.read_text().splitlines()
    return [json.loads(line)["train_loss"] for line in lines]
