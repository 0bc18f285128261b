"""The numbers of the dark-matter simulator, read from a dataset file and validated once.

Lengths are in arcsec. Halo and substructure together have the Einstein radius `theta_e_arcsec`.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from lenshpc.config import Frozen
from lenshpc.prep.simulation.ranges import (
    AxisRatioRange,
    FractionRange,
    NonNegative,
    NonNegativeRange,
    Positive,
    PositiveRange,
    Range,
    SersicIndex,
)

NumPoints = Annotated[int, Field(ge=1)]


class Smooth(Frozen):
    """A halo without substructure."""

    kind: Literal["smooth"]


class MassFunction(Frozen):
    """dN/dm ~ m^slope between two masses, in units of the total mass."""

    low: Positive
    high: Positive
    slope: float

    @model_validator(mode="after")
    def _is_a_power_law(self) -> Self:
        if self.low >= self.high or self.slope == -1:
            raise ValueError("expected low < high and a slope other than -1")
        return self


class Subhalos(Frozen):
    """Point masses around the centre; equal ones, without a mass function.

    With both, the function gives the ratios of the masses and `mass_fraction` their sum.
    """

    kind: Literal["subhalos"]
    number: NumPoints
    poisson: bool
    distance_arcsec: NonNegativeRange
    mass_function: MassFunction | None = None
    mass_fraction: FractionRange | None = None

    @model_validator(mode="after")
    def _has_masses(self) -> Self:
        if not (self.mass_function or self.mass_fraction):
            raise ValueError("subhalos need a mass_function, a mass_fraction, or both")
        return self


class Vortex(Frozen):
    """A uniform string of point masses about a centre drawn from a normal distribution."""

    kind: Literal["vortex"]
    num_points: NumPoints
    centre_sigma_arcsec: NonNegative
    length_arcsec: PositiveRange
    mass_fraction: FractionRange


class Axion(Frozen):
    """A vortex through the centre whose length falls with the mass of the axion."""

    kind: Literal["axion"]
    num_points: NumPoints
    log10_mass_ev: Range
    length_arcsec_at_1e_22_ev: Positive
    mass_fraction: FractionRange


Substructure = Annotated[Smooth | Subhalos | Vortex | Axion, Field(discriminator="kind")]


class Light(Frozen):
    """A Sersic profile; `intensity` is the surface brightness at the half-light radius."""

    intensity: PositiveRange
    radius_arcsec: PositiveRange
    axis_ratio: AxisRatioRange
    sersic_index: SersicIndex


class SourceLight(Light):
    """The galaxy behind, at a distance from the axis."""

    distance_arcsec: NonNegativeRange


class PhotonNoise(Frozen):
    """Photon noise: the electrons of a pixel of surface brightness 1, and of the sky."""

    electrons_per_intensity: Positive
    # Below five electrons the skewed normal distribution departs from Poisson's.
    sky_electrons: Annotated[float, Field(ge=5)]


class DarkMatter(Frozen):
    """Instrument, halo, source, and the substructure of each class."""

    model: Literal["dark_matter"]
    file_prefix: str = ""
    pixel_scale_arcsec: Positive
    psf_fwhm_arcsec: Positive
    noise: PhotonNoise | None
    theta_e_arcsec: PositiveRange
    halo_axis_ratio: AxisRatioRange
    shear: NonNegativeRange
    source: SourceLight
    lens_light: Light | None = None
    classes: dict[str, Substructure]
    binned_exposure: Positive = 1.0  # of a pair's coarse image, in exposures of the fine one
    legacy: bool = False

    def check(self, image_shape: tuple[int, int, int], classes: set[str]) -> None:
        """Raise ValueError unless images and classes are what this simulator makes."""
        if image_shape[0] != 1 or classes != set(self.classes):
            raise ValueError(
                "model dark_matter makes 1-band images of the classes under its key classes: "
                + ", ".join(self.classes)
            )
