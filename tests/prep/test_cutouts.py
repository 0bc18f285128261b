"""A catalogue and mosaics become a store: cut-outs, labels, positions, resuming, verifying."""

import numpy as np
from mosaic_sets import (
    BANDS,
    EAST,
    WEST,
    mosaic_dataset,
    scatter,
    slice_cutout,
    write_tiles,
)

from lenshpc.prep.convert import Options, convert
from lenshpc.prep.verify import verify


def source(root, num=60, **changes):
    """Write tiles and a catalogue; return the pixels and the catalogue."""
    pixels = write_tiles(root)
    catalogue = scatter(num, **changes)
    catalogue.write(root / "catalogue.csv")
    return pixels, catalogue


def find_cutouts(pixels, catalogue):
    """Return id → cut-out, from the tile in which an object lies farthest from the edges."""
    found = {}
    for row in catalogue:
        depths = {}
        for field in (EAST, WEST):
            pixel = field.pixels(row["ra"], row["dec"])
            sides = np.array(field.shape[::-1])
            depths[min(*(pixel + 0.5), *(sides - 0.5 - pixel))] = field, pixel
        field, pixel = depths[max(depths)]
        found[row["name"]] = slice_cutout([pixels[field.name, band] for band in BANDS], pixel)
    return found


def test_store_of_cutouts_has_the_catalogue_s_words_and_positions(tmp_path) -> None:
    pixels, catalogue = source(tmp_path / "sky")
    store = convert(mosaic_dataset(), tmp_path / "sky", tmp_path / "store", Options(shard_rows=32))
    expected = find_cutouts(pixels, catalogue)
    rows = store.rows.set_index("id")
    assert sorted(rows.index) == sorted(catalogue["name"])
    for at, name in enumerate(store.rows["id"]):
        np.testing.assert_array_equal(store.read_raw(slice(at, at + 1))[0], expected[name])
    for row in catalogue:
        kept = rows.loc[row["name"]]
        assert (kept["split"], kept["label"]) == (row["set"], int(row["class"] == "lens"))
        assert (kept["ra_deg"], kept["dec_deg"]) == (row["ra"], row["dec"])
    assert verify(tmp_path / "store", against=tmp_path / "sky").num_rows == 60
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".store")] == []
