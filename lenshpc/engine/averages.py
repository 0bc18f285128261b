"""Averages of the weights over a training, which are validated and kept in their place.

One is moving, a step at a time. The other is equal, of the weights after each of the last epochs
(P. Izmailov et al. 2018, arXiv 1803.05407); it needs batch-norm statistics of its own.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lenshpc.engine import distributed
from lenshpc.registry import Batch
from lenshpc.run.sections import Train


class Average:
    """The mean of the weights that it was given, in `module`, with their number, `count`."""

    def __init__(self, model: nn.Module, device: torch.device | None = None) -> None:
        self.module = copy.deepcopy(model)
        if device is not None:
            self.module.to(device)
        # Of this process and not of the device: a step would wait for its value.
        self.count = 0

    def update_parameters(self, model: nn.Module) -> None:
        """Take in the weights after a step."""

    def after_epoch(self, model: nn.Module, epoch: int) -> None:
        """Take in the weights after an epoch; again after the same epoch changes nothing."""

    def measure(
        self, predict: Callable[[Batch], object], batches: Callable[[], Iterable[Batch]]
    ) -> None:
        """Measure batch-norm statistics of the averaged weights on batches of training."""

    @torch.no_grad()
    def _take_in(self, model: nn.Module, part: float) -> None:
        """Go a part of the way to a model's weights."""
        torch._foreach_lerp_(list(self.module.parameters()), list(model.parameters()), part)
        self.count += 1

    @torch.no_grad()
    def _copy_buffers(self, model: nn.Module) -> None:
        for ours, theirs in zip(self.module.buffers(), model.buffers(), strict=True):
            ours.copy_(theirs)

    def state_dict(self) -> dict[str, Tensor]:
        """Return all that resuming needs, as tensors."""
        state = {f"module.{name}": value for name, value in self.module.state_dict().items()}
        return {**state, "count": torch.tensor(self.count)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state, which is copied into place."""
        self.count = int(state["count"])
        names = self.module.state_dict()
        self.module.load_state_dict({name: state[f"module.{name}"] for name in names})


class MovingAverage(Average):
    """Forgets by a decay of (1 + n) / (10 + n) after n steps, up to the recipe's.

    So the first weights are soon forgotten.
    """

    def __init__(self, model: nn.Module, decay: float, device: torch.device | None = None) -> None:
        super().__init__(model, device)
        self._decay = decay

    def update_parameters(self, model: nn.Module) -> None:
        """Take in the weights after a step."""
        self._take_in(model, max(9 / (10 + self.count), 1 - self._decay) if self.count else 1.0)

    def after_epoch(self, model: nn.Module, epoch: int) -> None:
        """Copy what is no weight, such as batch-norm statistics."""
        del epoch
        self._copy_buffers(model)


class EqualAverage(Average):
    """Begins after epoch `first`, and weighs that and each later one alike."""

    def __init__(self, model: nn.Module, first: int, device: torch.device | None = None) -> None:
        super().__init__(model, device)
        self._first = first

    def after_epoch(self, model: nn.Module, epoch: int) -> None:
        """Take in the weights after an epoch; again after the same epoch changes nothing."""
        # A member that was stopped while it validated comes here twice after the same epoch.
        if epoch - self._first == self.count:
            self._take_in(model, 1 / (self.count + 1))
            self._copy_buffers(model)

    def measure(
        self, predict: Callable[[Batch], object], batches: Callable[[], Iterable[Batch]]
    ) -> None:
        """Measure batch-norm statistics of the averaged weights on batches of training."""
        norms = [part for part in self.module.modules() if _follows_batches(part)]
        if self.count and norms:
            with _measuring(norms):
                for batch in batches():
                    predict(batch)


def _follows_batches(part: nn.Module) -> bool:
    """Say whether a layer has statistics of the batches, and is not frozen."""
    if not isinstance(part, _BatchNorm) or part.running_mean is None:
        return False
    return not part.affine or part.weight.requires_grad


def _follow(norm: nn.Module, images: object) -> None:
    del images
    norm.train()


@contextmanager
def _measuring(norms: Sequence[Any]) -> Iterator[None]:
    """Have layers take the mean statistics of all batches that pass, of all ranks."""
    before = [copy.deepcopy(norm.state_dict()) for norm in norms]
    momenta = [norm.momentum for norm in norms]
    # Before each pass through the layer itself: `predict` puts the whole network into evaluation,
    # where nothing drops out and nothing is drawn.
    hooks = [norm.register_forward_pre_hook(_follow) for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean of the batches, which count alike
    try:
        yield
    finally:
        for norm, momentum, hook in zip(norms, momenta, hooks, strict=True):
            hook.remove()
            norm.momentum = momentum
    for norm, state in zip(norms, before, strict=True):
        if not norm.num_batches_tracked:  # no part of what predicts
            norm.load_state_dict(state)
        for value in (norm.running_mean, norm.running_var):
            distributed.sum_over_ranks(value).div_(distributed.num_ranks())


def make_average(
    model: nn.Module, train: Train, device: torch.device | None = None
) -> Average | None:
    """Return the average of the weights that the recipe asks for."""
    if train.ema_decay:
        return MovingAverage(model, train.ema_decay, device)
    if train.swa_epochs is not None:
        return EqualAverage(model, train.length - train.swa_epochs, device)
    return None


def select_network(module: nn.Module, average: Average | None) -> nn.Module:
    """Return the network that is validated and kept: the average's, once it has begun."""
    return module if average is None or not average.count else average.module
