"""How training rows are made or added, as settings: synthetic ones, and unlabelled ones."""

from typing import Annotated, Literal

from pydantic import Field

from lenshpc.config import Count, Frozen, Positive
from lenshpc.run.augmentations import Affine, Augmentation, Contrast, GaussianNoise, PsfJitter


class Smote(Frozen):
    """Synthetic rows of rare classes, made from the training rows of the member's own fold."""

    space: Literal["pixel", "feature"] = Field(
        default="pixel", description="feature: between the features before the last layer"
    )
    ratio: Annotated[float, Field(gt=0, le=1)] = Field(
        default=1.0, description="each class's size afterwards, as a part of the largest's"
    )
    neighbours: Count = 5


class Consistency(Frozen):
    """FixMatch (Sohn et al. 2020, arXiv 2001.07685) on the store's unlabelled rows."""

    weight: Positive = Field(default=1.0, description="of the loss on unlabelled images")
    threshold: Annotated[float, Field(gt=0.5, lt=1)] = Field(
        default=0.95, description="probability from which a prediction counts as a label"
    )
    ratio: Count = Field(default=4, description="unlabelled images a labelled one")
    strong: tuple[Augmentation, ...] = Field(
        default=(
            Affine(kind="affine", shift=0.1, scale=0.2),
            PsfJitter(kind="psf_jitter"),
            Contrast(kind="contrast", factor=0.3),
            GaussianNoise(kind="noise"),
        ),
        description="on top of data.augment, for the image that has to agree",
    )
