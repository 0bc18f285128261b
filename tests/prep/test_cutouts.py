"""A catalogue and mosaics become a store: cut-outs, labels, positions, resuming, verifying."""

import os

import numpy as np
import pytest
from astropy.io import fits
from mosaic_sets import (
    BANDS,
    EAST,
    WEST,
    draw,
    mosaic_dataset,
    scatter,
    slice_cutout,
    write_tiles,
)

from lenshpc.errors import DataError
from lenshpc.prep.convert import Options, convert, draft_store
from lenshpc.prep.cutouts import open_stacks
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


def files_of(store):
    return {str(p.relative_to(store)): p.read_bytes() for p in store.rglob("*") if p.is_file()}


def stop_between_tiles(root, target):
    """Begin a store of which one tile is cut; return its stacks."""
    draft = draft_store(mosaic_dataset(), root, target, Options())
    stacks = open_stacks(draft)
    assert stacks.missing() == [0, 1]
    assert (stacks.missing(0, 2), stacks.missing(1, 2)) == ([0], [1])
    stacks.make([0])
    assert stacks.missing() == [1]
    return stacks


def test_stopped_command_goes_on_with_the_tiles_that_are_not_cut(tmp_path) -> None:
    source(tmp_path / "sky")
    stacks = stop_between_tiles(tmp_path / "sky", tmp_path / "store")
    heard = []
    store = convert(
        mosaic_dataset(),
        tmp_path / "sky",
        tmp_path / "store",
        progress=lambda done, whole: heard.append((done, whole)),
    )
    num_west = stacks.num_cutouts([1])
    assert heard[0] == (num_west, num_west + 60)  # the other tile's are made already
    assert heard[-1] == (num_west + 60, num_west + 60)
    straight = convert(mosaic_dataset(), tmp_path / "sky", tmp_path / "straight")
    assert files_of(store.path) == files_of(straight.path)


def test_tile_whose_file_has_changed_is_cut_again(tmp_path) -> None:
    pixels, catalogue = source(tmp_path / "sky")
    stacks = stop_between_tiles(tmp_path / "sky", tmp_path / "store")
    pixels["east", "r"] = -draw(EAST, "r")
    fits.writeto(tmp_path / "sky/east_r.fits", pixels["east", "r"], EAST.header(), overwrite=True)
    assert stacks.missing() == [0, 1]
    store = convert(mosaic_dataset(), tmp_path / "sky", tmp_path / "store")
    expected = find_cutouts(pixels, catalogue)
    found = store.read_raw(slice(0, 60))
    ids = store.text("id").to_pylist()
    np.testing.assert_array_equal(found, np.stack([expected[name] for name in ids]))

    fits.writeto(tmp_path / "sky/east_r.fits", draw(EAST, "r"), EAST.header(), overwrite=True)
    with pytest.raises(DataError, match="prepare under another name"):
        verify(tmp_path / "store", against=tmp_path / "sky")


def test_what_is_wrong_with_a_tile_costs_no_other(tmp_path) -> None:
    source(tmp_path / "sky")
    draft = draft_store(mosaic_dataset(), tmp_path / "sky", tmp_path / "store", Options())
    stacks = open_stacks(draft)
    path = tmp_path / "sky/east_g.fits"
    whole = path.read_bytes()
    path.write_bytes(whole[:20_000])
    with pytest.raises(DataError, match=r"east_g\.fits is truncated"):
        stacks.make([0, 1], workers=2)
    assert stacks.missing() == [0]
    # Its own file again, on another grid than the one that the positions were looked up in.
    fits.writeto(path, draw(EAST, "g"), WEST.header(), overwrite=True)
    with pytest.raises(DataError, match="pixels against"):
        stacks.make([0])
    path.write_bytes(whole)
    stacks.make([0])
    assert stacks.missing() == []


def damage(path, change):
    """Change the bytes of a file, and tell nobody: its times stay."""
    status = path.stat()
    path.write_bytes(change(path.read_bytes()))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def flip_last_bit(content):
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize("change", [flip_last_bit, lambda content: content[:-8]])
def test_damaged_stack_of_a_stopped_command_is_made_again(change, tmp_path) -> None:
    source(tmp_path / "sky")
    stacks = stop_between_tiles(tmp_path / "sky", tmp_path / "store")
    stacks.make([1])
    damage(stacks.folder / "east.npy", change)
    assert stacks.missing() == [0]
    store = convert(mosaic_dataset(), tmp_path / "sky", tmp_path / "store")
    straight = convert(mosaic_dataset(), tmp_path / "sky", tmp_path / "straight")
    assert files_of(store.path) == files_of(straight.path)


def test_tile_may_have_any_name(tmp_path) -> None:
    for name in ("east", "corners"):
        write_tiles(tmp_path / name, [EAST])
        scatter(40, fields=[EAST]).write(tmp_path / name / "catalogue.csv")
    for band in BANDS:
        (tmp_path / f"corners/east_{band}.fits").rename(tmp_path / f"corners/corners_{band}.fits")
    stores = [
        convert(mosaic_dataset(), tmp_path / n, tmp_path / f"{n}.zarr") for n in ("east", "corners")
    ]
    np.testing.assert_array_equal(*(store.read_raw(slice(0, 40)) for store in stores))


def test_list_of_objects_outside_is_of_the_last_command_and_no_user_s_file(tmp_path) -> None:
    source(tmp_path / "sky")
    inside = tmp_path / "sky/catalogue.csv"
    whole, listed = inside.read_text(), tmp_path / "store.outside.csv"
    inside.write_text(f"{whole}away,10.0,-20.0,lens,train\n")
    listed.write_text("mine\n")
    with pytest.raises(DataError, match=r"store\.outside\.csv was not written by lenshpc"):
        draft_store(mosaic_dataset(), tmp_path / "sky", tmp_path / "store", Options())
    assert listed.read_text() == "mine\n"
    listed.unlink()
    for _ in range(2):
        draft_store(mosaic_dataset(), tmp_path / "sky", tmp_path / "store", Options())
        assert listed.read_text() == '"id","ra_deg","dec_deg"\n"away",10,-20\n'
    inside.write_text(whole)
    draft_store(mosaic_dataset(), tmp_path / "sky", tmp_path / "store", Options())
    assert not listed.exists()
