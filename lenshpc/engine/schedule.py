"""Learning rates over time: a function of the step, or lowered when the loss stands still."""

import math
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from lenshpc.run.sections import Train

# L. N. Smith and N. Topin 2018 (arXiv 1708.07120), with torch's numbers: the part of the steps in
# which the rate rises, its highest by its first, and its first by its last.
RISING, BEGINNING, ENDING = 0.3, 25.0, 1e4


class Schedule:
    """Set an optimiser's learning rate after each step and each epoch."""

    def __init__(self, optimizer: Optimizer, train: Train, steps_per_epoch: int) -> None:
        self._optimizer = optimizer
        # Both are made, whichever is used: the first sets the learning rate of the first step, and
        # a checkpoint has the same keys whatever the scheduler.
        self._by_step = LambdaLR(optimizer, lambda step: factor(step, train, steps_per_epoch))
        self._by_epoch = ReduceLROnPlateau(optimizer, patience=train.plateau_patience)
        # In fp16 the first step may be skipped: torch would warn of a wrong order of calls.
        optimizer._opt_called = True  # type: ignore[attr-defined]
        self._plateau = train.scheduler == "plateau"

    @property
    def lr(self) -> float:
        """Return the learning rate of the next step, the first group's."""
        return float(self._optimizer.param_groups[0]["lr"])

    def after_step(self) -> None:
        """Advance by one optimiser step."""
        if not self._plateau:
            self._by_step.step()

    def after_epoch(self, val_loss: float) -> None:
        """Advance by one epoch."""
        if self._plateau:
            self._by_epoch.step(val_loss)

    def state_dict(self) -> dict[str, Any]:
        """Return all that resuming needs."""
        parts = {"by_step": self._by_step.state_dict(), "by_epoch": self._by_epoch.state_dict()}
        return {**parts, "lrs": [group["lr"] for group in self._optimizer.param_groups]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self._by_step.load_state_dict(state["by_step"])
        self._by_epoch.load_state_dict(state["by_epoch"])
        # The schedulers set no rate when they are loaded, and the plateau's lies in the optimiser
        # alone; DeepSpeed's load may have put it back.
        for group, lr in zip(self._optimizer.param_groups, state["lrs"], strict=True):
            group["lr"] = lr


def factor(step: int, train: Train, steps_per_epoch: int) -> float:
    """Return the learning rate of a step as a part of `train.rate`: linear up, then as scheduled.

    Equal to torch's StepLR, OneCycleLR and CosineAnnealingWarmRestarts, but a function of the step.
    """
    warmup, total = train.warmup_epochs * steps_per_epoch, train.length * steps_per_epoch
    if step < warmup:
        return (step + 1) / warmup
    done, span = step - warmup, max(1, total - warmup)
    if train.scheduler == "cosine":
        cycle = min(train.cycles - 1, done * train.cycles // span)
        return _anneal(1.0, 0.0, done * train.cycles - cycle * span, span)
    if train.scheduler == "step":
        return float(train.step_factor ** (done // (train.step_epochs * steps_per_epoch)))
    if train.scheduler == "one_cycle":
        top, first = RISING * total - 1, 1 / BEGINNING
        if step <= top:
            return _anneal(first, 1.0, step, top)
        return _anneal(1.0, first / ENDING, step - top, total - 1 - top)
    return 1.0


def _anneal(begin: float, end: float, done: float, span: float) -> float:
    """Return where half a cosine from `begin` to `end` stands when `done` of `span` is over."""
    return end + (begin - end) * 0.5 * (1 + math.cos(math.pi * done / span))
