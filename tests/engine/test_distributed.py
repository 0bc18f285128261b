"""A rank's place, read from the environments that SLURM and submitit set."""

import pytest
import torch

from lenshpc.engine.distributed import Process, first_host, from_environment, gather_rows, start
from lenshpc.errors import ConfigError

SLURM = {
    "SUBMITIT_EXECUTOR": "slurm",
    "SLURM_JOB_ID": "81237",
    "SLURM_JOB_NODELIST": "gpu[001-004]",
    "SLURM_STEP_NODELIST": "gpu[003-004]",
    "SLURM_PROCID": "5",
    "SLURM_NTASKS": "8",
    "SLURM_LOCALID": "1",
}


@pytest.mark.parametrize(
    ("nodelist", "host"),
    [
        ("node1", "node1"),
        ("node1,node2", "node1"),
        ("gpu[003-005,9],cpu1", "gpu003"),
        ("gpu[7,9]", "gpu7"),
        ("gpu[12]", "gpu12"),
        ("a[1-2]-b[3-4],c", "a1-b3"),
        ("r1-n[01-16].site.org", "r1-n01.site.org"),
        ("tux-login,gpu[1-2]", "tux-login"),
    ],
)
def test_first_host_of_a_list(nodelist: str, host: str) -> None:
    assert first_host(nodelist) == host


def test_plain_slurm_job() -> None:
    assert from_environment(SLURM) == Process(
        rank=5,
        world_size=8,
        local_rank=1,
        address="gpu003",
        port=20_000 + 81237 % 12_000,
        job="81237",
    )


def test_array_element_is_named_by_array_and_place() -> None:
    array = {"SLURM_ARRAY_JOB_ID": "81234", "SLURM_ARRAY_TASK_ID": "3"}
    process = from_environment(SLURM | array)
    assert (process.job, process.port) == ("81234_3", 20_000 + 81237 % 12_000)


def test_job_without_a_step_list_uses_the_jobs_own() -> None:
    environment = {key: value for key, value in SLURM.items() if key != "SLURM_STEP_NODELIST"}
    assert from_environment(environment).address == "gpu001"


def test_neighbours_in_an_array_have_ports_of_their_own_below_the_ephemeral_ones() -> None:
    ports = {from_environment(SLURM | {"SLURM_JOB_ID": str(n)}).port for n in range(64_000, 64_256)}
    assert len(ports) == 256
    assert 20_000 <= min(ports) <= max(ports) < 32_768


def test_local_process_of_submitit() -> None:
    environment = {
        "SUBMITIT_EXECUTOR": "local",
        "SUBMITIT_LOCAL_JOB_ID": "4242",
        "SUBMITIT_LOCAL_GLOBALID": "1",
        "SUBMITIT_LOCAL_NTASKS": "2",
        "SUBMITIT_LOCAL_LOCALID": "1",
    }
    assert from_environment(environment) == Process(
        rank=1, world_size=2, local_rank=1, port=24_242, job="4242"
    )


def test_lone_process_outside_of_a_launcher() -> None:
    process = from_environment({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8"})
    assert process == Process()
    assert (process.rank, process.world_size, process.is_main) == (0, 1, True)


def test_number_of_processes_must_be_the_plans() -> None:
    with pytest.raises(ConfigError, match="started 1 processes; the Plan says 8"):
        start(Process(), expected=8)


def test_rows_are_merged_once_and_ascending() -> None:
    columns = {"row": torch.tensor([7, 2, 9, 2]), "logp_0": torch.tensor([0.7, 0.2, 0.9, 0.2])}
    merged = gather_rows(columns)
    assert merged["row"].tolist() == [2, 7, 9]
    assert merged["logp_0"].tolist() == pytest.approx([0.2, 0.7, 0.9])
