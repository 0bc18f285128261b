"""Settings of anomaly detection: a model of the normal class alone."""

from typing import Annotated, ClassVar

from pydantic import Field

from lenshpc.config import Count, Positive, unknown
from lenshpc.errors import ConfigError
from lenshpc.registry import Scored, StoreFacts, TaskSettings
from lenshpc.run.checks import check_learnt
from lenshpc.run.recipe import Recipe

MIN_SIDE_PX = 16  # of an image: the encoders halve it four times


class Anomaly(TaskSettings):
    """Learn the images of one class; what is reconstructed badly is an anomaly."""

    normal: str | None = Field(
        default=None, description="the class to be learnt; the store's first if absent"
    )
    quantile: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.95, description="of the out-of-fold scores of normal images: the threshold"
    )
    latents: Count = Field(
        default=32, description="numbers an image is reduced to by conv_ae, conv_vae and wae"
    )
    kl_anneal: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.3, description="part of conv_vae's training until its KL term counts in full"
    )
    mmd_weight: Positive = Field(default=0.1, description="of the latents' MMD in wae's loss")

    family: ClassVar[str] = "anomaly"
    follows_progress: ClassVar[bool] = True  # the weight of a KL term rises
    scored: ClassVar[Scored] = ("train", "oof", "excluded", "test")
    measures_pixels: ClassVar[bool] = True
    judging: ClassVar[tuple[str, ...]] = ("quantile",)

    def normal_label(self, classes: tuple[str, ...]) -> int:
        """Return the label of the class that is learnt."""
        if self.normal is not None and self.normal not in classes:
            raise ConfigError(unknown("method.normal", self.normal, classes))
        return classes.index(self.normal) if self.normal else 0

    def learnt_labels(self, classes: tuple[str, ...]) -> tuple[int, ...]:
        """Return the label of the normal class."""
        return (self.normal_label(classes),)

    def check_store(self, recipe: Recipe, facts: StoreFacts) -> None:
        """Refuse images that cannot be turned, or a store without rows to learn or to test."""
        check_learnt(recipe, facts, "method.normal")
        _, height, width = facts.held_shape
        if height != width or height < MIN_SIDE_PX:
            raise ConfigError(
                f"task anomaly rotates images by 90° and needs square ones of {MIN_SIDE_PX} "
                f"pixels a side or more, and these have {height} by {width}; use --set "
                f"data.crop={max(MIN_SIDE_PX, min(height, width))}"
            )
