"""What the tests and rehearsals rely on in slurm/cluster.sh, asked of SLURM itself."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "slurm" / "cluster.sh"
ALL_REDUCE = """
import os
import torch
import torch.distributed as dist
rank, size = int(os.environ["SLURM_PROCID"]), int(os.environ["SLURM_NTASKS"])
dist.init_process_group("gloo", rank=rank, world_size=size)
total = torch.tensor([rank + 1.0])
dist.all_reduce(total)
print(os.environ["SLURMD_NODENAME"], rank, total.item(), flush=True)
dist.destroy_process_group()
"""


def test_sacct_shows_every_element_of_an_array(cluster):
    job = cluster.sbatch(["--array=0-3"], "true")
    cluster.wait(job)
    rows = {row["JobID"]: row["State"] for row in cluster.sacct(job)}
    assert rows == {f"{job}_{index}": "COMPLETED" for index in range(4)}


def test_gpus_of_concurrent_jobs_are_disjoint(cluster):
    # both are on node1 at once: each waits for the other's file
    script = """
        echo "$SLURMD_NODENAME $CUDA_VISIBLE_DEVICES" >gpus.part && mv gpus.part gpus.$ME
        until [ -e gpus.$OTHER ]; do sleep 0.1; done"""
    args = ["--nodelist=node1", "--gres=gpu:2", "--time=1"]
    pairs = [("a", "b"), ("b", "a")]
    cluster.wait(
        [
            cluster.sbatch([*args, f"--export=ALL,ME={me},OTHER={other}"], script)
            for me, other in pairs
        ]
    )
    a, b = ((cluster.folder / f"gpus.{me}").read_text().split() for me, _ in pairs)
    assert a[0] == b[0] == "node1"
    assert sorted(a[1].split(",") + b[1].split(",")) == ["0", "1", "2", "3"]


def test_gloo_adds_over_two_nodes(cluster):
    (cluster.folder / "all_reduce.py").write_text(ALL_REDUCE)
    job = cluster.sbatch(
        ["--nodes=2", "--ntasks-per-node=2", "--mem=4000", "--output=out"],
        f"""export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
        export MASTER_PORT=29500
        srun {sys.executable} all_reduce.py""",
    )
    cluster.wait(job, ["COMPLETED", "FAILED"])
    lines = sorted((cluster.folder / "out").read_text().splitlines())
    assert lines == [f"node{1 + rank // 2} {rank} 10.0" for rank in range(4)]  # 1 + 2 + 3 + 4


def test_afterany_fires_after_a_failed_element(cluster):
    array = cluster.sbatch(["--array=0-2"], "exit $((SLURM_ARRAY_TASK_ID == 1))")
    after = cluster.sbatch([f"--dependency=afterany:{array}"], "true")
    cluster.wait(after)
    assert cluster.states(array) == ["COMPLETED", "COMPLETED", "FAILED"]


def test_power_loss_is_node_fail_then_requeue(cluster):
    job = cluster.sbatch(["--nodelist=node2"], '[ -n "$SLURM_RESTART_COUNT" ] || sleep 600')
    cluster.wait(job, ["RUNNING"])
    cluster.run("crash", 2)
    cluster.run("boot", 2)
    cluster.wait(job)
    states = [row["State"] for row in cluster.sacct(job, "--duplicates")]
    assert states == ["NODE_FAIL", "COMPLETED"]


def interfaces() -> set[str]:
    return {path.name for path in Path("/sys/class/net").iterdir()}


def processes_that_name(text: str) -> list[str]:
    """Return the command lines of all processes with the text in them or in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command, environ = ((folder / name).read_bytes() for name in ("cmdline", "environ"))
        except OSError:  # it has ended
            continue
        if text.encode() in command + environ:
            found.append(command.decode())
    return found


@pytest.mark.slow
def test_sandbox_leaves_nothing(tmp_path):
    if shutil.which("slurmctld") is None:
        pytest.skip(f"SLURM is not installed; as root: {SCRIPT} install")
    before, environ = interfaces(), {**os.environ}
    environ.pop("LENSHPC_LAB_DIR", None)
    job = ["srun", "--nodes=4", "sh", "-c", "setsid sleep 600 <&- >&- 2>&- & echo $LENSHPC_LAB_DIR"]
    done = subprocess.run(
        [SCRIPT, "sandbox", *job], env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (lab,) = set(done.stdout.split())
    assert not Path(lab).exists()
    assert processes_that_name(lab) == []
    assert interfaces() == before
