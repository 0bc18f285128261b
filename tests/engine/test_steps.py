"""How a step is taken on one process: precision, parts of a batch, layout, what a GPU waits for."""

import copy
import os

import pytest
import torch
from accelerator import GPU, pretend_gpu
from torch import nn
from torch.utils.checkpoint import checkpoint

from lenshpc.engine.distributed import Process
from lenshpc.engine.network import bucket_elements, uses_channels_last
from lenshpc.engine.plain import Plain
from lenshpc.engine.precision import HostScale, check_precision
from lenshpc.engine.recompute import find_blocks, recompute_blocks
from lenshpc.engine.step import split
from lenshpc.engine.switches import set_switches
from lenshpc.engine.zero import zero_config
from lenshpc.errors import ConfigError, LensHpcError
from lenshpc.run.sections import Train

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


class OnGpu(Process):
    """A process that has the pretended GPU."""

    device = GPU


class Spots:
    """A task that tells three classes of images apart, in as many optimiser steps as asked."""

    def __init__(self, num_phases=1):
        self.num_phases = num_phases

    def training_step(self, model, batch):
        return {"loss": nn.functional.cross_entropy(model(batch["image"]), batch["label"])}

    def predict(self, model, batch):
        return {"logits": model(batch["image"])}


def make_network(*, norm=False):
    torch.manual_seed(0)
    block = [nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.GELU()) for _ in range(2)]
    middle = [nn.BatchNorm2d(4)] if norm else []
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), *middle, nn.Sequential(*block), nn.Flatten(), nn.Linear(144, 3)
    )


def make_batch(num=8):
    drawn = torch.Generator().manual_seed(1)
    image = torch.randn(num, 2, 8, 8, generator=drawn)
    return {"image": image, "label": torch.arange(num) % 3, "progress": torch.tensor(0.5)}


def make_strategy(model=None, process=None, phases=1, **train):
    given = Train(batch_size=8, lr=1e-2, scheduler="constant", **train)
    return Plain(Spots(phases), model or make_network(), given, process or Process())


def weights_after(strategy, steps=3, batch=None):
    losses = [float(strategy.step(batch or make_batch())) for _ in range(steps)]
    return losses, dict(strategy.module.state_dict())


def assert_close(found, expected, **tolerances):
    assert found[0] == pytest.approx(expected[0], rel=1e-5)
    torch.testing.assert_close(found[1], expected[1], **tolerances)


@pytest.mark.parametrize("phases", [1, 2])
def test_parts_of_a_batch_give_the_step_of_the_whole(phases):
    whole = weights_after(make_strategy(phases=phases, clip_norm=0.1))
    parts = weights_after(make_strategy(phases=phases, clip_norm=0.1, accumulate=4))
    assert_close(parts, whole, rtol=1e-4, atol=1e-5)


def test_parts_are_equal_rows_and_have_each_scalar():
    image = torch.arange(6)
    batch = {"image": image, "weak": torch.arange(12), "progress": torch.tensor(0.5), "phase": 1}
    parts = split(batch | {"mixed": torch.tensor([1, 4, 5])}, 3)
    assert [one["image"].tolist() for one in parts] == [[0, 1], [2, 3], [4, 5]]
    assert parts[2]["weak"].tolist() == [8, 9, 10, 11]
    assert [one["mixed"].tolist() for one in parts] == [[1], [], [0, 1]]
    assert all(one["progress"] == 0.5 and one["phase"] == 1 for one in parts)
    assert parts[0]["image"].data_ptr() == image.data_ptr()


@pytest.mark.parametrize(
    "train",
    [
        {},
        {"accumulate": 4},
        {"clip_norm": 0.5, "accumulate": 2, "ema_decay": 0.9},
    ],
)
def test_a_step_copies_nothing_and_reads_nothing(train):
    expected = weights_after(make_strategy(**train))
    with pretend_gpu() as traffic:
        strategy = make_strategy(process=OnGpu(), **train)
        batch = {key: value.to(GPU) for key, value in make_batch().items()}
        losses = [strategy.step(batch)]
        traffic.clear()
        losses += [strategy.step(batch) for _ in range(2)]
        assert (traffic.sent, traffic.fetched, traffic.reads) == (0, 0, 0), traffic.where
        weights = {key: value.cpu() for key, value in strategy.module.state_dict().items()}
        found = [float(loss) for loss in losses], weights
    assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_agrees_with_float32_and_keeps_weights_in_it(precision):
    whole, half = make_strategy(), make_strategy(precision=precision)
    expected, found = weights_after(whole), weights_after(half)
    assert found[0] == pytest.approx(expected[0], rel=2e-2)
    assert found[0] != expected[0]
    assert {value.dtype for value in found[1].values()} == {torch.float32}


def test_loss_scale_goes_on_from_a_checkpoint():
    first = make_strategy(precision="fp16")
    weights_after(first)
    first._scale.update(new_scale=512.0)
    second = make_strategy(precision="fp16")
    second.load([first.state()])
    assert second._scale.state_dict() == first._scale.state_dict()
    assert second._scale.get_scale() == 512


def test_loss_scale_that_vanishes_stops_the_training_with_the_reason():
    strategy = make_strategy(precision="fp16")
    before = copy.deepcopy(strategy.module.state_dict())
    broken = make_batch() | {"image": torch.full((8, 2, 8, 8), torch.inf)}
    for _ in range(99):
        strategy.step(broken)
    with pytest.raises(LensHpcError, match=r"the loss scale of fp16 fell to 5\.17e-26, since"):
        strategy.step(broken)
    torch.testing.assert_close(strategy.module.state_dict(), before)


def test_loss_scale_on_the_host_halves_and_doubles():
    scale = HostScale()
    scale.follow(skipped=True)
    assert scale.scale == 2**15
    for _ in range(2000):
        scale.follow(skipped=False)
    assert scale.scale == 2**16
    for _ in range(30):
        scale.follow(skipped=True)
    assert scale.scale == 2**-14
    with pytest.raises(LensHpcError, match=r"fell to 3\.05e-05"):
        scale.follow(skipped=True)


def test_bf16_is_refused_on_a_gpu_without_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla V100")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 0))
    with pytest.raises(ConfigError) as error:
        check_precision(Train(precision="bf16"), CUDA)
    assert str(error.value) == (
        "train.precision bf16 needs a GPU of compute capability 8.0, and Tesla V100 has 7.0; "
        "use --set train.precision=fp16"
    )
    check_precision(Train(precision="fp16"), CUDA)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    check_precision(Train(precision="bf16"), CUDA)


def read_switches():
    backends = torch.backends
    return (
        backends.cuda.matmul.fp32_precision,
        backends.cudnn.conv.fp32_precision,
        backends.cudnn.rnn.fp32_precision,
        backends.cudnn.benchmark,
        backends.cudnn.deterministic,
        torch.are_deterministic_algorithms_enabled(),
        os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
    )


@pytest.mark.parametrize(
    ("train", "device", "switches"),
    [
        ({}, CUDA, ("tf32", "tf32", "tf32", True, False, False, None)),
        ({"tf32": False}, CUDA, ("ieee", "ieee", "ieee", True, False, False, None)),
        ({"deterministic": True}, CUDA, ("tf32", "tf32", "tf32", False, True, True, ":4096:8")),
    ],
)
def test_switches_hold_for_a_member_and_are_put_back(monkeypatch, train, device, switches):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    before = read_switches()
    with set_switches(Train(**train), device):
        assert read_switches() == switches
    assert read_switches()[:-1] == before[:-1]


def test_a_cpu_keeps_its_switches():
    before = read_switches()
    with set_switches(Train(), CPU):
        assert read_switches() == before


def test_layout_is_chosen_by_the_device_unless_the_recipe_does():
    assert [uses_channels_last(Train(), one) for one in (CPU, CUDA, GPU)] == [False, True, True]
    assert uses_channels_last(Train(channels_last=True), CPU)
    assert not uses_channels_last(Train(channels_last=False), CUDA)


def test_channels_last_gives_the_same_steps():
    strategy = make_strategy(channels_last=True)
    found, expected = weights_after(strategy), weights_after(make_strategy())
    assert strategy.module[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_recomputed_blocks_give_the_same_step_and_statistics():
    blocks = nn.Sequential(
        *[nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)) for _ in range(3)]
    )
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), blocks, nn.Flatten(), nn.Linear(144, 3))
    expected = weights_after(make_strategy(copy.deepcopy(model), ema_decay=0.5))
    strategy = make_strategy(model, ema_decay=0.5, activation_checkpointing=True)
    found = weights_after(strategy)
    assert found[1].keys() == expected[1].keys()
    assert_close(found, expected, rtol=0, atol=0)
    assert strategy.average.module[1][0].forward.func is checkpoint


def test_blocks_are_the_innermost_parts_with_several_layers():
    network = make_network()
    assert find_blocks(network) == list(network[1])
    with pytest.raises(ConfigError, match="Linear has no list of blocks"):
        recompute_blocks(nn.Linear(2, 2))


def test_messages_between_ranks_are_by_the_networks_size():
    with torch.device("meta"):
        sizes = [bucket_elements(nn.Linear(one, 1000)) for one in (10, 10_000, 1_000_000)]
    assert sizes == [2**18, 10_001_000 // 8, 25 * 2**18]


def test_zero_reduces_in_float32_and_divides_the_batch():
    train = Train(
        batch_size=32, accumulate=4, precision="bf16", strategy="deepspeed", offload="optimizer"
    )
    config = zero_config(train, world_size=2, bucket=1000)
    assert config["torch_autocast"] == {
        "enabled": True,
        "dtype": "bfloat16",
        "lower_precision_safe_modules": [],
    }
    sizes = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
    assert [config[key] for key in sizes] == [32, 4, 4]
    assert config["zero_optimization"]["reduce_bucket_size"] == 1000
    assert config["zero_optimization"]["offload_optimizer"]["device"] == "cpu"


def test_sync_batchnorm_is_refused_on_cpus():
    with pytest.raises(ConfigError, match="sync_batchnorm is for GPUs"):
        make_strategy(process=Process(world_size=2), sync_batchnorm=True)


class FrozenNorm(nn.Module):
    """A network whose batch norm follows no batch, by a way into training of its own."""

    def __init__(self):
        super().__init__()
        self.network = make_network(norm=True)

    def train(self, mode=True):
        super().train(mode)
        self.network[1].eval()
        return self

    def forward(self, image):
        return self.network(image)


def test_a_networks_own_way_into_training_is_taken_from_the_first_step_on():
    strategy = make_strategy(FrozenNorm())
    norm = strategy.module.network[1]
    for _ in range(2):
        strategy.step(make_batch())
        assert (strategy.module.network[2].training, norm.training) == (True, False)
        strategy.predict(make_batch())
        assert not strategy.module.training
    assert int(norm.num_batches_tracked) == 0
