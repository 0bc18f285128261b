"""How fast a training computes: the operations of a step, and a GPU's peak."""

import copy
import re
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from lenshpc.engine.freezing import freeze, set_training
from lenshpc.engine.step import phases
from lenshpc.registry import Batch, Task
from lenshpc.run.sections import Train


@dataclass(frozen=True)
class Peak:
    """A kind of GPU, by a pattern of its whole name, and its peaks in TFLOP/s.

    Of matrix products without sparsity: in fp32, in TF32 (or fp32 where it has none), and in
    16-bit types that are summed in fp32.
    """

    name: str
    fp32: float
    tf32: float
    half: float


# From the makers' data sheets; of GeForce and the A6000 from NVIDIA's white papers on GA102 and
# AD102; of the MI250X half a card, which is a device of its own to torch. AMD's get no TF32 from
# torch. A slice of a GPU (MIG), and a variant with other clocks, is none of these.
PEAKS = (
    Peak(r"Tesla V100S?-SXM\d-\d+GB(-LS)?", 15.7, 15.7, 125.0),
    Peak(r"Tesla V100-PCIE-\d+GB", 14.0, 14.0, 112.0),
    Peak(r"(Tesla|NVIDIA) T4", 8.1, 8.1, 65.0),
    Peak(r"(NVIDIA )?A100[- ](SXM4|PCIE|80GB).*", 19.5, 156.0, 312.0),
    Peak(r"(NVIDIA )?A40", 37.4, 74.8, 149.7),
    Peak(r"NVIDIA L4", 30.3, 60.0, 121.0),
    Peak(r"NVIDIA L40S", 91.6, 183.0, 362.0),
    Peak(r"NVIDIA H100( 80GB HBM3|-SXM5.*)?", 67.0, 494.7, 989.4),
    Peak(r"NVIDIA H100 PCIe", 51.0, 378.0, 756.0),
    Peak(r"NVIDIA H200", 67.0, 494.7, 989.4),
    Peak(r"(NVIDIA )?GeForce RTX 3090", 35.6, 35.6, 71.0),
    Peak(r"(NVIDIA )?GeForce RTX 4090", 82.6, 82.6, 165.2),
    Peak(r"(NVIDIA )?RTX A6000", 38.7, 77.4, 154.8),
    Peak(r"AMD Instinct MI250X.*", 47.9, 47.9, 191.5),
    Peak(r"AMD Instinct MI300X.*", 163.4, 163.4, 1307.4),
)


def find_peak(device_name: str, train: Train) -> float | None:
    """Return what a GPU computes at most in a recipe's precision (TFLOP/s); None of others."""
    if " MIG " in device_name:
        return None
    found = next((one for one in PEAKS if re.fullmatch(one.name, device_name)), None)
    if found is None:
        return None
    in_fp32 = found.tf32 if train.tf32 else found.fp32
    return in_fp32 if train.precision == "fp32" else found.half


class StepCounter:
    """Counts the floating-point operations of a process's step, without taking one.

    It has a copy of the network without values, which computes nothing, draws nothing and needs no
    memory; to be made before a strategy shares the weights out among the ranks.
    """

    def __init__(self, task: Task, model: nn.Module, train: Train, device: torch.device) -> None:
        self._task, self._device = task, device
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)
        with self._mode:
            self._model = _empty_network(model, device)
        self._frozen = freeze(self._model, train.freeze)

    def count(self, batch: Batch) -> int:
        """Return the operations, forwards and backwards, of all steps on a batch.

        To be called after a step like it.
        """
        devices = [self._device] if self._device.type == "cuda" else []
        counter = FlopCounterMode(display=False)
        numbers = _Numbers()  # type: ignore[no-untyped-call] # torch's
        with torch.random.fork_rng(devices), self._mode, numbers, counter:
            empty = {
                key: torch.empty_like(value, device=self._device)
                if isinstance(value, Tensor)
                else value
                # which the loop adds to each step
                for key, value in {**batch, "progress": torch.zeros(())}.items()
            }
            for one in phases(self._task, cast(Batch, empty)):
                set_training(self._model, self._frozen)
                loss = self._task.training_step(self._model, one)["loss"]
                torch.autograd.backward(loss)
        return int(counter.get_total_flops())


class _Numbers(TorchDispatchMode):  # type: ignore[no-untyped-call] # torch's
    """Gives a number to whoever asks for that of a tensor without values: a draw, a check."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            dtype = args[0].dtype
            return 0.5 if dtype.is_floating_point else int(dtype == torch.bool)
        return func(*args, **(kwargs or {}))


def _empty_network(model: nn.Module, device: torch.device) -> nn.Module:
    """Return a copy of a network whose tensors, on the device, hold nothing."""
    known: dict[int, Any] = {}
    for one in (*model.parameters(), *model.buffers()):
        empty = torch.empty(one.shape, dtype=one.dtype, device=device)
        is_parameter = isinstance(one, nn.Parameter)
        known[id(one)] = nn.Parameter(empty, one.requires_grad) if is_parameter else empty
    return copy.deepcopy(model, known)
