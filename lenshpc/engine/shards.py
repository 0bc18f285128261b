"""The average of weights that ZeRO-3 has shared out: each rank averages its own shares."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lenshpc.engine.averages import make_average
from lenshpc.engine.resharding import Fragment, cut_third, take_share
from lenshpc.run.sections import Train


class ShardAverage:
    """The average of a rank's shares; no rank ever holds the whole network for it."""

    def __init__(self, engine: Any, train: Train) -> None:
        self._engine = engine
        self._average = make_average(list_shares(engine.module), train)

    def update(self) -> None:
        """Take the shares as they are after a step into the average."""
        if self._average is not None:
            self._average.update_parameters(list_shares(self._engine.module))

    @contextmanager
    def show(self) -> Iterator[None]:
        """Have the average, where there is one, stand in place of the weights; collective."""
        if self._average is None:
            yield
            return
        shares = list(list_shares(self._engine.module))
        kept = [share.detach().clone() for share in shares]
        try:
            self._put(shares, self._average.module.parameters())
            yield
        finally:
            self._put(shares, kept)

    def _put(self, shares: Iterable[Tensor], values: Iterable[Tensor]) -> None:
        zero = self._engine.optimizer
        # What DeepSpeed holds whole, such as small parameters, would stay as it is.
        zero.parameter_offload.partition_all_parameters()
        with torch.no_grad():
            for share, value in zip(shares, values, strict=True):
                share.copy_(value)
        if zero.persistent_parameters:  # as after a step
            zero.persistent_parameters[0].all_gather(zero.persistent_parameters)

    def state(self) -> dict[str, Any]:
        """Return this rank's shares of the average by parameter, and how many it was given."""
        if self._average is None:
            return {}
        shares = {
            name: {"start": share.start, "weight": share.find(share.flat), "state": {}}
            for name, share in self._fragments()
        }
        return {"shares": shares, "count": self._average.count}

    def load(self, parts: Iterable[Mapping[str, Any]]) -> None:
        """Go on from what `state` returned on each rank, be there as many of them now or not."""
        if self._average is None:
            return
        own = dict(self._fragments())
        for part in parts:
            self._average.count = part["count"]
            for name in own.keys() & part["shares"].keys():
                take_share(own[name], part["shares"][name], {})

    def _fragments(self) -> Iterator[tuple[str, Fragment]]:
        """Yield the name of each parameter of which this rank has a share, and its average."""
        values = self._average.module.parameters() if self._average else ()
        for (name, one), value in zip(self._engine.module.named_parameters(), values, strict=True):
            start, numel = cut_third(one)
            if numel > 0:
                yield name, Fragment(start, value, 0, numel)


def list_shares(module: nn.Module) -> nn.ParameterList:
    """Return the tensors in which ZeRO-3 keeps this rank's shares, as a module to be averaged."""
    return nn.ParameterList(
        nn.Parameter(parameter.ds_tensor.data, requires_grad=False)  # type: ignore[attr-defined]
        for parameter in module.parameters()
    )
