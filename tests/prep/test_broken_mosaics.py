"""Mosaics and catalogues that do not fit: one line with what is wrong and what to do, exit 2."""

import csv
import gzip
import json
import shutil

import numpy as np
import pytest
from astropy import units
from astropy.io import fits
from astropy.table import Table, vstack
from click.testing import CliRunner
from mosaic_sets import BANDS, EAST, WEST, draw, mosaic_dataset, scatter, write_tiles

from lenshpc.cli.main import main
from lenshpc.prep.convert import convert
from lenshpc.prep.dataset import Dataset


@pytest.fixture
def sky(tmp_path):
    """Return a folder with tiles and a catalogue, none of whose objects crosses an edge."""
    write_tiles(tmp_path / "sky")
    scatter().write(tmp_path / "sky/catalogue.csv")
    return tmp_path / "sky"


def prepare(root, **changes):
    """Return what the command says, and how it ends."""
    dataset = mosaic_dataset(**changes)
    told = dataset.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    (root.parent / "field.yaml").write_text(json.dumps(told))
    words = [str(root.parent / "field.yaml"), str(root), str(root.parent / "store")]
    result = CliRunner().invoke(main, ["prepare", *words, "--workers", "1"])
    assert result.exit_code in {0, 2}, result.output
    assert (result.exit_code == 0) == (root.parent / "store").exists()
    assert "Traceback" not in result.output
    return result.output.replace(str(root.parent), "HERE")


def catalogue_of(**changes):
    return mosaic_dataset().catalogue.model_dump(exclude_defaults=True) | changes


def rewrite(root, name, pixels, header):
    fits.writeto(root / name, pixels, header, overwrite=True)


def test_tile_without_wcs_is_refused(sky) -> None:
    rewrite(sky, "west_r.fits", draw(WEST, "r"), None)
    assert prepare(sky).splitlines()[-1] == (
        "lenshpc: HERE/sky/west_r.fits has no usable celestial WCS: its axes are '' and ''; give "
        "images with axes such as RA---TAN and DEC--TAN, or set `image.hdu` to the HDU that has "
        "them"
    )


def test_wcs_of_other_axes_is_refused_for_all_tiles_at_once(sky) -> None:
    for field in (WEST, EAST):
        header = field.header()
        header["CTYPE1"], header["CTYPE2"] = "X", "Y"
        rewrite(sky, f"{field.name}_g.fits", draw(field, "g"), header)
    told = prepare(sky)
    assert "2 sources cannot be used: 2 no celestial WCS" in told
    for field in (WEST, EAST):
        assert f"HERE/sky/{field.name}_g.fits has no usable celestial WCS: its axes are" in told


def test_all_missing_bands_are_named(sky) -> None:
    (sky / "west_r.fits").unlink()
    (sky / "east_g.fits").unlink()
    told = prepare(sky)
    assert "2 sources cannot be used: 2 band missing" in told
    assert (
        "HERE/sky/west_r.fits is missing; every tile needs the bands g, r, i: add it, or move the "
        "other files of tile west away"
    ) in told
    assert "HERE/sky/east_g.fits is missing" in told


def test_folder_without_tiles_is_refused(sky) -> None:
    told = prepare(sky, mosaics={"files": "tiles/{band}/{tile}.fits"})
    assert (
        "HERE/sky holds no files tiles/{band}/{tile}.fits with a band of g, r, i; "
        "set `mosaics.files` and `image.channels` in DATASET as the files are"
    ) in told


@pytest.mark.parametrize(
    ("pixels", "header", "told"),
    [
        (np.zeros((180, 200), "f4"), WEST.header(), "has shape (180, 200), west_g.fits (180, 220)"),
        (np.zeros((3, 180, 220), "f4"), WEST.header(), "expected an image of two axes"),
        (draw(WEST, "r"), EAST.header(), "pixels against west_g.fits by its WCS"),
        (draw(WEST, "r").astype("f8"), WEST.header(), "has dtype >f8, which float32 cannot hold"),
    ],
)
def test_band_that_does_not_fit_its_tile_is_refused(sky, pixels, header, told) -> None:
    rewrite(sky, "west_r.fits", pixels, header)
    assert told in prepare(sky)


def test_catalogue_of_another_field_is_refused(sky) -> None:
    table = scatter()
    table["ra"] = table["ra"] - 90
    table.write(sky / "catalogue.csv", overwrite=True)
    ra, dec = table["ra"][0], table["dec"][0]
    assert (
        "none of the 60 objects of HERE/sky/catalogue.csv lies in any of 2 tiles: the first, "
        f"'J0000', is at ra {ra:.6f} dec {dec:.6f}, tile east is 0.01222 x 0.01 degrees around "
        "ra 150.008333 dec 40.001000; correct `catalogue.position`, or give the tiles of these "
        "objects"
    ) in prepare(sky)


def test_objects_outside_of_all_tiles_are_counted_and_listed(sky) -> None:
    table = scatter()
    far = table[:3].copy()
    far["name"], far["ra"][1:] = ["A1", "A2", "A3"], [10.0, np.nan]
    far["dec"] = -far["dec"]
    vstack([table, far]).write(sky / "catalogue.csv", overwrite=True)
    told = prepare(sky)
    assert "60 of 63 objects of HERE/sky/catalogue.csv lie in 2 of 2 tiles" in told
    assert (
        "3 objects lie outside of all tiles and are left out; they are listed in "
        "HERE/store.outside.csv"
    ) in told
    with (sky.parent / "store.outside.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["id"] for row in rows] == ["A1", "A2", "A3"]
    assert (float(rows[0]["ra_deg"]), float(rows[0]["dec_deg"])) == (far["ra"][0], far["dec"][0])


def test_positions_off_the_sky_are_refused_wherever_they_lie(sky) -> None:
    table = scatter()
    far = table[:3].copy()
    far["name"] = ["A1", "A2", "A3"]
    far["ra"], far["dec"] = [500.0, 10.0, 20.0], [0.0, 95.0, -20.0]
    vstack([table, far]).write(sky / "catalogue.csv", overwrite=True)
    assert (
        "HERE/sky/catalogue.csv has 2 positions outside of 0 to 360 by -90 to 90 degrees, of A1, "
        "A2; correct ra and dec"
    ) in prepare(sky)


def near_edges():
    """Return a catalogue of which the first 13 objects lie within eight pixels of an edge."""
    table = scatter()
    for row, pixel in enumerate([(219.3, 90), (110, 176), *((120 + x, 0.7) for x in range(11))]):
        table["ra"][row], table["dec"][row] = WEST.positions([pixel])[0]
    return table


def test_cutouts_over_an_edge_are_all_named(sky) -> None:
    near_edges().write(sky / "catalogue.csv", overwrite=True)
    told = prepare(sky)
    assert (
        "13 sources cannot be used: 13 over an edge, all of them in HERE/store.refused.csv" in told
    )
    assert (
        "the cut-out of J0001 reaches over an edge of tile west; set `mosaics.edge: fill` in "
        "DATASET, or leave it out of the catalogue"
    ) in told
    with (sky.parent / "store.refused.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["file"] for row in rows] == [f"J{number:04d}" for number in range(13)]
    assert {row["cause"] for row in rows} == {"over an edge"}


def test_edges_are_filled_only_where_bad_pixels_are() -> None:
    with pytest.raises(ValueError, match="edge fill needs a float dtype"):
        mosaic_dataset(mosaics={"files": "{tile}_{band}.fits", "edge": "fill"})


def test_pixels_beyond_an_edge_are_filled_and_masked(sky) -> None:
    near_edges().write(sky / "catalogue.csv", overwrite=True)
    image = mosaic_dataset().image.model_dump(exclude_defaults=True)
    dataset = mosaic_dataset(
        mosaics={"files": "{tile}_{band}.fits", "edge": "fill"},
        image=image | {"bad_pixels": {"fill": -5.0}},
    )
    store = convert(dataset, sky, sky.parent / "store")
    ids = store.rows["id"].tolist()
    at = ids.index("J0001")  # nearest to row 176 of 180: rows 168 to 183
    mask = np.zeros((3, 16, 16), np.uint8)
    mask[:, 12:] = 1
    np.testing.assert_array_equal(store.read_masks(slice(at, at + 1))[0], mask)
    expected = np.stack([draw(WEST, band)[168:180, 102:118] for band in BANDS])
    pixels = store.read_raw(slice(at, at + 1))[0]
    np.testing.assert_array_equal(pixels[:, :12], expected)
    assert (pixels[:, 12:] == -5).all()
    others = [place for place, name in enumerate(ids) if name > "J0012"]
    assert not store.read_masks(slice(0, 60))[others].any()


def test_two_objects_of_one_id_are_refused(sky) -> None:
    table = scatter()
    table["name"][7] = "J0003"
    table.write(sky / "catalogue.csv", overwrite=True)
    assert "HERE/sky/catalogue.csv names 'J0003' twice" in prepare(sky)


def test_labels_that_no_class_has_are_refused(sky) -> None:
    table = scatter()
    table["class"][table["class"] == "lens"] = "ring"
    table.write(sky / "catalogue.csv", overwrite=True)
    assert "has values that no class has: 'ring' in 20 rows" in prepare(sky)


def test_positions_in_radians_are_refused(sky) -> None:
    table = Table(scatter())
    table["ra"].unit = table["dec"].unit = units.rad
    table.write(sky / "catalogue.fits")
    told = prepare(sky, catalogue=catalogue_of(file="catalogue.fits"))
    assert "catalogue.fits has ra in rad, expected degrees" in told


def test_bad_pixels_are_told_by_the_object(sky) -> None:
    table = scatter()
    row = next(row for row in table if EAST.pixels(row["ra"], row["dec"]).min() < 0)
    column, line = WEST.pixels(row["ra"], row["dec"]).round().astype(int)
    for field in (WEST, EAST):
        pixels = draw(field, "i")
        if field is WEST:
            pixels[line - 2 : line + 2, column - 2 : column + 2] = np.nan
        rewrite(sky, f"{field.name}_i.fits", pixels, field.header())
    assert (
        f"the cut-out of {row['name']} from tile west holds 16 pixels that are NaN, infinite or "
        "beyond float32"
    ) in prepare(sky)


def test_truncated_tile_costs_no_other(sky) -> None:
    whole = (sky / "west_i.fits").read_bytes()
    (sky / "west_i.fits").write_bytes(whole[:-2880])
    assert "HERE/sky/west_i.fits is" in prepare(sky)


@pytest.mark.parametrize("packing", ["none", "RICE_1", "gzip"])
def test_tile_whose_sum_does_not_fit_is_refused(packing, sky) -> None:
    path = sky / "west_i.fits"
    with fits.open(path) as units:
        packed = [fits.PrimaryHDU(), fits.CompImageHDU(units[0].data, units[0].header)]
        changed = fits.HDUList(packed) if packing == "RICE_1" else units
        changed.writeto(path, overwrite=True, checksum=True)
    content = bytearray(path.read_bytes())
    path.write_bytes(gzip.compress(content) if packing == "gzip" else content)
    assert "is damaged" not in prepare(sky)
    shutil.rmtree(sky.parent / "store")
    content[-2881 if packing == "none" else -1] ^= 1
    path.write_bytes(gzip.compress(content) if packing == "gzip" else content)
    assert "HERE/sky/west_i.fits is damaged: its DATASUM does not fit; copy it" in prepare(sky)


def test_other_keys_are_refused_in_words() -> None:
    with pytest.raises(ValueError, match="mosaics need a catalogue with a position"):
        Dataset.model_validate(
            mosaic_dataset().model_dump(mode="json", by_alias=True, exclude_defaults=True)
            | {"catalogue": {"file": "a.csv", "id": "name", "label": "class"}}
        )
