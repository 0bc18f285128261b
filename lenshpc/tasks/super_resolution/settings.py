"""Settings of super-resolution: loss, patches, size of the network; what pairs must be like."""

from types import MappingProxyType
from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveInt

from lenshpc.config import Frozen
from lenshpc.errors import ConfigError
from lenshpc.models.vit import Vit
from lenshpc.tasks.settings_base import Monitors, Scored

Shape = tuple[int, int, int]

NETWORKS = ("srresnet", "edsr", "rcan", "mae_sr")
SCALES = (2, 4)
MIN_SIDE_PX = 11  # of a high-resolution image: the window of SSIM


class SuperResolution(Frozen):
    """Learn the high-resolution half of pairs from the low-resolution one."""

    kind: Literal["super_resolution"] = "super_resolution"
    loss: Literal["l1", "l2", "l1_ssim", "fourier"] = "l1"
    patch: Annotated[int, Field(ge=8)] | None = Field(
        default=None, description="side in low-resolution pixels to train on; whole images if none"
    )
    width: PositiveInt = Field(default=64, description="channels of the network")
    blocks: PositiveInt = Field(default=16, description="residual blocks of the network")
    vit: Vit = Field(default=Vit(), description="the size of mae_sr's encoder")

    monitors: ClassVar[Monitors] = MappingProxyType({"psnr": 1, "ssim": 1, "loss": -1})
    scored: ClassVar[Scored] = ("oof", "test")
    needs_targets: ClassVar[bool] = True
    measures_pixels: ClassVar[bool] = True
    networks: ClassVar[tuple[str, ...] | None] = NETWORKS


def scale_of(image_shape: Shape, target_shape: Shape) -> int:
    """Return how many times larger the high-resolution images are; one line if that is no scale."""
    (channels, *sides), (target_channels, *target_sides) = image_shape, target_shape
    for scale in SCALES:
        if target_channels == channels and target_sides == [scale * side for side in sides]:
            return scale
    raise ConfigError(
        f"low-resolution images are {_word(image_shape)}, high-resolution ones "
        f"{_word(target_shape)}; expected as many channels, and sides of both that differ by a "
        f"factor {' or '.join(map(str, SCALES))}: correct the dataset file"
    )


def check_pairs(method: SuperResolution, image_shape: Shape, target_shape: Shape) -> None:
    """Refuse, before anything is submitted, pairs with which no member could train."""
    scale = scale_of(image_shape, target_shape)
    side, target_side = min(image_shape[1:]), min(target_shape[1:])
    if target_side < MIN_SIDE_PX:
        raise ConfigError(
            f"high-resolution images are {_word(target_shape)}; SSIM needs {MIN_SIDE_PX} px"
        )
    if method.patch is not None and method.patch > side:
        raise ConfigError(
            f"method.patch {method.patch} is larger than the low-resolution images "
            f"({_word(image_shape)}, ×{scale}); use --set method.patch={side}, or none"
        )


def _word(shape: Shape) -> str:
    return " × ".join(map(str, shape))
