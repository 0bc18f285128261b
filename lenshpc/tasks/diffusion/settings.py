"""Settings of a diffusion model: noise schedule, what is predicted, network, sampling."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from lenshpc.config import Count, Frozen, NonNegative, Positive
from lenshpc.errors import ConfigError
from lenshpc.registry import StoreFacts, TaskSettings
from lenshpc.run.extras import require
from lenshpc.run.recipe import Recipe
from lenshpc.tasks.diffusion.feature_extractors import find_inception

LINEAR_STEPS = 1000  # the steps that the published betas of the linear schedule are for


class Guidance(Frozen):
    """Class conditioning with classifier-free guidance (Ho and Salimans 2022)."""

    dropout: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.1, description="part of the training rows whose class is hidden"
    )
    scale: NonNegative = Field(
        default=1.5, description="1: the class's own model; larger: further away from the hidden"
    )


class Diffusion(TaskSettings):
    """Learn to draw images of the training rows' kind from noise (Ho et al. 2020)."""

    schedule: Literal["linear", "cosine"] = "cosine"
    prediction: Literal["epsilon", "v"] = "v"
    num_steps: Annotated[int, Field(ge=2, le=100_000)] = Field(
        default=1000, description="levels of noise"
    )
    zero_terminal_snr: bool = Field(
        default=False, description="the last level is noise alone (Lin et al. 2024)"
    )
    min_snr_gamma: Positive | None = Field(
        default=None, description="Min-SNR weights of the levels (Hang et al. 2023); 5 is usual"
    )
    guidance: Guidance | None = Field(default=None, description="none: without classes")
    sampler: Literal["ddim", "ancestral"] = "ddim"
    sampling_steps: Count = 50
    pixel_range: tuple[float, float] | None = Field(
        default=(0.0, 1.0), description="of the store's pixels, to which generated ones are clipped"
    )
    width: Annotated[int, Field(ge=8, le=65_536, multiple_of=8)] = Field(
        default=64, description="channels of the U-Net at full resolution"
    )
    multipliers: Annotated[tuple[Count, ...], Field(min_length=1)] = Field(
        default=(1, 2, 2, 4), description="channels of each level over `width`; each halves sides"
    )
    blocks: Count = Field(default=2, description="residual blocks a level")
    num_samples: Annotated[int, Field(ge=8, le=10**9)] = Field(
        default=2048, description="out-of-fold rows, and test rows, that get a generated image"
    )
    inception: str | None = Field(
        default=None, description="file of Inception's published weights, for the FID"
    )

    family: ClassVar[str] = "diffusion"
    pipeline_tag: ClassVar[str | None] = "unconditional-image-generation"
    measures_pixels: ClassVar[bool] = True
    file_keys: ClassVar[Mapping[str, str | None]] = MappingProxyType({"inception": None})

    @property
    def halving(self) -> int:
        """Return the factor by which the U-Net makes sides smaller."""
        return int(2 ** (len(self.multipliers) - 1))

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.zero_terminal_snr and self.prediction != "v":
            raise ValueError(
                "with zero_terminal_snr the last level is pure noise, and predicting the noise "
                "tells nothing about the image; use prediction: v"
            )
        if self.schedule == "linear" and self.num_steps != LINEAR_STEPS:
            raise ValueError(
                f"schedule linear is for num_steps {LINEAR_STEPS}, not {self.num_steps}; use cosine"
            )
        if self.sampling_steps > self.num_steps:
            raise ValueError(
                f"sampling_steps {self.sampling_steps} are more than the {self.num_steps} levels "
                "of noise; lower them"
            )
        return self

    @model_validator(mode="after")
    def _has_a_range(self) -> Self:
        if self.pixel_range is not None and self.pixel_range[0] >= self.pixel_range[1]:
            raise ValueError(f"pixel_range {list(self.pixel_range)} is empty; expected [low, high]")
        return self

    @property
    def max_scored(self) -> int:
        """Return how many rows of a split get a generated image."""
        return self.num_samples

    def find_files(self, networks: Iterable[str]) -> dict[str, Any]:
        """Return the file of Inception's weights, found and checked."""
        del networks
        return {} if self.inception is None else {"inception": str(find_inception(self.inception))}

    def check_store(self, recipe: Recipe, facts: StoreFacts) -> None:
        """Refuse images too small for the U-Net, classes that are none, pixels out of range."""
        if self.inception is not None:
            require("fid", "method.inception")
        _, height, width = facts.held_shape
        if min(height, width) < self.halving:
            raise ConfigError(
                f"method.multipliers halves sides {len(self.multipliers) - 1} times, and images "
                f"have {height} by {width} pixels; give fewer multipliers"
            )
        if recipe.data.grey_to_rgb:
            raise ConfigError(
                f"task {recipe.task} generates the channels of the store; remove data.grey_to_rgb"
            )
        if self.guidance and len(facts.classes) < 2:
            raise ConfigError(
                f"method.guidance needs two or more classes, and {facts.path} has one, "
                f"{facts.classes[0]}; remove it"
            )
        low, high = self.pixel_range or (-float("inf"), float("inf"))
        least, largest = facts.mean_range
        if least < low or largest > high:
            raise ConfigError(
                f"method.pixel_range {[low, high]} does not contain the pixels of {facts.path}, "
                f"whose images have means of {least:.3g} to {largest:.3g}; give their range, or "
                "null"
            )
