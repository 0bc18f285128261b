"""Import timm, and what else needs torchvision, beside any build of torch."""

import importlib.util
from typing import Any

import torch


def timm_module() -> Any:
    """Return timm, whatever torchvision stands beside torch."""
    # Before timm, whose import takes in torchvision's.
    declare_missing_torchvision_ops()
    import timm

    return timm


def declare_missing_torchvision_ops() -> None:
    """Let PyPI's torchvision be imported beside a CPU build of torch (pytorch/vision#9085).

    That torchvision registers shapes for two C++ operators which it cannot load there. Nothing here
    calls them; their schemas are enough for the import. Does nothing where torchvision is whole.
    """
    if importlib.util.find_spec("torchvision") is None or hasattr(torch.ops.torchvision, "nms"):
        return
    if torch.version.cuda is not None:
        return
    # Schemas alone: an implementation here would give wrong boxes instead of an error to whoever
    # calls them.
    _LIBRARY.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _LIBRARY.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


# The registration lives as long as this object.
_LIBRARY: Any = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
