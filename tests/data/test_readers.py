"""The ways of loading give the same tensors."""

import logging
import tempfile

import numpy as np
import pandas as pd
import pytest
import torch
from accelerator import GPU, pretend_gpu
from stores import write_rows

from lenshpc.data.decoded import Decoded
from lenshpc.data.order import TrainingOrder, evaluation_batches
from lenshpc.data.readers import InMemory, OnDevice, Streamed, ahead, open_readers
from lenshpc.data.shared import open_shared_images
from lenshpc.errors import DataError
from lenshpc.run.sections import Data
from lenshpc.store import Pixels, StoreSpec, open_store
from lenshpc.store.layout import shard_file

CPU = torch.device("cpu")
NUM_ROWS = 1500  # the last chunk is short
EPOCHS = range(8)  # make three windows of a rank's 525 rows an epoch


def written(path, dtype, codec="lz4"):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (NUM_ROWS, 2, 12, 12)).astype(dtype)
    labels = np.arange(NUM_ROWS) % 3
    rows = pd.DataFrame({"label": labels, "split": "train"})
    rows["id"] = rows["group"] = [f"{row}.npy" for row in range(NUM_ROWS)]
    pixels = Pixels(shape=(2, 12, 12), dtype=dtype, channels=("g", "r"))
    spec = StoreSpec(
        dataset="dots", classes=("a", "b", "c"), image=pixels, codec=codec, shard_rows=448
    )
    write_rows(path, spec, rows, images)
    return open_store(path), images


@pytest.fixture(scope="module", params=["uint8", "float32", "float64", "int16"])
def store_and_images(request, tmp_path_factory):
    return written(tmp_path_factory.mktemp("stores") / request.param, request.param)


@pytest.fixture(autouse=True)
def scratch(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def lists(seed=0):
    """Return the lists of batches that an epoch of training and an evaluation give."""
    rng = np.random.default_rng(seed)
    rows = np.flatnonzero(rng.random(NUM_ROWS) < 0.7)
    common = {"rows": rows, "labels": np.arange(NUM_ROWS) % 3, "batch_size": 24, "seed": seed}
    orders = {
        "resident": TrainingOrder(**common),
        "stream": TrainingOrder(**common, window=512),
        "balanced": TrainingOrder(**common, window=512, sampling="balanced"),
    }
    visits = {
        name: [batch for epoch in EPOCHS for batch in order.batches(epoch, rank=1, world_size=2)]
        for name, order in orders.items()
    }
    taken = {name: [batch % NUM_ROWS for batch in some] for name, some in visits.items()}
    evaluated = evaluation_batches(rows, 128, rank=0, world_size=1)
    return taken | {"evaluation": evaluated, "nothing": []}


@pytest.mark.parametrize("name", lists())
@pytest.mark.parametrize("size", [None, 6])
def test_all_ways_give_the_same_tensors(store_and_images, name, size):
    store, _ = store_and_images
    decoded, batches = Decoded(store, Data(image_size=size)), lists()[name]
    with open_shared_images(decoded) as images:
        ways = [InMemory(images, CPU), OnDevice.fill(decoded, CPU), Streamed(decoded, CPU)]
        found = [list(way.read(batches)) for way in ways]
    for other in found[1:]:
        assert len(other) == len(batches)
        assert all(torch.equal(one, two) for one, two in zip(found[0], other, strict=True))


def test_pixels_are_those_that_were_written(store_and_images):
    store, images = store_and_images
    decoded = Decoded(store, Data())
    (batch,) = Streamed(decoded, CPU).read([np.array([1499, 3, 3, 700])])
    assert np.array_equal(batch.numpy(), images[[1499, 3, 3, 700]])
    assert batch.dtype == (torch.uint8 if store.dtype == np.uint8 else torch.float32)


@pytest.mark.parametrize("first_step", [1, 17])
def test_stream_goes_on_at_any_step(store_and_images, first_step):
    decoded, batches = Decoded(store_and_images[0], Data()), lists()["stream"]
    whole = list(Streamed(decoded, CPU).read(batches))
    rest = list(Streamed(decoded, CPU).read(batches[first_step:]))
    assert all(torch.equal(*pair) for pair in zip(whole[first_step:], rest, strict=True))


@pytest.mark.parametrize("codec", ["zstd", "none"])
def test_every_codec_of_a_store_is_read(tmp_path, codec):
    store, images = written(tmp_path / codec, "float32", codec)
    (batch,) = Streamed(Decoded(store, Data()), CPU).read([np.arange(0, NUM_ROWS, 7)])
    assert np.array_equal(batch.numpy(), images[::7])


@pytest.mark.parametrize("place", [100, -3], ids=["chunk", "index"])
def test_flipped_bit_is_noticed_in_the_thread_and_named(tmp_path, place):
    store, _ = written(tmp_path / "damaged", "float32")
    file = shard_file(store.path, "images", 1)
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"is damaged: .*fail their checksum"):
        list(Streamed(Decoded(store, Data()), CPU).read([np.arange(NUM_ROWS)]))


@pytest.mark.parametrize(
    ("loading", "kind", "told"),
    [
        ("resident", InMemory, "0.00 GB of images: in RAM, one copy a node, since there is no GPU"),
        ("stream", Streamed, "0.00 GB of images: streamed from "),
    ],
)
def test_way_is_the_plans_and_told_in_the_log(store_and_images, caplog, loading, kind, told):
    caplog.set_level(logging.INFO, "lenshpc")
    with open_readers([Decoded(store_and_images[0], Data(loading=loading))], CPU) as (reader,):
        assert isinstance(reader, kind)
    assert [record.getMessage().startswith(told) for record in caplog.records] == [True]


def test_items_come_in_order_and_an_error_where_it_arose():
    def items():
        yield from range(5)
        raise DataError("five")

    found = ahead(items(), 3)
    assert [next(found) for _ in range(5)] == list(range(5))
    with pytest.raises(DataError, match="five"):
        next(found)


def test_stored_bytes_stay_bytes_unless_resized(store_and_images):
    store = store_and_images[0]
    whole, small = Decoded(store, Data()), Decoded(store, Data(image_size=6))
    is_bytes = store.dtype == np.uint8
    assert whole.num_bytes == NUM_ROWS * 2 * 12 * 12 * (1 if is_bytes else 4)
    assert (small.shape, small.dtype, small.scale) == ((2, 6, 6), np.float32, 1.0)
    assert whole.scale == pytest.approx(1 / 255 if is_bytes else 1)


def test_images_are_cropped_about_their_middle_then_resized(store_and_images):
    store, images = store_and_images
    cropped, halved = Decoded(store, Data(crop=8)), Decoded(store, Data(crop=8, image_size=4))
    blocks = [
        np.concatenate([block.copy() for block in each.read_chunks(range(each.num_chunks))])
        for each in (cropped, halved)
    ]
    middle = images[:, :, 2:10, 2:10]
    assert not cropped.as_stored
    np.testing.assert_array_equal(blocks[0], middle)
    means = middle.reshape(-1, 2, 4, 2, 4, 2).mean(axis=(3, 5)) / (
        255 if store.dtype == np.uint8 else 1
    )
    np.testing.assert_allclose(blocks[1], means, rtol=1e-5, atol=1e-6)


def test_images_and_targets_that_fit_alone_but_not_together_stay_in_ram(
    store_and_images, caplog, monkeypatch
):
    caplog.set_level(logging.INFO, "lenshpc")
    decoded, gpu = Decoded(store_and_images[0], Data(loading="resident")), torch.device("cuda", 0)
    free = 2 * 1.5 * decoded.num_bytes  # of which half is left to the network
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (free, free))
    with open_readers([decoded, decoded], gpu) as readers:
        assert [type(reader) for reader in readers] == [InMemory, InMemory]
    assert ", since half of the GPU's free memory is " in caplog.text


def test_images_are_sent_to_the_gpu_straight_from_the_store(store_and_images, tmp_path):
    decoded = Decoded(store_and_images[0], Data())
    with pretend_gpu() as traffic:
        reader = OnDevice.fill(decoded, GPU)
        assert traffic.sent == decoded.num_chunks
        assert np.array_equal(reader.images.cpu().numpy(), store_and_images[1])
        assert reader.images.dtype == getattr(torch, decoded.dtype.name)
    assert list(tmp_path.glob("lenshpc-*")) == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_all_ways_give_the_same_tensors_on_a_gpu(store_and_images):
    gpu, decoded = torch.device("cuda", 0), Decoded(store_and_images[0], Data())
    batches = lists()["resident"]
    with open_shared_images(decoded) as images:
        expected = list(InMemory(images, CPU).read(batches))
        ways = [InMemory(images, gpu), OnDevice.fill(decoded, gpu), Streamed(decoded, gpu)]
        for way in ways:
            for one, other in zip(expected, way.read(batches), strict=True):
                assert other.is_cuda
                assert torch.equal(one, other.cpu())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_small_images_go_onto_the_gpu(store_and_images, tmp_path):
    gpu = torch.device("cuda", 0)
    with open_readers([Decoded(store_and_images[0], Data(loading="resident"))], gpu) as (reader,):
        assert isinstance(reader, OnDevice)
        assert list(tmp_path.glob("lenshpc-*")) == []
