"""The Python face of data: images are simulated, become a store, and a store is opened."""

from __future__ import annotations

from os import fspath
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lenshpc.api import Images, Location
    from lenshpc.api.views import OpenStore


def simulate(
    dataset: Location,
    out: Location,
    *,
    train: Images,
    val: Images | None = None,
    test: Images | None = None,
    difficulty: str | float | None = None,
    seed: int = 0,
    workers: int | None = None,
) -> Path:
    """Make images that stand in for a survey's in the new folder `out`, and return it.

    `dataset` is a name that ships, or the path of a .yaml; `train`, `val` and `test` are numbers of
    images of each class, or class → number. `difficulty` is that of `lens_finding`: `easy`, `sky`
    (as the file has it) or a number from 0 to 1. Equal seeds give equal images.

    Examples:
        >>> import lenshpc
        >>> lenshpc.simulate("lens_finding", "images", train={"nonlens": 2, "lens": 1}, workers=1)
        PosixPath('images')
    """
    from lenshpc.api.progress import progress_bar
    from lenshpc.prep.dataset import load_dataset
    from lenshpc.prep.parallel import num_cores
    from lenshpc.prep.simulation.counts import parse_counts, write_count
    from lenshpc.prep.simulation.difficulty import with_difficulty
    from lenshpc.prep.simulation.simulate import simulate as make_images

    loaded = with_difficulty(load_dataset(fspath(dataset)), difficulty)
    counts = parse_counts(
        loaded, {"train": write_count(train), "val": write_count(val), "test": write_count(test)}
    )
    with progress_bar("simulating") as progress:
        make_images(
            loaded,
            Path(out),
            counts,
            seed=seed,
            workers=workers or num_cores(),
            progress=progress,
        )
    return Path(out)


def prepare(
    dataset: Location,
    source: Location,
    store: Location,
    *,
    seed: int = 0,
    workers: int | None = None,
) -> OpenStore:
    """Turn the images under `source` into a new store, laid out as `dataset` says, and open it.

    Stopped at any moment, the same call goes on. DataError names a file that is wrong.

    Examples:
        >>> import lenshpc
        >>> images = lenshpc.simulate("lens_finding", "images", train=3, test=1, workers=1)
        >>> lenshpc.prepare("lens_finding", images, "stores/toy", workers=1)
        <Store stores/toy: 8 images, 3 x 64 x 64 float32, classes nonlens, lens>
    """
    from lenshpc.api.progress import progress_bar
    from lenshpc.api.views import OpenStore, convert
    from lenshpc.prep.convert import Options
    from lenshpc.prep.convert import convert as make_store
    from lenshpc.prep.dataset import load_dataset
    from lenshpc.prep.parallel import num_cores

    with progress_bar("converting") as progress:
        made = make_store(
            load_dataset(fspath(dataset)),
            Path(source),
            Path(store),
            Options(seed=seed),
            workers=workers or num_cores(),
            progress=progress,
        )
    return convert(OpenStore, made)


def open_store(path: Location) -> OpenStore:
    """Return the store at a path; DataError where it is absent, unfinished or damaged.

    Examples:
        >>> import lenshpc
        >>> store = lenshpc.open_store("stores/spots")
        >>> store
        <Store stores/spots: 120 images, 1 x 32 x 32 float32, classes class0, class1>
        >>> store.rows["split"].value_counts().to_dict()
        {'train': 96, 'test': 24}
        >>> store.read(slice(0, 2)).shape
        (2, 1, 32, 32)
    """
    from lenshpc.api.views import OpenStore, convert
    from lenshpc.store import open_store as open_at

    return convert(OpenStore, open_at(Path(path)))
