"""Apply a trained ensemble to new images: begin, predict a share of the parts, join them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.api.types import is_numeric_dtype

from lenshpc.config import validate
from lenshpc.errors import ConfigError, DataError
from lenshpc.files import write_json
from lenshpc.inference.archive import SUFFIX
from lenshpc.inference.candidates import find_candidates, write_candidates
from lenshpc.inference.gallery import GalleryHeading, write_gallery
from lenshpc.inference.load import place_ensemble
from lenshpc.inference.outputs import PredictionRequest, Predictions, begin
from lenshpc.inference.sources import ImageBlock, ImageSource, is_store, open_source
from lenshpc.inference.trained import open_trained
from lenshpc.prep.dataset import Dataset, load_dataset
from lenshpc.registry import Readout, Request
from lenshpc.run.stages import Say, silent
from lenshpc.run.trained import EnsembleSpec, check_images, make_readout
from lenshpc.store import pixel_moments

if TYPE_CHECKING:
    from lenshpc.engine.ensemble import Ensemble

BLOCK_ROWS = 256  # images that are read, and held, at a time
PART_ROWS = 4096
ARRAY_PART_ROWS = 256  # where a task gives images, of which a part holds all in memory
NUM_LOOKED_AT = 256  # images by which units are judged before anything is predicted
MAX_TOLD = 10  # images that could not be read and are named
READABLE = "it can be read by now; begin again with another --out"
CANDIDATES, GALLERY, SUMMARY = "candidates.csv", "gallery.html", "summary.json"

Progress = Callable[[int, int], None]


def name_folder(source: str | os.PathLike[str], images: str | os.PathLike[str]) -> Path:
    """Return where the predictions of a run, or an export, lie if nobody says so."""
    name = Path(source).name.removesuffix(SUFFIX)
    return Path("predictions") / f"{name}-{Path(images).resolve().name}"


def begin_predictions(
    source: str | os.PathLike[str],
    images: str | os.PathLike[str],
    out: Path,
    *,
    models: Sequence[str] | None = None,
    dataset: str | None = None,
    part_rows: int | None = None,
    prior: float | None = None,
    rank_by: str | None = None,
    top: int = 100,
    trust_code: bool = False,
    say: Say = silent,
) -> Predictions:
    """Return the output folder of a run's or an export's predictions, begun now or earlier.

    `images` is a store, or a folder of files as `dataset` has them, by default the run's own.
    ConfigError where the images are not as those of the training; a word where their brightness is
    not.
    """
    if not Path(images).exists():  # before a minute goes into the ensemble
        raise ConfigError(f"no store or folder of images at {images}; check the path")
    trained = open_trained(source, models, say=say)
    readout = make_readout(trained, Request(prior=prior, rank_by=rank_by))
    layout = _find_layout(Path(images), dataset, trained.spec)
    found = open_source(Path(images), layout)
    for line in found.told:
        say(line)
    check_source(trained.spec, found, say)
    asking = {
        "ensemble": trained.spec.digest,
        "name": trained.spec.name,
        "weights": {index: str(path.resolve()) for index, path in trained.weights.items()},
        "code": None if trained.code is None else str(trained.code.resolve()),
        "is_foreign": trained.is_foreign,
        "trust_code": trust_code,
        "source": str(Path(images).resolve()),
        "source_digest": found.digest,
        "dataset": None if layout is None else _dump(layout),
        "num_rows": found.num_rows,
        "part_rows": part_rows or (ARRAY_PART_ROWS if readout.arrays else PART_ROWS),
        "arrays": readout.arrays,
        "prior": prior,
        "rank_by": rank_by,
        "top": top,
    }
    request = validate(PredictionRequest, asking, "the request")
    return begin(out, request, trained)


def _dump(layout: Dataset) -> dict[str, Any]:
    return layout.model_dump(mode="json", by_alias=True, exclude={"simulate"})


def _find_layout(images: Path, dataset: str | None, spec: EnsembleSpec) -> Dataset | None:
    """Return what files are: as asked, or as those that the run's store was made of."""
    if is_store(images):
        return None
    if dataset is not None:
        return load_dataset(dataset)
    return validate(Dataset, dict(spec.source), f"the dataset file of {spec.name}")


def check_source(spec: EnsembleSpec, source: ImageSource, say: Say) -> None:
    """Refuse images of another shape or dtype; say where their brightness is another."""
    if not source.num_rows:
        raise ConfigError(f"{source.path} holds no images; give one that does")
    check_images(spec, source.image_shape, source.dtype)
    if source.channels != spec.channels:
        raise ConfigError(
            f"{source.path} has the channels {', '.join(source.channels)}, and {spec.name} was "
            f"trained on {', '.join(spec.channels)}, in this order; give images with the same "
            "channels"
        )
    rows = range(min(NUM_LOOKED_AT, source.num_rows))
    block = source.read(rows)
    # Not a bad image among good ones, but another kind of file.
    if 2 * len(block.faults) > len(rows):
        first = block.faults[min(block.faults)]
        raise DataError(f"{first}; so are {len(block.faults)} of the first {len(rows)} images")
    good = [at for at in rows if at not in block.faults]
    moments = pixel_moments(block.pixels[good], spec.scale)
    far = spec.pixels.distance(moments) > spec.pixels.limit
    if len(good) and far.mean() > 0.5:
        here = float(np.median(moments[..., 0]))
        there = float(np.median(spec.pixels.centre[0]))
        say(
            f"warning: {int(far.sum())} of the first {len(good)} images are brighter or fainter "
            f"than 99.9 % of the training's: their median mean is {here:.4g}, there it is "
            f"{there:.4g}; are the units the same?"
        )


@dataclass(frozen=True)
class Predictor:
    """What a process needs to predict parts: the folder, the images, the networks."""

    predictions: Predictions
    source: ImageSource
    ensemble: Ensemble

    def predict(self, part: int, progress: Callable[[int], None]) -> None:
        """Predict a part and write it."""
        rows = self.predictions.rows(part)
        tables: list[pd.DataFrame] = []
        arrays: dict[str, list[NDArray[Any]]] = {name: [] for name in self._readout.arrays}
        for block in self._read(rows):
            # Filled anew where the networks do it: their training's fill may be another one.
            pixels = block.pixels if self.ensemble.filling is None else block.with_gaps
            columns = self._readout.table(self.ensemble.columns(pixels))
            for name in arrays:
                arrays[name].append(_blank(columns.pop(name), block.faults))
            tables.append(self._tabulate(block, columns))
            progress(len(block.ids))
        joined = {name: np.concatenate(values) for name, values in arrays.items()}
        self.predictions.write(part, pd.concat(tables, ignore_index=True), joined)

    @property
    def _readout(self) -> Readout:
        return self.ensemble.readout

    def _read(self, rows: range) -> Iterator[ImageBlock]:
        from lenshpc.data.readers import ahead

        # By the part's own first row, whoever predicts it: the same batches give the same bits.
        starts = range(rows.start, rows.stop, BLOCK_ROWS)
        blocks = (range(at, min(at + BLOCK_ROWS, rows.stop)) for at in starts)
        return ahead(map(self.source.read, blocks), 1)

    def _tabulate(self, block: ImageBlock, columns: Mapping[str, NDArray[Any]]) -> pd.DataFrame:
        spec = self.ensemble.spec
        moments = pixel_moments(block.pixels, spec.scale)
        off = spec.pixels.distance(moments) / spec.pixels.limit
        known = {"row": np.arange(block.rows.start, block.rows.stop), "id": block.ids}
        table = pd.DataFrame({**known, **block.columns, **columns})
        table["ood_pixels"] = off.astype(np.float32)
        blank = _find_blank(moments)
        # What is said of zeros in place of an image, or of an image without any, is nothing that
        # anybody may use.
        bad = sorted({*block.faults, *np.flatnonzero(blank)})
        table.loc[bad, [name for name in table if name not in {*known, *block.columns}]] = None
        table["flags"] = _flag(table, blank, [*block.faults])
        # The same types in every part, also where a part has no text in a column.
        texts = [name for name in table if not is_numeric_dtype(table[name])]
        return table.astype(dict.fromkeys(texts, "string"))


def _blank(values: NDArray[Any], faults: Collection[int]) -> NDArray[Any]:
    """Return values (n, …) with NaN for the images that could not be read."""
    if not faults:
        return values
    blanked = values.copy()
    blanked[[*faults]] = np.nan
    return blanked


def _find_blank(moments: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which images (n,) are constant, by their mean and mean square (n, C, 2)."""
    spread = moments[..., 1] - moments[..., 0] ** 2
    # Relative, since a difference of squares leaves rounding errors of a constant image.
    constant = spread <= 1e-12 * np.maximum(moments[..., 1], 1e-30)
    return np.asarray(constant.all(axis=1))


def _flag(
    table: pd.DataFrame, blank: NDArray[np.bool_], faults: Sequence[int]
) -> NDArray[np.object_]:
    """Return what is odd about each image, separated by commas."""
    unusual = table.get("ood_distance", pd.Series(0.0, table.index)).to_numpy(np.float64) > 1
    unread = np.isin(np.arange(len(table)), faults)
    words = {
        "unreadable": unread,
        "blank": blank & ~unread,
        "pixels": table["ood_pixels"].to_numpy(np.float64) > 1,
        "unusual": unusual,
    }
    told = [",".join(word for word, at in words.items() if at[row]) for row in range(len(table))]
    return np.array(told, object)


def predict_parts(
    root: Path, element: int = 0, array_size: int = 1, progress: Progress = lambda *_: None
) -> None:
    """Predict the element's share of the parts that an output folder lacks."""
    predictions = Predictions(root)
    mine = predictions.missing(element, array_size)
    if not mine:
        return
    predictor = open_predictor(predictions)
    num_rows = sum(len(predictions.rows(part)) for part in mine)
    done = 0

    def count(rows: int) -> None:
        nonlocal done
        done += rows
        progress(done, num_rows)

    for part in mine:
        predictor.predict(part, count)


def open_predictor(predictions: Predictions) -> Predictor:
    """Return what predicts the parts of an output folder, on a GPU where there is one."""
    request = predictions.request
    ensemble = place_ensemble(predictions.trained, request.asked, trust_code=request.trust_code)
    return Predictor(predictions, open_images(request), ensemble)


def open_images(request: PredictionRequest) -> ImageSource:
    """Return the images of a request; ConfigError where they are others by now."""
    layout = None
    if request.dataset is not None:
        layout = validate(Dataset, dict(request.dataset), "the dataset file of the request")
    source = open_source(Path(request.source), layout)
    if source.digest != request.source_digest:
        raise ConfigError(
            f"{request.source} no longer holds the images that the predictions were started with; "
            "start again with another folder as --out"
        )
    return source


def join(root: Path) -> dict[str, Any]:
    """Write candidates, gallery and summary of an output folder that has all parts.

    IncompleteError where it lacks one. Returns the summary.
    """
    predictions = Predictions(root)
    predictions.check_whole()
    request, trained = predictions.request, predictions.trained
    parts = [predictions.part(part) for part in range(predictions.num_parts)]
    top = find_candidates(parts, request.top)
    write_candidates(top, root / CANDIDATES)
    settings = make_readout(trained, request.asked).settings()
    source = open_images(request)
    images = [source.read(range(row, row + 1)).pixels[0] for row in top["row"]]
    heading = GalleryHeading(
        run=request.name,
        source=request.source,
        num_images=request.num_rows,
        threshold=settings.get("threshold"),
        prior=settings.get("prior"),
        digest=request.ensemble[:16] + request.source_digest[:16],
    )
    shape = (len(images), *trained.spec.image_shape)
    write_gallery(root / GALLERY, top, np.reshape(images, shape), heading)
    summary = {
        "run": request.name,
        "ensemble": request.ensemble,
        "source": request.source,
        "num_images": request.num_rows,
        "settings": settings,
        **_tally(parts, source),
    }
    write_json(root / SUMMARY, summary)
    return summary


def _tally(parts: Sequence[Path], source: ImageSource) -> dict[str, Any]:
    """Return how many images have each decision and flag, and why the first cannot be read."""
    decisions: Counter[str] = Counter()
    flags: Counter[str] = Counter()
    unreadable: dict[str, str] = {}
    for part in parts:
        table = pd.read_parquet(part)
        decisions.update(table.get("decision", pd.Series(dtype=object)).dropna())
        flags.update(chain.from_iterable(map(_split_flags, table["flags"])))
        lost = table.loc[table["flags"] == "unreadable", ["row", "id"]]
        for row, name in lost.head(MAX_TOLD - len(unreadable)).itertuples(index=False):
            faults = source.read(range(row, row + 1)).faults
            unreadable[name] = faults.get(0, READABLE)
    return {
        "decisions": dict(sorted(decisions.items())),
        "flags": dict(sorted(flags.items())),
        "unreadable": unreadable,
    }


def _split_flags(words: str) -> list[str]:
    return words.split(",") if words else []
