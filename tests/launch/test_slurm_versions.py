"""Output of SLURM 20.11 to 25.05 becomes values: fixtures/README.md says which was captured."""

from pathlib import Path

import pytest

from lenshpc.launch.facts import parse_config, parse_minutes, parse_records
from lenshpc.launch.slurm import (
    JobState,
    parse_job_id,
    parse_max_array_size,
    parse_sacct,
    parse_squeue,
)

FIXTURES = Path(__file__).parent / "fixtures"


def text_of(name):
    return (FIXTURES / f"{name}.txt").read_text()


def queued(*rows):
    """Return the jobs of (id, state, nodes, reason) rows."""
    return {
        job: JobState(job_id=job, state=word, nodes=nodes, reason=reason)
        for job, word, nodes, reason in rows
    }


def accounted(*rows):
    """Return the jobs of (id, state, exit code, nodes, seconds) rows."""
    return {
        job: JobState(job_id=job, state=word, exit_code=code, nodes=nodes, elapsed_s=seconds)
        for job, word, code, nodes, seconds in rows
    }


def elements(job, places, word, reason):
    return [(f"{job}_{place}", word, "", reason) for place in places]


QUEUES = {
    "20.11-squeue": queued(
        *elements(4711, [*range(10), 20, 30, 40, 50], "PENDING", "QOSMaxJobsPerUserLimit"),
        ("4711_10", "RUNNING", "a100-[01-02,05]", ""),
        ("4711_11", "COMPLETING", "a100-03", ""),
        ("4711_12", "SIGNALING", "a100-03", ""),
        ("4712", "RESV_DEL_HOLD", "", "ReservationDeleted"),
        ("4713", "SPECIAL_EXIT", "", "JobHeldAdmin"),
        ("4714", "PENDING", "", "ReqNodeNotAvail, UnavailableNodes:a100-[01-04]"),
        ("4716", "STAGE_OUT", "a100-04", ""),
        ("4717", "POWER_UP_NODE", "a100-04", ""),
    ),
    # two clusters of a federation: a job is revoked on all but the one where it runs
    "21.08-squeue": queued(
        ("67108865", "RUNNING", "alps[001-002]", ""),
        *elements(67108866, range(3), "PENDING", "Priority"),
        ("67108867", "RUNNING", "r7", ""),
        ("67108868", "RUNNING", "alps003", ""),
        ("134217729", "REVOKED", "", ""),
        ("134217730", "REQUEUE_FED", "", ""),
    ),
    # heterogeneous jobs, 16837404+0 and +1, are none of ours
    "22.05-squeue-2": queued(
        ("16837401", "COMPLETED", "node1", ""),
        ("16837408", "FAILED", "node3", "NonZeroExitCode"),
        *elements(16837402, range(2, 6), "PENDING", "JobArrayTaskLimit"),
        ("16837410", "PENDING", "", "BeginTime"),
        ("16837411", "PENDING", "", "Dependency"),
        *elements(16837403, [0, 6, 9], "PENDING", "JobHeldUser"),
        ("16837402_0", "RUNNING", "node1", ""),
        ("16837402_1", "RUNNING", "node1", ""),
        ("16837409", "RUNNING", "node[3-4]", ""),
    ),
    "23.02-squeue": queued(
        *elements(5000000, range(1, 100, 2), "PENDING", "JobArrayTaskLimit"),
        ("5000001", "PENDING", "", "BadConstraints"),
        ("5000002", "STOPPED", "n[1-3,5-9]", ""),
        (
            "5000003",
            "PENDING",
            "",
            "Nodes required for job are DOWN, DRAINED or reserved | see the status page",
        ),
        ("5000004_1", "NODE_FAIL", "n4", "NodeDown"),
        ("5000004_2", "DEADLINE", "", "DeadLine"),
        ("5000005", "BOOT_FAIL", "n4", ""),
    ),
    "23.11-squeue": queued(
        *elements(81234, [4, 5, 6, 9], "PENDING", ""),
        ("81234_0", "RUNNING", "gpu[001,007]", ""),
        ("81241", "CONFIGURING", "cloud-gpu-[0-1]", ""),
        ("81242", "POWER_UP_NODE", "cloud-gpu-2", ""),
        ("81243", "UPDATE_DB", "gpu005", ""),
        ("81244", "LAUNCH_FAILED", "gpu005", ""),
        ("81245", "RECONFIG_FAIL", "gpu005", ""),
    ),
    "24.11-squeue": queued(
        *elements(31, range(2), "PENDING", "AssocGrpGRES"),
        ("32", "EXPEDITING", "", ""),
        ("33", "PENDING", "", "MaxGRESPerAccount"),
        ("34_7", "RUNNING", "gpu-a-[001-003],gpu-b-1", ""),
        ("36", "POWER_UP_NODE", "", "BeginTime"),
    ),
    "25.05-squeue": queued(
        *elements(77, [2, 4, 5, 6], "PENDING", "AssocGrpBillingMinutes"),
        ("77_0", "EXPEDITING", "", "ExpeditedRequeue"),
        ("77_3", "SUSPENDED", "gpu8", ""),
        ("78", "A_WORD_OF_2030", "gpu8", ""),
        ("79", "PHASE2_WAIT", "", ""),
    ),
}
ENDED = {
    "21.08-squeue": ["134217729"],
    "22.05-squeue-2": ["16837401", "16837408"],
    "23.02-squeue": ["5000004_1", "5000004_2", "5000005"],
    "23.11-squeue": ["81244", "81245"],
}
ACCOUNTS = {
    "20.11-sacct": accounted(
        *((f"4711_{at}", "PENDING", "0:0", "", 0) for at in [*range(10), 20, 30, 40, 50]),
        ("4711_10", "RUNNING", "0:0", "a100-[01-02,05]", 7213),
        ("4711_11", "COMPLETED", "0:0", "a100-03", 60),
        ("4711_12", "OUT_OF_MEMORY", "0:125", "a100-03", 61),
        ("4713", "FAILED", "1:0", "a100-01", 3),
        ("4718", "CANCELLED", "0:0", "", 0),
        ("4719", "RESIZING", "0:0", "a100-04", 5),
    ),
    "21.08-sacct": accounted(
        ("67108865", "RUNNING", "0:0", "alps[001-002]", 300),
        *((f"67108866_{at}", "PENDING", "0:0", "", 0) for at in range(3)),
        ("67108867", "CANCELLED", "0:0", "r7", 40),
        ("134217729", "REVOKED", "0:0", "", 0),
    ),
    "22.05-sacct-2": accounted(
        ("16837401", "COMPLETED", "0:0", "node1", 0),
        ("16837408", "FAILED", "3:0", "node3", 0),
        ("16837409", "CANCELLED", "0:0", "node[3-4]", 15),
        ("16837411", "COMPLETED", "0:0", "node1", 1),
        ("16837402_0", "COMPLETED", "0:0", "node1", 3),
        ("16837402_1", "COMPLETED", "0:0", "node1", 3),
        ("16837402_2", "COMPLETED", "0:0", "node1", 4),
        ("16837402_3", "COMPLETED", "0:0", "node1", 3),
        ("16837402_4", "COMPLETED", "0:0", "node3", 3),
        ("16837402_5", "COMPLETED", "0:0", "node3", 3),
        ("16837410", "COMPLETED", "0:0", "node1", 4),
    ),
    "23.02-sacct": accounted(
        ("5000004_1", "PENDING", "0:0", "", 350),
        ("5000004_2", "DEADLINE", "0:0", "", 0),
        ("5000005", "BOOT_FAIL", "0:0", "n4", 1),
        ("5000006", "FAILED", "127:0", "n4", 0),
        ("5000007", "FAILED", "0:9", "n4", 4294967),
        ("5000008", "SUSPENDED", "0:0", "n4", 60),
    ),
    "24.05-sacct": accounted(
        ("900_3", "COMPLETING", "0:0", "gpu[1-2]", 17),
        ("902", "CANCELLED", "0:15", "gpu3", 3),
        ("905_1", "COMPLETED", "0:0", "gpu1", 12345678901),
        ("906", "TIMEOUT", "0:0", "gpu1", 86400),
    ),
    "24.11-sacct": accounted(
        ("31_0", "PENDING", "0:0", "", 0),
        ("31_1", "PENDING", "0:0", "", 0),
        ("34_7", "RUNNING", "0:0", "gpu-a-[001-003],gpu-b-1", 15),
        ("37", "CANCELLED", "0:0", "gpu-b-1", 15),
        *((f"38_{at}", "CANCELLED", "0:0", "", 0) for at in [0, 1, 2, 3, 8]),
    ),
}


@pytest.mark.parametrize("name", QUEUES)
def test_squeue_of_a_version_becomes_values(name):
    found = parse_squeue(text_of(name))
    assert found == QUEUES[name]
    assert [job for job, one in found.items() if not one.is_active] == ENDED.get(name, [])


@pytest.mark.parametrize("name", ACCOUNTS)
def test_sacct_of_a_version_becomes_values(name):
    assert parse_sacct(text_of(name)) == ACCOUNTS[name]


def test_id_of_a_federation_is_found_below_a_banner():
    assert parse_job_id(text_of("21.08-sbatch")) == "67108865"


def names_of(*kinds):
    return [path.stem for kind in kinds for path in sorted(FIXTURES.glob(f"*-{kind}.txt"))]


@pytest.mark.parametrize("name", names_of("node", "partition"))
def test_line_of_a_node_or_partition_comes_back_whole(name):
    records = parse_records(text_of(name))
    told = [" ".join(f"{key}={value}" for key, value in one.items()) for one in records]
    assert told == [" ".join(line.split()) for line in text_of(name).splitlines()]


@pytest.mark.parametrize(
    ("name", "node", "known"),
    [
        (
            "21.08-node",
            "r7",
            {
                "State": "IDLE+DRAIN+REBOOT_REQUESTED",
                "Gres": "gpu:2080ti:8",
                "Reason": "gpu 3 fell off the bus, was State=IDLE Gres=gpu:8 before "
                "[root@2022-02-01T10:00:00]",
            },
        ),
        (
            "22.05-node",
            "node4",
            {
                "State": "MIXED+DRAIN",
                "Gres": "gpu:4",
                "OS": "Linux 6.18.44-fc-v669 #1 SMP PREEMPT_DYNAMIC @0",
                "Reason": "bad fan, State=IDLE since noon [ticket 7] [root@2026-11-29T16:06:28]",
            },
        ),
        ("23.02-node", "n4", {"Extra": '{"rack": "R1", "Slots": 4}', "State": "IDLE+RESERVED"}),
        ("23.11-node", "cloud-gpu-0", {"Comment": "spot, price 1.2", "AllocTRES": ""}),
        ("25.05-node", "gpu8", {"State": "ALLOCATED+BLOCKED", "Topology": "default:sw7"}),
    ],
)
def test_what_an_admin_writes_is_no_key_of_a_node(name, node, known):
    (found,) = (one for one in parse_records(text_of(name)) if one["NodeName"] == node)
    assert {key: found[key] for key in known} == known


@pytest.mark.parametrize(
    ("name", "version", "size"),
    [("22.05-config", "22.05.8", 10001), ("23.11-config", "23.11.6", 5001)],
)
def test_configuration_of_a_version_is_read_whole(name, version, size):
    config = parse_config(text_of(name))
    assert (config["SLURM_VERSION"], parse_max_array_size(text_of(name))) == (version, size)
    told = [f"{key} = {value}".strip() for key, value in config.items()]
    assert told == [" ".join(line.split()) for line in text_of(name).splitlines() if "=" in line]


def test_line_of_a_banner_is_no_key_of_the_configuration():
    banner = "===== Welcome = to big =====\n  quota = 80 %\nmore news = none\n"
    assert parse_config(f"{banner}MaxArraySize = 5\nPowerPlugin =\n") == {
        "MaxArraySize": "5",
        "PowerPlugin": "",
    }


def test_partition_of_24_11_is_read_whole():
    (partition,) = parse_records(text_of("24.11-partition"))
    assert parse_minutes(partition["MaxTime"]) == 2880
    assert {key: partition[key] for key in ("PreemptMode", "GraceTime", "OverSubscribe")} == {
        "PreemptMode": "GANG,SUSPEND",
        "GraceTime": "300",
        "OverSubscribe": "EXCLUSIVE",
    }
    assert partition["TRESBillingWeights"] == "CPU=1.0,Mem=0.25G,GRES/gpu=8.0"
