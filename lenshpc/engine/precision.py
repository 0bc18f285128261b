"""In which precision a step computes, and the scale of a loss in float16."""

from typing import Any

import torch

from lenshpc.errors import ConfigError, LensHpcError
from lenshpc.run.sections import Train

TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
LEAST_SCALE = 2.0**-14  # 2^30 below the first one: 30 steps in a row whose gradients are not finite
LOOK_EVERY = 100  # steps: a look waits for the GPU


def autocast(train: Train, device: torch.device) -> torch.autocast:
    """Return the context of the recipe's precision; weights and optimiser stay in float32."""
    dtype = TYPES[train.precision]
    enabled = train.precision != "fp32"
    return torch.autocast(device.type, dtype=dtype if enabled else None, enabled=enabled)


def check_precision(train: Train, device: torch.device) -> None:
    """Raise ConfigError where a GPU lacks the precision: it would compute in it by emulation."""
    if train.precision == "bf16" and device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        if capability < (8, 0):
            raise ConfigError(
                f"train.precision bf16 needs a GPU of compute capability 8.0, and "
                f"{torch.cuda.get_device_name(device)} has {'.'.join(map(str, capability))}; "
                "use --set train.precision=fp16"
            )


class LossScale(torch.amp.GradScaler):
    """The factor of a loss in float16, whose small gradients would be 0; 1 in other precisions.

    It grows while gradients are finite, and falls with each step that was skipped as they were not.
    LensHpcError once it has vanished.
    """

    def __init__(self, train: Train, device: torch.device) -> None:
        super().__init__(device.type, enabled=train.precision == "fp16")
        self._steps = 0

    def update(self, new_scale: float | torch.Tensor | None = None) -> None:
        """Adapt the scale after a step."""
        super().update(new_scale)
        self._steps += 1
        if self.is_enabled() and self._steps % LOOK_EVERY == 0:
            refuse_vanished(self.get_scale())


class HostScale:
    """A `LossScale` for an optimiser that says on the host whether it skipped the step."""

    GROWTH_STEPS = 2000

    def __init__(self) -> None:
        self.scale, self.steps = 2.0**16, 0

    def follow(self, *, skipped: bool) -> None:
        """Adapt the scale after a step."""
        self.steps = 0 if skipped else self.steps + 1
        if skipped:
            self.scale /= 2
            refuse_vanished(self.scale)
        elif self.steps == self.GROWTH_STEPS:
            self.scale, self.steps = 2 * self.scale, 0


def refuse_vanished(scale: float) -> None:
    """Raise LensHpcError if a loss scale is so small that only broken gradients explain it."""
    if scale < LEAST_SCALE:
        raise LensHpcError(
            f"the loss scale of fp16 fell to {scale:.3g}, since the gradients of many steps in a "
            "row were not finite; use --set train.precision=bf16 or fp32, or lower train.lr"
        )


def describe_precision(train: Train, device: torch.device) -> dict[str, Any]:
    """Return what decides the last bits of a training's numbers, as it was."""
    is_nvidia = device.type == "cuda" and torch.version.hip is None
    has_tf32 = is_nvidia and torch.cuda.get_device_capability(device) >= (8, 0)
    return {
        "precision": train.precision,
        "tf32": train.tf32 and has_tf32,
        "deterministic": train.deterministic,
    }
