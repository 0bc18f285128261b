"""The Python face of trained ensembles: as a module of torch, and on new images."""

from __future__ import annotations

from collections.abc import Sequence
from os import fspath
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from lenshpc.api import Location
    from lenshpc.api.views import Planned, WrittenPredictions
    from lenshpc.engine.ensemble import Ensemble
    from lenshpc.store import Store


def load_ensemble(
    source: Location | Planned,
    *,
    models: Sequence[str] | None = None,
    device: str | torch.device | None = None,
    trust_code: bool = False,
) -> Ensemble:
    """Return the trained ensemble of a run that is done, or of an export's folder.

    It is a `torch.nn.Module`: pixels (B, C, H, W) as the store has them in, the task's answer out,
    such as probabilities (B, K). `.predict(images)` does so for numpy arrays of any number of
    images. It lies on a GPU where there is one, or on `device`. `models` chooses some of a run's.
    An export with networks in files of its own is refused without `trust_code`.

    Examples:
        >>> import lenshpc
        >>> ensemble = lenshpc.load_ensemble("spots")
        >>> ensemble.spec.classes, len(ensemble.members)
        (('plain', 'spot'), 4)
        >>> images = lenshpc.open_store("store").read_raw(slice(0, 3))
        >>> ensemble.predict(images).sum(axis=1).round(6)
        array([1., 1., 1.])
    """
    from lenshpc.api.progress import quieten_tqdm
    from lenshpc.inference.load import load_ensemble as load

    quieten_tqdm()
    return load(source, models=models, device=device, trust_code=trust_code)


def predict(
    source: Location | Planned,
    images: Location | Store,
    out: Location | None = None,
    *,
    models: Sequence[str] | None = None,
    dataset: Location | None = None,
    prior: float | None = None,
    rank_by: str | None = None,
    top: int = 100,
    trust_code: bool = False,
) -> WrittenPredictions:
    """Apply the networks of a run, or of an export, to the images of a store or a folder.

    The results go to the folder `out`: a table with a row an image in parts, candidates.csv, and
    gallery.html to grade the `top` candidates in a browser. `dataset` says what files are, by
    default as the run's own. `prior` is the share of the positive class, which moves the
    threshold; `rank_by` the class by which candidates are ranked. Stopped at any moment, the same
    call goes on.

    Examples:
        >>> import lenshpc
        >>> found = lenshpc.predict("spots", "images/test", "found", top=10)
        >>> found
        <Predictions found: 24 images, 10 candidates>
        >>> found.candidates["score"].is_monotonic_decreasing
        True
        >>> sorted(found.read(["id", "score"]).columns)
        ['id', 'score']
    """
    from lenshpc.api.progress import progress_bar, quieten_tqdm, say_or_warn, telling
    from lenshpc.api.views import WrittenPredictions
    from lenshpc.inference.predict import begin_predictions, join, name_folder, predict_parts
    from lenshpc.launch.modes import writing
    from lenshpc.store import Store

    quieten_tqdm()
    place = images.path if isinstance(images, Store) else images
    with writing():
        with telling("reading the run") as say:
            predictions = begin_predictions(
                source,
                place,
                name_folder(source, place) if out is None else Path(out),
                models=models,
                dataset=None if dataset is None else fspath(dataset),
                prior=prior,
                rank_by=rank_by,
                top=top,
                trust_code=trust_code,
                say=lambda text: say_or_warn(text, say),
            )
        with progress_bar("predicting") as progress:
            predict_parts(predictions.root, progress=progress)
        summary = join(predictions.root)
    return WrittenPredictions(folder=predictions.root, summary=summary)
