"""The models of one class, by name."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from lenshpc.config import unknown
from lenshpc.errors import ConfigError
from lenshpc.tasks.anomaly.autoencoders import (
    Autoencoder,
    VariationalAutoencoder,
    WassersteinAutoencoder,
)
from lenshpc.tasks.anomaly.lens_model import LensAutoencoder
from lenshpc.tasks.anomaly.masked import FeatureDistance, MaskedReconstructor
from lenshpc.tasks.anomaly.scorers import Scorer, Shape
from lenshpc.tasks.anomaly.settings import Anomaly

MODELS: Mapping[str, Callable[[Shape, Anomaly], Scorer]] = MappingProxyType(
    {
        "conv_ae": lambda shape, method: Autoencoder(shape, method.latents),
        "conv_vae": lambda shape, method: VariationalAutoencoder(
            shape, method.latents, method.kl_anneal
        ),
        "wae": lambda shape, method: WassersteinAutoencoder(
            shape, method.latents, method.mmd_weight
        ),
        "mae_scorer": lambda shape, _: MaskedReconstructor(shape),
        "feature_distance": lambda shape, _: FeatureDistance(shape),
        "lens_ae": lambda shape, _: LensAutoencoder(shape),
    }
)


def build(name: str, *, image_shape: Shape, method: Anomaly) -> Scorer:
    """Return the model of that name for images (C, H, W)."""
    if name not in MODELS:
        raise ConfigError(unknown("model of task anomaly", name, MODELS))
    return MODELS[name](image_shape, method)
