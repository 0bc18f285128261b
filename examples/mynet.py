"""A network of one's own: lenshpc submit --models ./examples/mynet.py:MyNet …"""

from torch import Tensor, nn

from lenshpc.registry import TaskSpec


class MyNet(nn.Module):
    """Two convolutions, each halving the image, and a last layer on the mean of their maps."""

    def __init__(self, spec: TaskSpec) -> None:
        super().__init__()
        channels, _, _ = spec.image_shape
        self.first = nn.Conv2d(channels, 16, kernel_size=5, stride=2, padding=2)
        self.second = nn.Conv2d(16, 32, kernel_size=5, stride=2, padding=2)
        self.last = nn.Linear(32, spec.num_outputs)

    def forward(self, image: Tensor) -> Tensor:
        """Return the outputs (B, K) of images (B, C, H, W)."""
        maps = self.second(self.first(image).relu()).relu()
        outputs: Tensor = self.last(maps.mean(dim=(2, 3)))
        return outputs
