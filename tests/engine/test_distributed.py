"""A rank's place, read from the environments that SLURM and submitit set."""

from pathlib import Path

import pytest
import torch

from lenshpc.engine.distributed import Process, from_environment, gather_rows, start
from lenshpc.errors import ConfigError

SLURM = {
    "SUBMITIT_EXECUTOR": "slurm",
    "SLURM_JOB_ID": "81237",
    "SLURM_JOB_NUM_NODES": "4",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_PROCID": "5",
    "SLURM_NTASKS": "8",
    "SLURM_LOCALID": "1",
}


def test_plain_slurm_job() -> None:
    assert from_environment(SLURM) == Process(
        rank=5,
        world_size=8,
        local_rank=1,
        on_one_node=False,
        job="81237",
    )


def test_array_element_is_named_by_array_and_place() -> None:
    array = {"SLURM_ARRAY_JOB_ID": "81234", "SLURM_ARRAY_TASK_ID": "3"}
    process = from_environment(SLURM | array | {"SLURM_RESTART_COUNT": "2"})
    assert (process.job, process.attempt) == ("81234_3", "81234_3.2")


@pytest.mark.parametrize(
    ("job", "step", "on_one_node"),
    [
        ("1", None, True),
        ("4", "1", True),
        ("1", "2", False),
        ("4", None, False),
        (None, None, False),
    ],
)
def test_one_node_is_that_of_the_step_and_unknown_is_not_one(
    job: str | None, step: str | None, on_one_node: bool
) -> None:
    nodes = {"SLURM_JOB_NUM_NODES": job, "SLURM_STEP_NUM_NODES": step}
    environment = {key: value for key, value in (SLURM | nodes).items() if value is not None}
    assert from_environment(environment).on_one_node is on_one_node


def test_local_process_of_submitit() -> None:
    environment = {
        "SUBMITIT_EXECUTOR": "local",
        "SUBMITIT_LOCAL_JOB_ID": "4242",
        "SUBMITIT_LOCAL_GLOBALID": "1",
        "SUBMITIT_LOCAL_NTASKS": "2",
        "SUBMITIT_LOCAL_LOCALID": "1",
    }
    assert from_environment(environment) == Process(rank=1, world_size=2, local_rank=1, job="4242")


def test_lone_process_outside_of_a_launcher() -> None:
    process = from_environment({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8"})
    assert process == Process()
    assert (process.rank, process.world_size, process.is_main) == (0, 1, True)


def test_number_of_processes_must_be_the_plans() -> None:
    with pytest.raises(ConfigError, match="started 1 processes; the Plan says 8"):
        start(Process(), expected=8, folder=Path())


def test_rows_are_merged_once_and_ascending() -> None:
    columns = {"row": torch.tensor([7, 2, 9, 2]), "logp_0": torch.tensor([0.7, 0.2, 0.9, 0.2])}
    merged = gather_rows(columns)
    assert merged["row"].tolist() == [2, 7, 9]
    assert merged["logp_0"].tolist() == pytest.approx([0.2, 0.7, 0.9])
