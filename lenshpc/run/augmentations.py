"""Augmentations as settings: a name, or a name with its ranges."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from lenshpc.config import Frozen, NonNegative, Positive, unknown

Part = Annotated[float, Field(ge=0, lt=1)]

# `kind` has no default anywhere: fingerprints leave defaults out, and would not tell a turn from a
# crop.


class Flips(Frozen):
    """Mirror left-right and up-down, each with probability 1/2."""

    kind: Literal["flips"]


class D4(Frozen):
    """One of the eight flips and quarter turns."""

    kind: Literal["d4"]


class Affine(Frozen):
    """Turn, scale and shift about the centre; what comes in from outside is reflected."""

    kind: Literal["affine"]
    rotate_deg: Annotated[float, Field(ge=0, le=180)] = Field(
        default=180.0, description="either way"
    )
    scale: Part = Field(default=0.1, description="0.1: by 0.9 to 1.1")
    shift: Part = Field(default=0.05, description="along each axis, as a part of the side")


class Crop(Frozen):
    """Cut out a part of the same shape at a random place, enlarged to the whole."""

    kind: Literal["crop"]
    min_side: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.8, description="of the whole side"
    )


class GaussianNoise(Frozen):
    """Add Gaussian noise whose standard deviation is drawn between 0 and `std`."""

    kind: Literal["noise"]
    std: Positive = Field(default=0.02, description="in the units of the pixels")


class PsfJitter(Frozen):
    """Blur by a Gaussian whose standard deviation is drawn between 0 and `sigma_px`."""

    kind: Literal["psf_jitter"]
    sigma_px: Annotated[float, Field(gt=0, le=4)] = 0.5


class Contrast(Frozen):
    """Stretch pixels about the mean of their image and channel, and add a constant."""

    kind: Literal["contrast"]
    factor: Part = Field(default=0.1, description="0.1: by 0.9 to 1.1")
    brightness: NonNegative = Field(default=0.0, description="either way, in the pixels' units")


AUGMENTATIONS: Mapping[str, type[Frozen]] = MappingProxyType(
    {
        "flips": Flips,
        "d4": D4,
        "affine": Affine,
        "crop": Crop,
        "noise": GaussianNoise,
        "psf_jitter": PsfJitter,
        "contrast": Contrast,
    }
)


def _spell_out(step: Any) -> Any:
    """Return `affine` or `{affine: {scale: 0.2}}` as the keys of its class."""
    if isinstance(step, str):
        step = {step: None}
    if not isinstance(step, Mapping) or len(step) != 1 or "kind" in step:
        return step
    ((kind, values),) = step.items()
    if kind not in AUGMENTATIONS:
        raise ValueError(unknown("augmentation", str(kind), AUGMENTATIONS))
    known = [key for key in AUGMENTATIONS[kind].model_fields if key != "kind"]
    if not isinstance(values, Mapping | None):
        keys = ", ".join(f"{key}: …" for key in known)
        raise ValueError(f"{kind} takes a mapping of keys, {{{kind}: {{{keys}}}}}")  # noqa: TRY004
    for key in values or {}:
        if key not in known:
            raise ValueError(unknown(f"key of {kind}", str(key), known))
    return {"kind": kind, **(values or {})}


Augmentation = Annotated[
    Flips | D4 | Affine | Crop | GaussianNoise | PsfJitter | Contrast,
    Field(discriminator="kind"),
    BeforeValidator(_spell_out),
]
