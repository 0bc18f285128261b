"""The kinds of numbers that a `simulate` section holds."""

from typing import Annotated

from pydantic import AfterValidator, Field


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
