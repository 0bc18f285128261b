"""How a site wants to be asked is found by asking its sbatch, which here is a shell script.

What it refuses, and in which words, is synthetic.
"""

from dataclasses import replace

import pytest

from lenshpc.errors import LaunchError
from lenshpc.launch import slurm
from lenshpc.launch.facts import Accounting, Asking, Facts
from lenshpc.launch.sites import CpuJobs, Site
from lenshpc.launch.trials import try_ways, use_ways


@pytest.fixture
def refuse(tmp_path, monkeypatch):
    """Return how an sbatch is made that refuses what its shell patterns match."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(slurm, "QUERY_RETRIES_S", (0.0, 0.0))

    def install(*patterns, why="allocation failure: not as this site wants"):
        cases = "".join(f"{pattern}) echo '{why}' >&2; exit 1;;\n" for pattern in patterns)
        script = f'#!/bin/sh\necho "$*" >> {tmp_path}/asked\ncase "$*" in\n{cases}esac\n'
        (tmp_path / "sbatch").write_text(script)
        (tmp_path / "sbatch").chmod(0o755)
        return tmp_path / "asked"

    return install


def facts(gres="gpu:4", **more):
    node = {"NodeName": "n1", "Partitions": "gpu", "State": "IDLE", "Gres": gres}
    base = {"config": {}, "partition": {"PartitionName": "gpu"}, "nodes": (node,)}
    return Facts(**{**base, "with_gpu": True, "cpu_partitions": ("cpu", "shared"), **more})


SITE = Site(name="here", scheduler="slurm", partition="gpu", qos="fast")
WITHOUT_GPU = "*partition=gpu*wrap=true"
NO_GPU = f"*--gpus-per-node*|*--gres*) ;; {WITHOUT_GPU}"  # all but those that ask for one


@pytest.mark.parametrize(
    ("gres", "patterns", "keys"),
    [
        ("gpu:4", [], {}),
        ("gpu:4", ["*--gpus-per-node*"], {"gpu_request": "gres"}),
        ("gpu:4", ["*--mem=*"], {"mem_request": "mem-per-cpu"}),
        (  # memory a GPU is no word for a job without one
            "gpu:4",
            ["*--mem=*", "*--mem-per-cpu*"],
            {"mem_request": "mem-per-gpu", "cpu_jobs": {"gpus": 1}},
        ),
        ("gpu:4", ["*--mem*"], {"mem_request": "none"}),
        (
            "gpu:4",
            ["*--gpus-per-node*", "*--mem=*"],
            {"gpu_request": "gres", "mem_request": "mem-per-cpu"},
        ),
        ("gpu:2080ti:8", [], {}),
        ("gpu:2080ti:8", ["*--gpus-per-node=1*", "*--gres*"], {"gpu_type": "2080ti"}),
        (
            "gpu:a100:2,gpu:h100:2",
            ["*--gpus-per-node*", "*--gres=gpu:1*"],
            {"gpu_request": "gres", "gpu_type": "a100"},
        ),
        ("gpu:1g.5gb:7", [], {"gpu_request": "gres", "gpu_type": "1g.5gb"}),
        ("gpu:4", [NO_GPU, "*partition=cpu*"], {"cpu_jobs": {"partition": "shared"}}),
        ("gpu:4", [NO_GPU], {"cpu_jobs": {"partition": "cpu"}}),
        ("gpu:4", [NO_GPU, "*partition=cpu*", "*partition=shared*"], {"cpu_jobs": {"gpus": 1}}),
    ],
)
def test_way_that_is_taken_is_the_profiles_where_it_is_unusual(refuse, gres, patterns, keys):
    refuse(*patterns)
    asking = try_ways(facts(gres), SITE).asking
    assert asking.keys == keys
    told = "allocation failure: not as this site wants" if "cpu_jobs" in keys else ""
    assert asking.cpu_refused == told
    site = Site(**{**SITE.model_dump(exclude_unset=True), **keys})
    assert use_ways(SITE, asking) == site.model_copy(update={"cpu_jobs": CpuJobs()})


def test_nodes_of_another_type_are_no_longer_meant(refuse):
    refuse("*--gpus-per-node=1*", "*--gres*")
    seen = try_ways(facts("gpu:a100:2,gpu:h100:3"), SITE)
    assert [node["Gres"] for node in seen.nodes] == ["gpu:a100:2"]
    other = {**seen.nodes[0], "NodeName": "n2", "Gres": "gpu:h100:8"}
    seen = try_ways(replace(facts(), nodes=(seen.nodes[0], other)), SITE)
    assert [node["NodeName"] for node in seen.nodes] == ["n1"]


def test_jobs_without_a_gpu_leave_the_partitions_qos_behind(refuse):
    asked = refuse(NO_GPU)
    try_ways(facts(), SITE)
    lines = asked.read_text().splitlines()
    assert ["--qos=fast" in line for line in lines] == [True, True, False]
    assert "--partition=cpu" in lines[-1]


def test_what_the_profile_says_is_kept(refuse):
    asked = refuse("*--gres*")
    settled = frozenset(["gpu_request", "mem_request", "cpu_jobs"])
    site = SITE.model_copy(update={"mem_request": "none"})
    assert try_ways(facts("gpu:a100:2", settled=settled), site).asking == Asking()
    (line,) = asked.read_text().splitlines()
    assert line == (
        "--test-only --partition=gpu --qos=fast --gpus-per-node=1 --nodes=1 --ntasks-per-node=1 "
        "--time=3 --wrap=true"
    )


@pytest.mark.parametrize(
    ("why", "accounts", "advice"),
    [
        ("Invalid account", ("lenses", "stars"), "give --account, one of lenses, stars"),
        ("Invalid account", (), "give --account; you have none, ask the site"),
        ("Invalid feature specification", ("lenses",), "give another --partition or --qos"),
    ],
)
def test_refusal_of_all_ways_says_why_and_what_to_give(refuse, why, accounts, advice):
    refuse("*", why=f"allocation failure: {why}")
    with pytest.raises(LaunchError) as refused:
        try_ways(facts(accounting=Accounting(accounts=accounts)), SITE)
    assert str(refused.value) == (
        f"sbatch accepts no job in partition gpu: allocation failure: {why}; {advice}"
    )


def test_silent_controller_is_no_refusal(refuse):
    refuse("*", why="sbatch: error: Socket timed out on send/recv operation")
    with pytest.raises(LaunchError, match="sbatch failed: sbatch: error: Socket timed out"):
        try_ways(facts(), SITE)


def test_partition_without_usable_nodes_is_not_asked(refuse):
    asked = refuse()
    seen = facts(nodes=(), with_gpu=False)
    assert try_ways(seen, SITE) == seen
    assert not asked.exists()


def test_partition_without_gpus_is_asked_for_memory_alone(refuse):
    refuse("*gpu:*", "*--gpus*", "*--mem=*")
    assert try_ways(facts("(null)", with_gpu=False), SITE).asking.keys == {
        "mem_request": "mem-per-cpu"
    }
