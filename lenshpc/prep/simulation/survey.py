"""The numbers of the lens-finding simulator, read from a dataset file and validated once."""

from typing import Annotated, Literal, Self, get_args

from pydantic import Field, model_validator

from lenshpc.config import Frozen
from lenshpc.prep.simulation.ranges import (
    AxisRatioRange,
    CountRange,
    Fraction,
    LogNormal,
    NonNegative,
    NonNegativeRange,
    Positive,
    PositiveRange,
    Range,
    SersicIndex,
)

NonlensKind = Literal[
    "elliptical",
    "spiral",
    "edge_on",
    "merger",
    "group",
    "artefact",
    "faint",
    "ring",
    "arms",
    "satellites",
    "star",
]
# The numbers by which truth.csv calls them: stores hold them, so new kinds come last.
KINDS = ("lens", *get_args(NonlensKind))
LOOKALIKES: tuple[NonlensKind, ...] = ("ring", "arms", "satellites")
Band = tuple[Positive, Positive, Positive]
Difficulty = Annotated[float, Field(ge=0, le=1)]
DIFFICULTIES = {"easy": 0.0, "sky": 1.0}


class ShapeRanges(Frozen):
    """Colours and shapes of galaxies of one type; each property is drawn from its range."""

    g_r: Range
    r_i: Range
    radius_arcsec: PositiveRange
    axis_ratio: AxisRatioRange
    sersic_index: SersicIndex


class GalaxyRanges(ShapeRanges):
    """The same with the total brightness."""

    mag_i: Range


class Galaxies(Frozen):
    """The types of galaxies that images are made of."""

    red: GalaxyRanges
    disk: GalaxyRanges
    bulge: GalaxyRanges
    edge_on: GalaxyRanges
    companion: GalaxyRanges
    faint: GalaxyRanges
    source: ShapeRanges
    satellite: ShapeRanges
    arms: ShapeRanges


class ArmRanges(Frozen):
    """Logarithmic spiral arms: how many, how strong (0 to 1), how tightly wound."""

    number: CountRange
    strength: Range
    winding: Range


class RingRanges(Frozen):
    """Rings of stars: radius, width at half maximum, and by how much they vary along the way."""

    radius_arcsec: PositiveRange
    width_arcsec: PositiveRange
    lopsidedness: Range


class StripRanges(Frozen):
    """Satellite trails, and bleeding columns of bright stars, which are in one band."""

    surface_mag_i: Range
    width_arcsec: PositiveRange
    bleed_probability: Fraction


class StarRanges(Frozen):
    """Bright stars: what of their light is a halo, and their diffraction spikes."""

    mag_i: Range
    g_r: Range
    r_i: Range
    distance_arcsec: NonNegativeRange
    halo_fraction: Fraction
    halo_radius_arcsec: Positive
    spike_fraction: Fraction
    spike_length_arcsec: PositiveRange


class Survey(Frozen):
    """Instrument, lenses and galaxies; the bands are g, r, i."""

    model: Literal["survey"]
    difficulty: Literal["easy", "sky"] | Difficulty
    file_prefix: str = ""
    pixel_scale_arcsec: Positive
    zero_point_mag: float
    psf_fwhm_arcsec: Band
    psf_scatter_dex: NonNegative
    sky_rms: Band
    depth_scatter_mag: NonNegative
    electrons_per_flux: Band
    theta_e_arcsec: LogNormal
    shear: NonNegativeRange
    source_offset: NonNegativeRange
    arc_snr: PositiveRange
    num_companions: CountRange
    companion_distance_arcsec: PositiveRange
    nonlens_kinds: dict[NonlensKind, Positive]
    num_group_members: CountRange
    num_satellites: CountRange
    merger_distance_arcsec: PositiveRange
    arms: ArmRanges
    ring: RingRanges
    strips: StripRanges
    star: StarRanges
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
