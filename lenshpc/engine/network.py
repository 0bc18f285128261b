"""A network as it is trained: on its device, in its layout, with the layers asked for."""

from collections.abc import Callable

import torch
from torch import nn

from lenshpc.engine.distributed import Process
from lenshpc.engine.precision import check_precision
from lenshpc.engine.recompute import recompute_blocks
from lenshpc.errors import ConfigError
from lenshpc.run.sections import Train


def prepare_network(model: nn.Module, train: Train, process: Process) -> nn.Module:
    """Return the network with the recipe's changes; weights keep values and names.

    ConfigError where the device lacks what the recipe asks for.
    """
    check_precision(train, process.device)
    if train.sync_batchnorm and process.world_size > 1:  # else a share is the batch
        if process.device.type == "cpu":
            raise ConfigError(
                "train.sync_batchnorm is for GPUs: torch has none for CPUs; remove it"
            )
        convert: Callable[[nn.Module], nn.Module] = nn.SyncBatchNorm.convert_sync_batchnorm
        model = convert(model)
    if train.activation_checkpointing:
        recompute_blocks(model)
    return model


def place(model: nn.Module, train: Train, device: torch.device) -> nn.Module:
    """Return the network on a device, in the layout in which it computes there."""
    model = model.to(device)
    if uses_channels_last(train, device):
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model


def uses_channels_last(train: Train, device: torch.device) -> bool:
    """Return whether the colours of a pixel lie together in images and weights.

    By default on a GPU, whose tensor cores want it; a CPU is slower so in float32.
    """
    return device.type != "cpu" if train.channels_last is None else train.channels_last


def bucket_elements(network: nn.Module) -> int:
    """Return of how many float32 gradients a message between ranks should be.

    An eighth of the network, so that most of it is sent while the rest is computed, between 1 MB,
    where a message costs its latency, and 25 MB.
    """
    size = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    return min(max(size // 8, 2**18), 25 * 2**18)
