"""Steps under DeepSpeed ZeRO, which shares out optimiser, gradients and parameters."""

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from lenshpc.engine import distributed, rendezvous
from lenshpc.engine.averages import make_average, select_network
from lenshpc.engine.compiling import Compilation
from lenshpc.engine.distributed import Process
from lenshpc.engine.freezing import freeze
from lenshpc.engine.network import bucket_elements, prepare_network, uses_channels_last
from lenshpc.engine.optimizers import build_optimizer
from lenshpc.engine.precision import HostScale, autocast
from lenshpc.engine.resharding import read_shares, write_shares
from lenshpc.engine.shards import ShardAverage
from lenshpc.engine.step import Stepping, Weights, lay_out, mean_loss, split
from lenshpc.errors import ConfigError, one_line
from lenshpc.registry import Batch, Task
from lenshpc.run.sections import Train


class DeepSpeed(Stepping):
    """DeepSpeed with optimiser state (ZeRO-1), gradients (2) and parameters (3) shared out."""

    def __init__(self, task: Task, model: nn.Module, train: Train, process: Process) -> None:
        deepspeed = _deepspeed(process.device)
        self._task, self._train, self._device = task, train, process.device
        # It stays on the host: DeepSpeed moves it, in stage 3 each rank's share alone.
        model = prepare_network(model, train, process)
        self._channels_last = uses_channels_last(train, process.device)
        self._frozen = freeze(model, train.freeze)
        # Ours and not DeepSpeed's, so that the groups and the step are those of the other
        # strategies.
        base: torch.optim.Optimizer = build_optimizer(model, train, process.device)
        if train.offload != "none":
            base = move_to_host(base)
        shared = train.zero_stage == 3
        # Before initialize, which shares the weights out among the ranks in stage 3.
        self.average = None if shared else make_average(model, train, process.device)
        config = zero_config(train, process.world_size, bucket_elements(model))
        self._engine, _, _, _ = deepspeed.initialize(model=model, optimizer=base, config=config)
        # It makes a group of its own, with connections of its own.
        rendezvous.prove_further(self._engine.data_parallel_group)
        self._gather = deepspeed.zero.GatheredParameters
        self.module: nn.Module = self._engine.module
        self.optimizer: torch.optim.Optimizer = base
        self._shards = ShardAverage(self._engine, train) if shared else None
        self._scale = HostScale() if train.precision == "fp16" else None
        # DeepSpeed's own scaler: gradients are clipped before it divides by its scale, and steps
        # that it leaves out do not lower it.
        self._engine.optimizer.torch_autocast_gradscaler = None
        self._compilation = Compilation(self.module, train, process.device)

    def _step(self, batch: Batch) -> Tensor:
        self._begin_training(self._engine)
        if self._scale is not None:
            self._engine.optimizer.override_loss_scale(self._scale.scale)
        losses = [self._backward(part) for part in split(batch, self._train.accumulate)]
        if self._scale is not None:
            self._scale.follow(skipped=self._engine.optimizer.overflow)
        if self._shards is not None:
            self._shards.update()
        if self.average is not None:
            self.average.update_parameters(self.module)
        return mean_loss(losses)

    def _backward(self, part: Batch) -> Tensor:
        """Add a part's gradients; after the last one, DeepSpeed takes the optimiser's step."""
        loss = self._compilation.compute(
            lambda: self._task.training_step(self._engine, part)["loss"]
        )
        # The engine's own, and its step: it reduces the gradients, clips and zeroes them. Calling
        # the optimiser here would step on shares that are not reduced. It divides by the number of
        # parts by itself.
        self._engine.backward(loss)
        self._engine.step()
        detached: Tensor = loss.detach()
        return detached

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """Return the task's predictions without gradients."""
        module = select_network(self._engine, self.average)
        module.eval()
        self._evaluated = True
        laid = lay_out(batch, channels_last=self._channels_last)
        with (
            torch.no_grad(),
            autocast(self._train, self._device),
            self._compilation.pause(),
            self._show_average(),
        ):
            return self._task.predict(module, laid)

    def _show_average(self) -> AbstractContextManager[None]:
        """Return a context in which the shares of ZeRO-3 are those of the average."""
        return nullcontext() if self._shards is None else self._shards.show()

    def state(self) -> dict[str, Any]:
        """Return this rank's shares of weights and optimiser, and on rank 0 what all have."""
        state: dict[str, Any] = {"shares": read_shares(self._engine)}
        if self._scale is not None:
            state["scaler"] = vars(self._scale)
        if self._shards is not None:
            state["shard_average"] = self._shards.state()
        if self.average is not None and distributed.rank() == 0:
            state["average"] = self.average.state_dict()
        return state

    def load(self, parts: Iterable[Mapping[str, Any]]) -> None:
        """Go on from what `state` returned on each rank, be there as many of them now or not."""
        first, *others = parts
        write_shares(self._engine, (part["shares"] for part in (first, *others)))
        if self._scale is not None:
            vars(self._scale).update(first["scaler"])
        if self._shards is not None:
            self._shards.load(part["shard_average"] for part in (first, *others))
        if self.average is not None:
            self.average.load_state_dict(first["average"])

    @contextmanager
    def weights(self) -> Iterator[Weights]:
        """Have the whole model's weights on rank 0 while the block lasts; ZeRO-3 gathers them."""
        shared = list(self.module.parameters()) if self._train.zero_stage == 3 else []
        module = select_network(self.module, self.average)
        # All ranks enter: gathering is collective, a rank-0-only branch around it hangs.
        with self._show_average(), self._gather(shared):
            yield module.state_dict() if distributed.rank() == 0 else {}


def zero_config(train: Train, world_size: int, bucket: int) -> dict[str, Any]:
    """Return DeepSpeed's configuration: all that would make it differ from DDP is written out.

    A message between ranks has `bucket` numbers.
    """
    offloads = train.offload != "none"
    return {
        # All three numbers are written out: DeepSpeed refuses them where they do not multiply up,
        # instead of accumulating steps in silence.
        "train_batch_size": train.batch_size,
        "train_micro_batch_size_per_gpu": train.batch_size // world_size // train.accumulate,
        "gradient_accumulation_steps": train.accumulate,
        "gradient_clipping": train.clip_norm,  # DeepSpeed's default is 1.0
        "zero_optimization": {
            "stage": train.zero_stage,
            "overlap_comm": True,
            # Its norm is read on the host: only where it is needed, to clip or to skip a step, and
            # where DeepSpeed insists.
            "compute_grad_norm": train.clip_norm > 0
            or train.precision == "fp16"
            or offloads
            or train.zero_stage == 3,
            "contiguous_gradients": True,
            "reduce_bucket_size": bucket,  # DeepSpeed's default takes 2 GB, whatever the network
            "allgather_bucket_size": bucket,
            "stage3_prefetch_bucket_size": bucket,
            # It would replace torch's `linear` for the whole process, and round in other places.
            "memory_efficient_linear": False,
            **_list_offloads(train),
        },
        "zero_allow_untested_optimizer": True,  # torch's AdamW needs no compiler
        "torch_autocast": {
            "enabled": train.precision != "fp32",
            "dtype": {"fp16": "float16"}.get(train.precision, "bfloat16"),
            # No layer's gradients are reduced in half precision: they are summed as under DDP.
            "lower_precision_safe_modules": [],
        },
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
    }


def _list_offloads(train: Train) -> dict[str, Any]:
    """Return what ZeRO keeps on the host."""
    host = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    keys = {"none": (), "optimizer": ("optimizer",), "parameters": ("optimizer", "param")}
    return {f"offload_{key}": host for key in keys[train.offload]}


def move_to_host(base: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Return DeepSpeed's Adam for CPUs in place of AdamW, on the same groups of parameters.

    ConfigError where it cannot be built on this node.
    """
    from deepspeed.ops.adam import DeepSpeedCPUAdam

    try:
        # Built anew by each process: torch's own cache has a lock, and a process that is killed
        # while it builds leaves it there, for all later ones to wait at without end.
        with tempfile.TemporaryDirectory() as folder, distributed.restore_environment():
            os.environ["TORCH_EXTENSIONS_DIR"] = folder
            moved: torch.optim.Optimizer = DeepSpeedCPUAdam(base.param_groups, adamw_mode=True)
    except Exception as error:  # what a compiler of extensions raises is anybody's guess
        raise ConfigError(
            f"train.offload needs DeepSpeed's CPU Adam, which cannot be built on this node "
            f"({one_line(error)[:200]}); install g++ and ninja, or use --set train.offload=none"
        ) from error
    return moved


def _deepspeed(device: torch.device) -> Any:
    import deepspeed

    if device.type == "cpu":  # else the first start compiles a shared-memory extension for 30 s
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed
