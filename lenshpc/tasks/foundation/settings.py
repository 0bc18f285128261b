"""Settings of a foundation model: pre-training of an encoder by a masked autoencoder."""

from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from lenshpc.config import Count, unknown
from lenshpc.errors import ConfigError
from lenshpc.models.vit import Vit, check_patch, check_width
from lenshpc.registry import StoreFacts, TaskSettings
from lenshpc.run.checks import check_learnt
from lenshpc.run.recipe import Recipe, network_of


class Foundation(TaskSettings):
    """Draw the hidden patches of images from those that are seen (He et al. 2022)."""

    classes: Annotated[tuple[str, ...], Field(min_length=1)] | None = Field(
        default=None, description="those to be learnt; the store's first if absent"
    )
    vit: Vit = Vit()
    mask_ratio: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.75, description="part of the patches that is hidden"
    )
    decoder_width: Count = 192
    decoder_depth: Count = 4
    decoder_heads: Count = 3
    norm_pixels: bool = Field(
        default=False, description="draw each patch less its mean, over its std"
    )

    family: ClassVar[str] = "foundation"
    pipeline_tag: ClassVar[str | None] = "image-feature-extraction"
    encoders: ClassVar[tuple[str, ...]] = ("mae_vit",)

    @model_validator(mode="after")
    def _width_divides(self) -> Self:
        check_width("decoder_width", self.decoder_width, self.decoder_heads)
        return self

    def learnt_labels(self, classes: tuple[str, ...]) -> tuple[int, ...]:
        """Return the labels of the classes that are learnt."""
        names = self.classes or classes[:1]
        absent = [name for name in names if name not in classes]
        if absent:
            raise ConfigError(unknown("class in method.classes", absent[0], classes))
        return tuple(classes.index(name) for name in names)

    def num_outputs(self, num_classes: int) -> int:
        """Return 1: a last layer that nobody asks."""
        del num_classes
        return 1

    def check_recipe(self, recipe: Recipe) -> None:
        """Refuse a normalisation after which nothing can be drawn again."""
        if recipe.data.normalise == "image":
            raise ValueError(
                "data.normalise image removes the brightness of each image, which a "
                "reconstruction has to predict; use fold"
            )

    def check_store(self, recipe: Recipe, facts: StoreFacts) -> None:
        """Refuse a store without rows to learn, and images of which no patch would be hidden."""
        _, height, width = facts.held_shape
        check_patch(self.vit, self.encoders, map(network_of, recipe.models), min(height, width))
        check_learnt(recipe, facts, "method.classes")
        patch = self.vit.patch
        num_patches = -(-height // patch) * -(-width // patch)
        if not 0 < num_hidden(num_patches, self.mask_ratio) < num_patches:
            raise ConfigError(
                f"method.mask_ratio {self.mask_ratio} of {num_patches} patches hides none or all; "
                f"lower method.vit.patch {patch}, or change the ratio"
            )


def num_hidden(num_patches: int, mask_ratio: float) -> int:
    """Return how many of an image's patches are hidden."""
    return round(mask_ratio * num_patches)
