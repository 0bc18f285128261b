"""Our own networks that tell classes apart, as the registry has them."""

from torch import nn

from lenshpc.models.d4 import D4Net
from lenshpc.models.encoder import EncoderClassifier
from lenshpc.registry import TaskSpec
from lenshpc.tasks.supervised.settings import Supervised


def d4_net(spec: TaskSpec) -> nn.Module:
    """Return the network that is equivariant under flips and quarter turns."""
    return D4Net(spec.image_shape[0], spec.num_outputs)


def mae_vit(spec: TaskSpec) -> nn.Module:
    """Return the encoder of a masked autoencoder under a last layer."""
    settings = Supervised.of(spec.settings)
    return EncoderClassifier(
        spec.image_shape[0], spec.num_outputs, settings.vit, settings.drop_path
    )
