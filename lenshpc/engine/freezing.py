"""Parts of a network that do not learn."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from lenshpc.errors import ConfigError
from lenshpc.models.backbones import Backbone, Whole


def freeze(model: nn.Module, patterns: Sequence[str]) -> list[nn.Module]:
    """Have the parts that match learn no more; return the modules, which stay in evaluation mode.

    Names are those of `named_modules` and `named_parameters` of the network itself, without what a
    task puts around it. ConfigError of a pattern without a match, and where nothing would learn.
    """
    network = _unwrap(model)
    modules, parameters = dict(network.named_modules()), dict(network.named_parameters())
    frozen: list[nn.Module] = []
    for pattern in patterns:
        parts = [part for name, part in modules.items() if fnmatchcase(name, pattern)]
        values = [value for name, value in parameters.items() if fnmatchcase(name, pattern)]
        if not parts and not values:
            raise _find_no_part(pattern, network)
        for part in (*parts, *values):
            part.requires_grad_(requires_grad=False)
        frozen += parts
    if patterns and not any(value.requires_grad for value in model.parameters()):
        raise ConfigError(
            "train.freeze freezes all of the network, so nothing would be trained; leave out its "
            "last parts"
        )
    return frozen


def set_training(model: nn.Module, frozen: Sequence[nn.Module]) -> None:
    """Put a model into training mode, but for the parts that are frozen."""
    model.train()
    for part in frozen:
        # Batch norm would follow the batches, and dropout drop, though nothing learns.
        part.eval()


def _unwrap(model: nn.Module) -> nn.Module:
    """Return the network that a recipe names, out of what tasks put around it."""
    while isinstance(model, Backbone | Whole):
        model = model.network
    return model


def _find_no_part(pattern: str, network: nn.Module) -> ConfigError:
    names = [name for name, _ in network.named_children()]
    names += [name for name, _ in network.named_parameters(recurse=False)]
    return ConfigError(
        f"train.freeze {pattern!r} matches no part of the network; it has {', '.join(names)}, and "
        "parts inside these, such as "
        f"{next((name for name, _ in network.named_parameters()), 'nothing')}"
    )
