"""Time cut-outs of a mosaic beside a loop of astropy's Cutout2D over the same open tiles.

Three bands of one tile, plain and compressed (RICE), on one core; both give equal arrays, which is
checked. The loop has the tile's pixels, mapped or unpacked, and the positions in pixels.
"""

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.nddata import Cutout2D
from measure import IMAGE_SHAPE, Table, arguments, report, rounds, scratch, spread

from lenshpc.prep.cutting import cut, open_tile
from lenshpc.prep.formats import ImageFormat
from lenshpc.prep.mosaics import first_pixels

BANDS = ("g", "r", "i")
IMAGE = ImageFormat(format="fits", shape=IMAGE_SHAPE, dtype="float32", channels=BANDS)
SIDE = 4000
OURS, LOOP = "lenshpc", "Cutout2D in a loop"
KINDS = {"plain": "{band}.fits", "RICE": "{band}.fits.fz"}


def make_tile(folder: Path) -> None:
    """Write a tile of noise: a plain file a band, and a compressed one."""
    for seed, band in enumerate(BANDS):
        pixels = np.random.default_rng(seed).normal(size=(SIDE, SIDE)).astype(np.float32)
        fits.writeto(folder / f"{band}.fits", pixels)
        packed = fits.CompImageHDU(pixels, compression_type="RICE_1")
        fits.HDUList([fits.PrimaryHDU(), packed]).writeto(folder / f"{band}.fits.fz")


def cut_ours(paths: list[str], positions: np.ndarray) -> np.ndarray:
    """Return the cut-outs as prepare makes them."""
    corners = first_pixels(positions, IMAGE_SHAPE[1:])
    order = np.lexsort((corners[:, 0], corners[:, 1]))
    cutouts = np.empty((len(positions), *IMAGE_SHAPE), np.float32)
    start = 0
    with open_tile(paths, IMAGE) as planes:
        for block in cut(planes, IMAGE, corners[order]):
            cutouts[order[start : start + len(block)]] = block
            start += len(block)
    return cutouts


def cut_in_a_loop(paths: list[str], positions: np.ndarray) -> np.ndarray:
    """Return the cut-outs as a user of astropy makes them."""
    cutouts = np.empty((len(positions), *IMAGE_SHAPE), np.float32)
    with ExitStack() as stack:
        planes = [stack.enter_context(fits.open(path))[-1].data for path in paths]
        for cutout, position in zip(cutouts, positions, strict=True):
            for channel, plane in enumerate(planes):
                cutout[channel] = Cutout2D(plane, tuple(position), IMAGE_SHAPE[1:]).data
    return cutouts


def main() -> None:
    """Print cut-outs a second of both, of three bands each."""
    asked = arguments(__doc__ or "", num=5000, repeats=3)
    margin = IMAGE_SHAPE[-1]
    random = np.random.default_rng(9)
    positions = random.uniform(margin, SIDE - margin, size=(asked.num, 2))
    rows = []
    with scratch(asked.folder) as folder:
        make_tile(folder)
        for kind, name in KINDS.items():
            paths = [str(folder / name.format(band=band)) for band in BANDS]
            same = np.array_equal(cut_ours(paths, positions), cut_in_a_loop(paths, positions))
            assert same, "the two differ"
            turns = {
                OURS: _time(cut_ours, paths, positions),
                LOOP: _time(cut_in_a_loop, paths, positions),
            }
            found = {
                who: asked.num / np.array(s) for who, s in rounds(turns, asked.repeats).items()
            }
            ratio = np.median(found[OURS]) / np.median(found[LOOP])
            for who, rates in found.items():
                times = f"{ratio:.1f}" if who == OURS else "1"
                rows.append([kind, who, *spread(list(rates), digits=0), times])
    title = f"Cut-outs of {IMAGE_SHAPE} from a tile of {SIDE}² pixels, {asked.num} objects"
    header = ["tile", "", "cut-outs/s", "min–max", "÷ loop"]
    report([Table(title, header, rows)], as_json=asked.json)


def _time(run: Callable[..., np.ndarray], *arguments: object) -> Callable[[], float]:
    def turn() -> float:
        began = time.perf_counter()
        run(*arguments)
        return time.perf_counter() - began

    return turn


if __name__ == "__main__":
    main()
