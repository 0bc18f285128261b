"""Switches of torch that hold for the whole process: set for a member, and put back after it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from lenshpc.run.sections import Train

# Without it cuBLAS picks its working space as it goes, and sums in another order each time.
CUBLAS = ("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


@contextmanager
def set_switches(train: Train, device: torch.device) -> Iterator[None]:
    """Have torch compute as the recipe says: TF32, deterministic algorithms, cuDNN's choice."""
    switches = _list_for_cuda(train) if device.type == "cuda" else []
    before = [(holder, name, getattr(holder, name)) for holder, name, _ in switches]
    was_deterministic = torch.are_deterministic_algorithms_enabled()
    warned_only = torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        for holder, name, value in switches:
            setattr(holder, name, value)
        if train.deterministic:
            os.environ.setdefault(*CUBLAS)  # `restore_environment` takes it away again
            torch.use_deterministic_algorithms(mode=True)
        yield
    finally:
        for holder, name, value in before:
            setattr(holder, name, value)
        torch.use_deterministic_algorithms(was_deterministic, warn_only=warned_only)


def _list_for_cuda(train: Train) -> list[tuple[Any, str, Any]]:
    precision = "tf32" if train.tf32 else "ieee"
    cudnn: Any = torch.backends.cudnn
    return [
        (torch.backends.cuda.matmul, "fp32_precision", precision),
        (cudnn.conv, "fp32_precision", precision),
        (cudnn.rnn, "fp32_precision", precision),
        # Images have one size, so the fastest algorithm is looked for once; which one that is
        # depends on the time that each took, and so do the bits.
        (cudnn, "benchmark", not train.deterministic),
        (cudnn, "deterministic", train.deterministic),
    ]
