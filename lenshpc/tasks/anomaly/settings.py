"""Settings of anomaly detection: a model of the normal class alone."""

from types import MappingProxyType
from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from lenshpc.config import Frozen, unknown
from lenshpc.errors import ConfigError
from lenshpc.tasks.settings_base import Monitors, Scored

NETWORKS = ("lens_ae", "conv_ae", "conv_vae", "wae", "mae_scorer", "feature_distance")
MIN_SIDE_PX = 16  # of an image: the encoders halve it four times


class Anomaly(Frozen):
    """Learn the images of one class; what is reconstructed badly is an anomaly."""

    kind: Literal["anomaly"] = "anomaly"
    normal: str | None = Field(
        default=None, description="the class to be learnt; the store's first if absent"
    )
    quantile: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.95, description="of the out-of-fold scores of normal images: the threshold"
    )
    latents: PositiveInt = Field(
        default=32, description="numbers an image is reduced to by conv_ae, conv_vae and wae"
    )
    kl_anneal: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.3, description="part of conv_vae's training until its KL term counts in full"
    )
    mmd_weight: PositiveFloat = Field(default=0.1, description="of the latents' MMD in wae's loss")

    monitors: ClassVar[Monitors] = MappingProxyType({"loss": -1})
    scored: ClassVar[Scored] = ("train", "oof", "aside", "test")
    needs_targets: ClassVar[bool] = False
    measures_pixels: ClassVar[bool] = True
    networks: ClassVar[tuple[str, ...] | None] = NETWORKS


def normal_class(method: Frozen, classes: tuple[str, ...]) -> int | None:
    """Return the label that an anomaly detector learns; None where all classes are learnt."""
    if not isinstance(method, Anomaly):
        return None
    if method.normal is not None and method.normal not in classes:
        raise ConfigError(unknown("method.normal", method.normal, classes))
    return classes.index(method.normal) if method.normal else 0
