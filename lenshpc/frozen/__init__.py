"""The frozen networks that ship, in whose features images are compared; their cards, without torch.

A file is safetensors: weights in half precision, and a `Card` as JSON in its header.
"""

from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lenshpc.config import Frozen
from lenshpc.errors import DataError
from lenshpc.files import sha256
from lenshpc.methods.vit import Vit

HEADER = "lenshpc"  # the key of the card in the file's header
# How a distance between features is named → the file of the network whose features they are.
FILES: Mapping[str, str] = MappingProxyType(
    {"FD-lens": "lens_classifier.safetensors", "FD-MAE": "mae_encoder.safetensors"}
)


class Card(Frozen):
    """What a frozen network is, and how images are prepared for it.

    They are averaged over channels, cut to the middle `part` of each side, resized to
    `image_shape`, brought to [0, 1] each by itself, stretched, and normalised by `mean` and
    `deviation`. `vit` is the size of an encoder of patches.
    """

    network: str
    image_shape: tuple[int, int, int]
    part: float
    num_outputs: int
    stretch: str
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    trained_on: str
    vit: Vit


def shipped() -> Iterator[tuple[str, Path]]:
    """Yield name of the distance and file of each network that is there."""
    folder = Path(str(files("lenshpc.frozen")))
    return ((name, folder / file) for name, file in FILES.items() if (folder / file).is_file())


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
            f"{path} is no frozen network ({type(error).__name__}); make one with: "
            "python -m lenshpc.engine.freeze RUN MEMBER OUT"
        ) from error
    return Card.model_validate_json(text)


def describe(path: Path) -> dict[str, Any]:
    """Return what a report says of a frozen network."""
    card = read_card(path)
    return {
        "file": path.name,
        "sha256": sha256(path),
        "network": card.network,
        "side_px": card.image_shape[-1],
        "trained_on": card.trained_on,
    }
