"""The kinds of numbers that a `simulate` section holds."""

from typing import Annotated, Self

from numpy.random import Generator
from pydantic import AfterValidator, Field, model_validator

from lenshpc.config import Frozen


def _ascending(limits: tuple[float, float]) -> tuple[float, float]:
    if limits[0] > limits[1]:
        raise ValueError("expected [low, high]")
    return limits


Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
AxisRatio = Annotated[float, Field(gt=0, le=1)]
SersicIndex = Annotated[float, Field(gt=0.5, le=10)]
Count = Annotated[int, Field(ge=0)]
Range = Annotated[tuple[float, float], AfterValidator(_ascending)]
PositiveRange = Annotated[tuple[Positive, Positive], AfterValidator(_ascending)]
NonNegativeRange = Annotated[tuple[NonNegative, NonNegative], AfterValidator(_ascending)]
FractionRange = Annotated[tuple[Fraction, Fraction], AfterValidator(_ascending)]
AxisRatioRange = Annotated[tuple[AxisRatio, AxisRatio], AfterValidator(_ascending)]
CountRange = Annotated[tuple[Count, Count], AfterValidator(_ascending)]


class LogNormal(Frozen):
    """A log-normal law within limits."""

    median: Positive
    scatter_dex: NonNegative
    low: Positive
    high: Positive

    @model_validator(mode="after")
    def _median_lies_within(self) -> Self:
        # Else a draw within the limits could take for ever.
        if not self.low <= self.median <= self.high:
            raise ValueError("expected low <= median <= high")
        return self

    def draw(self, random: Generator) -> float:
        """Return a value; what falls beyond the limits is drawn again."""
        while True:
            value = self.median * 10 ** (self.scatter_dex * random.standard_normal())
            if self.low <= value <= self.high:
                return float(value)
