"""Which layer of a network a parameter is of, as timm's networks and our encoder say."""

from typing import Any, cast

from torch import nn

from lenshpc.errors import ConfigError
from lenshpc.models.importing import timm_module


def layer_factors(model: nn.Module, decay: float) -> dict[nn.Parameter, float]:
    """Return parameter → factor of its learning rate: 1 above all layers, less in each one down.

    Layer-wise decay as in Clark et al. 2020 (arXiv 2003.10555). A network says which layers it has
    by timm's `group_matcher`; what lies around it, such as a task's own last layer, is not there.
    """
    network = next((part for part in model.modules() if hasattr(part, "group_matcher")), None)
    if network is None:
        raise ConfigError(
            f"train.layer_decay: {type(model).__name__} does not say which layers it has, as "
            "timm's networks do with group_matcher; remove the key"
        )
    timm_module()
    from timm.models import group_parameters

    matcher = cast(Any, network).group_matcher(coarse=False)
    layers: dict[str, int] = group_parameters(network, matcher, reverse=True)
    last = max(layers.values())
    return {
        parameter: decay ** (last - layers[name]) for name, parameter in network.named_parameters()
    }
