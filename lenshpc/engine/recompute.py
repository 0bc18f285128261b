"""Activation checkpointing: what a block computed forwards is computed again backwards."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from lenshpc.errors import ConfigError


def recompute_blocks(network: nn.Module) -> None:
    """Have a network keep the inputs of its blocks alone, and compute the rest again backwards.

    Weights keep their names. ConfigError of a network without blocks.
    """
    blocks = find_blocks(network)
    if not blocks:
        raise ConfigError(
            f"train.activation_checkpointing: {type(network).__name__} has no list of blocks that "
            "could be recomputed; remove it"
        )
    for block in blocks:
        # Its forward and not a module around it, which would have names of its own.
        block.forward = partial(
            checkpoint,
            block.forward,
            use_reentrant=False,
            context_fn=partial(_make_contexts, block),
        )


def find_blocks(network: nn.Module) -> list[nn.Module]:
    """Return the innermost parts of lists and sequences that have several layers themselves."""
    lists = [part for part in network.modules() if isinstance(part, nn.ModuleList | nn.Sequential)]
    found = [part for one in lists for part in one if len(list(part.children())) > 1]
    inner = {id(part) for part in found}
    return [
        block
        for block in dict.fromkeys(found)
        if not any(id(part) in inner for part in block.modules() if part is not block)
    ]


def _make_contexts(
    block: nn.Module,
) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _hold_statistics(block)


@contextmanager
def _hold_statistics(block: nn.Module) -> Iterator[None]:
    """Have batch norm not count the batch a second time."""
    norms = [part for part in block.modules() if isinstance(part, _BatchNorm)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, counted) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, counted
