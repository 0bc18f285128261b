"""The size of a vision transformer's encoder: the same in pre-training and in fine-tuning."""

from collections.abc import Iterable
from typing import Self

from pydantic import model_validator

from lenshpc.config import Count, Frozen
from lenshpc.errors import ConfigError


class Vit(Frozen):
    """An encoder of image patches (Dosovitskiy et al. 2021, arXiv 2010.11929)."""

    patch: Count = 8
    width: Count = 192
    depth: Count = 12
    heads: Count = 3

    @model_validator(mode="after")
    def _width_divides(self) -> Self:
        check_width("width", self.width, self.heads)
        return self


def check_width(key: str, width: int, heads: int) -> None:
    """Refuse a width that neither heads nor sines and cosines of two axes share out evenly."""
    if width % heads or width % 4:
        raise ValueError(
            f"{key} {width} has to be a multiple of {heads} heads and of the 4 parts of a position"
        )


def check_patch(vit: Vit, encoders: Iterable[str], networks: Iterable[str], side_px: int) -> None:
    """Refuse images, or parts of pairs, that do not fill one patch of an encoder in use."""
    if set(encoders) & set(networks) and vit.patch > side_px:
        raise ConfigError(
            f"method.vit.patch {vit.patch} is larger than the images of {side_px} pixels; "
            f"use --set method.vit.patch={side_px} or less"
        )
