"""The doctor reads SLURM's own words, and judges what they and the nodes say.

The texts are those of the cluster of slurm/cluster.sh (SLURM 22.05.8), shortened.
"""

from dataclasses import replace

import pytest
import yaml

from lenshpc.launch.doctor import findings, lame, profile
from lenshpc.launch.facts import (
    Facts,
    NodeReport,
    fits,
    num_gpus,
    parse_config,
    parse_records,
    usable,
)
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
    "scontrol": "",
    "address": "10.213.77.11",
}


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
    ("gres", "count"),
    [
        ("gpu:4", 4),
        ("gpu:a100:4(S:0-1)", 4),
        ("gpu:a100:2(S:0),gpu:h100_80g:1", 3),
        ("(null)", 0),
        ("shard:8,gpu:nvidia_a100.3g:2", 2),
    ],
)
def test_gpus_are_counted_in_every_form(gres, count):
    assert num_gpus({"Gres": gres}) == count


def test_nodes_that_take_no_jobs_are_left_out():
    names = [node["NodeName"] for node in usable(parse_records(NODES), "batch")]
    assert names == ["node1", "node2"]
    assert usable(parse_records(NODES), "gpu") == ()


def test_sound_cluster_has_no_findings():
    assert findings(facts(NEW)) == ()


@pytest.mark.parametrize(
    ("changed", "level", "what", "nodes"),
    [
        ({"accounting_error": "sacct failed: Slurm accounting storage is disabled"}, "warning",
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
         "clocks differ from this machine's by at least: node1 (10 s), node2 (58 s)", ()),
        ({"reports": {}}, "error", "no node of partition batch takes jobs", ()),
        ({"nodes": parse_records(NODES)}, "note",
         "node3 is DOWN*: Not responding [root@2026-11-21T08:32:20]", ()),
        ({"product_tflops": {"a": 10.0, "b": 10.2, "c": 9.9, "d": 4.0}}, "error",
         "lame in matrix products (TFLOP/s), where 9.95 is usual: d (4)", ("d",)),
        ({"all_reduce_gb_per_s": {"a": 1.0, "b": 1.0, "c": 0.0}}, "error",
         "lame in all-reduce (GB/s), where 1 is usual: c (0)", ("c",)),
    ],
)  # fmt: skip
def test_unusual_fact_is_one_finding_that_says_what_it_means(changed, level, what, nodes):
    (found,) = findings(facts(**{"config": NEW, **changed}))
    assert (found.level, found.what, found.nodes) == (level, what, nodes)
    assert found.meaning


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
    assert lame(speeds) == slow


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


@pytest.mark.parametrize(
    ("constraint", "is_fit"),
    [
        (None, True),
        ("a100", True),
        ("h100", False),
        ("a100&ib", True),
        ("a100,opa", False),
        ("h100|a100&ib*2", True),
        ("h100|opa", False),
    ],
)
def test_node_fits_a_constraint_by_its_features(constraint, is_fit):
    assert fits({"AvailableFeatures": "a100,ib,rack1"}, constraint) is is_fit


def test_profile_of_a_cluster_without_gpus_leaves_sizes_to_the_recipe():
    nodes = ({**parse_records(NODES)[0], "Gres": "(null)"},)
    assert profile(facts(NEW, nodes=nodes), (), {}) == {
        "scheduler": "slurm",
        "partition": "batch",
        "max_nodes": 1,
        "max_array_size": 10001,
    }


def test_profile_excludes_nobody_where_all_fail_alike():
    seen = facts(NEW, reports={"node1": NodeReport(), "node2": NodeReport()})
    assert [one.nodes for one in findings(seen)] == [("node1",), ("node2",)]
    assert "sbatch" not in profile(seen, findings(seen), {})
