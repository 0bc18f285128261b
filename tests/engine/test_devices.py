"""What a rank sees of the GPUs: none where its member asks for none, one MIG slice of several."""

import subprocess
import sys

import pytest
import ranks
import torch

from lenshpc.engine.devices import own_slice, restrict
from lenshpc.engine.distributed import Process
from lenshpc.run.completion import is_done
from lenshpc.run.sections import Resources

MIG = "MIG-a1,MIG-GPU-b2/1/0, MIG-c3"


@pytest.mark.parametrize(
    ("visible", "seen"),
    [
        (MIG, ["MIG-a1", "MIG-GPU-b2/1/0", "MIG-c3", "MIG-a1"]),
        ("MIG-a1", ["MIG-a1"] * 4),  # bound by SLURM, one a task
        ("GPU-a1,MIG-b2", ["GPU-a1", "MIG-b2", "GPU-a1", "MIG-b2"]),
        ("GPU-a1,GPU-b2", ["GPU-a1,GPU-b2"] * 4),
        ("0,1,2,3", ["0,1,2,3"] * 4),
        ("", [""] * 4),
        ("-1", ["-1"] * 4),
        ("NoDevFiles", ["NoDevFiles"] * 4),
    ],
)
def test_rank_has_a_slice_of_its_own_and_sees_all_whole_gpus(visible, seen):
    assert [own_slice(visible, local_rank) for local_rank in range(4)] == seen


@pytest.mark.parametrize(
    ("before", "size", "after"),
    [
        ({}, {}, {}),
        ({"CUDA_VISIBLE_DEVICES": "0,1"}, {}, {"CUDA_VISIBLE_DEVICES": "0,1"}),
        ({"CUDA_VISIBLE_DEVICES": MIG}, {}, {"CUDA_VISIBLE_DEVICES": "MIG-GPU-b2/1/0"}),
        (
            {"CUDA_VISIBLE_DEVICES": MIG, "HIP_VISIBLE_DEVICES": "0"},
            {"gpus_per_node": 0},
            {"CUDA_VISIBLE_DEVICES": "-1", "HIP_VISIBLE_DEVICES": "-1"},
        ),
        ({}, {"gpus_per_node": 0}, {"CUDA_VISIBLE_DEVICES": "-1", "HIP_VISIBLE_DEVICES": "-1"}),
    ],
)
def test_rank_of_a_member_on_cpus_sees_no_gpu(before, size, after):
    environment = dict(before)
    restrict(environment, 1, Resources(**size))
    assert environment == after


@pytest.mark.parametrize(("visible", "numbers"), [(4, [0, 1, 2, 3]), (1, [0] * 4), (2, [0, 1] * 2)])
def test_rank_takes_the_gpu_of_its_place_among_those_it_sees(visible, numbers, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: visible)
    found = [Process(local_rank=local_rank).device for local_rank in range(4)]
    assert found == [torch.device("cuda", number) for number in numbers]


UNTOUCHED = """
import torch

def fail(*_):
    raise AssertionError("torch was asked for a GPU")

torch.cuda.is_available = torch.cuda.device_count = torch.cuda._lazy_init = fail
import lenshpc.worker
import lenshpc.engine.member
from lenshpc.engine.distributed import from_environment
from lenshpc.engine.signals import Signals
from_environment()
"""


def test_nothing_asks_for_a_gpu_before_a_rank_is_told_which_it_sees():
    subprocess.run([sys.executable, "-c", UNTOUCHED], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "deepspeed"])
def test_member_trains_as_processes_on_cpus(tmp_path, spots, strategy):
    size = {"gpus_per_node": 0, "tasks_per_node": 2}
    run, plan = ranks.planned(
        tmp_path, spots, ranks.recipe(resources=size, train__strategy=strategy)
    )
    told = [rank.communicate() for rank in ranks.start([run], 0, world_size=2)]
    assert is_done(run, plan, plan.members[0], verify=True), told
