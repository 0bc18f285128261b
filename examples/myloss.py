"""A loss of one's own: lenshpc submit --set method.loss=./examples/myloss.py:brier …"""

from collections.abc import Callable

from torch import Tensor

from lenshpc.registry import TaskSpec


def brier(spec: TaskSpec) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Return a loss: outputs (B, K), targets (B, K) and weights of the classes (K,) → (B,)."""
    del spec

    def loss(outputs: Tensor, target: Tensor, weights: Tensor) -> Tensor:
        return (weights * (outputs.softmax(dim=1) - target) ** 2).sum(dim=1)

    return loss
