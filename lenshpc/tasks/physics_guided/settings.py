"""Settings of physics guidance: the lens that has to redraw each image, and when that counts."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from lenshpc.config import MAX_SIDE, Frozen, NonNegative, Positive
from lenshpc.errors import ConfigError
from lenshpc.registry import StoreFacts
from lenshpc.run.augmentations import Affine, Crop
from lenshpc.run.recipe import Recipe
from lenshpc.tasks.supervised.settings import Supervised

Part = Annotated[float, Field(ge=0, le=1)]


class Physics(Frozen):
    """A lens with parameters from the classifier's own features, before a source of free form.

    For images that all show a lens. Lengths are in arcsec.
    """

    pixel_scale_arcsec: Positive = Field(description="of the store's images")
    lens: Literal["sis", "sie"] = "sis"
    shear: bool = Field(default=True, description="with external shear")
    theta_e_arcsec: tuple[Positive, Positive] = Field(
        default=(0.5, 2.0), description="the least and the largest Einstein radius"
    )
    max_centre_arcsec: NonNegative = Field(
        default=0.1, description="largest distance of the lens from the middle, on each axis"
    )
    max_shear: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.4, description="of each component"
    )
    min_axis_ratio: Annotated[float, Field(gt=0, lt=1)] = Field(default=0.3, description="of sie")
    ring_arcsec: tuple[NonNegative, Positive] = Field(
        default=(0.2, 3.0), description="distances from the middle between which pixels count"
    )
    source_half_width_arcsec: Positive = Field(
        default=1.25, description="half the side of the square that holds the source"
    )
    source_side: Annotated[int, Field(ge=4, le=MAX_SIDE)] = Field(
        default=20, description="nodes on a side of it"
    )
    softening_arcsec: Positive = Field(default=1e-3, description="core of the lens")
    smoothness: NonNegative = Field(
        default=0.03, description="weight of the source's mean slope beside the misfit"
    )
    weight: Positive = Field(default=1.0, description="of the physics term in the loss")
    curriculum: tuple[Part, Part] = Field(
        default=(0.1, 0.4),
        description="parts of the training after which the weight begins to rise, and is whole",
    )

    @model_validator(mode="after")
    def _ranges_ascend(self) -> Self:
        for key in ("theta_e_arcsec", "ring_arcsec", "curriculum"):
            low, high = getattr(self, key)
            if low >= high:
                raise ValueError(f"{key} [{low:g}, {high:g}]: expected the smaller number first")
        return self

    @property
    def num_parameters(self) -> int:
        """Return how many numbers a lens has: Einstein radius, centre, shear, ellipticity."""
        return 3 + 2 * self.shear + 2 * (self.lens == "sie")


def check_field(physics: Physics, side_px: int) -> None:
    """Refuse, before anything is submitted, lenses that do not fit into the images."""
    half_arcsec = side_px * physics.pixel_scale_arcsec / 2
    largest = physics.theta_e_arcsec[1]
    if largest >= half_arcsec:
        raise ConfigError(
            f"method.physics.theta_e_arcsec reaches {largest:g}″, and the images show "
            f"{half_arcsec:g}″ about their middle ({side_px} pixels of "
            f"{physics.pixel_scale_arcsec:g}″); correct method.physics.pixel_scale_arcsec, or "
            "lower the limit"
        )


class PhysicsGuided(Supervised):
    """A classification that must also redraw each image through a lens."""

    follows_progress: ClassVar[bool] = True  # the weight of redrawing rises

    physics: Physics | None = Field(
        default=None, description="the lens; none: the same classification without it"
    )

    @model_validator(mode="after")
    def _redraws_single_images(self) -> Self:
        mixing = {
            "mixup_alpha": self.mixup_alpha > 0,
            "cutmix_alpha": self.cutmix_alpha > 0,
            "smote.space pixel": self.smote is not None and self.smote.space == "pixel",
        }
        mixed = [key for key, chosen in mixing.items() if chosen]
        if self.physics is not None and mixed:
            raise ValueError(
                f"{mixed[0]} mixes images, and physics redraws single lenses; remove it"
            )
        if self.physics is not None and self.loss == "complement":
            raise ValueError(
                "loss complement has training steps of its own; use physics with another loss"
            )
        return self

    @property
    def takes_masks(self) -> bool:
        """Return whether no channel is redrawn as light."""
        return self.physics is None

    def check_recipe(self, recipe: Recipe) -> None:
        """Refuse augmentations that change the scale by which lenses are measured."""
        steps = (*recipe.data.augment, *recipe.data.augment_minority)
        moving = [step.kind for step in steps if isinstance(step, Affine | Crop)]
        if self.physics is not None and moving:
            raise ValueError(
                f"data.augment {moving[0]} changes scale and centre of the images, which "
                "method.physics needs to measure lenses; use d4, flips, noise, psf_jitter or "
                "contrast"
            )

    def check_store(self, recipe: Recipe, facts: StoreFacts) -> None:
        """Refuse images that are not square, or too small for the lenses."""
        super().check_store(recipe, facts)
        if self.physics is None:
            return
        crop, (_, height, width) = recipe.data.crop, facts.image_shape
        if height != width and not crop:
            raise ConfigError(
                f"method.physics is for square images, and these have {height} by {width} pixels; "
                f"use --set data.crop={min(height, width)}"
            )
        check_field(self.physics, crop or height)
