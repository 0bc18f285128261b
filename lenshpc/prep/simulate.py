"""Simulate the lens-finding set in its original layout, with the truth beside the images."""

import csv
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lenshpc.errors import ConfigError, DataError
from lenshpc.files import flush_folder
from lenshpc.prep.dataset import Dataset, SplitName
from lenshpc.prep.render import Camera
from lenshpc.prep.scene import Scene, draw_lens, draw_nonlens

_DRAW = {"lens": draw_lens, "nonlens": draw_nonlens}
# Part of the seed of every image: changing the order would change all simulated sets.
_STREAMS: tuple[tuple[SplitName, str], ...] = (
    ("train", "lens"),
    ("train", "nonlens"),
    ("test", "lens"),
    ("test", "nonlens"),
)
_TRUTH = (
    "id",
    "kind",
    "theta_e_arcsec",
    "lens_axis_ratio",
    "lens_angle_rad",
    "gamma1",
    "gamma2",
    "source_x_arcsec",
    "source_y_arcsec",
    "source_mag_i",
    "main_mag_i",
)


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How many images of each kind to make."""

    lenses: int
    nonlenses: int
    test_lenses: int = 0
    test_nonlenses: int = 0

    def by_stream(self) -> dict[tuple[SplitName, str], int]:
        """Return (split, class) → number; a split needs both classes or neither."""
        if min(self.lenses, self.nonlenses) < 1:
            raise ConfigError("give at least one lens and one nonlens to train on")
        if min(self.test_lenses, self.test_nonlenses) < 0 or (
            (self.test_lenses == 0) != (self.test_nonlenses == 0)
        ):
            raise ConfigError("give both --num-test-lenses and --num-test-nonlenses, or neither")
        return {
            ("train", "lens"): self.lenses,
            ("train", "nonlens"): self.nonlenses,
            ("test", "lens"): self.test_lenses,
            ("test", "nonlens"): self.test_nonlenses,
        }


def simulate(
    dataset: Dataset,
    out: Path,
    counts: Counts,
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Return the number of images written under `out`, which must not hold anything yet.

    Each image depends on the seed, its class, its split and its number alone, so asking for more
    images leaves the first ones as they are.
    """
    camera = _camera(dataset)
    wanted = [
        (stream, folder, number)
        for stream, folder, count in _folders(dataset, counts)
        for number in range(count)
    ]
    with _new_folder(out) as root, (root / "truth.csv").open("w", newline="") as stream_:
        truth = csv.DictWriter(stream_, _TRUTH, lineterminator="\n")
        truth.writeheader()
        for done, (stream, folder, number) in enumerate(wanted, start=1):
            identifier = f"{folder}/{number + 1}.npy"
            truth.writerow(_make(camera, root / identifier, seed, stream, number, identifier))
            if progress:
                progress(done, len(wanted))
    return len(wanted)


def _camera(dataset: Dataset) -> Camera:
    if dataset.simulate is None:
        raise ConfigError(f"{dataset.name} has no simulator; known: lens_finding")
    return Camera(survey=dataset.simulate, num_pixels=dataset.image.shape[1])


def _folders(dataset: Dataset, counts: Counts) -> Iterator[tuple[int, str, int]]:
    classes = {entry.name: entry.folders for entry in dataset.classes}
    by_stream = counts.by_stream()
    for stream, (split, name) in enumerate(_STREAMS):
        count = by_stream[split, name]
        if count:
            yield stream, classes[name][split], count


def _make(
    camera: Camera, path: Path, seed: int, stream: int, number: int, identifier: str
) -> dict[str, Any]:
    random = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(stream, number)))
    scene = _DRAW[_STREAMS[stream][1]](camera.survey, random)
    path.parent.mkdir(exist_ok=True)
    np.save(path, camera.photograph(scene, random))
    return _truth(identifier, scene)


def _truth(identifier: str, scene: Scene) -> dict[str, Any]:
    row = {"id": identifier, "kind": scene.kind, "main_mag_i": scene.galaxies[0].mags[2]}
    lens = scene.lens
    if lens is None:
        return row
    return row | {
        "theta_e_arcsec": lens.theta_e,
        "lens_axis_ratio": lens.axis_ratio,
        "lens_angle_rad": lens.angle,
        "gamma1": lens.gamma1,
        "gamma2": lens.gamma2,
        "source_x_arcsec": lens.source.x,
        "source_y_arcsec": lens.source.y,
        "source_mag_i": lens.source.mags[2],
    }


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes `out` when the block ends well, else vanishes."""
    if os.path.lexists(out) and not (out.is_dir() and not any(out.iterdir())):
        raise DataError(f"{out} exists and is not an empty folder; give another, or remove it")
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        temporary.rename(out)
        flush_folder(out.parent)
    except OSError as error:
        raise DataError(f"cannot write {out}: {error}; nothing was left behind") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
