"""Build networks by name: ours, or timm's with its ways to take any channels and image size."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from lenshpc.errors import ConfigError, one_line
from lenshpc.models.importing import timm_module
from lenshpc.models.numerics import in_float32
from lenshpc.models.weights import download, weights_file
from lenshpc.registry import Shape

PREFIX = "network."


class Backbone(nn.Module):
    """A network in two parts: the features of an image, and the last layer.

    Under a `linear_probe` only the last layer learns; its features are standardised by batch norm
    without parameters, as linear probes of masked autoencoders are (He et al. 2022, A.1).
    """

    def __init__(self, network: nn.Module, *, linear_probe: bool = False) -> None:
        super().__init__()
        self.network: Any = network
        self.linear_probe = linear_probe
        self.standardise: nn.Module = nn.Identity()
        if linear_probe:
            last = last_layer(network, "method.linear_probe trains the last layer alone")
            network.requires_grad_(requires_grad=False)
            # After the network is frozen as a whole, since the last layer is a part of it; before
            # the optimiser is made, which takes what learns.
            last.requires_grad_(requires_grad=True)
            self.standardise = nn.BatchNorm1d(last.in_features, affine=False)

    def train(self, mode: bool = True) -> Self:
        """Train or evaluate; what does not learn neither drops anything nor follows the batches."""
        super().train(mode)
        if self.linear_probe:
            # Against `super().train`: batch norm of frozen layers would otherwise follow the
            # batches, and the features would drift.
            self.network.eval()
        return self

    def features(self, image: Tensor) -> Tensor:
        """Return what goes into the last layer, (B, D)."""
        maps = self.network.forward_features(image)
        features: Tensor = self.standardise(self.network.forward_head(maps, pre_logits=True))
        return features

    def head(self, features: Tensor) -> Tensor:
        """Return the outputs of the last layer."""
        # In bfloat16 sure answers would be equal by the dozen, and have no order.
        return in_float32(self.network.get_classifier(), features)

    def last_layers(self) -> list[str]:
        """Return the names of the last layers: the network's, and what a task puts beside it."""
        last = self.network.get_classifier()
        of_network = last if isinstance(last, tuple) else (last,)
        return [
            name
            for name, part in self.named_modules()
            if part in of_network or (name in self._modules and part is not self.network)
        ]

    def forward(
        self,
        image: Tensor,
        partner: Tensor | None = None,
        mix: Tensor | None = None,
        mixed: Tensor | None = None,
    ) -> Tensor:
        """Return outputs; the features of row i lie `mix[i]` of the way to those of `partner[i]`.

        `mixed` (M,) are the rows for which that is so; the others' partners are left alone. There
        may be fewer partners than images: those of the first rows.
        """
        return self.head(self.between(image, partner, mix, mixed)[1])

    def between(
        self,
        image: Tensor,
        partner: Tensor | None = None,
        mix: Tensor | None = None,
        mixed: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the features (B, D) of images, and where they lie after the mixing."""
        if partner is None or mix is None or mixed is None:
            features = self.features(image)
            return features, features
        # Only the partners that are mixed in pass the network: batch norm must not count genuine
        # rows twice. One call: DDP allows one forward pass a step, and batch norm sees both halves
        # together.
        both = self.features(torch.cat([image, partner[mixed]]))
        own, other = both[: len(image)], both[len(image) :]
        way = mix[mixed, None].to(both.dtype) * (other - own[mixed])
        return own, own.index_add(0, mixed, way)


def last_layer(network: nn.Module, use: str) -> Any:
    """Return a network's last layer, or refuse a `use` of it where the network does not name it."""
    last = cast(Any, network).get_classifier()
    if not hasattr(last, "in_features"):
        raise ConfigError(
            f"{use}, which this network does not name; give it timm's forward_features, "
            "forward_head and get_classifier"
        )
    return last


def build(
    name: str,
    *,
    image_shape: Shape,
    num_outputs: int,
    own: Callable[[Shape], nn.Module] | None = None,
    weights: str = "random",
    drop_path: float = 0.0,
    linear_probe: bool = False,
) -> Backbone:
    """Return the network for (C, H, W) images, with random weights or those of the hub or a file.

    `own` makes a network that is not timm's for images of a shape.
    """

    def make(shape: Shape = image_shape, **options: Any) -> nn.Module:
        if own is not None:
            return whole(own(shape))
        return _from_timm(name, shape, num_outputs, drop_path=drop_path, **options)

    network = make()
    if weights != "random":
        path = imagenet_file(name) if weights == "imagenet" else weights_file(weights)
        network = _load(name, network, path, image_shape, None if own else make)
    _check_size(name, network, image_shape, make)
    _check_outputs(name, network, image_shape, num_outputs)
    return Backbone(network, linear_probe=linear_probe)


def whole(network: nn.Module) -> nn.Module:
    """Return a network that can be told in features and last layer, as timm's can.

    Of one that cannot, the outputs are the features, and the last layer changes nothing.
    """
    return network if hasattr(network, "forward_head") else Whole(network)


class Whole(nn.Module):
    """A network whose features are its outputs."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.last = network, nn.Identity()

    def forward(self, image: Tensor) -> Tensor:
        """Return the outputs (B, K)."""
        outputs: Tensor = self.network(image)
        return outputs

    def forward_features(self, image: Tensor) -> Tensor:
        """Return the outputs (B, K)."""
        return self.forward(image)

    def forward_head(self, outputs: Tensor, *, pre_logits: bool = False) -> Tensor:
        """Return what it is given."""
        del pre_logits
        return outputs

    def get_classifier(self) -> nn.Module:
        """Return a layer that changes nothing."""
        return self.last


def imagenet_file(name: str) -> Path:
    """Return the file of timm's weights for the network, downloaded if need be."""
    config = timm_module().get_pretrained_cfg(name)
    if config is None or not config.hf_hub_id:
        raise ConfigError(f"{name} has no ImageNet weights on the hub; give a file's path")
    return download(config.hf_hub_id)


def _from_timm(
    name: str,
    image_shape: Shape,
    num_outputs: int,
    *,
    drop_path: float = 0.0,
    **options: Any,
) -> nn.Module:
    """Return timm's network, told the images' size where it wants to know it."""
    channels, *size = image_shape
    if drop_path:  # some take no such option, which only they know
        options["drop_path_rate"] = drop_path
    timm, options = timm_module(), {"in_chans": channels, "num_classes": num_outputs, **options}
    # A ViT pads what does not fill a patch; a Swin only takes the size; others refuse both.
    sized: dict[str, Any] = {"img_size": tuple(size)}
    padded = {**sized, "dynamic_img_size": True, "dynamic_img_pad": True}
    # timm refuses options that a network does not know by TypeError, and only by trying can one
    # tell.
    for further in (padded, sized):
        try:
            return cast(nn.Module, timm.create_model(name, **options, **further))
        except TypeError:
            continue
    try:
        return cast(nn.Module, timm.create_model(name, **options))
    except TypeError as error:
        if not drop_path:
            raise
        raise ConfigError(f"{name} has no blocks to skip; remove method.drop_path") from error


def _load(
    name: str,
    network: nn.Module,
    path: Path,
    image_shape: Shape,
    make: Callable[..., nn.Module] | None,
) -> nn.Module:
    """Return the network with a file's weights; last layer and first convolution are adapted.

    The file gets the new last layer, unless its own fits, so that all else must match exactly.
    `make` makes timm's network again; a network that is not timm's takes the weights as they are.
    """
    state, config = _read(path), getattr(network, "pretrained_cfg", {})
    own = network.state_dict()
    for key in _keys(config, "classifier"):
        # Only the last layer may be replaced; all else must match, or weights would stay random
        # unnoticed.
        if key not in state or state[key].shape != own[key].shape:
            state[key] = own[key]
    try:
        if make is None:
            network.load_state_dict(state)
            return network
        facts: dict[str, Any] = {
            "state_dict": state,
            "num_classes": network.num_classes,
            "label_offset": 0,
        }
        stem = [state[key] for key in _keys(config, "first_conv") if key in state]
        if stem and stem[0].ndim == 4:
            facts["input_size"] = (stem[0].shape[1], *image_shape[1:])
        return make(pretrained=True, pretrained_cfg_overlay=facts)
    except (RuntimeError, KeyError, ValueError) as error:
        first = one_line(error)[:160]
        raise ConfigError(f"{path} does not hold weights of {name}: {first}") from error


def _keys(config: Any, part: str) -> list[str]:
    """Return the names of a part's weights and biases, as timm's configuration has them."""
    names = config.get(part) or ()
    layers = (names,) if isinstance(names, str) else names
    kinds = ("weight", "bias") if part == "classifier" else ("weight",)
    return [f"{layer}.{kind}" for layer in layers for kind in kinds]


def _read(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file or of a torch file that holds nothing else."""
    from timm.models import load_state_dict

    try:
        # weights_only: the file is a user's download, and a pickle can run code.
        state: Mapping[str, Tensor] = load_state_dict(str(path), weights_only=True)
    except Exception as error:  # torch, pickle and safetensors raise whatever they like
        raise ConfigError(
            f"{path} cannot be read as weights ({type(error).__name__}); "
            "expected safetensors, or a torch file with tensors only"
        ) from error
    ours = {
        key.removeprefix(PREFIX): value for key, value in state.items() if key.startswith(PREFIX)
    }
    return ours or dict(state)


def _check_size(
    name: str, network: nn.Module, image_shape: Shape, make: Callable[[Shape], nn.Module]
) -> None:
    """Refuse images that the network cannot take, naming sizes that it can."""
    problem = _problem(network, image_shape)
    if problem is None:
        return
    channels, height, width = image_shape
    side = max(height, width)
    near = sorted({32 * max(1, side // 32), 32 * (side // 32 + 1), 224, 256})
    works = [str(size) for size in near if _takes(make, (channels, size, size))]
    sizes = f"use --set data.image_size={' or '.join(works)}" if works else "use another network"
    raise ConfigError(f"{name} cannot take images of {height}×{width} px ({problem}); {sizes}")


@torch.no_grad()
def _check_outputs(name: str, network: nn.Module, image_shape: Shape, num_outputs: int) -> None:
    """Refuse a network, such as one of a file, that gives other than a number for each output."""
    was_training = network.training
    found = tuple(network.eval()(torch.zeros(2, *image_shape)).shape)
    network.train(was_training)
    if found != (2, num_outputs):
        raise ConfigError(
            f"{name} returns {found} for 2 images; expected (2, {num_outputs}): spec.num_outputs "
            "numbers for each"
        )


def _takes(make: Callable[[Shape], nn.Module], image_shape: Shape) -> bool:
    try:
        return _problem(make(image_shape), image_shape) is None
    except (AssertionError, RuntimeError, ValueError):
        return False


@torch.no_grad()
def _problem(network: nn.Module, image_shape: Shape) -> str | None:
    """Return what is wrong when an image goes through the network and through its two parts."""
    was_training, image = network.training, torch.zeros(1, *image_shape)
    try:
        # In evaluation mode: a trial image of zeros must not enter the running statistics. It also
        # draws nothing, so the seed gives the same training.
        backbone = Backbone(network.eval())
        # Not in autocast, in which a network may be made: both outputs must be of one type.
        with torch.autocast("cpu", enabled=False):
            outputs, again = network(image), backbone(image)
        # NaN is no fault here: a network that divides by an image's std gives it for zeros.
        if not torch.allclose(outputs, again, atol=1e-5, equal_nan=True):
            return "its last layer cannot be told from the rest"
    except (AssertionError, AttributeError, RuntimeError, TypeError, ValueError) as error:
        return one_line(error)[:100]
    finally:
        network.train(was_training)
    return None
