"""The networks in whose features images are compared, and their cards; without torch.

The file of one that ships is safetensors: weights in half precision, and a `Card` as JSON in its
header. Inception does not ship; a recipe may name the file of its weights.
"""

from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lenshpc.config import Frozen
from lenshpc.errors import ConfigError, DataError
from lenshpc.files import sha256
from lenshpc.models.vit import Vit

HEADER = "lenshpc"  # the key of the card in the file's header
# How a distance between features is named → the file of the network whose features they are.
FILES: Mapping[str, str] = MappingProxyType(
    {"FD-lens": "lens_classifier.safetensors", "FD-MAE": "mae_encoder.safetensors"}
)
# The Fréchet distance in features of Inception v3 with these weights, and no others, is the FID.
FID = "FID"
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
INCEPTION_URL = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
    "weights-inception-2015-12-05-6726825d.pth"
)


class Card(Frozen):
    """What a feature extractor is, and how images are prepared for it.

    They are averaged over channels, cut to the middle `part` of each side, resized to
    `image_shape`, brought to [0, 1] each by itself, stretched, and normalised by `mean` and
    `std`. `vit` is the size of an encoder of patches.
    """

    network: str
    image_shape: tuple[int, int, int]
    part: float
    num_outputs: int
    stretch: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    trained_on: str
    vit: Vit


def find_shipped() -> Iterator[tuple[str, Path]]:
    """Yield name of the distance and file of each network that is there."""
    folder = Path(str(files("lenshpc.tasks.diffusion.feature_extractors")))
    return ((name, folder / file) for name, file in FILES.items() if (folder / file).is_file())


def distances(inception: str | None) -> tuple[str, ...]:
    """Return the names of the Fréchet distances; the FID is one if Inception's file is given."""
    return (*(name for name, _ in find_shipped()), *((FID,) if inception else ()))


def kernel_distance(distance: str) -> str:
    """Return what the kernel distance in the same features is called: `FD-lens` → `KID-lens`."""
    return "KID" if distance == FID else distance.replace("FD", "KID")


def array_name(distance: str, images: str) -> str:
    """Return the name of an array of features: `FD-lens`, `sample` → `lens_sample`."""
    return f"{distance.removeprefix('FD-').lower()}_{images}"


def read_card(path: Path) -> Card:
    """Return the card in a file's header."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as opened:
            text = (opened.metadata() or {})[HEADER]
    except (OSError, SafetensorError, KeyError) as error:
        raise DataError(
            f"{path} is not a feature extractor ({type(error).__name__}); make one with: python "
            "-m lenshpc.tasks.diffusion.freeze RUN MEMBER OUT"
        ) from error
    return Card.model_validate_json(text)


def describe(path: Path) -> dict[str, Any]:
    """Return what a report says of a feature extractor."""
    card = read_card(path)
    return {
        "file": path.name,
        "sha256": sha256(path),
        "network": card.network,
        "side_px": card.image_shape[-1],
        "trained_on": card.trained_on,
    }


def describe_all(inception: str | None) -> dict[str, dict[str, Any]]:
    """Return the same of each network in whose features images are compared."""
    found = {name: describe(path) for name, path in find_shipped()}
    if inception:
        found[FID] = {
            "file": Path(inception).name,
            "sha256": INCEPTION_SHA256,
            "network": "Inception v3, pooled features (torch-fidelity)",
            "side_px": 299,
            "trained_on": "ImageNet",
        }
    return found


def find_inception(path: str) -> Path:
    """Return the whole path of the file of Inception's weights; refuse any other file."""
    found = Path(path).resolve()
    if not found.is_file():
        raise ConfigError(f"method.inception {path}: no such file; download {INCEPTION_URL}")
    digest = sha256(found)
    if digest != INCEPTION_SHA256:
        raise ConfigError(
            f"method.inception {path} has the SHA-256 {digest[:8]}…, and the weights that the FID "
            f"is defined by have {INCEPTION_SHA256[:8]}…; download {INCEPTION_URL}"
        )
    return found
