"""A probe of batch sizes: what it tries, where it ends, and that it leaves nothing behind."""

import json

import pytest
from commands import finished
from ranks import planned, recipe

from lenshpc.cli.probe import describe_probe, list_settings
from lenshpc.engine import probing
from lenshpc.engine.probing import probe
from lenshpc.run.probed import ProbedBatch, read_probed


@pytest.fixture
def on_cpu(monkeypatch):
    for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "LOCAL_RANK"):
        monkeypatch.setenv(name, "")


@pytest.mark.slow
def test_powers_of_two_are_tried_while_there_are_rows(spots, tmp_path, on_cpu):
    run, plan = planned(tmp_path, spots, recipe(resources__gpus_per_node=0))
    probe(run, seconds=0)
    found = read_probed(run)
    sizes = [one.batch_size for one in found]
    assert sizes == [2**power for power in range(1, len(sizes) + 1)]
    assert sizes[-1] <= spots.num_rows < 4 * sizes[-1]
    assert all(one.fits and one.images_per_s > 0 for one in found)
    assert not run.member(plan.members[0].name).root.exists()


def test_probe_ends_with_the_memory(spots, tmp_path, on_cpu, monkeypatch):
    used = iter([1, 2, 3, 5])
    monkeypatch.setattr(probing, "memory_bytes", lambda: next(used) * 2**30)
    small = {"gpus_per_node": 0, "mem_gb_per_gpu": 4}
    run, _ = planned(tmp_path, spots, recipe(resources=small))
    probe(run, seconds=0)
    found = [(one.batch_size, one.memory_gb, one.fits) for one in read_probed(run)]
    assert found == [(2, 1, True), (4, 2, True), (8, 3, True), (16, 5, False)]


def test_batch_that_cannot_be_allocated_is_too_large(spots, tmp_path, on_cpu, monkeypatch):
    step = probing.Probing._time

    def time(self, size):
        if size == 8:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to")
        return step(self, size)

    monkeypatch.setattr(probing.Probing, "_time", time)
    run, _ = planned(tmp_path, spots, recipe(resources__gpus_per_node=0))
    probe(run, seconds=0)
    assert [(one.batch_size, one.fits) for one in read_probed(run)] == [
        (2, True),
        (4, True),
        (8, False),
    ]


def test_what_to_set_is_the_batch_of_all_processes_at_the_recipes_rate():
    asked = recipe(train={"batch_size": 32, "lr": 1e-3}, resources__gpus_per_node=4)
    expected = {"train.batch_size": 256, "train.lr": None, "train.lr_per_256": 0.008}
    assert list_settings(asked, 64) == expected
    scaled = recipe(train={"batch_size": 32, "lr_per_256": 0.1, "accumulate": 2})
    assert list_settings(scaled, 64) == {"train.batch_size": 128}


def test_table_of_a_probe():
    found = [
        ProbedBatch(batch_size=2, images_per_s=31.4, memory_gb=0.5),
        ProbedBatch(batch_size=4, fits=False),
    ]
    assert describe_probe(recipe(), found).splitlines() == [
        "test_resnet, images that a process takes at once",
        "  images    images/s     memory",
        "       2          31    0.50 GB",
        "       4                         too large",
    ]


@pytest.mark.slow
def test_probe_on_this_machine_prints_what_to_set_and_writes_nothing(spots, tmp_path):
    (tmp_path / "mine.yaml").write_text(json.dumps(recipe().model_dump(mode="json")))
    asked = ("submit", "--recipe", "./mine.yaml", "--data", str(spots.path), "--probe")
    size = ("--gpus-per-node", "0", "--set", "resources.mem_gb_per_gpu=8")
    code, out, err = finished(tmp_path, *asked, *size, "--json")
    assert code == 0, err
    told = json.loads(out)
    assert told["model"] == "test_resnet"
    largest = told["batches"][-1]["batch_size"]
    rate = 1e-3 * 256 / 16
    keys = {"train.batch_size": largest, "train.lr": None, "train.lr_per_256": rate}
    assert told["set"] == keys
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.yaml", "tmp"]
    settings = [
        part for key, leaf in keys.items() for part in ("--set", f"{key}={json.dumps(leaf)}")
    ]
    assert finished(tmp_path, *asked[:-1], *settings, "--dry-run")[0] == 0
    code, out, err = finished(
        tmp_path, *asked, "--gpus-per-node", "0", "--set", "resources.mem_gb_per_gpu=0.1"
    )
    assert (code, out) == (2, "")
    assert "2 images do not fit into the memory of one process" in err
