"""The optimisers that a recipe names, over groups of parameters."""

from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Optimizer

from lenshpc.errors import ConfigError, one_line
from lenshpc.models.importing import timm_module
from lenshpc.models.layers import layer_factors
from lenshpc.run.sections import Train

# torch's own, which have one kernel for all parameters.
FUSED = frozenset({"adam", "adamw", "momentum", "nesterov", "sgd"})


def build_optimizer(model: nn.Module, train: Train, device: torch.device) -> Optimizer:
    """Return the recipe's optimiser over what learns; biases and norms do not decay.

    These have one dimension. With layer decay each layer has a learning rate of its own; the first
    group has the whole one.
    """
    groups = _group(model, train)
    options: dict[str, Any] = {"lr": train.rate, "weight_decay": train.weight_decay}
    if device.type in {"cuda", "cpu"} and train.optimizer in FUSED:
        options["fused"] = True  # else torch takes foreach on a GPU, and a loop on a CPU
    if train.optimizer == "adamw":  # as most do: timm takes seconds to import
        return AdamW(groups, **options)
    timm_module()
    from timm.optim import create_optimizer_v2  # type: ignore[attr-defined]

    try:
        made: Optimizer = create_optimizer_v2(
            groups, train.optimizer, momentum=train.momentum, **options
        )
    except ValueError as error:
        raise ConfigError(
            f"train.optimizer {train.optimizer}: timm refuses it ({one_line(error)}); install the "
            "timm of constraints.txt"
        ) from error
    return made


def _group(model: nn.Module, train: Train) -> list[dict[str, Any]]:
    factors = {} if train.layer_decay is None else layer_factors(model, train.layer_decay)
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    # In the order of the model, which is equal on all ranks and in every attempt: optimiser states
    # are matched to parameters by place.
    for parameter in model.parameters():
        if parameter.requires_grad:
            kind = (factors.get(parameter, 1.0), parameter.ndim > 1)
            groups.setdefault(kind, []).append(parameter)
    return [
        {
            "params": groups[factor, decays],
            "lr": train.rate * factor,
            "weight_decay": train.weight_decay if decays else 0.0,
        }
        # Largest factor first: `Schedule.lr` reports the first group's rate. Sorted, so that the
        # groups do not depend on which layer comes first.
        for factor, decays in sorted(groups, reverse=True)
    ]
