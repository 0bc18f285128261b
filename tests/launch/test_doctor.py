"""The doctor reads SLURM's own words, and judges what they and the nodes say.

The texts are those of the cluster of slurm/cluster.sh (SLURM 22.05.8), shortened.
"""

from dataclasses import replace

import pytest
import yaml

from lenshpc.launch.doctor import findings, profile
from lenshpc.launch.facts import (
    Accounting,
    Asking,
    Facts,
    Limit,
    NodeReport,
    count_gpus,
    count_types,
    is_asleep,
    is_slice,
    is_usable,
    keep_type,
    parse_config,
    parse_minutes,
    parse_records,
    usable,
)
from lenshpc.launch.node_checks import find_slow
from lenshpc.launch.sites import load_site

CONFIG = """\
Configuration data as of 2026-11-21T08:32:20
AccountingStorageEnforce = none
AccountingStorageTRES   = cpu,mem,energy,node,billing,fs/disk,vmem,pages,gres/gpu
ClusterName             = lenshpc
JobRequeue              = 1
MaxArraySize            = 10001
PreemptMode             = REQUEUE
SlurmctldParameters     = preempt_send_user_signal
SLURM_VERSION           = 22.05.8
TrackWCKey              = No
"""
PARTITIONS = """\
PartitionName=batch AllowGroups=ALL Default=YES QoS=N/A DefaultTime=00:10:00 GraceTime=0 \
MaxNodes=UNLIMITED MaxTime=UNLIMITED Nodes=node[1-2] PreemptMode=OFF State=UP TotalNodes=2 \
TRES=cpu=8,mem=16000M,node=2,billing=8,gres/gpu=8
PartitionName=low AllowGroups=ALL Default=NO QoS=N/A GraceTime=0 MaxTime=2-12:30:00 \
Nodes=node[1-2] PreemptMode=REQUEUE State=UP
"""
NODE = (
    "NodeName={name} Arch=x86_64 CPUTot=4 CPULoad=1.52 AvailableFeatures=(null) Gres=gpu:4 "
    "NodeAddr=10.213.77.11 OS=Linux 6.18.44-fc-v657 #1 SMP PREEMPT_DYNAMIC @0  RealMemory=8000 "
    "State={state} ThreadsPerCore=1 Partitions=batch,low,high  BootTime=2026-11-21T08:32:04 "
    "CfgTRES=cpu=4,mem=8000M,billing=4,gres/gpu=4 {more}"
)
NODES = "\n".join(
    [
        NODE.format(name="node1", state="MIXED+COMPLETING", more=""),
        NODE.format(name="node2", state="IDLE", more=""),
        NODE.format(
            name="node3", state="DOWN*", more="Reason=Not responding [root@2026-11-21T08:32:20]"
        ),
    ]
)
SEEN = {
    "time": 1000.5,
    "token": "abc",
    "cpus": 2,
    "visible_gpus": "0",
    "gpu_devices": ["nvidia0"],
    "driver": "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun Jul 27 2025",
    "health": {},
    "python": "3.12.3",
    "torch": {"__version__": "2.11.0+cu128", "cuda": "12.8"},
    "scontrol": "",
    "address": "10.213.77.11",
    "interfaces": [
        {"name": "eth0", "kind": "ethernet", "state": "up", "gbit": 10.0, "address": "10.2.0.1"}
    ],
    "tmpdir": {"path": "/tmp", "kind": "xfs", "free_gb": 400.0},
    "open_files": 1024,
    "lock": "",
}
ETH0 = SEEN["interfaces"][0]
ETH1 = {**ETH0, "name": "eth1", "gbit": 1.0}
IB0 = {**ETH0, "name": "ib0", "kind": "infiniband", "gbit": 200.0, "address": "10.3.0.1"}
OLD = SEEN["driver"].replace("580.65.06", "470.57.02")


def report(**seen):
    told = {**SEEN, **seen}
    return NodeReport(bare=told, asked=told, began=1000.0, ended=1002.0)


def facts(config=CONFIG, partition=0, **more):
    return Facts(
        **{
            "config": parse_config(config),
            "partition": parse_records(PARTITIONS)[partition],
            "nodes": parse_records(NODES)[:2],
            "token": "abc",
            "reports": {"node1": report(), "node2": report()},
            "with_gpu": True,
            **more,
        }
    )


NEW = CONFIG.replace("22.05.8", "24.05.3")


def test_records_keep_values_with_spaces_and_equal_signs():
    node = parse_records(NODES)[2]
    assert {key: node[key] for key in ("NodeName", "OS", "State", "CfgTRES", "Reason")} == {
        "NodeName": "node3",
        "OS": "Linux 6.18.44-fc-v657 #1 SMP PREEMPT_DYNAMIC @0",
        "State": "DOWN*",
        "CfgTRES": "cpu=4,mem=8000M,billing=4,gres/gpu=4",
        "Reason": "Not responding [root@2026-11-21T08:32:20]",
    }


@pytest.mark.parametrize(
    ("gres", "counts"),
    [
        ("gpu:4", {"": 4}),
        ("gpu:4(IDX:0-3)", {"": 4}),
        ("gpu:a100:4(S:0-1)", {"a100": 4}),
        ("gpu:a100:4(S:0-1),gpu:h100:2", {"a100": 4, "h100": 2}),
        ("gpu:a100:2(S:0,3),gpu:h100_80g:1", {"a100": 2, "h100_80g": 1}),
        ("gpu:2080ti:8", {"2080ti": 8}),
        ("gpu:1g.5gb:7", {"1g.5gb": 7}),
        ("gpu:v100:no_consume:4", {"v100": 4}),
        ("shard:8,gpu:nvidia_a100.3g:2,nic:1", {"nvidia_a100.3g": 2}),
        ("(null)", {}),
        ("", {}),
    ],
)
def test_gpus_are_counted_by_type_in_every_form(gres, counts):
    assert count_gpus({"Gres": gres}) == counts


def test_gpus_of_all_nodes_add_up_by_type():
    nodes = [{"Gres": "gpu:h100:2,gpu:a100:1"}, {"Gres": "gpu:a100:4"}, {"Gres": "(null)"}, {}]
    assert count_types(nodes) == {"a100": 5, "h100": 2}
    assert [node["Gres"] for node in keep_type(nodes, "a100")] == ["gpu:a100:1", "gpu:a100:4"]
    assert keep_type(nodes, None) == tuple(nodes)


@pytest.mark.parametrize(
    ("kind", "is_one"),
    [
        ("1g.5gb", True),
        ("a100_3g.20gb", True),
        ("nvidia_h100_80gb_hbm3_1g.10gb", True),
        ("1g.10gb+me", True),
        ("a100", False),
        ("h100_80g", False),
        ("2080ti", False),
    ],
)
def test_slices_of_gpus_are_known_by_their_type(kind, is_one):
    assert is_slice(kind) is is_one


@pytest.mark.parametrize(
    ("state", "takes_jobs", "asleep"),
    [
        ("IDLE", True, False),
        ("MIXED+COMPLETING", True, False),
        ("ALLOCATED+PLANNED", True, False),
        ("IDLE+CLOUD", True, False),
        ("IDLE+CLOUD+POWERED_DOWN", True, True),
        ("IDLE+CLOUD+POWERING_DOWN", True, True),
        ("IDLE+POWER_SAVE", True, True),
        ("MIXED+CLOUD+NOT_RESPONDING+POWERING_UP", True, True),
        ("IDLE~", True, True),
        ("IDLE#", True, True),
        ("IDLE+DRAIN", False, False),
        ("DOWN*", False, False),
        ("DOWN+CLOUD+POWERED_DOWN", False, True),
        ("DRAINING+POWERING_UP", False, True),
        ("IDLE+NOT_RESPONDING", False, False),
        ("IDLE+MAINT", False, False),
        ("IDLE+INVALID_REG", True, False),
        ("IDLE+FAIL", False, False),
        ("INVAL", False, False),
    ],
)
def test_state_says_whether_a_node_takes_jobs_and_whether_it_is_on(state, takes_jobs, asleep):
    node = {"State": state}
    assert (is_usable(node), is_asleep(node)) == (takes_jobs, asleep)


@pytest.mark.parametrize(
    ("limit", "minutes"),
    [("2-00:00:00", 2880), ("04:30:00", 270), ("UNLIMITED", None), ("INFINITE", None)],
)
def test_limits_of_time_are_read_in_minutes(limit, minutes):
    assert parse_minutes(limit) == minutes


def test_nodes_that_take_no_jobs_are_left_out():
    names = [node["NodeName"] for node in usable(parse_records(NODES), "batch")]
    assert names == ["node1", "node2"]
    assert usable(parse_records(NODES), "gpu") == ()


def test_sound_cluster_has_no_findings():
    assert findings(facts(NEW)) == ()


@pytest.mark.parametrize(
    ("changed", "level", "what", "nodes"),
    [
        ({"accounting": Accounting(error="sacct failed: Slurm accounting storage is disabled")},
         "warning",
         "no accounting: sacct failed: Slurm accounting storage is disabled", ()),
        ({"config": NEW.replace("JobRequeue              = 1", "JobRequeue = 0")}, "note",
         "JobRequeue=0", ()),
        ({"partition": 1, "config": NEW.replace("preempt_send_user_signal", "(null)")}, "warning",
         "PreemptMode=REQUEUE, GraceTime=0, without preempt_send_user_signal", ()),
        ({"config": NEW.replace("10001", "1001")}, "note", "MaxArraySize=1001", ()),
        ({"config": NEW.replace("= No", "= Yes").replace("= none", "= associations,wckeys")},
         "warning", "workload keys are enforced", ()),
        ({"config": CONFIG}, "note",
         "srun of SLURM 22.05.8 does not inherit --cpus-per-task", ()),
        ({"reports": {"node1": replace(report(), bare={**SEEN, "cpus": 1})}}, "note",
         "srun of SLURM 24.05.3 does not inherit --cpus-per-task", ()),
        ({"reports": {"node1": report(cpus=1)}}, "warning",
         "steps that asked for 2 CPUs may use fewer: node1 (1)", ()),
        ({"reports": {"node1": report(), "node2": NodeReport(log="x\nbash: python: not found\n")}},
         "error", "node2 wrote nothing into this folder: bash: python: not found", ("node2",)),
        ({"reports": {"node2": report(token="")}}, "error",
         "node2 wrote nothing into this folder: it printed nothing", ("node2",)),
        ({"reports": {"node2": NodeReport(has_ended=False)}}, "note",
         "node2 was not examined: its job did not start in time", ()),
        ({"reports": {"node1": report(scontrol="there is no scontrol"), "node2": report()}},
         "warning", "scontrol cannot be used on nodes: node1 (there is no scontrol)", ()),
        ({"reports": {"node1": report(visible_gpus="0,1,2,3")}}, "warning",
         "a step that asked for 1 GPU sees another number (CUDA_VISIBLE_DEVICES): "
         "node1 (0,1,2,3)", ()),
        ({"reports": {"node1": report(gpu_devices=[])}}, "warning",
         "SLURM hands out GPUs, but the node has no /dev/nvidia*: node1", ()),
        ({"reports": {"node1": report(address="")}}, "warning",
         "a node's own name has no address there: node1", ()),
        ({"reports": {"node1": report(time=990.0), "node2": report(time=1060.0)}}, "warning",
         "clocks differ from this machine's by at least: node1 (10 s); node2 (58 s)", ()),
        ({"reports": {}}, "error", "no node of partition batch takes jobs", ()),
        ({"nodes": parse_records(NODES)}, "note",
         "node3 is DOWN*: Not responding [root@2026-11-21T08:32:20]", ()),
        ({"product_tflops": {"a": 10.0, "b": 10.2, "c": 9.9, "d": 4.0}}, "error",
         "slow in matrix products (TFLOP/s), where 9.95 is usual: d (4)", ("d",)),
        ({"all_reduce_gb_per_s": {"a": 1.0, "b": 1.0, "c": 0.0}}, "error",
         "slow in all-reduce (GB/s), where 1 is usual: c (0)", ("c",)),
        ({"accounting": Accounting(accounts=("lenses", "stars"), default="stars")}, "note",
         "you have several accounts: lenses, stars", ()),
        ({"accounting": Accounting(limits=(
            Limit(of="QOS normal", jobs=4, submitted=20, minutes=120),
            Limit(of="account lenses", jobs=9999),
        ))}, "note",
         "QOS normal may have at most 20 jobs in the queue, 4 jobs running, 120 minutes a job", ()),
        ({"asking": Asking(keys={"gpu_request": "gres", "mem_request": "mem-per-cpu"})}, "note",
         "jobs are taken if asked for with gpu_request: gres, mem_request: mem-per-cpu", ()),
        ({"asking": Asking(keys={"cpu_jobs": {"partition": "cpu"}}, cpu_refused="ask for GPUs")},
         "note", "partition batch takes no job without a GPU: ask for GPUs", ()),
        ({"gpu_types": {"2080ti": 2, "a100": 4}},
         "warning", "the partition has several types of GPUs: 2 of 2080ti, 4 of a100", ()),
        ({"gpu_types": {"1g.5gb": 14}},
         "note", "GPUs are cut into slices (MIG): 14 of 1g.5gb", ()),
        ({"unexamined": ("c1", "c2", "c3", "c4", "c5", "c6")}, "note",
         "not examined, since switched off: c1, c2, c3, c4 and 2 more", ()),
        ({"reports": {"node1": report(address="127.0.1.1"), "node2": report()}}, "warning",
         "a node's own name is a loopback address there: node1 (127.0.1.1)", ()),
        ({"reports": {"node1": report(interfaces=[ETH0, IB0]), "node2": report()}}, "note",
         "several networks: node1 (eth0 ethernet 10 Gb/s, ib0 infiniband 200 Gb/s)", ()),
        ({"reports": {"node1": report(tmpdir={"path": "/tmp", "kind": "xfs", "free_gb": 1.5})}},
         "warning", "little room for temporary files: node1 (/tmp, 1.5 GB free)", ()),
        ({"reports": {"node1": report(tmpdir={"path": "/tmp", "kind": "tmpfs", "free_gb": 99.0})}},
         "note", "temporary files are kept in memory: node1 (/tmp, tmpfs)", ()),
        ({"reports": {"node1": report(lock="No locks available"), "node2": report()}}, "warning",
         "locks in this folder do not hold between this machine and nodes: "
         "node1 (No locks available)", ()),
        ({"reports": {"node1": report(open_files=256)}}, "warning",
         "few files may be open at a time (ulimit -n): node1 (256)", ()),
        ({"reports": {"node1": report(driver=OLD), "node2": report()}}, "error",
         "the driver is too old for torch: node1 (driver 470); CUDA 12.8 needs 525", ("node1",)),
        ({"reports": {"node1": report(torch={"__version__": "2.11.0+cpu"})}}, "warning",
         "torch there is not built for GPUs, or is missing: node1 (2.11.0+cpu)", ()),
        ({"reports": {"node1": report(), "node2": report(python="3.9.2")}}, "warning",
         "nodes differ in their Python: node1 (Python 3.12.3, torch 2.11.0+cu128); "
         "node2 (Python 3.9.2, torch 2.11.0+cu128)", ()),
        ({"reports": {"node1": report(health={"gpus": "GPU is lost"}), "node2": report()}},
         "error", "GPUs are not healthy: node1 (GPU is lost)", ("node1",)),
        ({"reports": {"node1": report(health={"rows": "gpu_uuid=G, remapped_rows.pending=Yes"})}},
         "warning", "GPUs show signs of a fault: node1 (GPU G: memory waits for a restart to be "
         "replaced)", ()),
    ],
)  # fmt: skip
def test_unusual_fact_is_one_finding_that_says_what_it_means(changed, level, what, nodes):
    (found,) = findings(facts(**{"config": NEW, **changed}))
    assert (found.level, found.what, found.nodes) == (level, what, nodes)
    assert found.meaning


@pytest.mark.parametrize(
    "changed",
    [
        {"PreemptMode": "GANG,SUSPEND"},
        {"PreemptMode": "SUSPEND"},
        {"PreemptMode": "OFF", "MaxTime": "INFINITE"},
        {"MaxTime": "UNLIMITED"},
    ],
)
def test_suspension_and_no_limit_are_nothing_to_warn_of(changed):
    config = NEW.replace("preempt_send_user_signal", "(null)").replace("REQUEUE", "GANG,SUSPEND")
    partition = {**parse_records(PARTITIONS)[0], **changed}
    assert findings(replace(facts(config), partition=partition)) == ()


def test_what_the_profile_settles_is_no_finding():
    seen = facts(
        NEW,
        reports={"node1": report(address="127.0.1.1", interfaces=[ETH0, IB0])},
        gpu_types={"a": 4, "b": 2},
        accounting=Accounting(accounts=("a", "b")),
        settled=frozenset(["account", "interface", "gpu_type"]),
    )
    assert findings(seen) == ()


def test_worst_findings_come_first():
    seen = facts(
        CONFIG, unexamined=("c1",), reports={"node1": report(driver=OLD, lock="no"), "n2": report()}
    )
    assert [one.level for one in findings(seen)] == ["error", "warning", "note", "note"]


@pytest.mark.parametrize(
    ("limit", "told"), [("02:00:00", ["MaxTime=02:00:00 in partition batch"]), ("1-00:00:00", [])]
)
def test_short_partition_is_named(limit, told):
    partition = {**parse_records(PARTITIONS)[0], "MaxTime": limit}
    assert [one.what for one in findings(replace(facts(NEW), partition=partition))] == told


@pytest.mark.parametrize(
    ("speeds", "slow"),
    [
        ({"a": 10, "b": 9, "c": 11, "d": 8}, ()),
        ({"a": 10, "b": 10, "c": 10, "d": 7.4}, ("d",)),
        ({"a": 10, "b": 10, "c": 10, "d": 7.6}, ()),
        ({"a": 10, "b": 2, "c": 18, "d": 6}, ()),  # they differ by themselves
        ({"a": 10, "b": 0}, ("b",)),
        ({"a": 10}, ()),
        ({}, ()),
    ],
)
def test_lame_is_far_below_the_median_and_the_spread(speeds, slow):
    assert find_slow(speeds) == slow


def test_profile_has_what_every_node_has_and_excludes_the_lame(tmp_path):
    seen = facts(
        CONFIG.replace("JobRequeue              = 1", "JobRequeue = 0"),
        reports={"node1": report(), "node2": NodeReport()},
    )
    keys = profile(seen, findings(seen), {"account": "lenses", "sbatch": {"exclude": "node9"}})
    assert keys == {
        "scheduler": "slurm",
        "partition": "batch",
        "max_nodes": 2,
        "gpus_per_node": 4,
        "cpus_per_gpu": 1,
        "mem_gb_per_gpu": 1.9,
        "max_array_size": 10001,
        "account": "lenses",
        "sbatch": {"exclude": "node9,node2"},
    }
    path = tmp_path / "here.yaml"
    path.write_text(yaml.safe_dump(keys))
    assert load_site(str(path)).model_dump(exclude_unset=True) == {"name": "here", **keys}


def test_profile_says_what_was_found_and_can_be_read(tmp_path):
    limits = (Limit(of="QOS normal", jobs=4, submitted=20), Limit(of="you", minutes=120))
    asking = Asking(
        keys={
            "gpu_request": "gres",
            "gpu_type": "2080ti",
            "mem_request": "mem-per-cpu",
            "cpu_jobs": {"partition": "cpu"},
        }
    )
    seen = facts(
        NEW,
        reports={"node1": report(interfaces=[ETH0, IB0]), "node2": report(interfaces=[IB0, ETH0])},
        accounting=Accounting(limits=limits),
        asking=asking,
    )
    keys = profile(seen, findings(seen), {"scheduler": "slurm"})
    assert keys == {
        "scheduler": "slurm",
        "partition": "batch",
        "max_nodes": 2,
        "gpus_per_node": 4,
        "cpus_per_gpu": 1,
        "mem_gb_per_gpu": 1.9,
        "max_array_size": 19,
        "max_parallel": 4,
        "time_min": 120,
        "gpu_request": "gres",
        "gpu_type": "2080ti",
        "mem_request": "mem-per-cpu",
        "cpu_jobs": {"partition": "cpu"},
        "interface": "ib0",
    }
    path = tmp_path / "here.yaml"
    path.write_text(yaml.safe_dump(keys))
    assert load_site(str(path)).model_dump(exclude_unset=True) == {"name": "here", **keys}


@pytest.mark.parametrize(
    ("config", "submitted", "size"),
    [("", 50, 49), ("\nMaxJobCount = 2000", 9999, 1999), ("\nMaxJobCount = 50000", 1, 1)],
)
def test_arrays_leave_room_for_the_report_in_the_queue(config, submitted, size):
    limits = (Limit(of="you", submitted=submitted),)
    seen = facts(NEW.rstrip("\n") + config, accounting=Accounting(limits=limits))
    assert profile(seen, (), {})["max_array_size"] == size


def test_gpus_that_slurm_does_not_know_come_with_the_node():
    nodes = ({**parse_records(NODES)[0], "Gres": "(null)"},)
    devices = report(gpu_devices=["nvidia0", "nvidia1"])
    seen = facts(NEW, nodes=nodes, with_gpu=False, reports={"node1": devices})
    keys = profile(seen, (), {})
    assert keys["gpus_per_node"] == 2
    assert (keys["gpu_request"], keys["exclusive"]) == ("none", True)


def test_profile_of_a_cluster_without_gpus_leaves_sizes_to_the_recipe():
    nodes = ({**parse_records(NODES)[0], "Gres": "(null)"},)
    bare = {"node1": report(gpu_devices=[])}
    assert profile(facts(NEW, nodes=nodes, with_gpu=False, reports=bare), (), {}) == {
        "scheduler": "slurm",
        "partition": "batch",
        "max_nodes": 1,
        "max_array_size": 10001,
    }


def test_profile_excludes_nobody_where_all_fail_alike():
    seen = facts(NEW, reports={"node1": NodeReport(), "node2": NodeReport()})
    assert [one.nodes for one in findings(seen)] == [("node1",), ("node2",)]
    assert "sbatch" not in profile(seen, findings(seen), {})
