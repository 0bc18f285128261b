"""The weights of an earlier training, from which a member starts."""

import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from lenshpc.engine.load import parse_weights
from lenshpc.errors import ConfigError, DataError, one_line
from lenshpc.models.backbones import Backbone
from lenshpc.models.encoder import encoder_of
from lenshpc.run.origin import open_origin
from lenshpc.run.plan import Member
from lenshpc.run.recipe import Recipe

PATCHES = "patches.weight"  # of an encoder
Weights = Mapping[str, Tensor]
log = logging.getLogger(__name__)


def start_from(model: nn.Module, recipe: Recipe, member: Member) -> None:
    """Load the weights that a recipe starts from into a network; nothing where it names none."""
    if recipe.init_from is None:
        return
    origin = open_origin(Path(recipe.init_from))
    # The path alone says nothing: the folder may have been made anew since, by a recipe that saw
    # the test rows.
    if origin.fingerprint != recipe.init_fingerprint:
        raise DataError(
            f"{recipe.init_from} has changed since this run was submitted to start from it; "
            "submit the recipe again"
        )
    part, source = origin.find_source(recipe, member)
    weights = parse_weights(origin.read(source), f"member {source.index} of {origin.title}")
    try:
        new = fill(model, weights) if part == "network" else fill_encoder(model, weights)
    except RuntimeError as error:
        first = one_line(error)[:160]
        raise ConfigError(
            f"the {part} of member {source.index} of {origin.title} is not that of "
            f"{member.network} ({first}); give both the same network settings, and images with "
            "the same number of channels"
        ) from error
    told = f"; new: {', '.join(new)}" if new else ""
    log.info("starts from member %d of %s%s", source.index, origin.title, told)


def fill(model: nn.Module, weights: Weights) -> list[str]:
    """Load the weights of the same network; return the last layers that stay new.

    These are of other shapes, or not there; all else must match, or RuntimeError.
    """
    own, lasts = model.state_dict(), _find_last_layers(model)
    new = [name for name in lasts if _shapes(own, name) not in ({}, _shapes(weights, name))]
    # What lies beside a backbone's network is a last layer of the task that trained it.
    body = "network." if isinstance(model, Backbone) else ""
    given = {key: value for key, value in weights.items() if key in own or key.startswith(body)}
    begin = tuple(f"{name}." for name in new)
    kept = {key: value for key, value in given.items() if not key.startswith(begin)}
    # Strict: a key that is absent would stay at its random value, and nobody would notice.
    model.load_state_dict(kept | {key: own[key] for key in own if key.startswith(begin)})
    return new


def _find_last_layers(model: nn.Module) -> list[str]:
    return model.last_layers() if isinstance(model, Backbone) else []


def _shapes(state: Weights, name: str) -> dict[str, torch.Size]:
    return {key: value.shape for key, value in state.items() if key.startswith(f"{name}.")}


def fill_encoder(model: nn.Module, weights: Weights) -> list[str]:
    """Load the encoder of another network; return the parts of the network that stay new."""
    encoder = encoder_of(model)
    assert encoder is not None  # noqa: S101 - for mypy: recipes with other networks are refused
    found = next((key for key in weights if key.endswith(f".{PATCHES}")), PATCHES)
    prefix = found.removesuffix(PATCHES)
    encoder.load_state_dict(
        {
            key.removeprefix(prefix): value
            for key, value in weights.items()
            if key.startswith(prefix)
        }
    )
    return ["all but the encoder"]
