"""Conversion as a job array on the real cluster: shards shared out, one joining job, a failure."""

import json
from pathlib import Path

from source_sets import TINY, fill, write_yaml
from test_runs import TIMEOUT_S, call

from lenshpc.prep.convert import Options, convert
from lenshpc.prep.dataset import load_dataset

ARRAY_SIZE = 3


def sent(folder: Path) -> dict:
    words = "tiny.yaml source store --site rehearsal --shard-rows 32 --json --array-size"
    done = call(folder, "prepare", *words.split(), str(ARRAY_SIZE))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def files_of(store: Path) -> dict[str, bytes]:
    return {str(p.relative_to(store)): p.read_bytes() for p in store.rglob("*") if p.is_file()}


def test_array_converts_and_a_failed_one_is_sent_again(cluster, tmp_path: Path) -> None:
    fill(tmp_path / "source", num_images=80)
    write_yaml(tmp_path / "tiny.yaml", TINY)
    broken = tmp_path / "source/train/no/7.npy"
    content = broken.read_bytes()
    broken.write_bytes(content[:-1])
    first = sent(tmp_path)
    assert first["elements"] == [0, 1, 2]
    cluster.wait([first["job"], first["join"]], states=("COMPLETED", "FAILED"), timeout_s=TIMEOUT_S)
    states = sorted(row["State"] for row in cluster.sacct(first["job"]))
    assert states == ["COMPLETED", "COMPLETED", "FAILED"]
    assert [row["State"] for row in cluster.sacct(first["join"])] == ["FAILED"]
    assert not (tmp_path / "store").exists()

    broken.write_bytes(content)
    second = sent(tmp_path)
    assert second["elements"] == [0, 1, 2]  # the jobs find what is made already
    cluster.wait([second["job"], second["join"]], timeout_s=TIMEOUT_S)
    dataset = load_dataset(str(tmp_path / "tiny.yaml"))
    straight = convert(dataset, tmp_path / "source", tmp_path / "here", Options(shard_rows=32))
    assert files_of(tmp_path / "store") == files_of(straight.path)
    assert [path.name for path in tmp_path.glob(".store.*")] == [".store.slurm"]
