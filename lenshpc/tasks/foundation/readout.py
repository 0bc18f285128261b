"""What a foundation model makes of new images: embeddings, their neighbours, how unusual each is.

Shapes: n rows, D features.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from lenshpc.errors import DataError
from lenshpc.registry import Fitted, Request
from lenshpc.run.results import RunResults
from lenshpc.run.trained import EnsembleSpec
from lenshpc.statistics.novelty import (
    EMBEDDING,
    Novelty,
    Reference,
    read_reference,
    read_references,
)

NUM_NEAREST = 5


class EmbeddingReadout:
    """The first member's embeddings, beside those of rows that it was validated on.

    Members learn a space each, so embeddings of several have no mean; distances have one.
    """

    arrays: ClassVar[tuple[str, ...]] = (EMBEDDING,)

    def __init__(self, spec: EnsembleSpec, fitted: Fitted, request: Request) -> None:
        request.refuse(spec.name)
        indices = [one.index for one in spec.members]
        self._ids = np.array(fitted.values["ids"], object)
        self._reference = Reference(fitted.arrays[f"{EMBEDDING}/{indices[0]}"])
        self._novelty = Novelty(indices, fitted.arrays)

    @classmethod
    def fit(cls, results: RunResults) -> Fitted:
        """Return embeddings of out-of-fold rows, and the ids of the first member's."""
        first = read_reference(results, results.plan.members[0])
        if first is None:
            raise DataError(
                f"run {results.run.name} validates on fewer than two rows, and new images are "
                "compared with these; submit it with more rows or fewer folds"
            )
        _, ids = first
        return Fitted(values={"ids": ids}, arrays=read_references(results))

    def answer(self, outputs: Sequence[Mapping[str, Any]]) -> Any:
        """Return the first member's embeddings (n, D), float16."""
        return outputs[0][EMBEDDING]

    def table(self, outputs: Sequence[Mapping[str, Any]]) -> dict[str, npt.NDArray[Any]]:
        """Return the embedding, id and distance of the nearest rows, and `score`: `ood_distance`.

        So the most unusual images come first.
        """
        unusual = self._novelty.measure(outputs)
        return {
            EMBEDDING: outputs[0][EMBEDDING],
            **unusual,
            "score": unusual["ood_distance"],
            **self._name_nearest(outputs[0][EMBEDDING]),
        }

    def _name_nearest(self, features: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
        places, distances = self._reference.nearest(features, NUM_NEAREST)
        columns: dict[str, npt.NDArray[Any]] = {}
        for at in range(places.shape[1]):
            columns[f"nearest_{at + 1}_id"] = self._ids[places[:, at]]
            columns[f"nearest_{at + 1}_distance"] = distances[:, at]
        return columns

    def settings(self) -> dict[str, Any]:
        """Return how many rows new images are compared with."""
        return {"reference_rows": len(self._ids)}
