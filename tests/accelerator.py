"""A pretended GPU: it computes on the CPU, and counts what a real one would be waited for.

Its tensors lie on the device `gpu`: mixing them with those of the CPU raises, as CUDA does, and
what passes between the two is counted. Random numbers, autograd and optimisers work; NumPy refuses
its tensors.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import (
    _DummyBackendModule,
    _setup_privateuseone_for_python_backend,
)


class Backend(_DummyBackendModule):
    """What torch asks a device's module; autocast changes nothing there."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        """Return the types that autocast may be asked for."""
        return [torch.float16, torch.bfloat16]


_setup_privateuseone_for_python_backend("gpu", Backend())
GPU = torch.device("gpu", 0)
# Operations whose result has a size or value that the CPU has to know.
READS = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "equal"}
INDEXING = {"index", "index_put_", "index_put", "_index_put_impl_", "_unsafe_index"}


class GpuTensor(torch.Tensor):
    """A tensor on the pretended GPU, with its values in one of the CPU."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> "GpuTensor":
        """Return a tensor that claims to lie on the GPU."""
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=GPU,
        )
        made.held = held
        return made

    def __repr__(self) -> str:
        """Return the values, which nobody counts."""
        return f"GpuTensor({self.held!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Refuse: outside of `pretend_gpu` there is no GPU."""
        if func is torch.ops.aten.detach.default:
            return return_and_correct_aliasing(func, args, kwargs or {}, cls(args[0].held))
        raise RuntimeError(f"{func} outside of pretend_gpu")


class Traffic(TorchDispatchMode):
    """What passes between the CPU and the GPU, counted: `where` names the operations."""

    def __init__(self) -> None:
        super().__init__()
        self.clear()

    def clear(self) -> None:
        """Begin to count anew."""
        self.sent, self.fetched, self.reads = 0, 0, 0
        self.where: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute on the CPU, and count what passes."""
        kwargs = kwargs or {}
        name = func.name().removeprefix("aten::").partition(".")[0]
        tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor)]
        # A scalar of the CPU goes with every kernel.
        places = {isinstance(one, GpuTensor) for one in tensors if one.dim() or len(tensors) == 1}
        asked = kwargs.get("device")
        to_gpu = any(isinstance(one, GpuTensor) for one in tensors)
        if asked is not None:
            to_gpu, kwargs = torch.device(asked).type == "gpu", {**kwargs, "device": "cpu"}
        if name == "copy_":
            self._count(name, tensors[1], to_gpu := isinstance(tensors[0], GpuTensor))
        elif name == "_to_copy":
            self._count(name, tensors[0], to_gpu)
        elif name in INDEXING and True in places:
            self._count_indices(name, args[1])
        elif len(places) > 1:
            raise RuntimeError(f"{name} mixes tensors of the CPU and the GPU")
        elif name in READS and True in places:
            self._count_read(name)
        held_args, held_kwargs = tree_map(_unwrap, (args, kwargs))
        found = func(*held_args, **held_kwargs)
        if not to_gpu:
            return found
        return return_and_correct_aliasing(func, args, kwargs, tree_map(_wrap, found))

    def _count(self, name: str, before: torch.Tensor, to_gpu: bool) -> None:
        if to_gpu and not isinstance(before, GpuTensor):
            self.sent += 1
            self.where[f"{name} to the GPU"] += 1
        elif isinstance(before, GpuTensor) and not to_gpu:
            self.fetched += 1
            self.where[f"{name} from the GPU"] += 1

    def _count_indices(self, name: str, indices: Any) -> None:
        for one in indices:
            if one is not None and one.dtype == torch.bool:
                self._count_read(f"{name} by a mask")
            if one is not None:  # rows named on the CPU travel first
                self._count(name, one, to_gpu=True)

    def _count_read(self, name: str) -> None:
        self.reads += 1
        self.where[name] += 1


def _unwrap(value: Any) -> Any:
    return value.held if isinstance(value, GpuTensor) else value


def _wrap(value: Any) -> Any:
    return GpuTensor(value) if isinstance(value, torch.Tensor) else value


@contextmanager
def pretend_gpu() -> Iterator[Traffic]:
    """Have `gpu` be a device of this process; yield what passes to it and back."""
    before = torch._C._only_lift_cpu_tensors()
    # Else `torch.tensor(…, device=…)` reaches the device unseen.
    torch._C._set_only_lift_cpu_tensors(True)
    try:
        with Traffic() as traffic:
            yield traffic
    finally:
        torch._C._set_only_lift_cpu_tensors(before)
