"""Build networks from timm by name."""

import importlib.util
from typing import Any

import torch
from torch import nn


def build(name: str, *, image_shape: tuple[int, int, int], num_outputs: int) -> nn.Module:
    """Return a randomly initialised timm network for (C, H, W) images.

    A network with a fixed input size (a ViT, say) is built for the images' size.
    """
    timm = _timm()
    channels, height, width = image_shape
    options = {"in_chans": channels, "num_classes": num_outputs, "pretrained": False}
    try:
        network: nn.Module = timm.create_model(name, img_size=(height, width), **options)
    except TypeError:  # convolutional networks take any size and refuse the argument
        network = timm.create_model(name, **options)
    return network


def _timm() -> Any:
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
    _LIBRARY.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _LIBRARY.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


# The registration lives as long as this object.
_LIBRARY: Any = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
