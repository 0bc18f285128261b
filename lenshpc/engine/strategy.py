"""How a step is taken on one process or many: plainly, under DDP, or under DeepSpeed ZeRO.

All three take the same step: AdamW on the mean gradient over the ranks, clipped when the recipe
says so, in fp32 or bf16 autocast; at equal seeds their losses agree.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from lenshpc.engine import distributed, rendezvous
from lenshpc.engine.distributed import Process
from lenshpc.engine.freezing import freeze, set_training
from lenshpc.errors import ConfigError
from lenshpc.models.encoder import layer_factors
from lenshpc.registry import Batch, Task
from lenshpc.run.recipe import Recipe
from lenshpc.run.sections import Train

Weights = dict[str, Tensor]
Several = tuple[Tensor, ...] | list[Tensor]


class Strategy(Protocol):
    """What the loop needs of a way to train; `save` and `weights` are collective calls."""

    optimizer: torch.optim.Optimizer
    module: nn.Module
    average: AveragedModel | None

    def step(self, batch: Batch) -> Tensor:
        """Take the batch's optimiser steps and return this rank's loss (a scalar) at the first."""

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """Return the task's predictions without gradients."""

    def save(self, folder: Path) -> None:
        """Write model and optimiser into a folder that all ranks see."""

    def load(self, folder: Path) -> None:
        """Read back what `save` wrote."""

    def check_resharding(self, before: int, now: int) -> None:
        """Raise ConfigError unless what `before` ranks saved can be gone on with by `now`."""

    def weights(self) -> Weights:
        """Return the whole model's weights on the CPU of rank 0; empty elsewhere."""


def choose(recipe: Recipe, task: Task, model: nn.Module, process: Process) -> Strategy:
    """Return the strategy that the recipe names."""
    if recipe.strategy == "deepspeed":
        return DeepSpeed(task, model, recipe.train, process)
    return Plain(task, model, recipe.train, process)


def adamw(model: nn.Module, train: Train) -> torch.optim.AdamW:
    """Return AdamW over the parameters; biases and norms (one dimension) are not decayed.

    With layer decay each layer of an encoder has a learning rate of its own; the first group has
    the whole one.
    """
    factors = layer_factors(model, train.layer_decay or 1.0)
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    # In the order of the model, which is equal on all ranks and in every attempt: optimiser states
    # are matched to parameters by place.
    for parameter in model.parameters():
        if parameter.requires_grad:
            kind = (factors.get(parameter, 1.0), parameter.ndim > 1)
            groups.setdefault(kind, []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": groups[factor, decays],
                "lr": train.lr * factor,
                "weight_decay": train.weight_decay if decays else 0.0,
            }
            # Largest factor first: `Schedule.lr` reports the first group's rate. Sorted, so that
            # the groups do not depend on which layer comes first.
            for factor, decays in sorted(groups, reverse=True)
        ],
        lr=train.lr,
    )


def make_average(
    model: nn.Module, train: Train, device: torch.device | None = None
) -> AveragedModel | None:
    """Return the moving average of the weights that the recipe asks for.

    Its decay after n steps is (1 + n) / (10 + n), up to the recipe's, so that the first weights are
    soon forgotten.
    """
    if not train.ema_decay:
        return None

    def blend(old: Several, new: Several, steps: Tensor | int) -> None:
        change = torch._foreach_sub(new, old)
        # One minus the decay, as (1 - decay) * difference keeps the digits that decay * old + (1 -
        # decay) * new would lose where decay is nearly 1.
        part = torch.as_tensor(9 / (10 + steps)).clamp(min=1 - train.ema_decay)
        torch._foreach_mul_(change, part)
        torch._foreach_add_(old, change)

    return AveragedModel(model, device, multi_avg_fn=blend)


def select_network(module: nn.Module, average: AveragedModel | None) -> nn.Module:
    """Return the network that is validated and kept: the average's, where there is one."""
    return module if average is None else average.module


def autocast(train: Train, device: torch.device) -> torch.autocast:
    """Return the context of the recipe's precision."""
    # bfloat16 has the range of float32, so no gradient scaler is needed; float16 would need one.
    # Weights and optimiser stay in float32.
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=train.precision == "bf16")


def phases(task: Task, batch: Batch) -> Iterator[Batch]:
    """Yield the batch once for each optimiser step that the task takes on it."""
    for phase in range(task.num_phases):
        yield {**batch, "phase": torch.tensor(phase)}


def on_device(batch: Batch, device: torch.device) -> Batch:
    """Return the batch on the device."""
    tensors = cast(dict[str, Tensor], batch)
    moved = {key: value.to(device, non_blocking=True) for key, value in tensors.items()}
    return cast(Batch, moved)


class Plain:
    """One process, or DDP over several."""

    def __init__(self, task: Task, model: nn.Module, train: Train, process: Process) -> None:
        self._task, self._train, self._device = task, train, process.device
        # Moved before the optimiser and the average are made: both would hold the tensors of the
        # CPU.
        self.module = model.to(self._device)
        # Before what looks at which parameters learn: DDP would wait for gradients of all others.
        self._frozen = freeze(self.module, train.freeze)
        several = process.world_size > 1
        self._wrapped = DistributedDataParallel(self.module) if several else self.module
        self.optimizer: torch.optim.Optimizer = adamw(self.module, train)
        self.average = make_average(self.module, train)

    def step(self, batch: Batch) -> Tensor:
        """Take the batch's optimiser steps and return this rank's loss (a scalar) at the first."""
        first, *_ = [self._step(one) for one in phases(self._task, batch)]
        return first

    def _step(self, batch: Batch) -> Tensor:
        set_training(self._wrapped, self._frozen)
        # Around the forward pass and the loss only: the backward pass repeats the types of the
        # forward one by itself.
        with autocast(self._train, self._device):
            loss = self._task.training_step(self._wrapped, on_device(batch, self._device))["loss"]
        loss.backward()  # type: ignore[no-untyped-call]
        if self._train.clip_norm > 0:
            # After backward, when DDP has averaged the gradients: clipped before, each rank would
            # clip by another norm.
            nn.utils.clip_grad_norm_(self.module.parameters(), self._train.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            # From the bare module: a wrapper has names with `module.` before them, and checkpoints
            # would depend on the number of ranks.
            self.average.update_parameters(self.module)
        detached: Tensor = loss.detach()
        return detached

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """Return the task's predictions without gradients."""
        module = select_network(self.module, self.average)
        # Without the wrapper: DDP would copy buffers at each forward pass, a collective call too
        # many.
        module.eval()
        with torch.no_grad(), autocast(self._train, self._device):
            return self._task.predict(module, on_device(batch, self._device))

    def check_resharding(self, before: int, now: int) -> None:
        """Refuse where a layer looks at its rank's share of the batch alone."""
        if any(
            isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in self.module.modules()
        ):
            raise ConfigError(
                f"batch norm has seen shares of the batch for {before} processes, and there are "
                f"{now}; resume with nodes and GPUs that multiply to {before}"
            )

    def save(self, folder: Path) -> None:
        """Write model and optimiser, which are equal on all ranks, from rank 0."""
        # Nothing collective in here: every rank comes, rank 0 writes.
        state = {"model": self.module.state_dict(), "optimizer": self.optimizer.state_dict()}
        if distributed.rank() == 0:
            torch.save(state, folder / "training.pt")
            save_average(self.average, folder)

    def load(self, folder: Path) -> None:
        """Read back what `save` wrote."""
        state = torch.load(folder / "training.pt", map_location=self._device, weights_only=True)
        self.module.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        load_average(self.average, folder)

    def weights(self) -> Weights:
        """Return the model's weights on the CPU of rank 0."""
        module = select_network(self.module, self.average)
        return on_cpu(module.state_dict()) if distributed.rank() == 0 else {}


class DeepSpeed:
    """DeepSpeed with optimiser state (ZeRO-1), gradients (2) and parameters (3) shared out."""

    TAG = "zero"

    def __init__(self, task: Task, model: nn.Module, train: Train, process: Process) -> None:
        deepspeed = _deepspeed(process.device)
        self._task, self._train, self._device = task, train, process.device
        self._frozen = freeze(model, train.freeze)
        # Ours and not DeepSpeed's, so that the groups and the step are those of the other
        # strategies.
        base = adamw(model, train)
        # Before initialize, which may share the weights out among the ranks.
        self.average = make_average(model, train, process.device)
        self._engine, _, _, _ = deepspeed.initialize(
            model=model, optimizer=base, config=zero_config(train, process.world_size)
        )
        # It makes a group of its own, with connections of its own.
        rendezvous.prove_further(self._engine.data_parallel_group)
        self._gather = deepspeed.zero.GatheredParameters
        self.module: nn.Module = self._engine.module
        self.optimizer: torch.optim.Optimizer = base

    def step(self, batch: Batch) -> Tensor:
        """Take the batch's optimiser steps and return this rank's loss (a scalar) at the first."""
        first, *_ = [self._step(one) for one in phases(self._task, batch)]
        return first

    def _step(self, batch: Batch) -> Tensor:
        set_training(self._engine, self._frozen)
        loss = self._task.training_step(self._engine, on_device(batch, self._device))["loss"]
        # The engine's own, and its step: it reduces the gradients, clips and zeroes them. Calling
        # the optimiser here would step on shares that are not reduced.
        self._engine.backward(loss)
        self._engine.step()
        if self.average is not None:
            self.average.update_parameters(self.module)
        detached: Tensor = loss.detach()
        return detached

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """Return the task's predictions without gradients."""
        module = select_network(self._engine, self.average)
        module.eval()
        with torch.no_grad(), autocast(self._train, self._device):
            return self._task.predict(module, on_device(batch, self._device))

    def check_resharding(self, before: int, now: int) -> None:
        """Refuse: each rank has written its share of the optimiser."""
        raise ConfigError(
            f"the checkpoint was cut for {before} processes by ZeRO, and there are {now}; resume "
            f"with nodes and GPUs that multiply to {before}"
        )

    def save(self, folder: Path) -> None:
        """Write each rank's part."""
        # Collective: each rank writes its share and waits. save_latest=False, since which
        # checkpoint counts is told by our rename alone.
        self._engine.save_checkpoint(str(folder), tag=self.TAG, save_latest=False)
        if distributed.rank() == 0:
            save_average(self.average, folder)

    def load(self, folder: Path) -> None:
        """Read back what `save` wrote, on the same number of ranks."""
        # DeepSpeed unpickles here; the folder is private to the user, and its fingerprint was
        # compared before.
        self._engine.load_checkpoint(str(folder), tag=self.TAG)
        load_average(self.average, folder)

    def weights(self) -> Weights:
        """Return the whole model's weights on the CPU of rank 0; ZeRO-3 gathers them first."""
        if self.average is not None:
            return on_cpu(self.average.module.state_dict()) if distributed.rank() == 0 else {}
        shared = list(self.module.parameters()) if self._train.zero_stage == 3 else []
        # All ranks enter: gathering is collective, a rank-0-only branch around it hangs. The copies
        # are made inside, before the shares are let go.
        with self._gather(shared):
            return on_cpu(self.module.state_dict()) if distributed.rank() == 0 else {}


def save_average(average: AveragedModel | None, folder: Path) -> None:
    """Write the average, which is equal on all ranks."""
    if average is not None:
        torch.save(average.state_dict(), folder / "average.pt")


def load_average(average: AveragedModel | None, folder: Path) -> None:
    """Read back what `save_average` wrote."""
    if average is not None:
        # On the CPU: `load_state_dict` copies into place, and a rank's second copy on the GPU would
        # be waste.
        state = torch.load(folder / "average.pt", map_location="cpu", weights_only=True)
        average.load_state_dict(state)


def on_cpu(state: Mapping[str, Tensor]) -> Weights:
    """Return contiguous copies on the CPU."""
    # clone: on a CPU `.cpu()` is the same tensor, and safetensors refuses tensors that share
    # memory.
    return {key: value.detach().cpu().contiguous().clone() for key, value in state.items()}


def zero_config(train: Train, world_size: int) -> dict[str, Any]:
    """Return DeepSpeed's configuration: all that would make it differ from DDP is written out."""
    return {
        # All three numbers are written out: DeepSpeed refuses them where they do not multiply up,
        # instead of accumulating steps in silence.
        "train_batch_size": train.batch_size,
        "train_micro_batch_size_per_gpu": train.batch_size // world_size,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": train.clip_norm,  # DeepSpeed's default is 1.0
        "zero_optimization": {"stage": train.zero_stage},
        "zero_allow_untested_optimizer": True,  # torch's AdamW needs no compiler
        "torch_autocast": {"enabled": train.precision == "bf16", "dtype": "bfloat16"},
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
    }


def _deepspeed(device: torch.device) -> Any:
    import deepspeed

    if device.type == "cpu":  # else the first start compiles a shared-memory extension for 30 s
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed
