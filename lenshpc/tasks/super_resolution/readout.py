"""What networks make of new images: the merged image, and where the members differ.

Shapes: n rows, C channels, H by W high-resolution pixels.
"""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from array_api_compat import array_namespace

from lenshpc.registry import Fitted, Request
from lenshpc.run.results import RunResults
from lenshpc.run.trained import EnsembleSpec
from lenshpc.tasks.super_resolution.images import ImageSums

IMAGE, SPREAD = "sr", "spread"


class ImageReadout:
    """The mean over models of each one's mean image, as the report merges them."""

    arrays: ClassVar[tuple[str, ...]] = (IMAGE, SPREAD)

    def __init__(self, spec: EnsembleSpec, fitted: Fitted, request: Request) -> None:
        del fitted
        request.refuse(spec.name)
        self._spec = spec

    @classmethod
    def fit(cls, results: RunResults) -> Fitted:
        """Return nothing: a mean has nothing to fit."""
        del results
        return Fitted()

    def answer(self, outputs: Sequence[Mapping[str, Any]]) -> Any:
        """Return the merged images (n, C, H, W) in the store's units, float32."""
        xp = array_namespace(outputs[0][IMAGE])
        images = [xp.astype(one[IMAGE], xp.float64) for one in outputs]
        return xp.astype(self._spec.headline_mean(images), xp.float32)

    def table(self, outputs: Sequence[Mapping[str, Any]]) -> dict[str, npt.NDArray[Any]]:
        """Return `sr`, `spread` over members pixel by pixel, and its mean as `score`.

        So the least certain images come first. A single member has a spread of 0.
        """
        places = chain(*self._spec.headline_places)
        spread = _deviate([outputs[at][IMAGE] for at in places])
        return {
            IMAGE: self.answer(outputs),
            SPREAD: spread,
            "score": spread.mean(axis=(1, 2, 3), dtype=np.float64),
        }

    def settings(self) -> dict[str, Any]:
        """Return nothing: no setting decides."""
        return {}


def _deviate(images: Sequence[npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
    """Return the std over members (n, C, H, W) that the report holds against the errors."""
    sums = ImageSums(images[0].shape)
    for one in images:
        sums.add(np.ones(len(one), bool), one)
    return np.nan_to_num(sums.stack().std).astype(np.float32)
