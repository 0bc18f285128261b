"""Settings of super-resolution: loss, patches, size of the network; what pairs must be like."""

from types import MappingProxyType
from typing import Annotated, ClassVar, Self

from pydantic import Field

from lenshpc.config import MAX_SIDE, Count
from lenshpc.errors import ConfigError
from lenshpc.models.vit import Vit, check_patch
from lenshpc.registry import Monitors, Shape, StoreFacts, TaskSettings
from lenshpc.run.recipe import Recipe, network_of

SCALES = (2, 4)
MIN_SIDE_PX = 11  # of a high-resolution image: the window of SSIM


class SuperResolution(TaskSettings):
    """Learn the high-resolution half of pairs from the low-resolution one."""

    loss: str = Field(default="l1", description="by name, or FILE.py:NAME")
    patch: Annotated[int, Field(ge=8, le=MAX_SIDE)] | None = Field(
        default=None, description="side in low-resolution pixels to train on; whole images if none"
    )
    width: Count = Field(default=64, description="channels of the network")
    blocks: Count = Field(default=16, description="residual blocks of the network")
    vit: Vit = Field(default=Vit(), description="the size of mae_sr's encoder")

    family: ClassVar[str] = "super_resolution"
    pipeline_tag: ClassVar[str | None] = "image-to-image"
    monitors: ClassVar[Monitors] = MappingProxyType({"psnr": 1, "ssim": 1, "loss": -1})
    needs_targets: ClassVar[bool] = True
    measures_pixels: ClassVar[bool] = True
    loss_keys: ClassVar[tuple[str, ...]] = ("loss",)
    encoders: ClassVar[tuple[str, ...]] = ("mae_sr",)

    def check_store(self, recipe: Recipe, facts: StoreFacts) -> None:
        """Refuse a store without pairs, and pairs with which no member could train."""
        if facts.target_shape is None:
            raise ConfigError(
                f"task {recipe.task} learns from pairs, and {facts.path} holds none; "
                "prepare a dataset that has a target, such as super_resolution"
            )
        if recipe.data.image_size is not None:
            raise ConfigError(
                f"data.image_size would resize the images of {facts.path}, not their targets; "
                "remove it"
            )
        check_pairs(self, recipe.data.model_shape(facts.image_shape), facts.target_shape)
        side = self.patch or min(facts.held_shape[1:])
        check_patch(self.vit, self.encoders, map(network_of, recipe.models), side)

    def for_inference(self) -> Self:
        """Return the settings with a loss that is always there: a trained network asks none."""
        return self.model_copy(update={"loss": "l1"})


def scale_of(image_shape: Shape, target_shape: Shape) -> int:
    """Return how many times larger the high-resolution images are; one line if that is no scale."""
    (channels, *sides), (target_channels, *target_sides) = image_shape, target_shape
    for scale in SCALES:
        if target_channels == channels and target_sides == [scale * side for side in sides]:
            return scale
    raise ConfigError(
        f"low-resolution images are {_format_shape(image_shape)}, high-resolution ones "
        f"{_format_shape(target_shape)}; expected as many channels, and sides of both that differ "
        f"by a factor {' or '.join(map(str, SCALES))}: correct the dataset file"
    )


def check_pairs(settings: SuperResolution, image_shape: Shape, target_shape: Shape) -> None:
    """Refuse, before anything is submitted, pairs with which no member could train."""
    scale = scale_of(image_shape, target_shape)
    side, target_side = min(image_shape[1:]), min(target_shape[1:])
    if target_side < MIN_SIDE_PX:
        raise ConfigError(
            f"high-resolution images are {_format_shape(target_shape)}; SSIM needs {MIN_SIDE_PX} px"
        )
    if settings.patch is not None and settings.patch > side:
        raise ConfigError(
            f"method.patch {settings.patch} is larger than the low-resolution images "
            f"({_format_shape(image_shape)}, ×{scale}); use --set method.patch={side}, or none"
        )


def _format_shape(shape: Shape) -> str:
    return " × ".join(map(str, shape))
