"""`lenshpc prepare` killed with SIGKILL at random moments: the same command ends in equal bytes."""

import hashlib
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from source_sets import TINY, write_yaml

pytestmark = pytest.mark.slow

IMAGE = {"format": "npy", "shape": [1, 48, 48], "dtype": "float32", "channels": ["i"]}
NUM_IMAGES = 1500  # of each class
SHARD_ROWS = 64
NUM_SHARDS = -(-2 * NUM_IMAGES // SHARD_ROWS)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Write three thousand images of two classes; return the folder and its dataset file."""
    root = tmp_path_factory.mktemp("kill")
    pixels = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("no", "yes"):
            folder = root / "images" / split / name
            folder.mkdir(parents=True)
            for number in range(NUM_IMAGES // 2):
                np.save(folder / f"{number}.npy", pixels.random((1, 48, 48), np.float32))
    return root / "images", write_yaml(root / "tiny.yaml", TINY | {"image": IMAGE})


def start(source, store):
    images, dataset = source
    command = ("prepare", dataset, images, store, "--workers", 2, "--shard-rows", SHARD_ROWS)
    return subprocess.Popen(
        [sys.executable, "-c", "from lenshpc.cli.main import main; main()", *map(str, command)],
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def finish(source, store):
    process = start(source, store)
    _, errors = process.communicate()
    assert process.returncode == 0, errors.decode()


def digest_of(store):
    """Return one hash of all names and bytes."""
    digest = hashlib.sha256()
    for path in sorted(store.rglob("*")):
        digest.update(str(path.relative_to(store)).encode())
        digest.update(path.read_bytes() if path.is_file() else b"")
    return digest.hexdigest()


def wait_for_shards(process, store, number):
    """Return when so many shards are written, or the process has ended."""
    while process.poll() is None:
        if len(list(store.parent.glob(f".{store.name}.*.partial/parts/*.part"))) >= number:
            return
        time.sleep(0.001)


def test_killed_conversion_ends_in_the_same_store_hash(source, tmp_path):
    finish(source, tmp_path / "whole")
    expected = digest_of(tmp_path / "whole")
    moments = np.random.default_rng(0)
    outcomes = []
    for trial in range(30):
        store = tmp_path / f"store{trial}"
        process = start(source, store)
        wait_for_shards(process, store, moments.integers(NUM_SHARDS + 1))
        time.sleep(moments.uniform(0, 0.05))
        os.killpg(process.pid, signal.SIGKILL) if trial % 2 else process.kill()
        process.communicate()
        outcomes.append(store.exists())
        if not store.exists():
            finish(source, store)
        assert digest_of(store) == expected
        assert list(tmp_path.glob(f".store{trial}.*")) == []
    assert outcomes.count(False) >= 22, "hardly any conversion was cut short"
