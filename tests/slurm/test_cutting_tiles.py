"""Cut-outs from mosaics on the real cluster: tiles, then shards, then one job; a broken tile."""

import json
from pathlib import Path

from astropy.io import fits
from mosaic_sets import WEST, draw, mosaic_dataset, scatter, write_tiles
from test_prepare import files_of
from test_runs import TIMEOUT_S, call

from lenshpc.prep.convert import Options, convert
from lenshpc.prep.dataset import Dataset

NUM_OBJECTS = 120


def write_field(folder: Path) -> Dataset:
    """Write two tiles of three bands, a catalogue and the dataset file."""
    write_tiles(folder / "sky")
    scatter(NUM_OBJECTS).write(folder / "sky/catalogue.csv")
    dataset = mosaic_dataset()
    told = dataset.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    (folder / "field.yaml").write_text(json.dumps(told))
    return dataset


def damage_pixels(path: Path) -> None:
    """Pack a tile so that its headers are whole, and its pixels cannot be unpacked."""
    unit = fits.CompImageHDU(draw(WEST, "r"), WEST.header(), compression_type="GZIP_1")
    fits.HDUList([fits.PrimaryHDU(), unit]).writeto(path, overwrite=True)
    content = bytearray(path.read_bytes())
    start = content.index(b"\x1f\x8b\x08") + 20
    content[start : start + 50_000] = bytes(50_000)
    path.write_bytes(content)


def sent(folder: Path) -> dict:
    words = "field.yaml sky store --site rehearsal --shard-rows 32 --json --array-size 3"
    done = call(folder, "prepare", *words.split())
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def states_of(cluster, job: str) -> list[str]:
    return sorted(row["State"] for row in cluster.sacct(job))


def test_array_cuts_tiles_and_what_it_makes_is_trained(cluster, tmp_path: Path) -> None:
    dataset = write_field(tmp_path)
    whole = (tmp_path / "sky/west_r.fits").read_bytes()
    damage_pixels(tmp_path / "sky/west_r.fits")
    first = sent(tmp_path)
    assert first["tile_elements"] == [0, 1]
    jobs = [first["tile_job"], first["job"], first["join"]]
    cluster.wait(jobs, states=("COMPLETED", "FAILED"), timeout_s=TIMEOUT_S)
    assert states_of(cluster, first["tile_job"]) == ["COMPLETED", "FAILED"]
    assert not (tmp_path / "store").exists()

    (tmp_path / "sky/west_r.fits").write_bytes(whole)
    second = sent(tmp_path)
    assert second["tile_elements"] == [1]  # the other tile's cut-outs are kept
    cluster.wait([second[key] for key in ("tile_job", "job", "join")], timeout_s=TIMEOUT_S)
    straight = convert(dataset, tmp_path / "sky", tmp_path / "here", Options(shard_rows=32))
    assert files_of(tmp_path / "store") == files_of(straight.path)
    assert [path.name for path in tmp_path.glob(".store.*")] == [".store.slurm"]

    verified = call(tmp_path, "verify", "store", "--against", "sky")
    assert verified.returncode == 0, verified.stderr
    assert f"store is intact: {NUM_OBJECTS} images" in verified.stderr
    words = "submit --task lens-finding --data store --models test_resnet --folds 1"
    words += " --site rehearsal --set train.epochs=1 --set train.warmup_epochs=0"
    words += " --set data.image_size=32 --json"
    run = call(tmp_path, *words.split())
    assert run.returncode == 0, run.stderr
    told = json.loads(run.stdout)
    cluster.wait([told["job"], told["report"]], timeout_s=TIMEOUT_S)
    assert (Path(told["run"]) / "report/report.html").exists()
