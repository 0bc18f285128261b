"""The models of one class, as the registry has them."""

from lenshpc.registry import TaskSpec
from lenshpc.tasks.anomaly.autoencoders import (
    Autoencoder,
    VariationalAutoencoder,
    WassersteinAutoencoder,
)
from lenshpc.tasks.anomaly.lens_model import LensAutoencoder
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
