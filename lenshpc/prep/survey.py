"""The numbers of the lens-finding simulator, read from a dataset file and validated once."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from lenshpc.config import Frozen


def _ascending(limits: tuple[float, float]) -> tuple[float, float]:
    if limits[0] > limits[1]:
        raise ValueError("expected [low, high]")
    return limits


NonlensKind = Literal["elliptical", "spiral", "edge_on", "group", "faint"]
Positive = Annotated[float, Field(gt=0)]
Range = Annotated[tuple[float, float], AfterValidator(_ascending)]
PositiveRange = Annotated[tuple[Positive, Positive], AfterValidator(_ascending)]
Count = Annotated[int, Field(ge=0)]
CountRange = Annotated[tuple[Count, Count], AfterValidator(_ascending)]
Band = tuple[Positive, Positive, Positive]


class GalaxyRanges(Frozen):
    """What galaxies of one type look like; each property is drawn uniformly from its range."""

    mag_i: Range
    g_r: Range
    r_i: Range
    radius_arcsec: PositiveRange
    axis_ratio: PositiveRange
    sersic_index: Annotated[float, Field(gt=0.5, le=10)]


class Galaxies(Frozen):
    """The types of galaxies that images are made of."""

    red: GalaxyRanges
    source: GalaxyRanges
    disk: GalaxyRanges
    bulge: GalaxyRanges
    edge_on: GalaxyRanges
    companion: GalaxyRanges
    faint: GalaxyRanges


class ArmRanges(Frozen):
    """Logarithmic spiral arms: how many, how strong (0 to 1), how tightly wound."""

    number: CountRange
    strength: Range
    winding: Range


class Survey(Frozen):
    """Instrument, lenses and galaxies; the bands are g, r, i."""

    pixel_scale_arcsec: Positive
    zero_point_mag: float
    psf_fwhm_arcsec: Band
    sky_rms: Band
    electrons_per_flux: Band
    theta_e_arcsec: PositiveRange
    shear: Range
    source_offset: Range
    num_companions: CountRange
    companion_distance_arcsec: PositiveRange
    nonlens_kinds: dict[NonlensKind, Positive]
    num_group_members: CountRange
    arms: ArmRanges
    galaxies: Galaxies

    @model_validator(mode="after")
    def _kinds_sum_to_one(self) -> Self:
        total = sum(self.nonlens_kinds.values())
        if abs(total - 1) > 1e-6:
            raise ValueError(f"nonlens_kinds sum to {total:g}, expected 1")
        return self
