"""The doctor on the real cluster: what it finds is true of it, and its profile can be used."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lenshpc.launch.sites import load_site

LENSHPC = Path(sys.executable).with_name("lenshpc")


def call(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [LENSHPC, "doctor", "--site", "here", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def examined(folder: Path, *arguments: str) -> dict:
    done = call(folder, "--json", *arguments)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def levels(told: dict) -> dict[str, str]:
    """Return finding → level, without those that depend on the machine below the cluster."""
    found = {one["what"].partition(":")[0]: one["level"] for one in told["findings"]}
    theirs = ("little room for temporary files", "temporary files are kept in memory")
    return {what: level for what, level in found.items() if what not in theirs}


def test_doctor_finds_what_is_true_and_writes_a_profile_once(cluster) -> None:
    told = examined(cluster.folder)
    assert levels(told) == {
        "the partition has several types of GPUs": "warning",
        "SLURM hands out GPUs, but the node has no /dev/nvidia*": "warning",
        "torch there is not built for GPUs, or is missing": "warning",
        "srun of SLURM 22.05.8 does not inherit --cpus-per-task": "note",
    }
    path = cluster.folder / "slurm" / "here.yaml"
    assert told["written"] == "slurm/here.yaml"
    assert load_site(str(path)).model_dump(exclude_unset=True) == {
        "name": "here",
        "scheduler": "slurm",
        "partition": "batch",
        "max_nodes": 4,
        "gpus_per_node": 4,
        "cpus_per_gpu": 1,
        "mem_gb_per_gpu": 1.9,
        "max_array_size": 10001,
    }
    assert sorted(path.name for path in cluster.folder.iterdir()) == ["slurm"], "it cleans up"
    assert cluster.squeue() == []

    mine = "scheduler: slurm\npartition: lowgrace\n"
    path.write_text(mine)
    again = call(cluster.folder, "--partition", "lowgrace")
    assert again.returncode == 0, again.stderr
    assert path.read_text() == mine
    assert "slurm/here.yaml exists and was left as it is" in again.stdout
    assert "partition lowgrace: 4 nodes examined" in again.stdout
    assert max(map(len, again.stdout.splitlines())) <= 80
    refused = call(cluster.folder, "--partition", "batch")
    assert (refused.returncode, refused.stderr) == (
        2,
        "lenshpc: slurm/here.yaml exists; set partition in it, or use another --site\n",
    )


def test_loopback_name_and_submit_limit_are_found_and_heeded(cluster) -> None:
    hosts = cluster.folder / "hosts"
    hosts.write_text("127.0.0.1 localhost\n127.0.1.1 node3\n")
    limit = ["sacctmgr", "-i", "modify", "qos", "normal", "set"]
    cluster.run("shell", 3, "mount", "--bind", hosts, "/etc/hosts")
    subprocess.run([*limit, "MaxSubmitJobsPerUser=20"], check=True, capture_output=True)
    try:
        told = examined(cluster.folder)
    finally:
        cluster.run("shell", 3, "umount", "/etc/hosts")
        subprocess.run([*limit, "MaxSubmitJobsPerUser=-1"], check=True, capture_output=True)
    found = {one["what"]: one["advice"] for one in told["findings"]}
    where = "a node's own name is a loopback address there: node3 (127.0.1.1)"
    assert found[where] == "interface: eth0 in the profile"
    assert "QOS normal may have at most 20 jobs in the queue" in found
    site = load_site(str(cluster.folder / "slurm" / "here.yaml"))
    assert (site.interface, site.max_array_size) == ("eth0", 19)


@pytest.mark.slow
def test_preflight_excludes_a_node_without_the_shared_folder_and_measures_the_others(
    cluster,
) -> None:
    hide = ["mount", "-t", "tmpfs", "tmpfs", str(cluster.folder)]
    cluster.run("shell", 3, *hide)
    try:
        told = examined(cluster.folder, "--preflight")
    finally:
        cluster.run("shell", 3, "umount", "-l", str(cluster.folder))
    lost = [one for one in told["findings"] if "node3" in one["nodes"]]
    assert [one["level"] for one in lost] == ["error"]
    names = {"node1", "node2", "node4"}
    assert set(told["product_tflops"]) == set(told["all_reduce_gb_per_s"]) == names
    assert min(told["product_tflops"].values()) > 0
    assert min(told["all_reduce_gb_per_s"].values()) > 0
    site = yaml.safe_load((cluster.folder / "slurm" / "here.yaml").read_text())
    assert "node3" in site["sbatch"]["exclude"].split(",")
