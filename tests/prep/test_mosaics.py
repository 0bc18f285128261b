"""Tiles of mosaics: their headers, which object lies in which, and the pixels of cut-outs."""

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.nddata import Cutout2D
from astropy.wcs import WCS
from mosaic_sets import (
    BANDS,
    EAST,
    SHAPE,
    WEST,
    Field,
    draw,
    mosaic_dataset,
    scatter,
    slice_cutout,
    write_tiles,
)

from lenshpc.prep.cutting import cut, open_tile
from lenshpc.prep.mosaics import find_places, first_pixels
from lenshpc.prep.tiles import read_tiles


def place(root, dataset, positions):
    tiles = read_tiles(root, dataset)
    return tiles, find_places(tiles, positions)


def columns(table):
    return np.stack([table["ra"], table["dec"]], axis=1)


def cut_all(root, files, corners):
    paths = [str(root / file) for file in files]
    order = np.argsort(corners[:, 1], kind="stable")
    image = mosaic_dataset().image
    with open_tile(paths, image) as planes:
        found = np.concatenate(list(cut(planes, image, corners[order])))
    return found[np.argsort(order)]


def test_object_lies_in_the_tile_whose_edges_are_farthest(tmp_path) -> None:
    write_tiles(tmp_path)
    catalogue = scatter(400, margin=0)
    tiles, places = place(tmp_path, mosaic_dataset(), columns(catalogue))
    assert [tile.name for tile in tiles] == ["east", "west"]

    pixels = np.stack([field.pixels(catalogue["ra"], catalogue["dec"]) for field in (EAST, WEST)])
    sides = np.array(WEST.shape[::-1])
    depth = np.minimum(pixels + 0.5, sides - 0.5 - pixels).min(axis=2)
    assert ((depth > 0).sum(axis=0) == 2).sum() > 20  # the tiles overlap
    assert np.array_equal(places.tile, depth.argmax(axis=0))
    chosen = pixels[places.tile, np.arange(len(catalogue))]
    np.testing.assert_allclose(places.pixels, chosen, rtol=0, atol=2e-6)


def test_cutouts_equal_slices_bit_for_bit(tmp_path) -> None:
    pixels = write_tiles(tmp_path)
    catalogue = scatter(80, margin=-5)
    tiles, places = place(tmp_path, mosaic_dataset(), columns(catalogue))
    assert (places.tile < 0).any()
    catalogue = catalogue[places.tile >= 0]
    _, places = place(tmp_path, mosaic_dataset(), columns(catalogue))
    corners = first_pixels(places.pixels, SHAPE[1:])
    for number, (tile, field) in enumerate(zip(tiles, (EAST, WEST), strict=True)):
        here = np.flatnonzero(places.tile == number)
        found = cut_all(tmp_path, tile.files, corners[here])
        planes = [pixels[tile.name, band] for band in BANDS]
        where = field.pixels(catalogue["ra"], catalogue["dec"])[here]
        expected = np.stack([slice_cutout(planes, pixel) for pixel in where])
        assert np.isnan(expected).any()
        np.testing.assert_array_equal(found, expected)
        offsets = corners[here] + 7.5 - where
        assert np.abs(offsets).max() <= 0.5 + 1e-6


@pytest.mark.parametrize("side", [15, 16])
def test_cutouts_lie_where_cutout2d_has_them(side) -> None:
    plane = np.arange(100 * 90.0).reshape(100, 90)
    pixels = np.random.default_rng(0).uniform(20, 70, size=(50, 2))
    pixels[:10] = pixels[:10].round()
    pixels[10:20] = pixels[10:20].round() + 0.5
    corners = first_pixels(pixels, (side, side))
    found = [plane[y : y + side, x : x + side] for x, y in corners.tolist()]
    expected = [Cutout2D(plane, tuple(pixel), side).data for pixel in pixels]
    np.testing.assert_array_equal(found, expected)


def test_noise_of_the_projection_moves_no_cutout(tmp_path) -> None:
    write_tiles(tmp_path)
    pixels = np.array([[x, y] for x in range(40, 160, 7) for y in range(40, 140, 9)], float)
    _, places = place(tmp_path, mosaic_dataset(), WEST.positions(pixels))
    inside = places.tile == 1
    corners = first_pixels(places.pixels[inside], SHAPE[1:])
    np.testing.assert_array_equal(corners, pixels[inside] - 8)


PACKINGS = {
    "rice": {"compression_type": "RICE_1"},
    "gzip": {"compression_type": "GZIP_2", "quantize_level": 0},
    "squares": {"compression_type": "GZIP_1", "quantize_level": 0, "tile_shape": (50, 60)},
    "whole": {"compression_type": "GZIP_1", "quantize_level": 0, "tile_shape": WEST.shape},
}


@pytest.mark.parametrize("packing", PACKINGS)
def test_packed_tiles_give_the_pixels_that_astropy_unpacks(tmp_path, packing) -> None:
    for band in BANDS:
        unit = fits.CompImageHDU(draw(WEST, band), WEST.header(), **PACKINGS[packing])
        fits.HDUList([fits.PrimaryHDU(), unit]).writeto(tmp_path / f"west_{band}.fits")
    check_against_astropy(tmp_path)


def check_against_astropy(root, files="{tile}_{band}.fits") -> None:
    dataset = mosaic_dataset(mosaics={"files": files})
    tiles = read_tiles(root, dataset)
    random = np.random.default_rng(1)
    width, height = tiles[0].grid.shape[::-1]
    corners = random.integers(-8, [width - 8, height - 8], size=(300, 2)).astype(np.int32)
    found = cut_all(root, tiles[0].files, corners)
    planes = [fits.getdata(root / file, -1) for file in tiles[0].files]
    expected = [slice_cutout(planes, corner + 7.5) for corner in corners]
    np.testing.assert_array_equal(found, np.stack(expected))


def test_tiles_in_gzip_give_the_pixels_that_astropy_unpacks(tmp_path) -> None:
    for band in BANDS:
        (tmp_path / band).mkdir()
        fits.writeto(tmp_path / f"{band}/west.fits.gz", draw(WEST, band), WEST.header())
    check_against_astropy(tmp_path, "{band}/{tile}.fits.gz")


def galactic():
    """Return the header of a grid like WEST's in galactic coordinates, latitude first."""
    header = WEST.header()
    centre = SkyCoord(*WEST.centre, unit="deg").galactic
    header["CTYPE1"], header["CTYPE2"] = "GLAT-TAN", "GLON-TAN"
    header["CRVAL1"], header["CRVAL2"] = centre.b.deg, centre.l.deg
    del header["RADESYS"], header["LONPOLE"], header["LATPOLE"]
    return header


def with_cards(**cards):
    header = WEST.header()
    header.update(cards)
    return header


SIP = {"A_ORDER": 2, "A_2_0": 2e-5, "A_1_1": -1e-5, "B_ORDER": 2, "B_0_2": 3e-5}
GRIDS = {
    "FK5": with_cards(RADESYS="FK5", EQUINOX=2000.0),
    "FK4": with_cards(RADESYS="FK4", EQUINOX=1950.0),
    "galactic, latitude first": galactic(),
    "SIP": with_cards(CTYPE1="RA---TAN-SIP", CTYPE2="DEC--TAN-SIP", **SIP),
}


@pytest.mark.parametrize("name", GRIDS)
def test_positions_follow_frames_and_distortions(tmp_path, name) -> None:
    for band in BANDS:
        fits.writeto(tmp_path / f"west_{band}.fits", draw(WEST, band), GRIDS[name])
    wcs = WCS(GRIDS[name])
    random = np.random.default_rng(4)
    pixels = random.uniform(1, [218, 178], size=(200, 2))
    sky = wcs.pixel_to_world(*pixels.T).icrs
    _, places = place(tmp_path, mosaic_dataset(), np.stack([sky.ra.deg, sky.dec.deg], axis=1))
    assert (places.tile == 0).all()
    np.testing.assert_allclose(places.pixels, pixels, rtol=0, atol=2e-5)


def test_scaled_integers_give_the_values_that_they_stand_for(tmp_path) -> None:
    for band in BANDS:
        unit = fits.PrimaryHDU((1000 * draw(WEST, band)).astype(np.int16), WEST.header())
        unit.scale("int16", bscale=0.25, bzero=3)
        unit.header["BLANK"] = -32768
        unit.writeto(tmp_path / f"west_{band}.fits")
    check_against_astropy(tmp_path)


def test_strips_of_a_high_tile_fit_together(tmp_path) -> None:
    high = Field(name="west", centre=(10.0, -5.0), angle_deg=3.0, shape=(700, 110))
    write_tiles(tmp_path, [high], BANDS[:1])
    for band in BANDS[1:]:
        unit = fits.CompImageHDU(draw(high, band), high.header(), tile_shape=(70, 110))
        fits.HDUList([fits.PrimaryHDU(), unit]).writeto(tmp_path / f"west_{band}.fits")
    check_against_astropy(tmp_path)
