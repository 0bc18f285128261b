"""The compiled forward and backward pass of a network, and the plain one where that fails."""

import importlib.util
import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn

from lenshpc.errors import ConfigError, one_line
from lenshpc.files import make_private_folder
from lenshpc.run.sections import Train

log = logging.getLogger(__name__)


class Compilation:
    """A network that is compiled for training steps, as the recipe says; prediction never is.

    The module stays the same one, and with it the names of its weights.
    """

    def __init__(self, network: nn.Module, train: Train, device: torch.device) -> None:
        self._network, self._works = network, train.compile != "none"
        if self._works:
            refuse_without_compiler(device)
            keep_private()
            # Shares are equally large in all steps, so no shape has to be kept open.
            network.compile(mode=train.compile, dynamic=False)
            log.info("the first step compiles the network, which may take minutes")

    def compute(self, loss: Callable[[], Tensor]) -> Tensor:
        """Return a loss that the network computes; once that cannot be compiled, without it."""
        if not self._works:
            return loss()
        from torch._dynamo.exc import TorchDynamoException
        from torch._functorch import config

        # CUDA graphs write into the same memory each time, from here on.
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        try:
            # With the forward pass: what fails within the backward one has half its gradients.
            with config.patch(force_non_lazy_backward_lowering=True):
                return loss()
        except TorchDynamoException as error:
            log.warning(
                "train.compile: the network cannot be compiled, and is trained without it: %s",
                one_line(error)[:300],
            )
            self._works, self._network._compiled_call_impl = False, None
            return loss()

    def pause(self) -> AbstractContextManager[None]:
        """Return a context of plain computing: each other shape would be compiled anew."""
        if not self._works:
            return nullcontext()
        paused: AbstractContextManager[None] = torch.compiler.set_stance("force_eager")
        return paused


def keep_private() -> None:
    """Have torch keep what it compiled where no other user can put code; LaunchError if it can."""
    if "TORCHINDUCTOR_CACHE_DIR" not in os.environ:
        folder = Path(tempfile.gettempdir()) / f"lenshpc-compiled-{os.geteuid()}"
        make_private_folder(folder)
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)  # for the member's time


def refuse_without_compiler(device: torch.device) -> None:
    """Raise ConfigError where torch has nothing to compile with, before anything is trained."""
    found = shutil.which(os.environ.get("CXX", "g++"))
    if not found:
        missing = f"{os.environ.get('CXX', 'g++')} is not there"
    elif device.type == "cuda" and importlib.util.find_spec("triton") is None:
        missing = "the package triton is not installed"
    else:
        return
    raise ConfigError(
        f"train.compile needs a compiler on the node, and {missing}; install it, load the site's "
        "module for it in its profile's setup, or use --set train.compile=none"
    )
