"""Simulated mosaics: two overlapping tiles, turned on the sky, and objects in them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS

from lenshpc.prep.dataset import Dataset

BANDS = ("g", "r", "i")
SHAPE = (3, 16, 16)


@dataclass(frozen=True, kw_only=True)
class Field:
    """A tile: a gnomonic projection about `centre`, in degrees, turned by `angle_deg`."""

    name: str
    centre: tuple[float, float]
    angle_deg: float
    shape: tuple[int, int] = (180, 220)
    scale_deg: float = 0.2 / 3600

    @property
    def corner(self) -> tuple[float, float]:
        """Return column and row of the centre, from 0."""
        return (self.shape[1] - 1) / 2, (self.shape[0] - 1) / 2

    @property
    def matrix(self) -> np.ndarray:
        """Return degrees to the east and north a pixel."""
        angle = np.radians(self.angle_deg)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        return self.scale_deg * turn @ np.diag([-1, 1])

    def header(self) -> fits.Header:
        wcs = WCS(naxis=2)
        wcs.wcs.ctype, wcs.wcs.crval = ["RA---TAN", "DEC--TAN"], self.centre
        wcs.wcs.crpix, wcs.wcs.cd = np.add(self.corner, 1), self.matrix
        wcs.wcs.radesys = "ICRS"
        return wcs.to_header()

    def pixels(self, ra, dec) -> np.ndarray:
        """Return column and row (n,2): the gnomonic projection of a textbook, not astropy's."""
        ra0, dec0 = np.radians(self.centre)
        ra, dec = np.radians(ra) - ra0, np.radians(dec)
        depth = np.sin(dec0) * np.sin(dec) + np.cos(dec0) * np.cos(dec) * np.cos(ra)
        east = np.cos(dec) * np.sin(ra) / depth
        north = (np.cos(dec0) * np.sin(dec) - np.sin(dec0) * np.cos(dec) * np.cos(ra)) / depth
        plane = np.degrees(np.stack([east, north], axis=-1))
        return plane @ np.linalg.inv(self.matrix).T + self.corner

    def positions(self, pixels) -> np.ndarray:
        """Return ra and dec (n,2) of pixels."""
        return WCS(self.header()).all_pix2world(np.asarray(pixels, float), 0)


WEST = Field(name="west", centre=(150.0, 40.0), angle_deg=25.0)
EAST = Field(name="east", centre=(150.0 + 150 * WEST.scale_deg, 40.001), angle_deg=-10.0)


def draw(field: Field, band: str) -> np.ndarray:
    """Return the pixels of a band: noise that is another one in each."""
    seed = [*map(ord, field.name + band)]
    return np.random.default_rng(seed).normal(size=field.shape).astype(np.float32)


def write_tiles(root: Path, fields=(WEST, EAST), bands=BANDS) -> dict[tuple[str, str], np.ndarray]:
    """Write a file for each tile and band; return the pixels."""
    root.mkdir(exist_ok=True)
    found = {}
    for field in fields:
        for band in bands:
            found[field.name, band] = pixels = draw(field, band)
            fits.writeto(root / f"{field.name}_{band}.fits", pixels, field.header())
    return found


def scatter(num: int = 60, margin: float = 16, fields=(WEST, EAST)) -> Table:
    """Return a catalogue of objects in the tiles, none nearer to their edges than `margin`."""
    random = np.random.default_rng(3)
    rows = []
    for number in range(num):
        field = fields[number % len(fields)]
        sides = np.array(field.shape[::-1])
        pixel = random.uniform(margin, sides - 1 - margin)
        rows.append(field.positions([pixel])[0])
    ra, dec = np.transpose(rows)
    kinds = ["lens" if number % 3 == 0 else "other" for number in range(num)]
    splits = ["test" if number % 5 == 0 else "train" for number in range(num)]
    names = [f"J{number:04d}" for number in range(num)]
    return Table({"name": names, "ra": ra, "dec": dec, "class": kinds, "set": splits})


def mosaic_dataset(**changes) -> Dataset:
    """Return the dataset of `write_tiles` and a catalogue.csv, with some keys replaced."""
    image = {"format": "fits", "shape": list(SHAPE), "dtype": "float32", "channels": list(BANDS)}
    return Dataset.model_validate(
        {
            "name": "field",
            "image": image,
            "classes": [{"name": "other"}, {"name": "lens"}],
            "mosaics": {"files": "{tile}_{band}.fits"},
            "catalogue": {
                "file": "catalogue.csv",
                "id": "name",
                "label": "class",
                "split": "set",
                "position": {"ra": "ra", "dec": "dec"},
            },
        }
        | changes
    )


def slice_cutout(planes: list[np.ndarray], pixel: np.ndarray) -> np.ndarray:
    """Return the cut-out (C,H,W) whose centre is nearest to a pixel; NaN outside of the tile."""
    _, height, width = SHAPE
    # Of all cut-outs along an axis, the one whose middle lies nearest.
    column, row = (
        int(np.argmin(np.abs(np.arange(-side, length) + (side - 1) / 2 - at))) - side
        for at, side, length in zip(pixel, (width, height), planes[0].shape[::-1], strict=True)
    )
    wide = [np.pad(plane, 32, constant_values=np.nan) for plane in planes]
    return np.stack(
        [plane[row + 32 : row + 32 + height, column + 32 : column + 32 + width] for plane in wide]
    )
