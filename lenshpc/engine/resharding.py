"""What ZeRO has dealt out to this rank, by parameter: saved so, any number of ranks can load it.

ZeRO keeps weights and optimiser state in flat tensors, whose cut depends on the number of ranks. A
`Fragment` is the run of one parameter's numbers that lies in one of them.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lenshpc.engine import distributed

Saved = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Fragment:
    """Numbers of a flattened parameter: `numel` of them from `start` on, at `offset` of `flat`."""

    start: int
    flat: Tensor
    offset: int
    numel: int

    def find(self, flat: Tensor) -> Tensor:
        """Return these numbers in a tensor that is laid out as `flat`."""
        return flat.detach().narrow(0, self.offset, self.numel)


def list_shares(engine: Any) -> dict[str, Fragment]:
    """Return this rank's share of each parameter by name, frozen ones included."""
    found = ((name, _find_share(engine.optimizer, one)) for name, one in _parameters(engine))
    return {name: share for name, share in found if share and share.numel > 0}


def read_shares(engine: Any) -> dict[str, dict[str, Any]]:
    """Return weights and optimiser state of this rank's shares, as they lie in memory."""
    base = engine.optimizer.optimizer.state
    frozen = {name for name, one in _parameters(engine) if not one.requires_grad}
    shares = list_shares(engine)
    if engine.zero_optimization_stage() < 3 and distributed.rank() != 0:  # each rank has them all
        shares = {name: share for name, share in shares.items() if name not in frozen}
    return {
        name: {
            "start": share.start,
            "weight": share.find(share.flat),
            "state": {
                key: share.find(value) if _is_laid_out_as(share.flat, value) else value
                for key, value in base.get(share.flat, {}).items()
            },
        }
        for name, share in shares.items()
    }


def write_shares(engine: Any, parts: Iterable[Saved]) -> None:
    """Take what all ranks' `read_shares` returned into this rank's shares; a collective call."""
    zero = engine.optimizer
    if engine.zero_optimization_stage() == 3:
        zero.checkpoint_event_prologue()  # or small parameters, held whole, would stay as they are
    shares = list_shares(engine)
    for saved in parts:
        for name in shares.keys() & saved.keys():
            take_share(shares[name], saved[name], zero.optimizer.state)
    if engine.zero_optimization_stage() == 3:
        for group in range(len(zero.fp16_groups)):
            zero._reassign_or_swap_out_partitioned_parameters(group)
        zero.checkpoint_event_epilogue()
    else:
        zero.update_lp_params()


def take_share(share: Fragment, saved: Mapping[str, Any], state: Any) -> None:
    """Copy the numbers that a share and a saved one have in common."""
    weight = saved["weight"]
    begin = max(share.start, saved["start"])
    end = min(share.start + share.numel, saved["start"] + len(weight))
    if begin >= end:
        return

    def copy(target: Tensor, source: Tensor) -> None:
        here, there = begin - share.start, begin - saved["start"]
        share.find(target)[here : here + end - begin].copy_(source[there : there + end - begin])

    copy(share.flat, weight)
    for key, value in saved["state"].items():
        if not isinstance(value, Tensor) or value.shape != weight.shape:  # such as its steps
            state[share.flat][key] = value.clone() if isinstance(value, Tensor) else value
            continue
        # The optimiser makes its state at its first step.
        copy(state[share.flat].setdefault(key, torch.zeros_like(share.flat)), value)


def _parameters(engine: Any) -> Iterator[tuple[str, Any]]:
    yield from engine.module.named_parameters()


def _find_share(zero: Any, parameter: Any) -> Fragment | None:
    if hasattr(parameter, "ds_id"):  # ZeRO-3
        return _find_third(zero, parameter)
    if not parameter.requires_grad:
        return Fragment(0, parameter.detach().view(-1), 0, parameter.numel())
    mapping = parameter._hp_mapping
    if mapping is None:
        return None
    flat = zero.single_partition_of_fp32_groups[mapping.param_group_index]
    address = mapping.hp_fragment_address
    return Fragment(mapping.lp_fragment_address.start, flat, address.start, address.numel)


def cut_third(parameter: Any) -> tuple[int, int]:
    """Return where ZeRO-3 has this rank's share of a parameter begin, and its numbers."""
    length = parameter.ds_tensor.numel()
    start = distributed.rank() * length
    return start, min(length, parameter.ds_numel - start)  # the last ranks' shares are filled up


def _find_third(zero: Any, parameter: Any) -> Fragment:
    start, numel = cut_third(parameter)
    if not parameter.requires_grad:
        return Fragment(start, parameter.ds_tensor, 0, numel)
    group, offset, _ = zero.grad_position[zero.get_param_id(parameter)]
    return Fragment(start, zero.fp32_partitioned_groups_flat[group], offset, numel)


def _is_laid_out_as(flat: Tensor, value: Any) -> bool:
    return isinstance(value, Tensor) and value.shape == flat.shape
