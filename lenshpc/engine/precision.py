"""In which precision a step computes."""

import torch

from lenshpc.run.sections import Train


def autocast(train: Train, device: torch.device) -> torch.autocast:
    """Return the context of the recipe's precision."""
    # bfloat16 has the range of float32, so no gradient scaler is needed; float16 would need one.
    # Weights and optimiser stay in float32.
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=train.precision == "bf16")
