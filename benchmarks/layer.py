"""A network of one layer, whose step costs next to nothing: layer.py:Layer."""

from torch import Tensor, nn

from lenshpc.registry import TaskSpec


class Layer(nn.Module):
    """A matrix from all pixels to the outputs."""

    def __init__(self, spec: TaskSpec) -> None:
        super().__init__()
        channels, height, width = spec.image_shape
        self.last = nn.Linear(channels * height * width, spec.num_outputs)

    def forward(self, image: Tensor) -> Tensor:
        """Return the outputs (B, K) of images (B, C, H, W)."""
        outputs: Tensor = self.last(image.flatten(1))
        return outputs
