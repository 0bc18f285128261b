"""What `lenshpc tune` searches: the keys of a recipe with their ranges; it decides no training."""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import Field, model_validator

from lenshpc.config import Count, Frozen, Seed, unknown

# Under other names: fields of Span are called as the types are.
Number: TypeAlias = float
Whole: TypeAlias = int
KINDS = ("log", "float", "int", "choice")


class Span(Frozen):
    """The values that a key may take: the two ends of a range, or a choice."""

    log: tuple[Number, Number] | None = Field(
        default=None, description="ends; evenly in the logarithm"
    )
    float: tuple[Number, Number] | None = Field(default=None, description="ends")
    int: tuple[Whole, Whole] | None = Field(
        default=None, description="ends; whole numbers, both included"
    )
    choice: Annotated[tuple[Any, ...], Field(min_length=1)] | None = None
    when: Mapping[str, Any] = Field(
        default={}, description="searched keys and what they must be; else the recipe's own stays"
    )

    @model_validator(mode="before")
    @classmethod
    def _keys_are_known(cls, value: Any) -> Any:
        for key in value if isinstance(value, Mapping) else ():
            if key not in cls.model_fields:
                raise ValueError(unknown("kind of range", str(key), list(cls.model_fields)))
        return value

    @model_validator(mode="after")
    def _is_one_range(self) -> Self:
        given = [kind for kind in KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ValueError(f"expected one of {', '.join(KINDS)}, such as {{log: [1e-5, 1e-2]}}")
        if self.choice is None:
            low, high = self.tried
            if not low < high:
                raise ValueError(f"{self.kind}: the lower end must be less than the upper one")
            if self.kind == "log" and low <= 0:
                raise ValueError("log: both ends must be greater than 0; use float")
        elif len(set(self.labels)) < len(self.labels):
            raise ValueError("choice: a value is listed twice")
        return self

    @property
    def kind(self) -> str:
        """Return which of the four it is."""
        return next(kind for kind in KINDS if getattr(self, kind) is not None)

    @property
    def tried(self) -> tuple[Any, ...]:
        """Return the values that stand for all: both ends, or every choice."""
        values: tuple[Any, ...] = getattr(self, self.kind)
        return values

    @property
    def labels(self) -> tuple[str, ...]:
        """Return the choices as text, by which a sampler tells them apart."""
        return tuple(map(label_of, self.choice or ()))

    def holds(self, value: Any) -> bool:
        """Say whether a value is one of those."""
        if self.choice is not None:
            return label_of(value) in self.labels
        low, high = self.tried
        fits = isinstance(value, Whole) or self.kind != "int"
        return isinstance(value, Whole | Number) and fits and low <= value <= high


def label_of(value: Any) -> str:
    """Return a value as text: its own, or as JSON."""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


class Search(Frozen):
    """What is searched, by what it is measured, and how the points are found."""

    keys: Annotated[Mapping[str, Span], Field(min_length=1)] = Field(
        default={"train.lr": Span(log=(1e-5, 1e-2))}, description="dotted keys and their ranges"
    )
    objective: str | None = Field(
        default=None, description="validation metric of the best epoch; train.monitor if absent"
    )
    trials: Annotated[Whole, Field(ge=1, le=100_000)] = 30
    round_size: Count | None = Field(
        default=None, description="points asked at a time; each as its trial starts if absent"
    )
    sampler: Literal["tpe", "random"] = "tpe"
    pruner: Literal["median", "hyperband", "none"] = "median"
    seed: Seed = Field(default=0, description="of the sampler")

    @model_validator(mode="after")
    def _conditions_are_met_before(self) -> Self:
        before: dict[str, Span] = {}
        for key, span in self.keys.items():
            for other, wanted in span.when.items():
                if other not in before:
                    raise ValueError(
                        f"keys.{key}: when names {other}, which must be listed above it"
                    )
                if not before[other].holds(wanted):
                    raise ValueError(f"keys.{key}: {other} is never {label_of(wanted)}")
            before[key] = span
        return self
