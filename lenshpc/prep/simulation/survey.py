"""The numbers of the lens-finding simulator, read from a dataset file and validated once."""

from typing import Literal, Self

from pydantic import model_validator

from lenshpc.config import Frozen
from lenshpc.prep.simulation.ranges import (
    AxisRatioRange,
    CountRange,
    Fraction,
    NonNegativeRange,
    Positive,
    PositiveRange,
    Range,
    SersicIndex,
)

NonlensKind = Literal["elliptical", "spiral", "edge_on", "merger", "group", "artefact", "faint"]
Band = tuple[Positive, Positive, Positive]


class GalaxyRanges(Frozen):
    """What galaxies of one type look like; each property is drawn uniformly from its range."""

    mag_i: Range
    g_r: Range
    r_i: Range
    radius_arcsec: PositiveRange
    axis_ratio: AxisRatioRange
    sersic_index: SersicIndex


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


class StripRanges(Frozen):
    """Satellite trails, and bleeding columns of bright stars, which are in one band."""

    surface_mag_i: Range
    width_arcsec: PositiveRange
    bleed_probability: Fraction


class Survey(Frozen):
    """Instrument, lenses and galaxies; the bands are g, r, i."""

    model: Literal["survey"]
    file_prefix: str = ""
    pixel_scale_arcsec: Positive
    zero_point_mag: float
    psf_fwhm_arcsec: Band
    sky_rms: Band
    electrons_per_flux: Band
    theta_e_arcsec: PositiveRange
    shear: NonNegativeRange
    source_offset: NonNegativeRange
    num_companions: CountRange
    companion_distance_arcsec: PositiveRange
    nonlens_kinds: dict[NonlensKind, Positive]
    num_group_members: CountRange
    merger_distance_arcsec: PositiveRange
    arms: ArmRanges
    strips: StripRanges
    galaxies: Galaxies

    @model_validator(mode="after")
    def _kinds_sum_to_one(self) -> Self:
        total = sum(self.nonlens_kinds.values())
        if abs(total - 1) > 1e-6:
            raise ValueError(f"nonlens_kinds sum to {total:g}, expected 1")
        return self

    def check(self, image_shape: tuple[int, int, int], classes: set[str]) -> None:
        """Raise ValueError unless images and classes are what this simulator makes."""
        if image_shape[0] != 3 or classes != {"lens", "nonlens"}:
            raise ValueError("model survey makes 3-band images of the classes lens and nonlens")
