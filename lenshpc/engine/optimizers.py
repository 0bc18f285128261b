"""The optimisers that a recipe names, over groups of parameters."""

import torch
from torch import nn

from lenshpc.models.encoder import layer_factors
from lenshpc.run.sections import Train


def adamw(model: nn.Module, train: Train) -> torch.optim.AdamW:
    """Return AdamW over the parameters; biases and norms (one dimension) are not decayed.

    With layer decay each layer of an encoder has a learning rate of its own; the first group has
    the whole one.
    """
    factors = layer_factors(model, train.layer_decay or 1.0)
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    # In the order of the model, which is equal on all ranks and in every attempt: optimiser states
    # are matched to parameters by place.
    for parameter in model.parameters():
        if parameter.requires_grad:
            kind = (factors.get(parameter, 1.0), parameter.ndim > 1)
            groups.setdefault(kind, []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": groups[factor, decays],
                "lr": train.lr * factor,
                "weight_decay": train.weight_decay if decays else 0.0,
            }
            # Largest factor first: `Schedule.lr` reports the first group's rate. Sorted, so that
            # the groups do not depend on which layer comes first.
            for factor, decays in sorted(groups, reverse=True)
        ],
        lr=train.lr,
    )
