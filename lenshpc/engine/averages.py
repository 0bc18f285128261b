"""Averages of the weights over the steps of a training, which are validated and kept."""

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from lenshpc.run.sections import Train

Several = tuple[Tensor, ...] | list[Tensor]


def make_average(
    model: nn.Module, train: Train, device: torch.device | None = None
) -> AveragedModel | None:
    """Return the moving average of the weights that the recipe asks for.

    Its decay after n steps is (1 + n) / (10 + n), up to the recipe's, so that the first weights are
    soon forgotten.
    """
    if not train.ema_decay:
        return None

    def blend(old: Several, new: Several, steps: Tensor | int) -> None:
        change = torch._foreach_sub(new, old)
        # One minus the decay, as (1 - decay) * difference keeps the digits that decay * old + (1 -
        # decay) * new would lose where decay is nearly 1.
        part = torch.as_tensor(9 / (10 + steps)).clamp(min=1 - train.ema_decay)
        torch._foreach_mul_(change, part)
        torch._foreach_add_(old, change)

    return AveragedModel(model, device, multi_avg_fn=blend)


def select_network(module: nn.Module, average: AveragedModel | None) -> nn.Module:
    """Return the network that is validated and kept: the average's, where there is one."""
    return module if average is None else average.module
