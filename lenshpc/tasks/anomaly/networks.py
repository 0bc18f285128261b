"""The models of one class, as the registry has them."""

from lenshpc.registry import TaskSpec
from lenshpc.tasks.anomaly.autoencoders import (
    Autoencoder,
    VariationalAutoencoder,
    WassersteinAutoencoder,
)
from lenshpc.tasks.anomaly.lens_model import LensAutoencoder
from lenshpc.tasks.anomaly.masked import FeatureDistance, MaskedReconstructor
from lenshpc.tasks.anomaly.scorers import Scorer
from lenshpc.tasks.anomaly.settings import Anomaly


def conv_ae(spec: TaskSpec) -> Scorer:
    """Return a convolutional autoencoder."""
    return Autoencoder(spec.image_shape, Anomaly.of(spec.settings).latents)


def conv_vae(spec: TaskSpec) -> Scorer:
    """Return a variational autoencoder."""
    settings = Anomaly.of(spec.settings)
    return VariationalAutoencoder(spec.image_shape, settings.latents, settings.kl_anneal)


def wae(spec: TaskSpec) -> Scorer:
    """Return a Wasserstein autoencoder."""
    settings = Anomaly.of(spec.settings)
    return WassersteinAutoencoder(spec.image_shape, settings.latents, settings.mmd_weight)


def lens_ae(spec: TaskSpec) -> Scorer:
    """Return a ray-traced lens that is fitted to each image."""
    return LensAutoencoder(spec.image_shape)


def mae_scorer(spec: TaskSpec) -> Scorer:
    """Return a masked reconstruction."""
    return MaskedReconstructor(spec.image_shape)


def feature_distance(spec: TaskSpec) -> Scorer:
    """Return a distance of features."""
    return FeatureDistance(spec.image_shape)
