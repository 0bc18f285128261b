"""Steps on one process, or under DDP over several."""

import inspect
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lenshpc.engine import distributed
from lenshpc.engine.averages import make_average, select_network
from lenshpc.engine.compiling import Compilation
from lenshpc.engine.distributed import Process
from lenshpc.engine.freezing import freeze
from lenshpc.engine.network import bucket_elements, place, prepare_network, uses_channels_last
from lenshpc.engine.optimizers import build_optimizer
from lenshpc.engine.precision import LossScale, autocast
from lenshpc.engine.step import Stepping, Weights, lay_out, mean_loss, split
from lenshpc.registry import Batch, Task
from lenshpc.run.sections import Train

# Of buffers at each forward pass; torch 2.13 calls it otherwise than those before.
DDP_SETTINGS = inspect.signature(DistributedDataParallel).parameters
NEW_NAME = "forward_sync_buffers" in DDP_SETTINGS
NO_SYNC: dict[str, Any] = {"forward_sync_buffers" if NEW_NAME else "broadcast_buffers": False}


class Plain(Stepping):
    """One process, or DDP over several."""

    def __init__(self, task: Task, model: nn.Module, train: Train, process: Process) -> None:
        self._task, self._train, self._device = task, train, process.device
        # Moved before the optimiser and the average are made: both would hold the tensors of the
        # CPU.
        self.module = place(prepare_network(model, train, process), train, process.device)
        self._channels_last = uses_channels_last(train, process.device)
        # Before what looks at which parameters learn: DDP would wait for gradients of all others.
        self._frozen = freeze(self.module, train.freeze)
        self._wrapped = wrap(self.module, process)
        self.optimizer: torch.optim.Optimizer = build_optimizer(self.module, train, self._device)
        self.average = make_average(self.module, train)
        self._scale = LossScale(train, process.device)
        self._compilation = Compilation(self.module, train, process.device)

    def _step(self, batch: Batch) -> Tensor:
        self._begin_training(self._wrapped)
        *early, last = split(batch, self._train.accumulate)
        with self._keep_gradients():
            losses = [self._backward(part) for part in early]
        losses.append(self._backward(last))
        self._update()
        return mean_loss(losses)

    def _keep_gradients(self) -> AbstractContextManager[None]:
        """Return a context in which gradients add up on each rank, and are not sent."""
        if isinstance(self._wrapped, DistributedDataParallel):
            return self._wrapped.no_sync()
        return nullcontext()

    def _backward(self, part: Batch) -> Tensor:
        """Add a part's gradients, and return its loss."""
        # Around the forward pass and the loss only: the backward pass repeats the types of the
        # forward one by itself.
        with autocast(self._train, self._device):
            loss = self._compilation.compute(
                lambda: self._task.training_step(self._wrapped, part)["loss"]
            )
        self._scale.scale(loss / self._train.accumulate).backward()  # type: ignore[no-untyped-call]
        detached: Tensor = loss.detach()
        return detached

    def _update(self) -> None:
        """Take the optimiser's step on the gradients of the whole batch."""
        if self._train.clip_norm > 0:
            # After backward, when DDP has averaged the gradients: clipped before, each rank would
            # clip by another norm.
            self._scale.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.module.parameters(), self._train.clip_norm)
        self._scale.step(self.optimizer)
        self._scale.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            # From the bare module: a wrapper has names with `module.` before them, and checkpoints
            # would depend on the number of ranks.
            self.average.update_parameters(self.module)

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """Return the task's predictions without gradients."""
        module = select_network(self.module, self.average)
        # Without the wrapper: DDP would copy buffers at each forward pass, a collective call too
        # many.
        module.eval()
        self._evaluated = True
        laid = lay_out(batch, channels_last=self._channels_last)
        with torch.no_grad(), autocast(self._train, self._device), self._compilation.pause():
            return self._task.predict(module, laid)

    def state(self) -> dict[str, Any]:
        """Return model and optimiser, which are equal on all ranks, on rank 0."""
        if distributed.rank() != 0:
            return {}
        state = {
            "model": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self._scale.state_dict(),
        }
        return state | ({"average": self.average.state_dict()} if self.average else {})

    def load(self, parts: Iterable[Mapping[str, Any]]) -> None:
        """Go on from what `state` returned on rank 0."""
        state = next(iter(parts))
        self.module.load_state_dict(state["model"])
        # A copy: on a CPU the optimiser would keep the very tensors.
        self.optimizer.load_state_dict(deepcopy(state["optimizer"]))
        self._scale.load_state_dict(state["scaler"])
        if self.average:
            self.average.load_state_dict(state["average"])

    @contextmanager
    def weights(self) -> Iterator[Weights]:
        """Have the model's weights on rank 0 while the block lasts."""
        module = select_network(self.module, self.average)
        yield module.state_dict() if distributed.rank() == 0 else {}


def wrap(network: nn.Module, process: Process) -> nn.Module:
    """Return the network under DDP, whose settings are written out; alone it needs none."""
    if process.world_size == 1:
        return network
    return DistributedDataParallel(
        network,
        **NO_SYNC,  # the loop does, once an epoch
        gradient_as_bucket_view=True,  # or gradients would be there twice
        bucket_cap_mb=4 * bucket_elements(network) / 2**20,
        find_unused_parameters=False,
        # The graph may be another one from step to step: phases, rows that are mixed or not.
        static_graph=False,
    )
