"""Settings of a foundation model: pre-training of an encoder by a masked autoencoder."""

from types import MappingProxyType
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from lenshpc.config import Frozen
from lenshpc.models.vit import Vit, check_width
from lenshpc.tasks.settings_base import Monitors, Scored

NETWORKS = ("mae_vit",)


class Foundation(Frozen):
    """Draw the hidden patches of images from those that are seen (He et al. 2022)."""

    kind: Literal["foundation"] = "foundation"
    classes: Annotated[tuple[str, ...], Field(min_length=1)] | None = Field(
        default=None, description="those to be learnt; the store's first if absent"
    )
    vit: Vit = Vit()
    mask_ratio: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.75, description="part of the patches that is hidden"
    )
    decoder_width: PositiveInt = 192
    decoder_depth: PositiveInt = 4
    decoder_heads: PositiveInt = 3
    norm_pixels: bool = Field(
        default=False, description="draw each patch less its mean, over its deviation"
    )

    monitors: ClassVar[Monitors] = MappingProxyType({"loss": -1})
    scored: ClassVar[Scored] = ("oof", "test")
    needs_targets: ClassVar[bool] = False
    measures_pixels: ClassVar[bool] = False
    networks: ClassVar[tuple[str, ...] | None] = NETWORKS

    @model_validator(mode="after")
    def _width_divides(self) -> Self:
        check_width("decoder_width", self.decoder_width, self.decoder_heads)
        return self


def num_hidden(num_patches: int, mask_ratio: float) -> int:
    """Return how many of an image's patches are hidden."""
    return round(mask_ratio * num_patches)
