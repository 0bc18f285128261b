"""Limits of user, account and QOS; the texts are sacctmgr's of SLURM 22.05.8, names changed."""

import pytest

from lenshpc.launch.facts import Limit
from lenshpc.launch.limits import ASSOCIATION, QOS, find_limits, parse_table

ROWS = """\
* * * maintenance on Monday * * *
lenses||||9|||02:00:00|
lenses|ann||4||3|7||long
lenses|ann|gpu|||2|||
stars|ann||||1|1||
"""
ALL_QOS = """\
normal||||||5|
long|||10||||7-00:00:00
gpuqos|100|||||50|
"""


@pytest.mark.parametrize(
    ("account", "qos", "partition", "limits"),
    [
        (
            "lenses",
            None,
            {"PartitionName": "cpu", "QoS": "N/A"},
            [
                Limit(of="account lenses", submitted=9, minutes=120),
                Limit(of="user ann in account lenses", jobs=3, submitted=7),
                Limit(of="QOS long", jobs=10, minutes=10080),
            ],
        ),
        (
            "lenses",
            "normal",
            {"PartitionName": "gpu", "QoS": "gpuqos"},
            [
                Limit(of="account lenses", submitted=9, minutes=120),
                Limit(of="user ann in account lenses", jobs=3, submitted=7),
                Limit(of="user ann in account lenses", jobs=2),
                Limit(of="QOS normal", submitted=5),
                Limit(of="QOS gpuqos", jobs=100, submitted=50),
            ],
        ),
        (
            "stars",
            None,
            {"PartitionName": "cpu"},
            [
                Limit(of="user ann in account stars", jobs=1, submitted=1),
                Limit(of="QOS normal", submitted=5),
            ],
        ),
    ],
)
def test_limits_are_those_of_the_account_the_partition_and_the_qos(account, qos, partition, limits):
    rows, every = parse_table(ROWS, ASSOCIATION), parse_table(ALL_QOS, QOS)
    assert list(find_limits(rows, every, account, qos, partition)) == limits
